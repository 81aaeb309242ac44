"""Results are the same packed as in folders, whole or refused, and anyone can read them."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from replaylab.cli.main import main
from replaylab.spec import RunSpec, generator
from replaylab.store import COLUMNS, ReferenceSpec, Store, claim, origin, packed, provenance, samples_folder, write_rows
from replaylab.store.packing import ORDER, publish
from replaylab.store.readme import COLUMNS as EXPLAINED
from replaylab.store.readme import text_of
from replaylab.store.row_tables import read_rows
from replaylab.store.run_folders import samples_in
from replaylab.sweeps import publishing
from replaylab.sweeps.presets import grid
from replaylab.sweeps.sweep import Table

RESULTS = ROOT / "book" / "results"
SPECS = grid("smoke", [0.0, 0.5], [0, 1])
FACTS = {"seconds": 1.5, "git_commit": "abc", "execution": {"threads": 1}, "processors": 2, "machine": "x86_64"}


def write_run(store: Path, spec: RunSpec | ReferenceSpec, seed: int, clips: int = 5) -> Path:
    """A finished run, or references, with made-up rows, log and clips."""
    folder, random = claim(spec, store), generator(seed, spec.run_id)
    is_run = isinstance(spec, RunSpec)
    models = {"fine-tuned": (2, 4)} if is_run else {"real": (-1,), "base": (0,)}
    rows = pd.DataFrame(
        [
            {"model": model, "step": step, "domain": domain, "measure": measure, "video": f"test-{clip:05d}",
             "scene": f"{domain}/test-{clip:05d}"}
            for model, steps in models.items() for step in steps for domain in ("near", "driving")
            for clip in range(clips) for measure in ("ssim", "ade_px", "psnr_db")
        ]
    )  # fmt: skip
    fraction = spec.replay.fraction if isinstance(spec, RunSpec) else np.nan
    rows = rows.assign(run=spec.run_id, base=spec.base, replay_fraction=fraction, seed=seed, start=0, split="dev", replay="",
                       target="", n=random.integers(0, 9, len(rows)), value=random.normal(size=len(rows)))  # fmt: skip
    rows.loc[random.random(len(rows)) < 0.1, "value"] = np.nan
    write_rows(folder / "rows.parquet", rows[COLUMNS])
    if is_run:
        clocks = np.cumsum(random.random(4)).round(3).tolist()
        logged = [{"step": step, "loss": random.random(), "seconds": at} for step, at in enumerate(clocks, start=1)]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in logged))
        (folder / "manifest.json").write_text(json.dumps({"threads": 1}))
    else:
        (folder / "gallery.json").write_text(json.dumps({"driving": {"5": 3}}))
    for model, steps in models.items():
        for step in steps:
            kept = samples_folder(folder, step) if is_run else folder / "samples" / model
            kept.mkdir(parents=True)
            (kept / "driving-held-out-5.mp4").write_bytes(random.bytes(99))
            (kept / "driving-held-out-5.json").write_text(json.dumps({"true": [[]], "found": [[]]}))
    (folder / "summary.json").write_text(json.dumps(FACTS))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two runs with their references."""
    specs: list[RunSpec | ReferenceSpec] = [*SPECS[:2], ReferenceSpec.of(SPECS[0])]
    for spec in specs:
        write_run(tmp_path / "store", spec, 0)
    return tmp_path / "store"


def lines_of(folder: Path, run: str) -> list[dict[str, Any]]:
    """A run's log, of its folder or packed."""
    if (path := folder / run / "log.jsonl").is_file():
        return [json.loads(line) for line in path.read_text().splitlines()]
    logs = pd.read_parquet(folder / "logs.parquet")
    return logs[logs["run"] == run].drop(columns="run").to_dict("records")


