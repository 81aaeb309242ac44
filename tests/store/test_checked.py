"""A result of which one bit is another is never read: each file of a finished run is an error with its name and a remedy."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from replaylab.spec import generator
from replaylab.store import COLUMNS, ReferenceSpec, Store, claim, finish, row_tables, samples_folder, write_rows
from replaylab.store.packing import publish
from replaylab.store.run_folders import checked_rows
from replaylab.sweeps import sweep
from replaylab.sweeps.presets import grid
from replaylab.util import files

SPEC = grid("smoke", [0.5])[0]
READERS = {
    "rows.parquet": lambda store: store.rows([SPEC.run_id], ["ssim"]),
    "summary.json": lambda store: store.summary(SPEC.run_id),
    "log.jsonl": lambda store: store.seconds_a_step(SPEC.run_id),
    "samples/000004/driving-5.mp4": lambda store: store.samples([SPEC.run_id]),
    "samples/000004/driving-5.json": lambda store: store.samples([SPEC.run_id]),
    "spec.json": lambda store: store.is_done(SPEC),
}


def rows_of(run: str) -> pd.DataFrame:
    """Of some clips, made up."""
    random = generator(0, "rows")
    lines = [(measure, f"test-{clip:05d}") for measure in ("ssim", "ade_px") for clip in range(40)]
    rows = pd.DataFrame(lines, columns=["measure", "video"]).assign(value=random.normal(size=len(lines)), n=3)
    rows = rows.assign(
        run=run, base=SPEC.base, model="fine-tuned", step=4, domain="driving", split="dev", scene=rows["video"]
    )
    return rows.assign(target="", replay="", replay_fraction=0.5, seed=0, start=0)[COLUMNS]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A finished run."""
    folder = claim(SPEC, tmp_path)
    (folder / "log.jsonl").write_text("".join(json.dumps({"step": at, "seconds": 0.1 * at}) + "\n" for at in range(4)))
    clip = samples_folder(folder, 4) / "driving-5.mp4"
    clip.parent.mkdir(parents=True)
    clip.write_bytes(generator(0, "clip").bytes(200))
    clip.with_suffix(".json").write_text("{}")
    finish(folder, rows_of(SPEC.run_id), seconds=1.0)
    return tmp_path


@pytest.mark.parametrize("name", READERS)
def test_a_bit_that_is_another_is_an_error_with_the_file_and_what_to_do(name: str, store: Path) -> None:
    path = store / SPEC.run_id / name
    read, whole = READERS[name], path.read_bytes()
    read(Store(store))
    for place in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=rf"{path}.*(run again|train)"):
            read(Store(store))
    path.write_bytes(whole)
    read(Store(store))


def test_a_run_of_an_older_version_is_read_as_before(store: Path) -> None:
    (store / SPEC.run_id / "SHA256SUMS").unlink()
    for read in READERS.values():
        read(Store(store))


def test_the_digest_of_references_covers_their_gallery(tmp_path: Path) -> None:
    spec = ReferenceSpec.of(SPEC)
    folder = claim(spec, tmp_path)
    (folder / "gallery.json").write_text(json.dumps({"driving": {"5": 3}}))
    finish(folder, rows_of(spec.run_id), seconds=1.0)
    assert Store(tmp_path).gallery_clips(spec.run_id) == {"driving": {"5": 3}}
    (folder / "gallery.json").write_text(json.dumps({"driving": {"5": 2}}))
    with pytest.raises(ValueError, match=r"gallery\.json is damaged.*run again"):
        Store(tmp_path).gallery_clips(spec.run_id)


def test_rows_of_one_step_are_checked_before_they_are_joined(tmp_path: Path) -> None:
    path = tmp_path / "rows-000004.parquet"
    write_rows(path, rows_of(SPEC.run_id), with_digest=True)
    whole, remedy = path.read_bytes(), "train again"
    checked_rows(path, remedy)
    for place in range(0, len(whole), 211):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"rows-000004\.parquet is damaged.*train again"):
            checked_rows(path, remedy)


