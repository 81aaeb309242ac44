"""Sample clips with known frames and boxes, and their files in the folder of a run."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from replaylab.catalogue import CONTEXT_FRAMES
from replaylab.data.video import write_video
from replaylab.pages.sample_clips import TRUTH, SampleClip
from replaylab.spec import RunSpec
from replaylab.store import ReferenceSpec, samples_folder

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


def keep_of_runs(store: Path, runs: Sequence[RunSpec], clips: Mapping[str, Sequence[str]]) -> None:
    """The clips of these domains and percentiles from finished runs at every step, each a px worse than the one before, and
    from their references.
    """
    for references in {ReferenceSpec.of(run).run_id for run in runs}:
        numbers = {domain: {one: at for at, one in enumerate(percentiles)} for domain, percentiles in clips.items()}
        (store / references / "gallery.json").write_text(json.dumps(numbers))
        for domain, one in ((domain, one) for domain, percentiles in clips.items() for one in percentiles):
            keep(store / references / "samples" / "real", clip(domain, one))
            keep(store / references / "samples" / "base", clip(domain, one, brightness=1))
    versions = [(run, step) for run in runs for step in run.evaluate_at]
    for place, (run, step) in enumerate(versions, start=2):
        for domain, one in ((domain, one) for domain, percentiles in clips.items() for one in percentiles):
            keep(samples_folder(store / run.run_id, step), clip(domain, one, brightness=place))


def captions(page: str) -> list[tuple[str, str]]:
    """Title and note of each clip that a player shows, in their order."""
    found = re.findall(r"<figcaption><strong>(.*?)</strong> <span>(.*?)</span></figcaption>", page)
    return [(html.unescape(title).replace("\N{NO-BREAK SPACE}", " "), html.unescape(note)) for title, note in found]


def keep(folder: Path, one: SampleClip) -> None:
    """Write a clip and its boxes as an evaluation does."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f"{one.domain}-{one.percentile}"
    write_video(name.with_suffix(".mp4"), one.frames, 4)
    name.with_suffix(".json").write_text(json.dumps({"true": one.true_boxes, "found": one.detected_boxes}))
