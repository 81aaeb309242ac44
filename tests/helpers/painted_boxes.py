"""The boxes of the truth against what the renderer painted."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from replaylab.worlds import renderer


def box_errors_px(scene: renderer.Scene, frames: Sequence[int], size_px: int = 64) -> Iterator[float]:
    """Of each agent, alone and white on black, where it is whole in a frame: the largest error of its box's edges."""
    for agent, mesh in enumerate(scene.agents):
        white = dataclasses.replace(mesh, colours=np.ones_like(mesh.colours))
        bare = dataclasses.replace(
            scene, layers=[], agents=[white], shadows=[renderer.quads(np.zeros((1, 4, 3)), np.zeros((1, 3)))],
            poses=scene.poses[agent : agent + 1], sky_horizon=np.zeros(3), sky_top=np.zeros(3), fog_m=None,
            lens=renderer.Lens(),
        )  # fmt: skip
        painted = renderer.Renderer.shared(size_px).render(bare)[:, :, :, 1] > 0
        for frame in frames:
            boxes, depths = renderer.boxes_of(bare, frame, size_px)
            if np.isfinite(boxes).all() and renderer.visible_shares(boxes, depths, size_px)[0] >= 0.99:
                where = np.argwhere(painted[frame])
                edges = np.array([*where.min(0)[::-1], *(where.max(0)[::-1] + 1)])
                yield float(np.abs(edges - boxes[0]).max())
