"""Every reader of a file, with every kind of damage: the error names the file and what to do, and is short."""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from fault_campaign import Fault, clear
from safetensors.torch import save_file
from torch import nn

from replaylab.analysis import world_survey
from replaylab.data.domain import EGO_COLUMNS, TRACK_COLUMNS, open_domain, write_domain
from replaylab.data.importers import conversion, nuscenes, waymo
from replaylab.data.importers.bdd100k import BddVideo
from replaylab.data.importers.conversion import ConversionSettings
from replaylab.data.importers.kitti import KittiSequence
from replaylab.data.importers.sources import Unusable
from replaylab.data.video import decode, write_video
from replaylab.evaluation import compare, corruption_study
from replaylab.metrics import extractors, network_files
from replaylab.models import lora, pipelines
from replaylab.spec import RunSpec
from replaylab.store import ReferenceSpec, Store, claim, packed, write_rows
from replaylab.store.packing import publish
from replaylab.sweeps.cluster import ClusterSpec
from replaylab.sweeps.presets import grid
from replaylab.training import checkpoint, loop, recipe_study
from replaylab.util import distributed, downloads, networks, reading

SPEC = grid("smoke", [0.5], [0])[0]
REFERENCES = ReferenceSpec.of(SPEC)
FACTS = {"seconds": 1.5, "git_commit": "abc", "execution": {}}

# ------------------------------------------------------------------------------------------------------------- damages
DEEP = b"[" * 200_000
BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n".encode() for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
GARBAGE = np.random.default_rng(0).bytes(300)


def _other_parquet(path: Path) -> None:
    pq.write_table(pd.DataFrame({"other": ["table"]}).pipe(_as_arrow), path)


def _as_arrow(table: pd.DataFrame) -> Any:
    import pyarrow as pa

    return pa.Table.from_pandas(table)


