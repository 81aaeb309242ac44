"""Sample clips with known frames and boxes, and their files in the folder of a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from replaylab.catalogue import CONTEXT_FRAMES
from replaylab.data.video import write_video
from replaylab.pages.sample_clips import TRUTH, SampleClip

FRAMES, SIDE, GIVEN = 8, 64, CONTEXT_FRAMES


def clip(
    domain: str = "driving", percentile: str = "95", configuration: str = TRUTH, step: int = 0, brightness: int = 0
) -> SampleClip:
    """Frame k is grey of brightness + 25 k; one agent goes to the right, and is found a px lower for each px of
    brightness; below it, the detector sees one that is not there.
    """
    frames = np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)
    frames += (brightness + 25 * np.arange(FRAMES)).astype(np.uint8)[:, None, None, None]
    true = [[[4.0 + 5 * at, 20.0, 14.0 + 5 * at, 30.0]] for at in range(FRAMES)]
    detected: list[list[list[float]]] = [
        [] if at < GIVEN else [[x0, y0 + brightness, x1, y1 + brightness], [50.0, 50.0, 60.0, 60.0]]
        for at, ((x0, y0, x1, y1),) in enumerate(true)
    ]
    return SampleClip(domain, percentile, configuration, step, frames, true, detected)


def keep(folder: Path, one: SampleClip) -> None:
    """Write a clip and its boxes as an evaluation does."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f"{one.domain}-{one.percentile}"
    write_video(name.with_suffix(".mp4"), one.frames, 4)
    name.with_suffix(".json").write_text(json.dumps({"true": one.true_boxes, "found": one.detected_boxes}))
