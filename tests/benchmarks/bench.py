"""What the parts cost on this machine: `make bench`. Measurements, not tests: nothing here can fail for being slow.

Every ratio compares two ways of doing the same work, interleaved in this one process. The clip loader is compared with
what people write with decord, PyAV and torchcodec, one clip after another and with one thread a core; torchcodec needs
FFmpeg's libraries (Debian: `ffmpeg`), and where it cannot be imported this is said. The Fréchet distance is compared
with the formula as it is written, with a matrix root of scipy's.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import av
import decord
import numpy as np
import pandas as pd
import scipy.linalg
import torch
from bench_training import stopwatches

from replaylab.catalogue import CLIP_FRAMES
from replaylab.data import clips
from replaylab.data.clips import Clip
from replaylab.data.domain import Domain
from replaylab.data.video import READERS, decode
from replaylab.evaluation import evaluate, measurement
from replaylab.metrics import distances, ego_motion, fidelity, optical_flow, video_network
from replaylab.metrics.detectors import centre_point
from replaylab.mixture import Mixture, _filling
from replaylab.models import pipelines, sampling
from replaylab.models.tiny_wan import TinyWan
from replaylab.shipped_weights import WEIGHTS
from replaylab.spec import EvaluationSpec, WorldSpec
from replaylab.util import distributed
from replaylab.util.processes import ask_for_large_pages, usable_cores
from replaylab.worlds.build import build_domain

ROUNDS = 5
FRAMES = CLIP_FRAMES
Window = Callable[[str, int], np.ndarray]  # (file, first frame) to (T, H, W, 3)


def main() -> None:
    ask_for_large_pages()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {ROUNDS} rounds")
    with tempfile.TemporaryDirectory() as home:
        spec = WorldSpec("bench", "traffic", "target", "ordinary", (96, 0, 0))
        started = time.monotonic()
        domain = build_domain(spec, home)
        seconds = time.monotonic() - started
        print(f"rendering to video, {usable_cores()} processes: {96 * spec.frames / seconds:.0f} frames/s")
        paths = [domain.folder / "videos" / file for file in domain.videos["file"]]
        ways: dict[str, Callable[[], object]] = {reader: partial(decode_all, paths, reader) for reader in READERS}
        compare("decoding 96 videos", ways)
        plain = plain_ways()
        compare_loaders("videos of 12 frames, 64 px", domain, plain, count=64)
        compare_loaders("videos of 300 frames, 256 px", long_videos(Path(home) / "long"), plain, count=32)
        time_measuring(Path(home))
    time_mixture()
    for d in (1280, 2048):
        for n in (d // 2, d + d // 4):
            compare_frechet(n, d)


def time_mixture() -> None:
    """The batch of a step by itself, from nothing, and that of the next step; beside it the time of the first step's."""
    large = {"clips": [10**7] * 50, "seed": 0, "clip_order": "computed"}
    uneven = [1 + 7 * number % 23 / 10 for number in range(49)]
    for name, step, given in (
        ("batch 16, 4 domains, step 200,000", 200_000, {"batch_size": 16, "clips": [1000] * 4, "seed": 0}),
        ("batch 256, 4 domains, step 1,000,000", 10**6, {"batch_size": 256, "clips": [1000] * 4, "seed": 0}),
        ("batch 4096, 50 domains of 10^7 clips, step 10,000,000", 10**7, {"batch_size": 4096, **large}),
        ("the same with uneven weights", 10**7, {"batch_size": 4096, "weights": uneven, **large}),
        ("the same, a ramp", 10**7, {"batch_size": 4096, "schedule": "ramp", "steps": 2 * 10**7, **large}),
    ):
        seconds: dict[str, list[float]] = {"first": [], "late": [], "next": []}
        for round_ in range(ROUNDS):
            mixture = Mixture(0.25, **given)  # type: ignore[arg-type]
            for kind, at in (("first", round_), ("late", step + 100 * round_), ("next", step + 100 * round_ + 1)):
                if kind != "next":
                    _filling.cache_clear()
                started = time.perf_counter()
                mixture.batch(at)
                seconds[kind].append(time.perf_counter() - started)
        first, late, after = (1e3 * statistics.median(seconds[kind]) for kind in ("first", "late", "next"))
        print(f"mixture, {name}: {late:.2f} ms ({late / first:.2f} of one of the first steps), the next {after:.2f} ms")


