"""A domain folder is checked when it is opened, and every complaint names the file and the field."""

import errno
import hashlib
import json
import multiprocessing
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import LIMIT_SECONDS

from replaylab.data.domain import EGO_COLUMNS, TRACK_COLUMNS, open_domain, write_domain
from replaylab.util.files import locked, write_atomically

ABOUT = {"name": "mine", "frames_per_second": 4.0, "size_px": 64}


def write(folder, videos=(("a.mp4", "train", "one"), ("b.mp4", "dev", "two"))):
    table = pd.DataFrame(
        [(*video, 12, "0" * 64) for video in videos], columns=["file", "split", "scene", "frames", "sha256"]
    )
    tracks = pd.DataFrame([dict.fromkeys(TRACK_COLUMNS, 0)])
    return write_domain(folder, ABOUT, table, tracks, pd.DataFrame([dict.fromkeys(EGO_COLUMNS, 0)]))


def test_what_is_written_is_read(tmp_path):
    domain = write(tmp_path)
    assert (domain.name, domain.frames_per_second, domain.size_px) == ("mine", 4.0, 64)
    assert list(domain.split("dev")["file"]) == ["b.mp4"]
    assert list(domain.tracks) == list(TRACK_COLUMNS) and list(domain.ego) == list(EGO_COLUMNS)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(("given", "height", "width"), [(64, 64, 64), ([48, 96], 48, 96), ([32, 32], 32, 32)])
def test_a_domain_may_be_a_rectangle(given, height, width, tmp_path):
    domain = write_domain(tmp_path, ABOUT | {"size_px": given}, pd.DataFrame(
        [("a.mp4", "train", "one", 12, "0" * 64)], columns=["file", "split", "scene", "frames", "sha256"]
    ))  # fmt: skip
    assert (domain.height_px, domain.width_px) == (height, width)
    if height == width:
        assert domain.size_px == height
    else:
        with pytest.raises(ValueError, match="pictures are 48x96, and squares are needed here"):
            _ = domain.size_px


@pytest.mark.parametrize("given", [0, -2, True, [64], [64, 0], [64, 64, 3], [64.0, 64], ["64", 64]])
def test_a_size_that_is_none_is_named(given, tmp_path):
    write(tmp_path)
    path = tmp_path / "domain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size_px": given}))
    with pytest.raises(ValueError, match=r"domain\.json: field 'size_px' is .*a side in pixels, or \[height, width\]"):
        open_domain(tmp_path)


def test_the_bytes_of_a_square_domain_are_those_of_published_runs(tmp_path):
    write(tmp_path, (("a.mp4", "train", "one"),))
    assert hashlib.sha256((tmp_path / "domain.json").read_bytes()).hexdigest()[:12] == "bfcf7ef63f39"


def test_what_is_not_known_is_not_there(tmp_path):
    known = write(tmp_path)
    assert known.has_tracks and known.has_ego
    domain = write_domain(tmp_path, ABOUT, known.videos)
    assert not domain.has_tracks and not domain.has_ego
    with pytest.raises(FileNotFoundError, match=r"tracks\.parquet is missing: this domain has no known truth"):
        _ = domain.tracks


def test_a_scene_may_be_in_one_split_only(tmp_path):
    with pytest.raises(ValueError, match=r"domain\.json: scene 'one' is in more than one split"):
        write(tmp_path, (("a.mp4", "train", "one"), ("b.mp4", "dev", "one")))


def test_unknown_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown split 'val'; splits are train, dev, test"):
        write(tmp_path, (("a.mp4", "val", "one"),))


@pytest.mark.parametrize("field", [*ABOUT, "videos"])
def test_missing_fields_are_named(field, tmp_path):
    write(tmp_path)
    path = tmp_path / "domain.json"
    about = json.loads(path.read_text())
    del about[field]
    path.write_text(json.dumps(about))
    with pytest.raises(ValueError, match=f"domain.json: field '{field}'"):
        open_domain(tmp_path)


def test_a_list_that_is_not_as_it_was_written_is_a_warning_until_its_line_says_so(tmp_path, capsys):
    write(tmp_path)
    assert capsys.readouterr().err == ""
    path, sums = tmp_path / "domain.json", tmp_path / "SHA256SUMS"
    path.write_text(path.read_text().replace('"frames_per_second": 4.0', '"frames_per_second": 5.0'))
    assert open_domain(tmp_path).frames_per_second == 5.0
    said = capsys.readouterr().err
    assert f"warning: {path} is damaged" in said and f"{sums} says" in said and "write its new SHA-256 in that line" in said
    rest = [line for line in sums.read_text().splitlines() if not line.endswith("  domain.json")]
    sums.write_text("\n".join([*rest, f"{hashlib.sha256(path.read_bytes()).hexdigest()}  domain.json", ""]))
    open_domain(tmp_path)
    assert capsys.readouterr().err == ""


