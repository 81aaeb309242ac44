"""Sample videos: clips of a domain side by side, with the ground truth overlaid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from replaylab.analysis.world_statistics import SPLIT
from replaylab.data.domain import Domain

TILE_PX, GAP_PX, TILES_ACROSS = 192, 6, 3
DARK, IGNORED = (24, 24, 24), (168, 168, 168)
# Okabe and Ito's colours, which the colour-blind can tell apart, without its black and grey.
AGENTS = [(230, 159, 0), (86, 180, 233), (240, 228, 66), (204, 121, 167), (0, 158, 115), (213, 94, 0)]
TRAIL_FRAMES = 4


def tile_clips(clips: NDArray[np.uint8], truth: Sequence[Sequence[pd.DataFrame]]) -> NDArray[np.uint8]:
    """Clips (N, T, H, W, 3) side by side with their ground truth overlaid, uint8 (T, H', W', 3); H' and W' are even.

    `truth` holds for each clip and frame the rows of domain.TRACK_COLUMNS. Every eligible agent has a thin box, with one
    colour per agent and dots at its centres in previous frames; the others have a grey box.
    """
    number_of_clips, frames = clips.shape[:2]
    across = min(TILES_ACROSS, number_of_clips)
    down = -(-number_of_clips // across)
    pitch = TILE_PX + GAP_PX
    canvas = np.full((frames, down * pitch - GAP_PX, across * pitch - GAP_PX, 3), DARK, np.uint8)
    for clip in range(number_of_clips):
        top, left = (clip // across) * pitch, (clip % across) * pitch
        centres: dict[int, dict[int, tuple[float, float]]] = {}  # agent, frame: where it was
        for frame, rows in enumerate(truth[clip]):
            picture = Image.fromarray(clips[clip, frame]).resize((TILE_PX, TILE_PX), Image.Resampling.NEAREST)
            _draw_truth(picture, rows, frame, centres, TILE_PX / clips.shape[3])
            canvas[frame, top : top + TILE_PX, left : left + TILE_PX] = np.asarray(picture)
    return canvas


def _draw_truth(
    picture: Image.Image, rows: pd.DataFrame, frame: int, centres: dict[int, dict[int, tuple[float, float]]], scale: float
) -> None:
    """Draws one frame's boxes and trails; adds its agents' positions to `centres`."""
    brush = ImageDraw.Draw(picture)
    boxes = scale * rows[["x0", "y0", "x1", "y1"]].to_numpy(dtype=float)
    counts = rows["eligible"].to_numpy(dtype=bool)
    for place in np.argsort(counts, kind="stable"):  # those that count are drawn over the others
        x0, y0, x1, y1 = boxes[place]
        edges = [round(x0), round(y0), max(round(x1) - 1, round(x0)), max(round(y1) - 1, round(y0))]
        if not counts[place]:
            brush.rectangle(edges, outline=IGNORED)
            continue
        agent = int(rows["agent"].iat[place])
        colour = AGENTS[agent % len(AGENTS)]
        brush.rectangle([edges[0] - 1, edges[1] - 1, edges[2] + 1, edges[3] + 1], outline=DARK, width=4)
        brush.rectangle(edges, outline=colour, width=2)
        trail = centres.setdefault(agent, {})
        for before, (x, y) in trail.items():
            if frame - before <= TRAIL_FRAMES:
                brush.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour, outline=DARK)
        trail[frame] = ((x0 + x1) / 2, (y0 + y1) / 2)


SHOWN_VIDEOS = 6
SMALL = {"crf": "30", "preset": "medium", "tune": "animation"}  # a tenth of the size: a page carries all sample videos


def write_sample(aside: Path, domain: Domain) -> None:
    """Writes the first videos of the split, without selection, side by side with the ground truth overlaid."""
    from replaylab.data.clips import Clip, truth_of
    from replaylab.data.video import decode, write_video

    rows = domain.split(SPLIT).head(SHOWN_VIDEOS)
    clips = [Clip(Path(row.file).stem, str(row.scene), 0) for row in rows.itertuples()]
    frames = int(rows["frames"].min())
    pixels = np.stack([decode(domain.video(clip.video))[:frames] for clip in clips])
    write_video(aside, tile_clips(pixels, truth_of(domain, clips, frames)), domain.frames_per_second, SMALL)
