"""Boxes of agents in made-up frames, for tests of matching and of scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

CAP = 10.0
BOX = np.array([[0.0, 0, 8, 8]])
Scene = tuple[np.ndarray, np.ndarray, np.ndarray]
Frames = list[np.ndarray]


def grid_clip(
    rng: np.random.Generator, n_frames: int = 5, n_agents: int = 3, apart: float = 40.0
) -> tuple[Frames, Frames, Frames]:
    """Agents on a line, `apart` px from each other, the same in every frame but for a jitter of 1 px."""
    boxes = []
    for _ in range(n_frames):
        centre = np.stack([np.arange(n_agents) * apart, np.full(n_agents, 30.0)], 1)
        centre += rng.uniform(-1, 1, (n_agents, 2))
        half = rng.uniform(3, 8, (n_agents, 2))
        boxes.append(np.concatenate([centre - half, centre + half], 1))
    agents = [np.arange(n_agents) for _ in range(n_frames)]
    eligible = [np.ones(n_agents, dtype=bool) for _ in range(n_frames)]
    return boxes, agents, eligible


def boxes_at(points: Any) -> np.ndarray:
    centre = np.asarray(points, dtype=float).reshape(-1, 2)
    return np.concatenate([centre - 4, centre + 4], 1)


@st.composite
def scenes(draw: Callable[..., Any], max_agents: int = 4, max_found: int = 4) -> Scene:
    """One frame: centres of true agents, which of them count, centres of found boxes; close enough to
    compete.
    """
    seed = draw(st.integers(0, 2**32 - 1))
    n, k = draw(st.integers(0, max_agents)), draw(st.integers(0, max_found))
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 25, (n, 2)), rng.random(n) < 0.7, rng.uniform(0, 25, (k, 2))
