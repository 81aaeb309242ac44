"""Conversion of decoded frames to what a player shows.

Decision: frames are rotated, mirrored and scaled to square pixels according to the file's metadata, and converted to BT.709
(`colour`). Whether they are interlaced is found here; `recording` deinterlaces them, for which it needs several frames.

Refused, as `Unusable`: rotations by other angles than multiples of 90 degrees, and unsupported colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image

from replaylab.data.importers import colour
from replaylab.data.importers.sources import Picture, Unusable


@dataclass(frozen=True)
class Looks:
    """The conversion of decoded frames to what a player shows."""

    square: float  # aspect ratio of a pixel, width to height
    turn: tuple[int, int, int, int]  # x' = a x + c y and y' = b x + d y: a, b, c, d, each -1, 0 or 1; y is downwards
    turned_deg: int  # the same as an angle, counterclockwise
    interlaced: bool
    colours: str  # of `colour.name`

    def shown(self, frame: Any, reformatter: VideoReformatter) -> Picture:
        """A decoded frame, uint8 (H, W, 3), as a player shows it; give all frames the same reformatter, which is slow to
        set up.
        """
        if self.colours:
            picture: Any = colour.to_bt709(frame)
        else:
            picture = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if self.square != 1:
            height, width = picture.shape[:2]
            wider = (max(1, round(width * self.square)), height)
            picture = np.asarray(Image.fromarray(picture).resize(wider, Image.Resampling.BICUBIC))
        a, b, c, d = self.turn
        if not a:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if b + d < 0 else 1, :: -1 if a + c < 0 else 1]

    @property
    def mirrored(self) -> bool:
        """Whether the conversion mirrors frames."""
        a, b, c, d = self.turn
        return a * d - b * c < 0


def looks_of(frames: Sequence[Any], square: float, label: str) -> Looks:
    """The properties of some decoded frames."""
    first = frames[0]
    if wrong := colour.unknown(first.color_trc, first.colorspace):
        raise Unusable(
            label, f"{wrong} is not supported", "convert it: ffmpeg -i FILE -vf scale=out_color_matrix=bt709 new.mp4"
        )
    colours = colour.name(first.color_trc, first.color_primaries)
    interlaced = any(frame.interlaced_frame for frame in frames)
    return Looks(square, _turn(first, label), first.rotation, interlaced, colours)


def _turn(frame: Any, label: str) -> tuple[int, int, int, int]:
    """`Looks.turn` of a frame's display matrix; raises Unusable for rotations by other than multiples of 90 degrees."""
    stored = frame.side_data.get("DISPLAYMATRIX")
    if stored is None:
        return 1, 0, 0, 1
    a, b, _, c, d = (float(one) for one in np.frombuffer(bytes(stored), np.int32)[:5] / 2**16)
    size = max(map(abs, (a, b, c, d))) or 1.0
    turn = tuple(round(one / size) for one in (a, b, c, d))
    near = all(abs(one / size - whole) < 0.01 for one, whole in zip((a, b, c, d), turn, strict=True))
    if not near or abs(turn[0] * turn[3] - turn[1] * turn[2]) != 1 or turn[0] * turn[2]:
        degrees = round(float(np.rad2deg(np.arctan2(c, a))))
        raise Unusable(label, f"rotated by {degrees} degrees, or sheared", "rotate it: ffmpeg -i FILE new.mp4")
    return turn[0], turn[1], turn[2], turn[3]
