"""Is every command of the README run by a test?

Each command in a fenced bash block is claimed by exactly one of three: run here in seconds, run in a fresh
clone in minutes (slow), or run by continuous integration, which is what calls these tests. A command that
nobody claims fails.
"""

import re
import shlex
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, run
from fresh_clone import IN_A_FRESH_CLONE, commands, html_of
from tiny_detectors import tiny_detector
from tiny_families import TINY
from tiny_videos import write_videos
from torch.utils.data import ConcatDataset, DataLoader, TensorDataset, default_collate

from replaylab.cli.main import main
from replaylab.models import families
from replaylab.monitor import ForgettingWarning
from replaylab.store import Store
from replaylab.sweeps.presets import grid
from replaylab.sweeps.sweep import Table

HELP = ["python -m replaylab --help", "python -m replaylab sweep --help"]
HERE = [
    "python -m replaylab worlds list",
    "python -m replaylab worlds build driving country --videos 24 4 4",
    "python -m replaylab worlds build diverse-driving --videos 8 4 4 --look night --eventful-share 0.25 --size-px 128",
    "python -m replaylab compare domains/driving-* domains/country-* --split train --context-frames 3",
]
# Slow, and in a store where the domains are already rendered.
IN_A_STORE = [
    "python -m replaylab train --preset smoke --replay-fraction 0.5",
    "torchrun --nproc-per-node 2 -m replaylab train --preset smoke --replay-fraction 0.5 --seed 1 --sharded",
]
# Hours: here they only say so.
PUBLISHED = [
    f"python -m replaylab sweep --preset {preset} --store FOLDER"
    for preset in (
        "published",
        "dose",
        "dose-between",
        "published --budget driving-samples --replay-fractions 0.1 0.25 --seeds 0 1 2",
        "alternatives-dev",
        "ablations",
        "second-world",
        "second-family",
        "confirmatory",
        "confirmatory-targets",
        "confirmatory-natural",
    )
]
PACKED = ["python -m replaylab publish FOLDER --out RESULTS"]
CHOSEN_BEFORE = ["python -m replaylab sweep --preset alternatives --store FOLDER"]
ON_A_GPU = ["make gpu-check"]
LOOK = "python -m replaylab doctor"
# With tiny random models, and small videos; in tests/sweeps/test_own_model.py the page is looked at more closely.
ON_ONES_OWN = [
    *(
        f"python -m replaylab domain add videos {name} --out domains/{name} --size 480x832 --frames-per-second 24 "
        "--frames 49"
        for name in ("drives", "holidays")
    ),
    "python -m replaylab ceiling domains/drives --detector PekingU/rtdetr_r50vd",
    "python -m replaylab own --dry-run",
    "papermill book/your_model.ipynb book/runs/wan.ipynb -p preset wan -p driving domains/drives "
    '-y "replay: [domains/holidays]" -p detector PekingU/rtdetr_r50vd',
]
# A test that ran the tests would never end.
BY_CONTINUOUS_INTEGRATION = ["make check", "make test", "SLOW=1 make test"]


def test_every_command_is_claimed_once_and_no_claim_is_stale() -> None:
    claimed = [
        *HELP,
        *HERE,
        *IN_A_STORE,
        *PUBLISHED,
        *PACKED,
        *CHOSEN_BEFORE,
        *ON_A_GPU,
        LOOK,
        *ON_ONES_OWN,
        *IN_A_FRESH_CLONE,
        *BY_CONTINUOUS_INTEGRATION,
    ]
    assert len(set(claimed)) == len(claimed)
    assert set(commands(ROOT / "README.md")) == set(claimed)


@pytest.mark.parametrize("page", ["index.md", "runs/README.md"])
def test_the_book_tells_readers_the_commands_of_the_readme(page: str) -> None:
    assert set(commands(ROOT / "book" / page)) <= set(commands(ROOT / "README.md"))


@pytest.mark.parametrize("command", HELP)
def test_help_answers(command: str) -> None:
    shown = run(command, ROOT)
    assert "usage" in shown.lower()


