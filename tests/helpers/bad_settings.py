"""Settings that cannot be: each is refused by the name of the field, before anything is written or sent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from bad_inputs import SPEC
from fault_campaign import Fault, clear

from replaylab.cli.main import build_parser
from replaylab.data.domain import open_domain, write_domain
from replaylab.shipped_weights import WEIGHTS
from replaylab.spec import ModelSpec, RemedySpec, ReplaySpec
from replaylab.store import store_of
from replaylab.sweeps import own_model
from replaylab.sweeps.cluster import ClusterSpec
from replaylab.sweeps.own_settings import OPTIONS, Settings

NAN, INFINITE = float("nan"), float("inf")
NUMBERS: dict[str, list[Any]] = {
    "frames": [0, -5], "context_frames": [0, -1, 99], "steps": [0, -1], "batch_size": [0, -4],
    "learning_rate": [0.0, -1e-4, NAN, INFINITE], "lora_rank": [-1], "guidance": [-1.0, NAN, INFINITE],
    "sampler_steps": [0, -3], "detector_threshold": [0.0, -0.5, 1.5, NAN, INFINITE],
}  # fmt: skip
assert {*NUMBERS, "prompt"} == OPTIONS.keys()
IN_A_DOMAIN: dict[str, list[Any]] = {
    "frames_per_second": [0, -4, NAN, INFINITE, 1e9, True, "4"], "size_px": [0, -64, 10**9, [64], [64, -1], True, "64", NAN],
    "name": ["", "a/b", "..", 7, None], "prompt": [7, "a\nb", "x" * 5000], "videos": ["a.mp4", [7], [{}], None],
}  # fmt: skip
OF_A_VIDEO: dict[str, list[Any]] = {
    "file": ["../../a.mp4", "/etc/a.mp4", "a/b.mp4", "a.avi", ".a.mp4", "", 7, None, "a\n.mp4"], "split": ["val", 7],
    "scene": [None, 1.5, []], "frames": [0, -8, 8.0, "8", True], "sha256": [None, 7],
}  # fmt: skip
OF_SLURM: dict[str, list[Any]] = {
    "slurm_setup": ["module load cuda", [1, 2], {"a": "b"}], "slurm_srun_args": ["--cpus", [["-c"]]],
    "slurm_constraint": [["a100"], {"a": 1}, True], "slurm_signal_delay_s": ["soon", -1, True, 1.5],
    "slurm_use_srun": ["yes", 1], "slurm_exclusive": [[1]],
    "slurm_additional_parameters": ["--reservation=x", [1], {"a": [1]}],
    "slurm_gpus_per_task": ["two", -1], "slurm_max_num_timeout": ["many", -2],
    "nodes": [0, -1, 1.5, "two", True], "memory_gb": [-1, NAN, INFINITE, "much"], "time_minutes": [0, -1, "1h"],
}  # fmt: skip
ABOUT: dict[str, Any] = {"name": "mine", "frames_per_second": 4.0, "size_px": 64}
VIDEO: dict[str, Any] = {"file": "a.mp4", "split": "test", "scene": "one", "frames": 8, "sha256": "0" * 64}


def _of_own(name: str, value: Any, folder: Path) -> None:
    with clear(name, value):
        Settings.of("wan", {name: value})


def _of_a_domain(change: dict[str, Any], field: str, folder: Path) -> None:
    write_domain(folder, ABOUT, pd.DataFrame([VIDEO]))
    path = folder / "domain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with clear(path, field):
        open_domain(folder)


def _of_a_cluster(key: str, value: Any, folder: Path) -> None:
    import yaml

    (folder / "lab.yaml").write_text(yaml.safe_dump({key: value}))
    with clear(folder / "lab.yaml", key):
        ClusterSpec.read(folder / "lab.yaml", "slurm")


def _of_a_run(make: Callable[[], Any], field: str, folder: Path) -> None:
    with clear(field):
        make()


def _as_in_the_package() -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in WEIGHTS.rglob("*")}


def _of_pretraining(words: list[str], said: str, folder: Path) -> None:
    before = _as_in_the_package()
    options = build_parser().parse_args(["pretrain", *words, "--home", str(folder)])
    with clear(said):
        options.run(options)
    assert _as_in_the_package() == before, "something was written into the package"
    assert not list(folder.iterdir()), "something was written"


def _no_such_user(read: Callable[[str], Any], folder: Path) -> None:
    with clear("~nouser", "no such user"):
        read("~nouser/lab")


def _run_with(**changes: Any) -> Callable[[], Any]:
    return lambda: replace(SPEC, **changes)


def _part_with(part: str, **changes: Any) -> Callable[[], Any]:
    return lambda: replace(getattr(SPEC, part), **changes)


def _video_with(field: str, value: Any) -> dict[str, Any]:
    return {"videos": [VIDEO | {field: value}]}


RUNS: list[tuple[str, Callable[[], Any]]] = [
    ("seed", _run_with(seed=-1)), ("learning_rate", _part_with("training", learning_rate=INFINITE)),
    ("learning_rate", _part_with("training", learning_rate=NAN)), ("steps", _part_with("training", steps=-1)),
    ("miss_cap_px", _part_with("evaluation", miss_cap_px=NAN)), ("clips", _part_with("evaluation", clips=-1)),
    ("sampler_steps", _part_with("evaluation", sampler_steps=0)), ("name", lambda: replace(SPEC.target, name="../up")),
    ("strength", lambda: RemedySpec("l2-sp", NAN)), ("strength", lambda: RemedySpec("lwf", INFINITE)),
    ("replay_fraction", lambda: ReplaySpec(SPEC.replay.domains, NAN)),
    ("weights", lambda: replace(SPEC.replay, weights=(NAN,))), ("weights", lambda: replace(SPEC.replay, weights=(-1.0,))),
    ("guidance", lambda: ModelSpec("a", "b", 9, 1, 4.0, guidance=NAN)),
]  # fmt: skip
READ_BY_A_USER: dict[str, Callable[[str], Any]] = {
    "a store": lambda text: store_of("smoke", text), "a cluster's file": lambda text: ClusterSpec.read(text, "slurm"),
    "a domain": own_model._opened, "a model": own_model._absolute,
}  # fmt: skip

KIND = "settings that cannot be"
FAULTS = [
    *(Fault(KIND, f"own {name}={value!r}", partial(_of_own, name, value)) for name in NUMBERS for value in NUMBERS[name]),
    *(Fault(KIND, f"domain.json {name}={str(value)[:12]!r}", partial(_of_a_domain, {name: value}, name))
      for name in IN_A_DOMAIN for value in IN_A_DOMAIN[name]),
    *(Fault(KIND, f"domain.json, video {name}={value!r}", partial(_of_a_domain, _video_with(name, value), name))
      for name in OF_A_VIDEO for value in OF_A_VIDEO[name]),
    *(Fault(KIND, f"cluster {key}: {value!r}", partial(_of_a_cluster, key, value))
      for key in OF_SLURM for value in OF_SLURM[key]),
    *(Fault(KIND, f"run {number}, {field}", partial(_of_a_run, make, field)) for number, (field, make) in enumerate(RUNS)),
    *(Fault(KIND, f"~nouser for {name}", partial(_no_such_user, read)) for name, read in READ_BY_A_USER.items()),
    *(Fault(KIND, f"pretrain {' '.join(words)}", partial(_of_pretraining, words, said)) for words, said in (
        (["base", "--seed", "-1"], "seed"), (["base", "--sixteenths", "3"], "3/16"), (["base", "--large"], "large"),
        (["autoencoder", "--seed", "7"], "seed"), (["detector", "--seed", "-1"], "seed"),
    )),
]  # fmt: skip
