"""A folder of small videos, as somebody may bring their own."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from tiny_families import FRAMES

VIDEOS, RATE = 24, 8


def write_videos(folder: Path, seed: int, size: tuple[int, int] = (44, 36)) -> None:
    """Real mp4 files of an odd shape: a square that moves over noise."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    for number in range(VIDEOS):
        with av.open(str(folder / f"{number:02d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=RATE)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            picture = random.integers(0, 128, (size[1], size[0], 3), dtype=np.uint8)
            for frame in range(FRAMES["wan"] + 2):
                shown = picture.copy()
                shown[10:20, 2 * frame : 2 * frame + 8] = 255
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, format="rgb24")))
            container.mux(stream.encode(None))