def assert_same(folders: Path, out: Path, specs: list[RunSpec]) -> None:
    """Every value that a store of folders gives is what the packed one gives, and each file's text is kept."""
    old, new = Store(folders), Store(out)
    references = list(dict.fromkeys(ReferenceSpec.of(spec) for spec in specs))
    both: list[RunSpec | ReferenceSpec] = [*specs, *references]
    for spec in both:
        run, folder = spec.run_id, folders / spec.run_id
        assert old.is_done(spec) and new.is_done(spec)
        for measures in (None, ["ade_px", "ssim"], []):
            sorted_rows = old.rows([run], measures).sort_values(list(ORDER), kind="stable", ignore_index=True)
            pd.testing.assert_frame_equal(new.rows([run], measures), sorted_rows, check_exact=True)
        kept = samples_in(folder)
        at_the_end = [clip for clip in kept if clip[2] == max(step for _, model, step, *_ in kept if model == clip[1])]
        assert sorted(at_the_end) == sorted(new.samples([run]).itertuples(index=False, name=None))
        assert old.summary(run) == new.summary(run) and old.gallery_clips(run) == new.gallery_clips(run)
        for name in ("spec", "summary", "manifest", "gallery"):
            path = folder / f"{name}.json"
            assert packed.runs_in(out)[run][name] == (path.read_text() if path.is_file() else "")
    for spec in specs:
        assert lines_of(folders, spec.run_id) == lines_of(out, spec.run_id)
        assert old.seconds_a_step(spec.run_id) == new.seconds_a_step(spec.run_id)
    whole, again = old.table(specs, ["ssim"]), new.table(specs, ["ssim"])
    assert list(again["run"].unique()) == list(whole["run"].unique())
    for column in ("value", "replay_fraction", "n"):
        key = ["run", "model", "step", "domain", "video"]
        pd.testing.assert_series_equal(whole.set_index(key)[column].sort_index(), again.set_index(key)[column].sort_index())


@settings(max_examples=8)
@given(seed=st.integers(0, 2**31), clips=st.integers(1, 40), count=st.integers(1, len(SPECS)))
def test_made_up_runs_read_the_same_packed(
    seed: int, clips: int, count: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("made-up")
    specs: list[RunSpec | ReferenceSpec] = [*SPECS[:count], ReferenceSpec.of(SPECS[0])]
    for spec in specs:
        write_run(folder / "store", spec, seed, clips)
    publish(folder / "store", folder / "out", {"smoke": {spec.run_id: "words" for spec in SPECS[:1]}})
    assert_same(folder / "store", folder / "out", SPECS[:count])


def test_a_real_sweep_reads_the_same_packed_and_is_not_trained_again(swept: Table, tmp_path: Path) -> None:
    assert main(["publish", str(swept.store), "--out", str(tmp_path)]) == 0
    done = [spec for spec in swept.specs if Store(swept.store).is_done(spec)]
    assert_same(swept.store, tmp_path, done)
    runs = pd.read_parquet(tmp_path / "runs.parquet").set_index("run")
    assert set(runs.loc[[spec.run_id for spec in done], "preset"]) == {"smoke"}
    assert {"driving, replay 0 %", "driving, near replay 50 %"} <= set(runs["configuration"])


def test_the_same_runs_give_the_same_bytes_and_rows_are_not_written_again(store: Path, tmp_path: Path) -> None:
    def files(out: Path) -> dict[str, bytes]:
        return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    publish(store, tmp_path / "one", {})
    publish(store, tmp_path / "two", {})
    assert files(tmp_path / "one") == files(tmp_path / "two")
    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("one/rows/*")}
    publish(store, tmp_path / "one", {})
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_runs_are_added_and_replaced_and_move_with_the_presets(store: Path, tmp_path: Path) -> None:
    out, more = tmp_path / "out", tmp_path / "more"
    publish(store, out, {})
    assert sorted(path.stem for path in out.glob("rows/*")) == ["others", "references"]
    write_run(more, SPECS[1], 7)  # as the first time, with other numbers
    write_run(more, SPECS[2], 0)
    asked = {"smoke": {spec.run_id: "words" for spec in SPECS[:2]}, "quick": {SPECS[1].run_id: "other words"}}
    publish(more, out, asked)
    shutil.copytree(store / SPECS[0].run_id, more / SPECS[0].run_id)
    shutil.copytree(store / ReferenceSpec.of(SPECS[0]).run_id, more / ReferenceSpec.of(SPECS[0]).run_id)
    assert_same(more, out, SPECS[:3])
    publish(more, tmp_path / "at once", asked)
    for path in (tmp_path / "at once").rglob("*.*"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "at once")).read_bytes(), path
    runs = pd.read_parquet(out / "runs.parquet").set_index("run")
    assert runs.loc[SPECS[1].run_id, ["preset", "presets", "configuration"]].tolist() == ["smoke", "smoke quick", "words"]
    assert runs.loc[SPECS[2].run_id, "preset"] == "others"