def _overwrite(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def _halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: max(1, len(content) // 2 - 3)])  # within a line, where all are as long


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


Damages = dict[str, Callable[[Path], None]]
EVERY: Damages = {"empty": _overwrite(b""), "truncated": _halve, "garbage": _overwrite(GARBAGE), "a folder": _as_folder}
OF_JSON = EVERY | {"a list": _overwrite(b"[1, 2]"), "a number": _overwrite(b"7"), "huge": _overwrite(DEEP)}
DAMAGES: dict[str, Damages] = {
    "JSON": OF_JSON | {"another object": _overwrite(b'{"other": 1}')}, "any JSON": OF_JSON,
    "JSON lines": EVERY | {"lists": _overwrite(b"[1]\n[2]\n"), "other objects": _overwrite(b'{"other": 1}\n' * 9),
                           "huge": _overwrite(DEEP)},
    "Parquet": EVERY | {"another table": _other_parquet, "JSON": _overwrite(b'{"a": 1}')},
    "YAML": EVERY | {"a list": _overwrite(b"- a"), "aliases": _overwrite(BOMB), "huge": _overwrite(b"#" * 2**21)},
    "safetensors": EVERY | {"a pointer of Git LFS": _overwrite(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
                            "huge": _overwrite((2**60).to_bytes(8, "little") + b"{}")},
    ".npy": EVERY | {"pickled": lambda path: np.save(path, np.array([{}], dtype=object), allow_pickle=True)},
    "video": EVERY | {"a text": _overwrite(b"no video")},
    "TorchScript": EVERY | {"pickled": lambda path: torch.save({"a": torch.zeros(1)}, path)},
    "text": {"garbage": _overwrite(GARBAGE), "a word": _overwrite(b"word\n"), "a folder": _as_folder},
}  # fmt: skip
DAMAGES["YAML"].pop("empty")  # no settings: the defaults
DAMAGES["YAML"].pop("truncated")  # half of two lines is one line


# ------------------------------------------------------------------------------------------------------------- readers
class Opened(NamedTuple):
    """A whole file, and what reads it."""

    path: Path
    read: Callable[[], Any]


class Reader(NamedTuple):
    """`make` writes a whole file into an empty folder. `says`: what an error names, where that is not the file."""

    name: str
    format: str
    make: Callable[[Path], Opened]
    says: str = ""


def _domain(folder: Path) -> Path:
    videos = pd.DataFrame([("a.mp4", "test", "one", 4, "0" * 64)], columns=["file", "split", "scene", "frames", "sha256"])
    numbers = dict.fromkeys(TRACK_COLUMNS, 0.0) | {"video": "a", "kind": "car", "frame": 0, "agent": 0, "eligible": True}
    ego = dict.fromkeys(EGO_COLUMNS, 0.0) | {"video": "a", "event": "none", "frame": 0}
    about = {"name": "mine", "frames_per_second": 4.0, "size_px": 64}
    write_domain(folder, about, videos, pd.DataFrame([numbers] * 50), pd.DataFrame([ego] * 50))
    return folder


def _of_domain(name: str, read: Callable[[Path], Any], folder: Path) -> Opened:
    return Opened(_domain(folder) / name, lambda: read(folder))


def _video(folder: Path) -> Path:
    path = folder / "a.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8), 4.0)
    return path


def _run(store: Path, spec: RunSpec | ReferenceSpec) -> Path:
    """A finished run, or references."""
    folder = claim(spec, store)
    is_run = isinstance(spec, RunSpec)
    steps = spec.training.steps if isinstance(spec, RunSpec) else 0
    of = {"run": spec.run_id, "base": spec.base, "model": "fine-tuned" if is_run else "base", "target": "driving", "seed": 0}
    clip = {"replay": "near", "replay_fraction": 0.5, "step": 4, "domain": "near", "split": "dev", "start": 0, "n": 1}
    rows = pd.DataFrame([
        {**of, **clip, "video": f"test-{number:05d}", "scene": f"near/test-{number:05d}", "measure": "ade_px", "value": 1.0}
        for number in range(30)
    ])  # fmt: skip
    write_rows(folder / "rows.parquet", rows)
    if is_run:
        lines = [{"step": at, "loss": 1.0, "seconds": at} for at in range(1, steps + 1)]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "manifest.json").write_text(json.dumps({"threads": 1, "precision": "fp32"}))
    else:
        (folder / "gallery.json").write_text(json.dumps({"driving": {"5": 3}}))
    (folder / "samples" / "real").mkdir(parents=True)
    _video(folder / "samples" / "real").rename(folder / "samples" / "real" / "driving-5.mp4")
    (folder / "samples" / "real" / "driving-5.json").write_text(json.dumps({"true": [[]], "found": [[]]}))
    (folder / "summary.json").write_text(json.dumps(FACTS))
    return folder


def _of_run(name: str, read: Callable[[Store], Any], folder: Path) -> Opened:
    run = _run(folder, REFERENCES if "gallery" in name or "samples" in name else SPEC)
    return Opened(run / name, lambda: read(Store(folder)))


def _to_publish(name: str, folder: Path) -> Opened:
    run = _run(folder / "store", SPEC)
    return Opened(run / name, lambda: publish(folder / "store", folder / "out", {}))


def _published(name: str, read: Callable[[Store], Any], folder: Path) -> Opened:
    for spec in (SPEC, REFERENCES):
        _run(folder / "store", spec)
    publish(folder / "store", folder / "out", {})
    packed._runs.cache_clear()
    return Opened(folder / "out" / name, lambda: read(Store(folder / "out")))


def _written(name: str, content: str, read: Callable[[Path], Any], folder: Path) -> Opened:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return Opened(path, lambda: read(path))


def _weights(name: str, read: Callable[[Path], Any], folder: Path) -> Opened:
    path = folder / name
    save_file({"weight": torch.zeros(20, 20)}, path)
    (folder / "config.json").write_text("{}")
    return Opened(path, lambda: read(path))


def _tables(name: str, read: Callable[[Path], Any], folder: Path) -> Opened:
    pd.DataFrame({"domain": ["near"] * 50, "value": np.arange(50.0)}).to_parquet(folder / name, index=False)
    return Opened(folder / name, lambda: read(folder / name))


def _array(folder: Path) -> Opened:
    np.save(folder / "generated.npy", np.zeros((9, 9)))
    return Opened(folder / "generated.npy", lambda: reading.array(folder / "generated.npy"))


def _survey(name: str, folder: Path) -> Opened:
    about = {"domains": {"driving": "0"}, "split": "dev", "videos": 4, "windows": 3}
    (folder / "survey.json").write_text(json.dumps(about))
    for table in ("statistics", "velocities"):
        pd.DataFrame({"domain": ["driving"] * 50}).to_parquet(folder / f"{table}.parquet")
    specs = {"driving": SPEC.target}
    return Opened(folder / name, lambda: world_survey._read(folder, "smoke", specs))  # type: ignore[arg-type]


def _manifest(folder: Path) -> Opened:
    (folder / "checkpoints" / "step-000001").mkdir(parents=True)
    execution = distributed.Execution.__new__(distributed.Execution)
    return _written("manifest.json", "{}", lambda path: loop._check_manifest(folder, execution, distributed.Rank()), folder)


def _torchscript(folder: Path) -> Opened:
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.save(torch.jit.script(Nothing()), str(folder / "weights.pt"))
    return Opened(folder / "weights.pt", lambda: extractors.inception(folder / "weights.pt", allow_unknown=True))


def _kitti(kind: str, folder: Path) -> Opened:
    (folder / "image_02" / "0000").mkdir(parents=True)
    (folder / "image_02" / "0000" / "000000.png").touch()
    for each in ("label_02", "calib", "oxts"):
        (folder / each).mkdir()
        (folder / each / "0000.txt").write_text("")

    def read() -> None:
        sequence = KittiSequence(folder, "0000")
        if kind == "label_02":
            sequence.labels()
        elif kind == "calib":
            sequence.calibration()
        else:
            sequence.poses(None)  # type: ignore[arg-type]

    return Opened(folder / kind / "0000.txt", partial(_usable, read))


def _usable(read: Callable[[], Any]) -> None:
    try:
        read()
    except Unusable as error:  # a row of unusable.csv
        raise ValueError("; ".join(error.args)) from error


def _waymo(folder: Path) -> Opened:
    for component in ("camera_image", "lidar_box"):
        (folder / component).mkdir()
        row = dict.fromkeys(waymo.NUMBERS[component], 1) | dict.fromkeys(waymo.OTHERS[component], "one")
        pd.DataFrame([row] * 50).to_parquet(folder / component / "1.parquet")

    def read() -> None:
        waymo.WaymoSegment(folder, "1", "FRONT", ["camera_image", "lidar_box"]).table("lidar_box")

    return Opened(folder / "lidar_box" / "1.parquet", partial(_usable, read))


def _bdd100k(folder: Path) -> Opened:
    pictures, labels = folder / "images" / "track" / "train" / "a", folder / "labels" / "train" / "a.json"
    for path in (pictures / "a-0000001.jpg", labels):
        path.parent.mkdir(parents=True)
        path.touch()
    labels.write_text('[{"frameIndex": 0, "labels": []}]')
    return Opened(labels, partial(_usable, lambda: BddVideo(folder, labels).boxes()))


def _recipe(folder: Path) -> Opened:
    check = partial(conversion.check, ConversionSettings(folder, name="mine"), "videos")
    return _written(conversion.RECIPE_FILE, "{}", lambda path: check(), folder)


def _nuscenes(folder: Path) -> Opened:
    for name in nuscenes.FIELDS:
        (folder / "v1.0-mini").mkdir(exist_ok=True)
        (folder / "v1.0-mini" / f"{name}.json").write_text("[]")
    first = folder / "v1.0-mini" / f"{next(iter(nuscenes.FIELDS))}.json"
    first.write_text("[{}]")

    def read() -> None:
        raise nuscenes._diagnosed(folder, "v1.0-mini", ValueError())

    return Opened(first, read)


def _damages_of_corruptions(folder: Path) -> Opened:
    found = folder / corruption_study.spec_of("smoke").run_id
    found.mkdir()
    (found / "summary.json").write_text("{}")
    return _tables("rows.parquet", lambda path: corruption_study.run("smoke", folder), found)


READERS = [
    *(Reader(name, format_, partial(_of_domain, name, read)) for name, format_, read in (
        ("domain.json", "JSON", open_domain),
        ("tracks.parquet", "Parquet", lambda folder: open_domain(folder).tracks),
        ("ego.parquet", "Parquet", lambda folder: open_domain(folder).ego),
    )),
    Reader("a video", "video", lambda folder: Opened(path := _video(folder), lambda: decode(path))),
    Reader("a video's header", "video", lambda folder: Opened(
        path := _video(folder), lambda: compare._opened("set", path, path.name))),
    *(Reader(f"a run's {name}", format_, partial(_of_run, name, read)) for name, format_, read in (
        ("spec.json", "JSON", lambda store: store.is_done(SPEC)),
        ("summary.json", "JSON", lambda store: store.summary(SPEC.run_id)),
        ("rows.parquet", "Parquet", lambda store: store.rows([SPEC.run_id])),
        ("log.jsonl", "JSON lines", lambda store: store.seconds_a_step(SPEC.run_id)),
        ("gallery.json", "JSON", lambda store: store.gallery_clips(REFERENCES.run_id)),
    )),
    *(Reader(f"to publish, {name}", format_, partial(_to_publish, name)) for name, format_ in (
        ("spec.json", "JSON"), ("summary.json", "JSON"), ("manifest.json", "any JSON"), ("rows.parquet", "Parquet"),
        ("log.jsonl", "JSON lines"), ("samples/real/driving-5.json", "any JSON"),
    )),
    *(Reader(f"published {name}", "Parquet", partial(_published, name, read)) for name, read in (
        ("runs.parquet", lambda store: store.is_done(SPEC)),
        ("rows/others.parquet", lambda store: store.rows([SPEC.run_id])),
        ("logs.parquet", lambda store: store.seconds_a_step(SPEC.run_id)),
        ("samples.parquet", lambda store: store.samples([REFERENCES.run_id])),
    )),
    Reader("the file of a cluster", "YAML",
           partial(_written, "lab.yaml", "nodes: 2\ncpus_per_task: 2\n", lambda path: ClusterSpec.read(path, "slurm"))),
    Reader("model_index.json", "JSON", partial(
        _written, "model_index.json", '{"_class_name": "Tiny"}', lambda path: downloads.read_index(path.parent))),
    Reader("a tiny model's model_index.json", "JSON", partial(
        _written, "model_index.json", '{"_class_name": "Tiny"}', lambda path: pipelines.load_tiny(path.parent))),
    Reader("config.json", "any JSON", partial(
        _written, "config.json", "{}", lambda path: networks.read_json(path.parent, "config.json"))),
    Reader("an index of weights", "JSON", partial(
        _written, "model.safetensors.index.json", '{"weight_map": {}}', lambda path: networks.weight_files(path.parent))),
    Reader("weights", "safetensors", partial(
        _weights, "model.safetensors", lambda path: networks.check_weights(path.parent))),
    Reader("adapters", "safetensors", partial(
        _weights, lora.FILE, lambda path: lora.read_lora(nn.Linear(1, 1), path.parent, "transformer"))),
    Reader("a small network", "safetensors", partial(_weights, "model.safetensors", lambda path: network_files.load(
        path.parent, lambda config: nn.Linear(20, 20), "network", "make it again", is_checked=False))),
    Reader("generated replay", ".npy", _array),
    *(Reader(f"a survey's {name}", format_, partial(_survey, name)) for name, format_ in (
        ("survey.json", "JSON"), ("statistics.parquet", "Parquet"), ("velocities.parquet", "Parquet"))),
    Reader("measured corruptions", "Parquet", _damages_of_corruptions),
    Reader("a training's manifest.json", "any JSON", _manifest),
    Reader("a study's log.jsonl", "JSON lines",
           partial(_written, "log.jsonl", '{"loss": 1}\n' * 9, lambda path: recipe_study._loss(path.parent))),
    Reader("the recipe of a domain", "any JSON", _recipe),
    Reader("a metric's TorchScript", "TorchScript", _torchscript),
    *(Reader(f"KITTI's {kind}", "text", partial(_kitti, kind)) for kind in ("label_02", "oxts")),
    Reader("nuScenes' tables", "JSON", _nuscenes),
    Reader("Waymo's lidar_box", "Parquet", _waymo),
    Reader("BDD100K's labels", "any JSON", _bdd100k),
]  # fmt: skip


@cache
def _made(reader: Reader) -> tuple[Opened, bytes]:
    """Made once, because writing takes longer than reading; with the file's whole content."""
    folder = Path(tempfile.mkdtemp(prefix="bad-inputs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    opened = reader.make(folder)
    return opened, opened.path.read_bytes()


def _happen(reader: Reader, damage: Callable[[Path], None], folder: Path) -> None:
    opened, whole = _made(reader)
    damage(opened.path)
    try:
        with clear(opened.path.name, reader.says or opened.path.parent.name):
            opened.read()
    finally:
        if opened.path.is_dir():
            opened.path.rmdir()
        opened.path.write_bytes(whole)


def _checkpoint_is_passed_over(damage: Callable[[Path], None], folder: Path) -> None:
    """The one before it is used."""
    for step in (1, 2):
        checkpoint.save(folder, step, {"weights": {"weight": torch.zeros(9)}}, {})
    damage(folder / "step-000002" / "state.json")
    newest = checkpoint.newest(folder)
    assert newest is not None and newest[1]["step"] == 1


def _published_again(damage: Callable[[Path], None], folder: Path) -> None:
    """Damaged rows are written again where the runs are there."""
    _run(folder / "store", SPEC)
    publish(folder / "store", folder / "out", {})
    path = folder / "out" / "rows" / "others.parquet"
    whole = path.read_bytes()
    damage(path)
    publish(folder / "store", folder / "out", {})
    assert path.read_bytes() == whole


HARMLESS = {
    "a checkpoint's state.json": (
        _checkpoint_is_passed_over,
        {**OF_JSON, "another object": DAMAGES["JSON"]["another object"]},
    ),
    "rows that are published again": (_published_again, {name: EVERY[name] for name in ("empty", "truncated", "garbage")}),
}
FAULTS = [
    *(Fault("bad inputs", f"{what}, {name}", partial(happen, damage))
      for what, (happen, damages) in HARMLESS.items() for name, damage in damages.items()),
    *(Fault("bad inputs", f"{reader.name}, {name}", partial(_happen, reader, damage))
      for reader in READERS for name, damage in DAMAGES[reader.format].items()),
]  # fmt: skip