def time_measuring(home: Path, clips_measured: int = 40) -> None:
    """Evaluating a model on so many clips, as the published runs were and as the second edition's are."""
    world = WorldSpec("measured", "traffic", "target", "ordinary", (0, 2 * clips_measured, 0))
    eight = EvaluationSpec((world,), "dev", clips_measured, clips_measured, precision=distributed.best_precision("cpu")[0])
    four = replace(eight, sampler_steps=4, measured_in=eight.precision)
    pipeline = pipelines.load_tiny(WEIGHTS / "base")
    ways: dict[str, Callable[[], object]] = {
        name: partial(evaluate.evaluate, pipeline, spec, home, at_the_end=True)
        for name, spec in (("8 sampler steps", eight), (f"4, measured in {four.measured_in}", four))
    }
    compare(f"sampling and measuring {clips_measured} clips in {eight.precision}", ways, clips_measured)
    parts = {
        "sampling": (sampling, "futures"), "denoising losses": (sampling, "denoising_losses"),
        "decoding": (TinyWan, "decode"), "optical flow": (optical_flow, "flow"),
        "EfficientNet": (fidelity, "efficientnet"), "video network": (video_network, "features"),
        "detector": (centre_point.Detector, "forward"), "second tracker": (measurement, "track_templates"),
        "ego motion": (ego_motion, "ego_motion"), "fidelity without networks": (fidelity, "clip_fidelity"),
    }  # fmt: skip
    started = time.perf_counter()
    with stopwatches(parts) as each:
        evaluate.evaluate(pipeline, four, home, at_the_end=True)
    whole = time.perf_counter() - started
    spent = sorted(((sum(seconds), name) for name, seconds in each.items()), reverse=True)
    rest = 1 - sum(seconds for seconds, _ in spent) / whole
    shares = ", ".join(f"{name} {100 * seconds / whole:.0f} %" for seconds, name in spent)
    print(f"of the latter: {shares}, all else {100 * rest:.0f} %")


def decode_all(paths: list[Path], reader: str) -> None:
    for path in paths:
        decode(path, reader=reader)


def compare_loaders(what: str, domain: Domain, plain: dict[str, Window], count: int) -> None:
    """Random windows, the same ones for everybody; first shows that everybody gives the same pixels."""
    rng = np.random.default_rng(0)
    videos = domain.videos.iloc[rng.integers(0, len(domain.videos), count)]
    chosen = [
        Clip(Path(video.file).stem, str(video.scene), int(rng.integers(0, int(video.frames) - FRAMES + 1)))
        for video in videos.itertuples()
    ]
    windows = [(str(domain.folder / "videos" / f"{clip.video}.mp4"), clip.start) for clip in chosen]
    ways: dict[str, Callable[[], object]] = {
        "replaylab.clips.read": lambda: [None for _ in clips.read(domain, chosen, FRAMES)]
    }
    for name, window in plain.items():
        for (file, start), expected in zip(windows[:8], clips.read(domain, chosen[:8], FRAMES), strict=True):
            if not np.array_equal(window(file, start), expected):
                print(f"{what}: {name} gives OTHER PIXELS for frames from {start} of {file}")
        ways[f"{name}, one by one"] = partial(one_by_one, window, windows)
        ways[f"{name}, {usable_cores()} threads"] = partial(in_threads, window, windows)
    compare(f"{count} random windows of {FRAMES} frames out of {what}", ways, count)


def one_by_one(window: Window, windows: list[tuple[str, int]]) -> None:
    for file, start in windows:
        window(file, start)


def in_threads(window: Window, windows: list[tuple[str, int]]) -> None:
    with ThreadPoolExecutor(usable_cores()) as pool:
        for _ in pool.map(lambda each: window(*each), windows):
            pass


