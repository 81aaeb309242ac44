"""The loader gives exact parts of videos of any kind, in order, and leaves nothing behind."""

import gc
import importlib.util
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
from conftest import require_or_skip
from hypothesis import given
from hypothesis import strategies as st

from replaylab.data import clips
from replaylab.data.clips import MOST_THREADS, Clip
from replaylab.data.domain import EGO_COLUMNS, TRACK_COLUMNS, Domain, write_domain
from replaylab.data.video import READER_VARIABLE, READERS, UndecodableVideo, chosen_reader, decode, write_video

FRAMES = 60
KINDS: dict[str, tuple[dict[str, str], dict[str, str]]] = {  # options of libx264 and of the file
    "usual": ({}, {}),
    "many-b-frames": ({"x264-params": "bframes=5:b-adapt=0:b-pyramid=normal"}, {}),
    "no-b-frames": ({"bf": "0"}, {}),
    "open-groups": ({"x264-params": "open-gop=1:bframes=3:b-adapt=0"}, {}),
    "intra-refresh": ({"x264-params": "intra-refresh=1"}, {}),
    "late-start": ({}, {"use_editlist": "0"}),
    "fragments": ({}, {"movflags": "frag_keyframe+empty_moov"}),
    "index-first": ({}, {"movflags": "faststart"}),
}
SHORT, WINDOW = "short", 8