@pytest.mark.slow
def test_what_this_machine_can_do_ends_with_what_to_run_next(tmp_path: Path) -> None:
    lines = run(LOOK, tmp_path).splitlines()
    assert lines[0].startswith("Python ") and lines[-1].split()[:2] == ["next", "make"]
    assert any(line.startswith("quick ") and " min, timed on this machine" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_domains_are_listed_built_and_compared(tmp_path: Path) -> None:
    said = {command.split()[3]: run(command, tmp_path) for command in HERE}
    built = sorted(path.parent.name.rsplit("-", 1)[0] for path in tmp_path.glob("domains/*/domain.json"))
    assert built == ["country", "diverse-driving", "driving"]
    assert "'train': 8, 'dev': 4, 'test': 4" in said["worlds"] and "EffNet-KD" in said["compare"]


@pytest.mark.slow
def test_videos_and_models_of_ones_own_go_the_readmes_way(tmp_path: Path) -> None:
    for seed, name in enumerate(("drives", "holidays")):
        write_videos(tmp_path / name, seed)
    TINY["wan"](tmp_path / "model")
    detector = tiny_detector("yolos", tmp_path / "detector")
    (tmp_path / "book" / "runs").mkdir(parents=True)
    shutil.copy(ROOT / "book" / "your_model.ipynb", tmp_path / "book")
    small = {
        "--size 480x832 --frames-per-second 24 --frames 49": "--size 32 --frames-per-second 8 --frames 9 --test 0.5",
        "PekingU/rtdetr_r50vd": str(detector),
        "--detector": "--split test --threshold 0.05 --detector",
        "-p preset wan": f"-p preset wan -p model {tmp_path / 'model'} -p store {tmp_path / 'store'} -y 'settings: "
        "[frames=9, steps=2, batch_size=2, lora_rank=2, sampler_steps=2, guidance=1, detector_threshold=0.05]'",
    }
    said = ""
    for command in ON_ONES_OWN:
        for large, little in small.items():
            command = command.replace(large, little)
        said += run(command, tmp_path)
    assert (tmp_path / "book" / "runs" / "wan.ipynb").is_file() and "not run here" in said
    assert len(list((tmp_path / "store").glob("*/pytorch_lora_weights.safetensors"))) == 2
    *_, watched = python_blocks()
    network = families.load(tmp_path / "model").transformer
    names: dict[str, Any] = {"transformer": network, "loader": [0.1, 0.2]}
    names["train_on"] = lambda batch: [weight.data.add_(batch) for weight in network.parameters()]
    for large, small_one in {"Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": tmp_path / "model", "domains": tmp_path / "domains",
                          "frames=49": "frames=9, clips=2", "every=500": "every=1, at_most=1.0"}.items():  # fmt: skip
        assert large in watched
        watched = watched.replace(large, str(small_one))
    with pytest.warns(ForgettingWarning):
        exec(watched, names)
    assert [one.step for one in names["monitor"].history] == [0, 1]


@pytest.mark.slow
def test_runs_are_trained_by_one_process_and_by_two(swept: Table) -> None:
    for command in IN_A_STORE:
        said = run(f"OMP_NUM_THREADS=1 {command} --store {swept.store}", ROOT)
        assert said.count("\nautoencoder ") == 1, said  # one process speaks for all
    (spec,) = grid("smoke", [0.5], [1])
    execution = Store(swept.store).summary(spec.run_id)["execution"]
    assert execution["ranks"] == 2 and execution["sharded"]


@pytest.mark.parametrize("command", PUBLISHED)
def test_the_published_runs_say_what_they_would_take(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(command.replace("FOLDER", str(tmp_path)))
    assert main([*words[words.index("sweep") :], "--dry-run"]) == 0
    said = capsys.readouterr().err
    assert re.search(r"0 of \d+ runs are in .* would be trained. Estimated: \d+ min", said), said


def test_alternatives_want_the_runs_that_choose_their_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = CHOSEN_BEFORE
    words = shlex.split(command.replace("FOLDER", str(tmp_path)))
    assert main([*words[words.index("sweep") :], "--dry-run"]) == 2
    assert "sweep --preset alternatives-dev` first" in capsys.readouterr().err


@pytest.mark.slow
def test_the_check_of_gpus_runs_or_says_why_it_cannot() -> None:
    (command,) = ON_A_GPU
    assert re.search("needs a CUDA device|passed", run(command, ROOT))


def test_runs_are_packed_and_read_as_the_readme_says(
    swept: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (command,) = PACKED
    words = command.replace("FOLDER", str(swept.store)).replace("RESULTS", str(tmp_path / "book" / "results"))
    assert main(shlex.split(words)[3:]) == 0
    assert {"runs.parquet", "README.md"} <= {path.name for path in (tmp_path / "book" / "results").iterdir()}
    monkeypatch.chdir(ROOT)
    block, *_ = python_blocks()
    assert "replaylab" not in block
    exec(block, {})
    assert "driving, near replay 25 %" in capsys.readouterr().out


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


def test_the_readmes_own_trainer_has_exact_replay_resumed_streamed_and_in_buckets() -> None:
    _, sampled, resumed, streamed, bucketed, _ = python_blocks()
    parts = [TensorDataset(torch.full((count,), float(domain))) for domain, count in enumerate((50, 9))]
    names: dict[str, Any] = {"driving": parts[0], "physics": parts[1], "ConcatDataset": ConcatDataset,
                             "DataLoader": DataLoader, "default_collate": default_collate,
                             "sizes": [[(480, 832)] * 50, [(480, 832)] * 9]}  # fmt: skip

    def trained_on(steps: int) -> list[float]:
        return [batch[0].mean().item() for batch in islice(names["loader"], steps)]

    exec(sampled, names)
    assert trained_on(20) == [0.25] * 20 and len(names["loader"]) == 1000
    names["trained"] = 990
    exec(resumed, names)
    assert trained_on(20) == [0.25] * 10 and len(names["loader"]) == 10
    exec(streamed, names)
    assert trained_on(20) == [0.25] * 10 and len(names["loader"]) == 10
    exec(bucketed, names)
    assert trained_on(20) == [0.25] * 20 and names["mixture"].bounds() == [1, 1]


def test_a_preset_and_changes_are_not_silently_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worlds", "build", "--preset", "smoke", "--look", "night"]) == 2
    assert "without changes" in capsys.readouterr().err


def test_help_lists_the_verbs_that_the_readme_names() -> None:
    shown = run("python -m replaylab --help", ROOT)
    for verb in (
        "worlds",
        "domain",
        "pretrain",
        "train",
        "evaluate",
        "sweep",
        "damage",
        "compare",
        "ceiling",
        "own",
        "publish",
    ):
        assert f"`{verb}`" in (ROOT / "README.md").read_text()
        assert verb in shown


@pytest.mark.slow
@pytest.mark.parametrize("command", [line for line in IN_A_FRESH_CLONE if line.startswith("papermill")])
def test_papermill_commands_run_with_the_smoke_preset(command: str, swept: Table, tmp_path: Path) -> None:
    """Of a whole sweep one run is missing; in a fresh clone, below, all is."""
    store = tmp_path / "store"
    shutil.copytree(swept.store, store, symlinks=True)
    missing = store / swept.specs["two" in command].run_id
    shutil.rmtree(missing)
    words = shlex.split(command)
    output = tmp_path / "out.ipynb"
    words[2] = str(output)
    words[words.index("quick")] = "smoke"
    run([*words, "-p", "store", str(store)], ROOT)
    assert output.exists()
    assert (missing / "summary.json").is_file(), "nothing was kept in the store"


@pytest.mark.slow
def test_setup_installs_the_clone_it_is_called_in_and_only_once(readers_clone: tuple[Path, dict[str, Any]]) -> None:
    clone, seen = readers_clone
    assert "setup: installing into .venv" in seen["reproduce"]
    where = run([".venv/bin/python", "-c", "import replaylab; print(replaylab.__file__)"], clone)
    assert Path(where.strip()) == clone / "replaylab" / "__init__.py"
    assert run("make setup", clone).strip().endswith(".venv is up to date")


@pytest.mark.slow
def test_the_readme_in_a_fresh_clone(readers_clone: tuple[Path, dict[str, Any]]) -> None:
    """Its two builds are strict; what they hold is looked at in `test_book` and `test_browser`."""
    clone, seen = readers_clone
    last = seen["reproduce"].splitlines()[-1]
    assert last.startswith("open book/_build/html/runs/smoke.html: ")
    assert seen["reproduced"]
    assert len(seen["trained"]) >= 3
    assert (html_of(clone) / "runs" / "smoke.html").exists()
    assert (clone / "book" / "runs" / "two.ipynb").exists()
    assert seen["trained_by_hand"] == seen["trained"], "what was there was trained again, or more was trained"