def test_clips_are_published_after_the_last_step_of_one_base_three_a_domain_or_all(tmp_path: Path) -> None:
    """Of the first seed's base, whichever order the runs' names have."""
    store, out, bases = tmp_path / "store", tmp_path / "out", ("first base", "second base")
    specs = [replace(spec, base=base) for spec, base in zip(grid("smoke", [0.0], [0, 1]), bases, strict=True)]
    every: list[RunSpec | ReferenceSpec] = [*specs, *(ReferenceSpec.of(spec) for spec in specs)]
    for seed, spec in enumerate(every):
        folder = write_run(store, spec, seed)
        for kept in folder.glob("samples/*"):
            for percentile in (25, 50, 75, 95):
                for suffix in (".mp4", ".json"):
                    shutil.copyfile(kept / f"driving-held-out-5{suffix}", kept / f"driving-held-out-{percentile}{suffix}")
    for with_all, count in (["smoke"], 5), ([], 3):
        publish(store, out, {"smoke": {spec.run_id: "words" for spec in specs}}, with_all)
        found = Store(out).samples([spec.run_id for spec in every])
        assert found.groupby(["run", "model", "step"]).size().to_dict() == {
            (specs[0].run_id, "fine-tuned", 4): count,
            (every[2].run_id, "real", -1): count, (every[2].run_id, "base", 0): count,
            (every[3].run_id, "real", -1): 3, (every[3].run_id, "base", 0): 3,
        }  # fmt: skip
        assert set(found.loc[found["run"] == every[3].run_id, "percentile"]) == {"5", "50", "95"}


def test_an_older_store_with_a_file_of_clips_for_each_preset_is_read_and_added_to(store: Path, tmp_path: Path) -> None:
    out, runs = tmp_path / "out", [SPECS[0].run_id, ReferenceSpec.of(SPECS[0]).run_id]
    publish(store, out, {})
    clips, folder = Store(out).samples(runs), out / "samples"
    folder.mkdir()
    for name, run in zip(("others", "references"), runs, strict=True):
        clips[clips["run"] == run].to_parquet(folder / f"{name}.parquet")
    (out / "samples.parquet").unlink()
    (out / "SHA256SUMS").unlink()
    assert len(clips) and sorted(Store(out).samples(runs)["mp4"]) == sorted(clips["mp4"])
    shutil.rmtree(store / runs[1])
    publish(store, out, {})
    assert not folder.exists() and sorted(Store(out).samples(runs)["mp4"]) == sorted(clips["mp4"])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("summary.json", None), ("summary.json", "{"), ("manifest.json", None), ("spec.json", "{"), ("log.jsonl", "{}"),
        ("log.jsonl", '{"step": 1}\n'), ("rows.parquet", "PAR1"), ("rows.parquet", None),
        ("samples/000002/driving-held-out-5.json", None),
    ],
)  # fmt: skip
def test_unfinished_and_damaged_runs_are_refused_by_the_name_of_the_file(
    name: str, text: str | None, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = store / SPECS[1].run_id / name
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert main(["publish", str(store), "--out", str(tmp_path / "out")]) == 2
    assert str(path) in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_another_spec_and_an_empty_store_are_refused(store: Path, tmp_path: Path) -> None:
    (store / SPECS[1].run_id).rename(store / "0123456789ab")
    with pytest.raises(ValueError, match=f"spec.json is the spec of {SPECS[1].run_id}"):
        publish(store, tmp_path / "out", {})
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="holds no folder of a run"):
        publish(tmp_path / "nothing", tmp_path / "out", {})
    with pytest.raises(ValueError, match="nowhere is no folder"):
        publish(tmp_path / "nowhere", tmp_path / "out", {})


