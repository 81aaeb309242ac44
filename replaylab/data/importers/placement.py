"""Assignment of the scenes of a converted domain to splits.

Decision: a scene's split is determined by a hash of its name, so that files added later do not move others. A near-duplicate
of an assigned scene has the same split. Assignments are stored (`sources/places.json`) and kept while the shares are
unchanged: with other shares all scenes are assigned again. Refused, as `Unusable`: a source with near-duplicates in two
splits.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from replaylab.util import reading
from replaylab.util.files import write_json

PLACES_FILE = "sources/places.json"
AGAIN = "restore it, which contains the split of each scene, or give a new --out"


class SplitShares(NamedTuple):
    """The shares of scenes that are not for training."""

    dev: float
    test: float

    def split_of(self, scene: str) -> str:
        """The split of a scene, by a hash of its name."""
        place = place_of(scene)
        return "test" if place < self.test else "dev" if place < self.test + self.dev else "train"


def place_of(scene: str) -> float:
    """A number from 0 to 1, determined by a hash of the scene's name."""
    digits = hashlib.sha256(scene.encode(errors="surrogateescape")).hexdigest()[:13]
    return int(digits, 16) / 16**13


@dataclass
class Places:
    """The splits of scenes that have one."""

    shares: SplitShares
    splits: dict[str, str] = field(default_factory=dict)  # by scene
    stamps: dict[str, str] = field(default_factory=dict)  # of the assigned sources, by name
    looks_like: dict[str, list[str]] = field(default_factory=dict)  # scene -> its earlier near-duplicates

    @classmethod
    def read(cls, out: Path, shares: SplitShares) -> Places | None:
        """The stored assignments; None if there are none, or if they were made with other shares."""
        path = out / PLACES_FILE
        if not path.is_file():
            return None
        known = reading.json_object(path, AGAIN, shares=list, splits=dict, stamps=dict)
        if SplitShares(*known.pop("shares")) != shares:
            return None
        return cls(shares, **known)

    def write(self, out: Path) -> None:
        """Store the assignments."""
        write_json(out / PLACES_FILE, asdict(self))

    def split_of(self, scene: str) -> str:
        """The split of a scene, or the one it will have if it has no near-duplicates."""
        return self.splits.get(scene) or self.shares.split_of(scene)

    def place(self, scene: str, like: Iterable[str]) -> dict[str, str]:
        """Assign a scene to the split of its near-duplicates `like`, or else by its hash.

        Returns {}; or, if near-duplicates are in several splits, one of them per split, and the scene is not assigned.
        """
        like = list(like)
        known = {self.splits[other]: other for other in reversed([*([scene] if scene in self.splits else []), *like])}
        if len(known) > 1:
            return known
        self.splits[scene] = next(iter(known), None) or self.shares.split_of(scene)
        if like:
            self.looks_like[scene] = sorted({*self.looks_like.get(scene, []), *like})
        return {}


def empty_splits(splits: Mapping[str, str], shares: SplitShares, can_cut: bool) -> list[str]:
    """A message for each requested split to which no scene is assigned, with the remedies.

    `splits`: by scene. `can_cut`: whether files can be cut into scenes.
    """
    lines = []
    for split, share in (("dev", shares.dev), ("test", shares.test)):
        if not share or split in splits.values() or not splits:
            continue
        if len(splits) == 1:
            remedy = "add other recordings"
            if can_cut:
                remedy = f"cut it into scenes (--scene-seconds 60, or --scene-from cuts for a film), or {remedy}"
            lines.append(f"the only scene is assigned to {splits[next(iter(splits))]}, and {split} stays empty: {remedy}")
            continue
        lower = 0.0 if split == "test" else shares.test
        nearest = min((place for scene in splits if (place := place_of(scene)) >= lower), default=None)
        remedies = ["add scenes", *(["cut long files into scenes (--scene-seconds 60)"] if can_cut else [])]
        if nearest is not None and math.floor(100 * (nearest - lower) + 1) < 100:
            remedies.append(
                f"give --{split} {math.floor(100 * (nearest - lower) + 1) / 100:g}, which assigns all scenes again"
            )
        lines.append(f"none of {len(splits)} scenes is assigned to {split} (--{split} {share:g}): {', or '.join(remedies)}")
    return lines
