"""A file that has another content than was written is never read: of any kind, whichever bit is another."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

from replaylab.util import cache, digests
from replaylab.util.digests import WrongDigest
from replaylab.util.files import write_atomically, write_sums


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_whichever_bit_is_another_in_a_file_or_in_its_digest(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda aside: aside.write_bytes(b"content"), with_digest=True)
    digests.check(path)
    beside = tmp_path / "file.sha256"
    for file in (path, beside):
        whole = file.read_bytes()
        for bit in range(8 * len(whole)):
            file.write_bytes(flipped(whole, bit))
            with pytest.raises(WrongDigest, match="is damaged"):
                digests.check(path)
        file.write_bytes(whole)
    digests.check(path)
    path.rename(tmp_path / "other")
    beside.rename(tmp_path / "other.sha256")
    with pytest.raises(WrongDigest):  # two files that have changed places
        digests.check(tmp_path / "other")


def test_a_folder_lists_its_files_for_everybody(tmp_path):
    (tmp_path / "samples" / "000004").mkdir(parents=True)
    (tmp_path / "samples" / "000004" / "a.mp4").write_bytes(b"clip")
    (tmp_path / "unlisted").write_bytes(b"of somebody else")
    write_sums(tmp_path, ["samples/000004/a.mp4"], {"summary.json": "{}"})
    digests.check(tmp_path / "unlisted")
    digests.check(tmp_path / "samples" / "000004" / "a.mp4")
    with pytest.raises(FileNotFoundError):
        digests.check(tmp_path / "summary.json")
    (tmp_path / "summary.json").write_text("{}")
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    (tmp_path / "samples" / "000004" / "a.mp4").write_bytes(b"clap")
    with pytest.raises(WrongDigest, match=r"a\.mp4 is damaged.*SHA256SUMS"):
        digests.check(tmp_path / "samples" / "000004" / "a.mp4")


def test_a_cached_file_that_is_damaged_is_made_again_with_a_warning(tmp_path, capsys):
    path, made = tmp_path / "new" / "file.npy", []

    def save(aside, array):
        with aside.open("wb") as file:
            np.save(file, array)

    def make():
        made.append(1)
        return np.arange(8.0)

    for count in (1, 1):
        assert np.array_equal(cache.cached(path, np.load, save, make), np.arange(8.0)) and len(made) == count
    whole = path.read_bytes()
    for number, data in enumerate((flipped(whole, 8 * len(whole) - 3), whole[:-8], b"", bytes(len(whole))), start=2):
        path.write_bytes(data)
        assert np.array_equal(cache.cached(path, np.load, save, make), np.arange(8.0)) and len(made) == number
        assert capsys.readouterr().err.count(f"warning: {path} is damaged and is made again") == 1
    path.with_name("file.npy.sha256").unlink()  # of an older version
    assert np.array_equal(cache.cached(path, np.load, save, make), np.arange(8.0)) and len(made) == 5