def test_a_flipped_bit_is_an_error_with_the_files_name(store: Path, tmp_path: Path) -> None:
    publish(store, tmp_path / "out", {})
    path = tmp_path / "out" / "rows" / "others.parquet"
    content = bytearray(path.read_bytes())
    content[pq.read_metadata(path).row_group(0).column(COLUMNS.index("value")).data_page_offset + 60] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"others\.parquet cannot be read"):
        Store(tmp_path / "out").rows([SPECS[0].run_id])


def test_a_run_in_both_forms_must_be_the_same_in_both(store: Path) -> None:
    publish(store, store, {})
    assert Store(store).is_done(SPECS[0])
    shutil.rmtree(store / SPECS[1].run_id)
    assert Store(store).is_done(SPECS[1])
    both = Store(store).rows([write_run(store, SPECS[2], 0).name, SPECS[1].run_id], ["ssim"])
    assert list(both["run"].unique()) == [SPECS[2].run_id, SPECS[1].run_id]
    (store / SPECS[0].run_id / "summary.json").write_text(json.dumps(FACTS | {"seconds": 2}))
    with pytest.raises(ValueError, match="with different results"):
        Store(store).is_done(SPECS[0])


def test_the_readme_explains_every_column_with_pandas_alone(store: Path, tmp_path: Path) -> None:
    publish(store, tmp_path / "out", {})
    text = (tmp_path / "out" / "README.md").read_text()
    for path in (tmp_path / "out").rglob("*.parquet"):
        for name in pd.read_parquet(path).columns:
            assert f"| `{name}` |" in text and name in EXPLAINED
    assert "Apache-2.0" in text and "CITATION.cff" in text and "| `ade_px` | ADE | px | lower |" in text


def test_published_results_are_few_small_files_that_their_readme_explains() -> None:
    listed = subprocess.run(["git", "ls-files", "book/results"], cwd=ROOT, capture_output=True, check=True, text=True)
    files = [ROOT / name for name in listed.stdout.splitlines()]
    assert len(files) <= 40 and sum(path.stat().st_size for path in files) <= 30e6
    assert (RESULTS / "README.md").read_text() == text_of(RESULTS)
    unexplained = {name for path in RESULTS.rglob("*.parquet") for name in pq.read_schema(path).names} - {*EXPLAINED}
    assert not unexplained


def test_published_runs_have_the_presets_that_the_library_gives_them() -> None:
    runs = pd.read_parquet(RESULTS / "runs.parquet").set_index("run")
    for preset in ("published", "ablations", "alternatives"):
        of_preset = publishing.configurations(preset, RESULTS)
        there = runs.loc[[run for run in of_preset if run in runs.index]]
        assert len(there) and all(preset in presets.split() for presets in there["presets"])
        mine = there[there["preset"] == preset]
        assert mine["configuration"].to_dict() == {run: of_preset[run] for run in mine.index}


def test_no_row_of_a_folder_is_lost_by_sorting(store: Path, tmp_path: Path) -> None:
    publish(store, tmp_path / "out", {})
    kept = pd.read_parquet(tmp_path / "out" / "rows" / "others.parquet")
    assert len(kept) == sum(len(read_rows(store / spec.run_id)) for spec in SPECS[:2])


def test_provenance_tells_changed_trees_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    (tmp_path / "one.py").write_text("1")
    for verb in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "one"]):
        subprocess.run([*git, *verb], cwd=tmp_path, check=True)
    monkeypatch.setattr(origin, "LIBRARY", tmp_path)
    clean = provenance()["git_commit"]
    (tmp_path / "one.py").write_text("2")
    changed = provenance()["git_commit"]
    (tmp_path / "two.py").write_text("2")
    both = provenance()["git_commit"]
    assert len(clean) == 40 and changed.startswith(f"{clean}+changes-") and len({clean, changed, both}) == 3
    assert provenance()["git_commit"] == both
