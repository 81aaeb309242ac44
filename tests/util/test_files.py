"""What is kept is on disk when it says so, whole, readable by whom the umask says, and written in one way everywhere."""

from __future__ import annotations

import ast
import os
import re
import stat
import threading

import numpy as np
import pytest
from conftest import ROOT
from safetensors.numpy import save_file
from simulated_disk import Disk

from replaylab.util import files

WRITERS = {
    "write_text", "write_bytes", "save_pretrained", "save_file", "to_parquet", "to_csv", "copyfile", "copytree", "copy2",
    "move", "ParquetWriter", "write_table", "write_video", "savez",
}  # fmt: skip
"""What writes a file where it stands."""
WRITING = re.compile(r"\(.*['\"][awx]\+?b?['\"]")
ELSEWHERE = {
    ("worlds/doom/game.py", "path.write_text"), ("worlds/sumo/simulation.py", "types.write_text"),  # temporary folders
    ("data/video.py", "write_video"), ("data/video.py", "av.open"),  # too, and what write_video does
    ("training/loop.py", "path.open"),  # the log, a line a step: fsynced before each checkpoint and cut to it
    ("pages/style.py", "rows.to_csv"),  # a text
    ("util/files.py", "write_text"),  # the one
}  # fmt: skip


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_was_written_outlives_a_power_failure_at_every_moment(kind, tmp_path, monkeypatch):
    """On a disk that has only what was fsynced there is the old, or the new, or nothing; and the new when it returned."""
    place = tmp_path / "new" / "place"

    def write(text: str) -> None:
        if kind == "file":
            files.write_text(place, text)
        else:
            files.write_folder(place, lambda fresh: [(fresh / name).write_text(text) for name in ("a", "b")])

    with Disk(tmp_path, monkeypatch) as disk:
        seen = []
        for text in ("one", "two"):
            disk.at_every_event = lambda: seen.append(disk.tree())
            write(text)
            disk.at_every_event = lambda: None
            wanted = {"place": text.encode()} if kind == "file" else {f"place/{name}": text.encode() for name in "ab"}
            assert {name.removeprefix("new/"): data for name, data in disk.tree().items()} == wanted
    found = {tuple(sorted(data for name, data in tree.items() if name.startswith("new/place"))) for tree in seen}
    count = 1 if kind == "file" else 2
    assert found <= {(), (b"one",) * count, (b"two",) * count}


def test_the_simulated_disk_loses_what_was_not_fsynced(tmp_path, monkeypatch):
    with Disk(tmp_path, monkeypatch) as disk:
        (tmp_path / "a").write_text("never fsynced")
        files.sync(tmp_path)
        assert disk.tree() == {"a": b""}
        (tmp_path / "b").write_text("its folder was not")
        files.sync(tmp_path / "b")
        assert disk.tree() == {"a": b""}
        os.replace(tmp_path / "b", tmp_path / "a")
        assert disk.tree() == {"a": b""}
        files.sync(tmp_path)
        assert disk.tree() == {"a": b"its folder was not"}


def test_files_are_for_whom_the_umask_says(tmp_path):
    """safetensors makes files that only their owner can read."""
    array = {"a": np.zeros(3)}
    for umask, wanted in ((0o022, 0o644), (0o002, 0o664), (0o077, 0o600)):
        before = os.umask(umask)
        try:
            files.write_atomically(tmp_path / "file", lambda aside: save_file(array, aside))
            files.write_folder(tmp_path / "folder", lambda fresh: save_file(array, fresh / "file"))
        finally:
            os.umask(before)
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder/file", "folder")]
        assert modes == [wanted, wanted, 0o777 & ~umask]


def test_several_may_write_one_place_without_locks(tmp_path):
    """Nobody fails, and what is there in the end is whole."""
    place, errors = tmp_path / "place", []

    def write(text: str) -> None:
        try:
            for _ in range(20):
                files.write_folder(place, lambda fresh: [(fresh / name).write_text(text) for name in ("a", "b")])
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert (place / "a").read_text() == (place / "b").read_text() and os.listdir(tmp_path) == ["place"]


def test_every_file_is_written_beside_its_place():
    """Nothing in the library writes a file where it will be read, but into what `write_atomically` and `write_folder` give,
    which is called `aside` or `fresh` everywhere.
    """
    found = set()
    for path in (ROOT / "replaylab").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module == "replaylab.util.files"]
        ours = {each.name for node in imports for each in node.names}
        for node in nodes:
            last = node.func if isinstance(node, ast.Call) else None
            name = last.attr if isinstance(last, ast.Attribute) else last.id if isinstance(last, ast.Name) else ""
            if name in ours or name not in {*WRITERS, "open"}:
                continue
            text = ast.unparse(node)
            if (name != "open" or WRITING.search(text)) and not re.search(r"\b(aside|fresh|writer)\b", text):
                found.add((path.relative_to(ROOT / "replaylab").as_posix(), text.partition("(")[0]))
    assert found == ELSEWHERE
