"""Clips come from the files, whichever reader is chosen, and a bad file is named."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
from conftest import require_or_skip

from replaylab.data import clips
from replaylab.data.domain import write_domain
from replaylab.data.video import READERS, UndecodableVideo, decode, write_video
from replaylab.spec import WorldSpec
from replaylab.util.files import sha256
from replaylab.worlds.build import build_domain, render_video

SMALL = WorldSpec("near", "traffic", "diverse", "free", (3, 0, 0))


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    return build_domain(SMALL, tmp_path_factory.mktemp("clips"))


def test_windows_start_every_stride_and_never_cross_a_video(domain):
    found = clips.clips_of(domain, "train", 8)
    assert [(clip.video, clip.start) for clip in found[:4]] == [("train-00000", 0), ("train-00000", 2), ("train-00000", 4),
                                                                ("train-00001", 0)]  # fmt: skip
    assert len(found) == 9
    assert [clip.start for clip in clips.one_per_scene(found)] == [0, 0, 0]


def test_clips_of_a_rectangle_without_truth(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (12, 6, 10, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", frames, 4.0)
    checksum = sha256(tmp_path / "videos" / "a.mp4")
    videos = pd.DataFrame([("a.mp4", "train", "one", 12, checksum)], columns=["file", "split", "scene", "frames", "sha256"])
    domain = write_domain(tmp_path, {"name": "wide", "frames_per_second": 4.0, "size_px": [48, 80]}, videos)
    chosen = clips.clips_of(domain, "train", 8)
    assert [clip.start for clip in chosen] == [0, 2, 4]
    for clip, read in zip(chosen, clips.read(domain, chosen, 8), strict=True):
        assert read.shape == (8, domain.height_px, domain.width_px, 3)
        assert np.abs(read.astype(float) - frames[clip.start : clip.start + 8]).mean() < 12
    with pytest.raises(FileNotFoundError, match=r"tracks\.parquet is missing"):
        clips.truth_of(domain, chosen, 8)


def test_a_clip_is_its_part_of_the_video(domain):
    whole = decode(domain.folder / "videos" / "train-00001.mp4")
    chosen = clips.clips_of(domain, "train", 8)
    names = [(clip.video, clip.start) for clip in chosen]
    read = dict(zip(names, clips.read(domain, chosen, 8), strict=True))
    assert np.array_equal(read["train-00001", 2], whole[2:10])


def test_the_video_shows_what_was_rendered(domain):
    rendered = render_video(SMALL, "train", 0)[0]
    decoded = decode(domain.folder / "videos" / "train-00000.mp4")
    assert decoded.shape == rendered.shape
    assert np.abs(decoded.astype(float) - rendered).mean() < 4


def test_decord_and_pyav_give_the_same_frames(domain):
    require_or_skip(importlib.util.find_spec("decord") is not None, "decord")
    path = domain.folder / "videos" / "train-00002.mp4"
    assert np.array_equal(decode(path, reader="decord"), decode(path, reader="pyav"))


@pytest.mark.parametrize("reader", READERS)
def test_an_undecodable_video_is_named(domain, tmp_path, reader):
    require_or_skip(reader == "pyav" or importlib.util.find_spec(reader) is not None, reader)
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"this is no video")
    with pytest.raises(UndecodableVideo, match=rf"broken\.mp4 cannot be decoded by {reader}"):
        decode(path, reader=reader)
    with pytest.raises(FileNotFoundError, match=r"missing\.mp4"):
        decode(tmp_path / "missing.mp4", reader=reader)


def test_no_clips_in_a_split_is_said_with_the_folder(domain):
    with pytest.raises(ValueError, match="no clips in split 'dev'"):
        clips.clips_of(domain, "dev", 8)
    with pytest.raises(ValueError, match="fewer than 13 frames"):
        clips.clips_of(domain, "train", 13)


def test_a_video_shorter_than_its_description_is_named(domain):
    with pytest.raises(UndecodableVideo, match=r"train-00000\.mp4: 12 frames"):
        list(clips.read(domain, [clips.Clip("train-00000", "s", 6)], 8))


def test_truth_is_given_frame_by_frame(domain):
    (truth, *_) = clips.truth_of(domain, [clips.Clip("train-00000", "s", 2)], 8)
    assert len(truth) == 8
    assert all(set(table["frame"]) <= {frame} for frame, table in enumerate(truth, start=2))
    assert sum(len(table) for table in truth) > 0
