"""A domain folder is checked when it is opened, and every complaint names the file and the field."""

import json

import pandas as pd
import pytest

from replaylab.domain import EGO_COLUMNS, TRACK_COLUMNS, open_domain, write_atomically, write_domain

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


def test_missing_truth_is_named(tmp_path):
    write(tmp_path)
    (tmp_path / "tracks.parquet").unlink()
    with pytest.raises(FileNotFoundError, match=r"tracks\.parquet is missing"):
        _ = open_domain(tmp_path).tracks
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