def test_missing_truth_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "tracks.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"tracks\.parquet is missing"):
        _ = open_domain(tmp_path).tracks
    (tmp_path / "SHA256SUMS").unlink()  # as of a folder that somebody made
    pd.DataFrame({"video": ["a"]}).to_parquet(tmp_path / "ego.parquet")
    with pytest.raises(ValueError, match=r"ego\.parquet: column 'frame' is missing"):
        _ = open_domain(tmp_path).ego


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def half(aside):
        aside.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, half)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_several_may_write_the_same_file_at_once(tmp_path):
    path, both = tmp_path / "file.txt", threading.Barrier(2, timeout=LIMIT_SECONDS)

    def write_slowly(aside):
        aside.write_text("wh")
        both.wait()
        aside.write_text("whole")

    threads = [threading.Thread(target=write_atomically, args=(path, write_slowly)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def holder(path: Path):
    """A process that is inside for `path`, and stays there."""
    process = multiprocessing.get_context("spawn").Process(target=_hold, args=(path,))
    process.start()
    deadline = time.monotonic() + LIMIT_SECONDS
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def _hold(path: Path) -> None:
    with locked(path):
        path.touch()
        time.sleep(1000)


def test_whoever_comes_later_waits_says_so_once_and_goes_on_when_the_owner_is_killed(tmp_path, capsys):
    path = tmp_path / "folder" / "what"
    owner = holder(path)
    try:
        with locked(path, wait=False) as mine:
            assert mine is False
        with locked(path.with_name("other"), wait=False) as mine:
            assert mine is True
        assert not capsys.readouterr().err
        killed = threading.Timer(0.5, owner.kill)
        killed.start()
        with locked(path) as mine:
            assert mine is True
            owner.join(60)
            assert owner.exitcode == -signal.SIGKILL
    finally:
        owner.kill()
    assert capsys.readouterr().err == f"waiting for another process that is making {path}\n"
    assert list(path.parent.iterdir()) == [path]


def test_nobody_is_ever_inside_together_however_often_they_come(tmp_path):
    path, inside, rounds, met = tmp_path / "what", [0], 60, []

    def come_and_go():
        for _ in range(rounds):
            with locked(path):
                inside[0] += 1
                time.sleep(0.0005)
                met.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert met == [1] * rounds * len(threads)
    assert not list(tmp_path.iterdir())


def test_an_error_inside_lets_the_next_one_in(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "what"):
        raise KeyError
    with locked(tmp_path / "what", wait=False) as mine:
        assert mine is True


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_no_locks_are_known_it_goes_on_without_and_says_so_once(code, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(code, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    for name in ("one", "two"):
        with locked(tmp_path / name, wait=False) as mine:
            assert mine is True
    assert capsys.readouterr().err.count("without locks") == 1
    assert not list(tmp_path.iterdir())


def test_an_error_that_is_not_about_locks_is_raised(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match="broken disk"), locked(tmp_path / "what"):
        pytest.fail("let in")


@pytest.mark.parametrize("table", ["tracks", "ego"])
def test_truth_that_is_not_as_it_was_written_is_named(table, tmp_path):
    """Every bit of it counts; a table that was taken away is missed."""
    path, columns = tmp_path / f"{table}.parquet", {"tracks": TRACK_COLUMNS, "ego": EGO_COLUMNS}[table]
    tables = {table: pd.DataFrame([dict.fromkeys(columns, 1)])}
    videos = pd.DataFrame([("a.mp4", "train", "one", 12, "")], columns=["file", "split", "scene", "frames", "sha256"])
    write_domain(tmp_path, {"name": "x", "frames_per_second": 4.0, "size_px": 64}, videos, **tables)
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=rf"{table}\.parquet is damaged.*SHA256SUMS says.*Copy it again"):
            getattr(open_domain(tmp_path), table)
    path.unlink()
    assert getattr(open_domain(tmp_path), f"has_{table}")
    with pytest.raises(FileNotFoundError, match=rf"{table}\.parquet is missing"):
        getattr(open_domain(tmp_path), table)
