"""The first page's four clips as one animated image, for places without scripts, such as the README.

Decision: an animated WebP of the clips' frames, enlarged by pixel replication: it loops without a player or a codec. Boxes
and arrows are those of the explorer, in its colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from replaylab.pages import sample_clips
from replaylab.pages.sample_clips import DETECTED_COLOUR, TRUE_COLOUR, SampleClip
from replaylab.util.files import write_atomically

PANEL_PX, GAP_PX, TEXT_PX, WEBP_QUALITY = 200, 6, 18, 80
SHIFT, EDGE, PAPER = (255, 255, 255), (38, 38, 38), (255, 255, 255)
HOLD_FRAMES = 3  # during which the last one stays


def write(versions: Sequence[SampleClip], path: Path) -> None:
    """Write versions of one clip side by side to `path`, an animated WebP; raises ValueError for none, or several clips."""
    if len({(one.domain, one.percentile) for one in versions}) != 1:
        raise ValueError("a moving picture shows versions of one clip, and there are none, or several clips")
    pictures = [_frame(versions, number) for number in range(len(versions[0].frames))]
    milliseconds = 1000 / versions[0].frames_per_second
    times = [round(milliseconds)] * (len(pictures) - 1) + [round(milliseconds * HOLD_FRAMES)]
    write_atomically(
        path,
        lambda aside: pictures[0].save(
            aside, "WEBP", save_all=True, append_images=pictures[1:], duration=times, loop=0, quality=WEBP_QUALITY
        ),
    )


def _frame(versions: Sequence[SampleClip], number: int) -> Image.Image:
    pitch = PANEL_PX + GAP_PX
    picture = Image.new("RGB", (pitch * len(versions) - GAP_PX, PANEL_PX + TEXT_PX), PAPER)
    brush, font = ImageDraw.Draw(picture), ImageFont.load_default(size=12)
    for place, one in enumerate(versions):
        picture.paste(_panel(one, number), (place * pitch, TEXT_PX))
        brush.text(
            (place * pitch + 1, 1),
            f"{one.title}, {sample_clips.ade_px(one):.1f} px".replace("\N{NO-BREAK SPACE}", " "),
            EDGE,
            font,
        )
    return picture


def _panel(one: SampleClip, number: int) -> Image.Image:
    scale = PANEL_PX / one.frames.shape[2]
    panel = Image.fromarray(one.frames[number]).resize((PANEL_PX, PANEL_PX), Image.Resampling.NEAREST)
    brush = ImageDraw.Draw(panel)
    of_both = (one.true_boxes[number], TRUE_COLOUR), (one.detected_boxes[number], DETECTED_COLOUR)
    for boxes, colour in of_both:
        for box in boxes:
            _outline(brush, [scale * side for side in box[:4]], colour)
    for true, detected in sample_clips.detected_rows(one)[number].items():
        start, end = (_centre(boxes[number], row, scale) for boxes, row in (
            (one.detected_boxes, detected), (one.true_boxes, true)))  # fmt: skip
        if np.hypot(*np.subtract(end, start)) > scale:  # further than a px of the clip
            brush.line([start, end], EDGE, 4)
            brush.line([start, end], SHIFT, 2)
            brush.ellipse([end[0] - 3, end[1] - 3, end[0] + 3, end[1] + 3], SHIFT, EDGE)
    return panel


def _outline(brush: ImageDraw.ImageDraw, box: Sequence[float], colour: str) -> None:
    x0, y0, x1, y1 = box
    brush.rectangle([x0 - 1, y0 - 1, max(x1, x0) + 1, max(y1, y0) + 1], outline=EDGE, width=4)
    brush.rectangle([x0, y0, max(x1, x0), max(y1, y0)], outline=colour, width=2)


def _centre(boxes: Sequence[Sequence[float]], row: int, scale: float) -> tuple[float, float]:
    x0, y0, x1, y1 = boxes[row][:4]
    return scale * (x0 + x1) / 2, scale * (y0 + y1) / 2
