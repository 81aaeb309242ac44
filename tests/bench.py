"""What the parts cost on this machine: `make bench`. Measurements, not tests: nothing here can fail for being slow.

Every ratio compares two ways of doing the same work, interleaved in this one process.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from replaylab import clips, models, train, worlds
from replaylab.spec import WorldSpec

ROUNDS = 5


def main() -> None:
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; medians of {ROUNDS} rounds")
    with tempfile.TemporaryDirectory() as home:
        spec = WorldSpec("bench", "traffic", "target", "ordinary", (96, 0, 0))
        started = time.monotonic()
        domain = worlds.build(spec, home)
        seconds = time.monotonic() - started
        print(
            f"rendering to video, {worlds.processes()} processes: {96 * spec.frames / seconds:.0f} frames/s"
        )
        paths = [domain.folder / "videos" / file for file in domain.videos["file"]]
        compare("decoding 96 videos", {
            "PyAV": lambda: [clips.decode_with_av(path) for path in paths],
            "decord": lambda: [clips.decode_with_decord(path) for path in paths],
        })  # fmt: skip
        compare_step(paths)


def compare_step(paths: list[Path]) -> None:
    """A training step that decodes and encodes its batch against one that reads cached latents."""
    torch.manual_seed(0)
    vae = models.new_vae()
    vae.register_to_config(
        latents_mean=[0.0] * models.LATENT_CHANNELS, latents_std=[1.0] * models.LATENT_CHANNELS
    )
    model = models.TinyWan(vae, models.new_transformer(), models.new_scheduler())
    cached = model.encode(frames_of(paths[:32]))
    compare("a training step, batch 32", {
        "decode and encode every step": lambda: train.loss_of(model, model.encode(frames_of(paths[:32])), 0, 0).backward(),
        "cached latents": lambda: train.loss_of(model, cached, 0, 0).backward(),
    })  # fmt: skip


def frames_of(paths: list[Path]) -> np.ndarray:
    return np.stack([clips.decode(path)[: models.CLIP_FRAMES] for path in paths])


def compare(what: str, ways: dict[str, Callable[[], object]]) -> None:
    """Time each way ROUNDS times, in turn; print medians, and the ratio of each to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(ROUNDS + 1):
        for name, work in ways.items():
            started = time.perf_counter()
            work()
            if round_number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    first = next(iter(medians.values()))
    for name, median in medians.items():
        print(f"{what}: {name}: {median:.3f} s, {first / median:.2f} x")


if __name__ == "__main__":
    main()
