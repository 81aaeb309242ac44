"""A cache on disk of network features, optical flow and detections of real clips, computed once per store.

Decision: a file is named by the digest of all its inputs (the videos' checksums, the clips' first frames and length, the
video reader, the edition of the measures, the networks' weights), so that stale results are never read and all
runs and processes of a store share it (`util.cache`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from replaylab.data.clips import Clip
from replaylab.data.domain import Domain
from replaylab.data.video import chosen_reader
from replaylab.spec import EvaluationSpec
from replaylab.util.cache import cached

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class FeatureCache:
    """The cache for some clips; `content` is the digest of the source of their frames."""

    folder: Path
    content: str

    @classmethod
    def of(cls, folder: Path, domain: Domain, clips: Sequence[Clip], frames: int) -> FeatureCache:
        """The cache for clips of `frames` frames."""
        checksums = {Path(video.file).stem: video.sha256 for video in domain.videos.itertuples()}
        lines = [f"edition {EvaluationSpec.edition} of the measures, reader {chosen_reader()}, {frames} frames"]
        lines += [f"{checksums[clip.video]} from {clip.start}" for clip in clips]
        return cls(folder, hashlib.sha256("\n".join(lines).encode()).hexdigest())

    def arrays(self, what: str, compute: Callable[[], Arrays]) -> Arrays:
        """The result of `compute`. `what` names it, with everything on which it depends besides the clips."""
        from safetensors.numpy import load_file, save_file

        def write(aside: Path, made: Arrays) -> None:
            # safetensors writes memory as it lies, and would mix up an array with another order of its axes
            save_file({name: np.ascontiguousarray(array) for name, array in made.items()}, aside)

        return cached(self._path(what, ".safetensors"), load_file, write, compute)

    def table(self, what: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """The same for a table."""
        return cached(self._path(what, ".parquet"), pd.read_parquet, lambda aside, made: made.to_parquet(aside), compute)

    def _path(self, what: str, suffix: str) -> Path:
        name = hashlib.sha256(f"{self.content}\n{what}".encode()).hexdigest()[:32]
        return self.folder / f"{name}{suffix}"