def plain_ways() -> dict[str, Window]:
    """What people write: open the file, ask for the frames."""

    def with_decord(threads: int) -> Window:
        return lambda file, start: (
            decord.VideoReader(file, num_threads=threads).get_batch(range(start, start + FRAMES)).asnumpy()
        )

    ways = {"decord": with_decord(0), "decord, num_threads=1": with_decord(1), "PyAV": with_av}
    try:
        from torchcodec.decoders import VideoDecoder
    except Exception as error:  # it raises what its libraries raise
        print(f"torchcodec: not here ({str(error).strip().splitlines()[0]})")
        return ways

    def with_torchcodec(mode: Literal["exact", "approximate"]) -> Window:
        return lambda file, start: (
            VideoDecoder(file, dimension_order="NHWC", seek_mode=mode)
            .get_frames_in_range(start, start + FRAMES)
            .data.numpy()
        )

    return ways | {
        "torchcodec": with_torchcodec("exact"),
        "torchcodec, seek_mode=approximate": with_torchcodec("approximate"),
    }


def with_av(file: str, start: int) -> np.ndarray:
    with av.open(file) as container:
        stream = container.streams.video[0]
        assert stream.average_rate is not None and stream.time_base is not None
        first = int(start / stream.average_rate / stream.time_base)
        container.seek(first, stream=stream)
        frames: list[np.ndarray] = []
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts >= first:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == FRAMES:
                break
    return np.stack(frames)


def long_videos(folder: Path, videos: int = 6, frames: int = 300, size_px: int = 256) -> Domain:
    """A drifting texture as H.264 with a key frame every 12 frames, and libx264's own settings otherwise."""
    (folder / "videos").mkdir(parents=True)
    for number in range(videos):
        texture = np.random.default_rng(number).integers(0, 255, (80, 80, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        with av.open(str(folder / "videos" / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = size_px, size_px, "yuv420p"
            stream.gop_size = 12
            for at in range(frames):
                picture = np.ascontiguousarray(texture[at : at + size_px, at // 3 : at // 3 + size_px])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
    listed = pd.DataFrame(
        {"file": f"{number}.mp4", "split": "train", "scene": str(number), "frames": frames, "sha256": ""}
        for number in range(videos)
    )
    return Domain(folder, "long", 10.0, size_px, size_px, listed, {})


def compare_frechet(n: int, d: int) -> None:
    """The same two sets (n, d) for both, their standard deviations falling as 1 / k.

    First shows how far the two differ: with n <= d there is no full rank, and the matrix root is the less exact.
    """
    rng = np.random.default_rng(0)
    fall = 1 / np.arange(1, d + 1)
    mixing = np.eye(d) + 0.3 * rng.standard_normal((d, d)) / np.sqrt(d)
    a, b = rng.standard_normal((n, d)) * fall, 1.3 * rng.standard_normal((n, d)) * fall @ mixing
    off = distances.frechet_distance(a, b) / with_matrix_root(fitted(a), fitted(b)) - 1
    print(f"Fréchet distance of {n} x {d} features: relative difference {off:.0e}")
    title = f"Fréchet distance of {n} x {d} features"
    compare(f"{title}, from features", {
        "scipy.linalg.sqrtm": lambda: with_matrix_root(fitted(a), fitted(b)),
        "replaylab.distances.frechet_distance": lambda: distances.frechet_distance(a, b),
    })  # fmt: skip


Gaussian = tuple[np.ndarray, np.ndarray]


def fitted(features: np.ndarray) -> Gaussian:
    """Mean and covariance, as pytorch-fid and cd-fvd compute them."""
    return features.mean(0), np.cov(features, rowvar=False)


def with_matrix_root(a: Gaussian, b: Gaussian) -> float:
    """Heusel et al. 2017, equation 6, as it is written."""
    root = scipy.linalg.sqrtm(a[1] @ b[1])
    return float(((a[0] - b[0]) ** 2).sum() + np.trace(a[1] + b[1] - 2 * root).real)


def compare(what: str, ways: dict[str, Callable[[], object]], count: int = 0) -> None:
    """Time each way ROUNDS times, in turn; print medians, and the ratio of each to the first.

    Each way gets `count` clips, if given: then also what a clip costs in processor time, which says more than seconds
    where other processes run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor_seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(ROUNDS + 1):
        for name, work in ways.items():
            started, processor_started = time.perf_counter(), time.process_time()
            work()
            if round_number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
                processor_seconds[name].append(time.process_time() - processor_started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        line = f"{what}: {name}: {median:.3f} s, {first / median:.2f} x"
        if count:
            processor_ms = statistics.median(processor_seconds[name]) / count * 1000
            line += f", {count / median:.0f} clips/s, {processor_ms:.1f} ms of processor time a clip"
        print(line)


if __name__ == "__main__":
    main()