def test_a_large_store_is_read_with_few_openings_and_each_text_is_in_memory_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is opened six times at first, and twice later: its rows and its summary; for no measure, its rows never."""
    specs = grid("smoke", [0.0, 0.5], [0, 1, 2])
    for spec in specs:
        finish(claim(spec, tmp_path), rows_of(spec.run_id), seconds=1.0)
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))  # what was just written is not remembered
    opened, honest = Counter[str](), Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *more, **named: opened.update([path.name]) or honest(path, *more, **named)
    )
    first = {"spec.json": 1, "SHA256SUMS": 1, "summary.json": 2, "rows.parquet": 2}
    for each in (first, {"summary.json": 1, "rows.parquet": 1}):
        opened.clear()
        table = sweep.read("smoke", [0.0, 0.5], [0, 1, 2], store=tmp_path, measures=["ssim"])
        assert (table.runs["state"] == "done").all() and len(table.rows) == 40 * len(specs)
        assert opened == {name: len(specs) * count for name, count in each.items()}
    opened.clear()
    assert (sweep.run("smoke", [0.0, 0.5], [0, 1, 2], store=tmp_path, dry_run=True).runs["state"] == "done").all()
    assert opened == {"summary.json": len(specs)}
    for column in ("base", "model", "domain", "split", "measure"):
        assert len(set(map(id, table.rows[column].to_numpy(object)))) == 1, column


def test_repeated_fractions_seeds_and_runs_are_one(store: Path) -> None:
    """Clips would count twice."""
    once, often = (
        sweep.read("smoke", fractions, seeds, store=store) for fractions, seeds in (([0.5], [0]), ([0.5] * 2, [0] * 3))
    )
    assert often.specs == once.specs and len(once.runs) == 1
    pd.testing.assert_frame_equal(often.rows, once.rows)
    pd.testing.assert_frame_equal(Store(store).rows([SPEC.run_id] * 2), Store(store).rows([SPEC.run_id]))


@pytest.mark.parametrize("name", ["summary.json", "manifest.json", "log.jsonl"])
def test_what_is_published_is_what_was_written(name: str, store: Path, tmp_path: Path) -> None:
    """A digit that is another is valid JSON."""
    folder = store / SPEC.run_id
    (folder / "manifest.json").write_text(json.dumps({"threads": 1}))
    steps = range(1, SPEC.training.steps + 1)
    (folder / "log.jsonl").write_text("".join(json.dumps({"step": at, "seconds": 0.1}) + "\n" for at in steps))
    finish(folder, rows_of(SPEC.run_id), seconds=1.0)
    text = (folder / name).read_text()
    changed = text.replace("0.1", "0.3").replace('"seconds": 1.0', '"seconds": 3.0').replace('"threads": 1', '"threads": 3')
    assert changed != text
    (folder / name).write_text(changed)
    with pytest.raises(ValueError, match=rf"{name} is damaged.*train the run again"):
        publish(store, tmp_path / "out", {})
    (folder / name).write_text(text)
    publish(store, tmp_path / "out", {})


@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_tables_are_joined_in_their_order_and_only_with_tables_of_their_kind(rows: int) -> None:
    def table(texts: list[str | None], kind: str = "int32") -> pa.Table:
        return pa.table({"text": pa.array(texts, "string").dictionary_encode(), "n": pa.array(range(len(texts)), kind)})

    parts = [table(["a", "b"]), table(["b", None, "c"]), table([]), table(["c"], "int64"), table(["a"], "int64")]
    found = list(row_tables.joined(parts, rows))
    assert [row for one in found for row in one.to_pylist()] == [row for part in parts for row in part.to_pylist()]
    assert all(one["text"].num_chunks <= 1 for one in found)
    assert len(found) == {1: 5, 5: 3, 1000: 2}[rows]


def test_a_finished_run_has_nothing_that_a_dead_process_half_wrote(tmp_path: Path) -> None:
    folder = claim(SPEC, tmp_path)
    samples = samples_folder(folder, 3)
    samples.mkdir(parents=True, exist_ok=True)
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = samples / f".driving-5.json.{files._HOST}-{dead.pid}-0123abcd"
    alive = samples / f".driving-5.json.{files._HOST}-{os.getpid()}-0123abcd"
    for path in (left, alive):
        path.write_text("half")
    finish(folder, rows_of(SPEC.run_id), seconds=1.0)
    assert not left.exists() and alive.exists()