def write_long(path: Path, kind: str) -> None:
    encoder, file = KINDS[kind]
    texture = np.random.default_rng(len(kind)).integers(0, 255, (24, 16, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w", options=file) as container:
        stream = container.add_stream("libx264", rate=10, options=encoder)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = 64, 64, "yuv420p", 12
        for at in range(FRAMES):
            picture = np.ascontiguousarray(texture[2 * at : 2 * at + 64, at : at + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    """One long video of each kind, one of 12 frames as the worlds write them, one that is none; no truth."""
    folder = tmp_path_factory.mktemp("loader")
    (folder / "videos").mkdir()
    for kind in KINDS:
        write_long(folder / "videos" / f"{kind}.mp4", kind)
    noise = np.random.default_rng(0).integers(0, 255, (12, 64, 64, 3), np.uint8)
    write_video(folder / "videos" / f"{SHORT}.mp4", noise, 4.0)
    (folder / "videos" / "broken.mp4").write_bytes(b"this is no video")
    videos = pd.DataFrame(
        [(f"{kind}.mp4", "train", kind, FRAMES, "") for kind in [*KINDS, SHORT, "broken", "missing"]],
        columns=["file", "split", "scene", "frames", "sha256"],
    )
    about = {"name": "loader", "frames_per_second": 10.0, "size_px": 64}
    return write_domain(
        folder, about, videos, pd.DataFrame(columns=list(TRACK_COLUMNS)), pd.DataFrame(columns=list(EGO_COLUMNS))
    )


@pytest.fixture(scope="module")
def whole(domain: Domain) -> dict[str, np.ndarray]:
    """Every frame of every video, the plain way: from the first to the last."""
    found = {}
    for video in [*KINDS, SHORT]:
        with av.open(str(domain.folder / "videos" / f"{video}.mp4")) as container:
            found[video] = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return found


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each reader, chosen by the environment."""
    require_or_skip(importlib.util.find_spec("decord" if request.param == "decord" else "av") is not None, request.param)
    monkeypatch.setenv(READER_VARIABLE, request.param)
    return request.param


def clip(video: str, start: int) -> Clip:
    return Clip(video, video, start)


def threads_of_loaders() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("clips")]


@pytest.mark.parametrize("video", [*KINDS, SHORT])
@pytest.mark.parametrize("frames", [1, WINDOW])
def test_every_window_is_its_part_of_the_whole_video(
    domain: Domain, whole: dict[str, np.ndarray], video: str, frames: int, reader: str
) -> None:
    assert len(whole[video]) == (12 if video == SHORT else FRAMES)
    path = domain.folder / "videos" / f"{video}.mp4"
    for start in range(len(whole[video]) + 2):
        expected = whole[video][start : start + frames]
        assert np.array_equal(decode(path, start, start + frames), expected), start
    assert np.array_equal(decode(path), whole[video])


def test_the_reader_is_an_argument_before_it_is_the_environments(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    path = domain.folder / "videos" / f"{SHORT}.mp4"
    monkeypatch.delenv(READER_VARIABLE, raising=False)
    assert chosen_reader() == "pyav"
    monkeypatch.setenv(READER_VARIABLE, "ffmpeg")
    with pytest.raises(ValueError, match=r"'ffmpeg' .*REPLAYLAB_READER.* is none of pyav"):
        decode(path)
    assert len(decode(path, reader="pyav")) == 12
    monkeypatch.setattr("replaylab.data.video.find_spec", lambda _: None)  # as on a machine without a wheel
    with pytest.raises(ValueError, match=r"'decord' .* is none of pyav$"):
        decode(path, reader="decord")


def test_what_decord_cannot_open_is_named_and_not_read_by_another(tmp_path: Path) -> None:
    require_or_skip(importlib.util.find_spec("decord") is not None, "decord")
    path = tmp_path / "av1.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert len(decode(path, reader="pyav")) == 3
    with pytest.raises(UndecodableVideo, match=r"av1\.mp4 cannot be decoded by decord"):
        decode(path, reader="decord")


@given(
    st.lists(st.tuples(st.sampled_from([*KINDS, SHORT]), st.integers(0, FRAMES - WINDOW)), max_size=24),
    st.integers(1, WINDOW),
)
def test_clips_come_in_the_order_asked_for(
    domain: Domain, whole: dict[str, np.ndarray], asked: list[tuple[str, int]], frames: int
) -> None:
    chosen = [clip(video, start % (12 - frames + 1) if video == SHORT else start) for video, start in asked]
    given_back = list(clips.read(domain, chosen, frames))
    assert len(given_back) == len(chosen)
    for one, pixels in zip(chosen, given_back, strict=True):
        assert np.array_equal(pixels, whole[one.video][one.start : one.start + frames])


@pytest.mark.parametrize("stride", [1, 2, 7, 8])
def test_overlapping_windows_are_exact_too(domain: Domain, whole: dict[str, np.ndarray], stride: int, reader: str) -> None:
    chosen = [clip("usual", start) for start in range(0, FRAMES - WINDOW + 1, stride)]
    for one, pixels in zip(chosen, clips.read(domain, chosen, WINDOW), strict=True):
        assert np.array_equal(pixels, whole["usual"][one.start : one.start + WINDOW])


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (clip("missing", 0), FileNotFoundError, r"missing\.mp4"),
        (clip("broken", 0), UndecodableVideo, r"broken\.mp4 cannot be decoded"),
        (clip("usual", FRAMES - WINDOW + 1), UndecodableVideo, r"usual\.mp4: 60 frames .* 53 to 60"),
        (clip("usual", 200), UndecodableVideo, r"usual\.mp4: 60 frames .* 200 to 207"),
    ],
)
@pytest.mark.parametrize("before", [0, 1, 5, 30])
def test_an_error_comes_at_its_clip_and_names_the_file(
    domain: Domain, bad: Clip, error: type[Exception], message: str, before: int, reader: str
) -> None:
    good = [clip(SHORT, number % 5) for number in range(before)]
    loader = clips.read(domain, [*good, bad, *good], WINDOW)
    assert len(list(islice(loader, before))) == before
    with pytest.raises(error, match=message):
        next(loader)
    assert not threads_of_loaders()


def test_the_windows_before_the_end_of_a_short_video_are_given(domain: Domain, reader: str) -> None:
    loader = clips.read(domain, [clip(SHORT, start) for start in (0, 2, 4, 6)], WINDOW)
    assert len(list(islice(loader, 3))) == 3
    with pytest.raises(UndecodableVideo, match=r"short\.mp4: 12 frames .* 6 to 13"):
        next(loader)


def test_a_window_needs_nothing_of_the_rest_of_the_file(
    domain: Domain, whole: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Of a file cut in half, PyAV reads what is before the cut, and decord may; what is behind it is refused by both."""
    data = (domain.folder / "videos" / "index-first.mp4").read_bytes()
    half = tmp_path / "half.mp4"
    half.write_bytes(data[: len(data) // 2])
    for start in range(8):
        assert np.array_equal(decode(half, start, start + WINDOW), whole["index-first"][start : start + WINDOW])
    with pytest.raises(UndecodableVideo, match=r"half\.mp4"):
        decode(half, 50, 58)
    require_or_skip(importlib.util.find_spec("decord") is not None, "decord")
    with suppress(UndecodableVideo):  # decord demuxes ahead of its decoding thread, by chance as far as the cut
        assert np.array_equal(decode(half, 0, WINDOW, reader="decord"), whole["index-first"][:WINDOW])
    with pytest.raises(UndecodableVideo, match=r"half\.mp4 cannot be decoded by decord"):
        decode(half, 50, 58, reader="decord")


def test_a_file_that_decord_takes_for_a_shorter_one_is_refused(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By chance decord opens a file that was cut short, and counts only the frames before the cut."""
    require_or_skip(importlib.util.find_spec("decord") is not None, "decord")
    import decord

    data = (domain.folder / "videos" / "index-first.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(data[: len(data) // 2])
    whole = decord.VideoReader(str(domain.folder / "videos" / "index-first.mp4"))

    class Shorter:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self.get_batch = whole.get_batch

        def __len__(self) -> int:
            return 20

    monkeypatch.setattr(decord, "VideoReader", Shorter)
    with pytest.raises(UndecodableVideo, match=r"half\.mp4 cannot be decoded by decord"):
        decode(tmp_path / "half.mp4", 50, 58, reader="decord")


def test_an_abandoned_loader_leaves_no_threads(domain: Domain) -> None:
    chosen = [clip("usual", start) for start in (0, 40, 10, 30, 20)] * 20
    closed = clips.read(domain, chosen, WINDOW)
    next(closed)
    assert threads_of_loaders()
    closed.close()
    assert not threads_of_loaders()
    dropped = clips.read(domain, chosen, WINDOW)
    next(dropped)
    del dropped
    gc.collect()
    assert not threads_of_loaders()


def test_the_loader_runs_ahead_by_a_few_clips_only(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def counted(path: Path, start: int, stop: int) -> np.ndarray:
        started.append(start)
        return decode(path, start, stop)

    monkeypatch.setattr(clips, "decode", counted)
    loader = clips.read(domain, [clip("usual", start) for start in (0, 40, 10, 30)] * 25, WINDOW)
    for taken in range(1, 4):
        next(loader)
        time.sleep(0.2)  # as long as it takes to decode them all
        assert len(started) < taken + 2 * MOST_THREADS
    loader.close()


def random_clips(count: int) -> Iterator[list[Clip]]:
    """`count` clips of all videos, a hundred a reading."""
    rng = np.random.default_rng(0)
    names = [*KINDS, SHORT]
    for _ in range(count // 100):
        videos = [names[number] for number in rng.integers(0, len(names), 100)]
        yield [clip(video, int(rng.integers(0, (12 if video == SHORT else FRAMES) - WINDOW + 1))) for video in videos]


def held() -> dict[str, float]:
    """Open files, threads and resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "MB": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    }


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nothing_is_left_behind(domain: Domain, count: int) -> None:
    require_or_skip(Path("/proc/self/statm").is_file(), "/proc")
    warm_up, measured = 500, 0
    before: dict[str, float] = {}
    for chosen in random_clips(warm_up + count):
        for _ in clips.read(domain, chosen, WINDOW):
            measured += 1
        if measured == warm_up:
            before = held()
    after = held()
    assert measured == warm_up + count
    assert after["files"] <= before["files"]
    assert after["threads"] <= before["threads"]
    assert after["MB"] < before["MB"] + 16  # less than 1.6 kB a clip over 10,000; a clip has 98 kB of pixels
