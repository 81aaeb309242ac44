"""How well does a detector see on your own real frames? To be known before anything is concluded from what it finds.

Two cases, which are never mixed. Where the domain knows the truth (boxes in `tracks.parquet`), the detector is measured
against it. Where it does not, all that can be had is *self-consistency*: the detector's own boxes on real frames are taken
for the truth (`object_detectors.tracks_of`), and the frames are changed in ways that move nothing: coded again, shifted by
half a pixel, sent through an autoencoder. That is a floor under its error and says nothing of what it never sees: of the
shipped detector, on 24 dev clips of `driving`, 0.29 px against itself and 0.45 px against the truth, and so the still clip
10.9 and 7.1 times as far off.

Decision: the verdict is the protocol's rule. A measure that cannot tell real from copy-last-frame is not used: against the
same boxes, the last context frame repeated must have an ADE of LEAST_RATIO times the detector's own error, or more. With
fewer than LEAST_CLIPS clips in which anything counts there is no verdict. Where frames are blurred to a sharpness, that is
the most that a model of that sharpness could show.

Refused: clips without anything that counts, and frames that cannot be blurred that far.

Letters: T frames of a clip, H W pixels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq

from replaylab.data import clips as clips_room
from replaylab.data.domain import Domain
from replaylab.data.video import decode
from replaylab.metrics import detection, dynamics, fidelity, template_tracking
from replaylab.metrics.detectors.pretrained import Found, tracks_of
from replaylab.util.progress import track

if TYPE_CHECKING:
    from replaylab.evaluation.evaluation_sets import TrueAgents

Frames = NDArray[np.uint8]
Find = Callable[[Frames], Sequence[NDArray[np.floating[Any]]]]
"""Frames uint8 (N, H, W, 3) -> N arrays (K, 5), x0 y0 x1 y1 score in pixels: `ObjectDetector.find`, or the shipped one's."""

LEAST_RATIO = 5.0
LEAST_CLIPS = 8
MISS_CAP_SHARE = 16 / 64  # of the image's height: what an agent that is not found costs
SHIFT_PX = 0.5
REAL, COPIED, TRACKED = "real", "copy-last-frame", "real, second tracker"
TRUTH, SELF = "truth", "self-consistency"


class Shown(NamedTuple):
    """The future frames of a real clip, shown in one way."""

    name: str
    frames: Frames
    moved_px: float = 0.0
    """how far everything was moved, right and down"""
    harmless: bool = False
    """whether nothing moved but for that"""


@dataclass(frozen=True)
class Verdict:
    """Whether errors that this detector measures on these clips tell a moving future from a still one."""

    against: str  # TRUTH or SELF
    error_px: float  # the detector's ADE on real frames; of SELF, the largest after a harmless change
    copied_px: float  # that of the last context frame repeated
    clips: int  # in which anything counts

    @property
    def ratio(self) -> float:
        """The error of a copied last frame over the one that is judged; NaN or infinite where there is none."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.float64(self.copied_px) / self.error_px)

    @property
    def usable(self) -> bool | None:
        """None: too few clips to say."""
        return self.ratio >= LEAST_RATIO if self.clips >= LEAST_CLIPS else None

    def __str__(self) -> str:
        what = {
            TRUTH: f"the detector's ADE on real frames is {self.error_px:.2f} px",
            SELF: f"after changes that move nothing the detector's boxes are {self.error_px:.2f} px from its own",
        }[self.against]
        found = (
            f"{what}, that of copy-last-frame {self.copied_px:.2f} px, {self.ratio:.1f} times as much "
            f"({self.clips} clips, against {'the truth' if self.against == TRUTH else 'itself'})"
        )
        if self.usable is None:
            return f"No verdict: {found}; at least {LEAST_CLIPS} clips with agents that count are needed."
        if not self.usable:
            return (
                f"Not to be used: {found}; at least {LEAST_RATIO:g} times are needed. Take a better detector, larger "
                "frames, or clips in which more moves."
            )
        if self.against == TRUTH:
            return f"May be used: {found}."
        return (
            f"May be used, as far as self-consistency can say: {found}. Agents that it never finds, and errors that it "
            "makes in real and generated frames alike, are in neither number."
        )


# -------------------------------------------------------------------------------------------------------------- domain
def of_domain(
    domain: Domain,
    find: Find,
    *,
    split: str = "dev",
    clips: int = 24,
    frames: int = 8,
    context_frames: int = 3,
    sharpness: Sequence[float] = (),
    autoencoder: Callable[[Frames], Frames] | None = None,
    miss_cap_px: float | None = None,
) -> tuple[pd.DataFrame, Verdict]:
    """The ceiling on the first `clips` clips of a split, one a scene, of `frames` frames with the context.

    Returns the table and the verdict on it. A row for each way the future frames are shown: `frames` (its name), ade_px and
    its standard error over clips, ade_matched_px, recall, false_positives (a frame), average_precision_iou50, all as in
    `dynamics` and `detections`; sharpness_ratio; `clips` with agents that count, and n of their agent-frames. Clip means,
    but for the precision, which is of all boxes together. Against itself there is one row more, TRACKED: how far from the
    detector's tracks is what `template_tracking.track_templates` makes of the same first boxes, by pixels alone.

    sharpness: ratios to the real frames' (0 to 1), each clip blurred to have them. autoencoder: (T, H, W, 3) -> the same
    clip, decoded. ValueError names what is wrong with the arguments or the clips.
    """
    if not 0 < context_frames < frames:
        raise ValueError(
            f"context_frames {context_frames} of {frames} frames: at least one, and one to look at after it"
        )
    if wrong := [ratio for ratio in sharpness if not 0 < ratio <= 1]:
        raise ValueError(f"sharpness: {wrong[0]!r}, expected shares of the real frames' such as 0.8")
    from replaylab.evaluation.evaluation_sets import TrueAgents  # with it comes torch

    chosen = clips_room.one_a_scene(clips_room.clips_of(domain, split, frames))[:clips]
    truth = clips_room.truth_of(domain, chosen, frames) if domain.has_tracks else None
    against = SELF if truth is None else TRUTH
    tallies: dict[str, _Tally] = {}
    for number, pixels in enumerate(
        track(clips_room.read(domain, chosen, frames), "ceiling", total=len(chosen), unit="clips")
    ):
        tables = truth[number] if truth is not None else _own_tracks(pixels, find)
        agents = TrueAgents.of(tables[context_frames:])
        cap = miss_cap_px or MISS_CAP_SHARE * pixels.shape[1]
        for way in ways_to_show(pixels, context_frames, sharpness, against, autoencoder):
            there = agents._replace(boxes=[boxes + way.moved_px for boxes in agents.boxes])
            sharp = fidelity.sharpness_ratio(way.frames, pixels[context_frames:])
            tally = tallies.setdefault(way.name, _Tally(way.harmless))
            tally.add(there, find(way.frames), sharp, cap)
        if against == SELF:
            ade = _second_tracker(pixels[context_frames - 1 :], tables[context_frames - 1], agents, cap)
            tallies.setdefault(TRACKED, _Tally(False)).add_ade(ade)
    table = pd.DataFrame([{"frames": name, **tally.row()} for name, tally in tallies.items()])
    if not table["n"].max():
        raise ValueError(
            f"{domain.folder}: no agent that counts in {len(chosen)} clips of split {split!r}: "
            + ("none is eligible" if against == TRUTH else "the detector follows none that is tall enough")
        )
    return table.assign(against=against), verdict(table, against)


def verdict(table: pd.DataFrame, against: str) -> Verdict:
    """By the protocol's rule, of the rows of `of_domain`."""
    rows = table.set_index("frames")
    error = rows.loc[REAL if against == TRUTH else rows["harmless"], "ade_px"]
    return Verdict(against, float(np.max(error)), float(rows.loc[COPIED, "ade_px"]), int(rows.loc[COPIED, "clips"]))


def _own_tracks(pixels: Frames, find: Find) -> list[pd.DataFrame]:
    """What the detector makes of a real clip (T, H, W, 3), by frame."""
    found = [Found(np.asarray(boxes, np.float32), ["agent"] * len(boxes)) for boxes in find(pixels)]
    return tracks_of(found, *pixels.shape[1:3])


def _second_tracker(clip: Frames, first: pd.DataFrame, agents: TrueAgents, cap: float) -> dynamics.Statistic:
    """ADE of `template_tracking`, which shares nothing with the detector, from the boxes of the first frame (the last of
    the context) on: whether the detections move as the pixels do.
    """
    start = first[first["eligible"]]
    followed = template_tracking.track_templates(clip, start[["x0", "y0", "x1", "y1"]].to_numpy(float))[1:]
    return template_tracking.ade_tracked_px(followed, start["agent"].to_numpy(), *agents, miss_cap_px=cap)


# --------------------------------------------------------------------------------------------------------------- clips
class _Tally:
    """What was found in the clips of one row so far."""

    def __init__(self, harmless: bool) -> None:
        self.harmless = harmless
        self.clips: list[dict[str, float]] = []
        self.n = 0
        self.frames: list[tuple[Any, Any, Any]] = []

    def add(self, agents: TrueAgents, found: Sequence[Any], sharpness_ratio: float, cap: float) -> None:
        errors = dynamics.agent_errors(*agents, [boxes[:, :4] for boxes in found], miss_cap_px=cap)
        accuracy = dynamics.accuracy(errors)
        values = {name: value for name, (value, _) in accuracy._asdict().items()}
        self.clips.append({**values, "sharpness_ratio": sharpness_ratio})
        self.n += accuracy.ade_px.n
        self.frames += zip(agents.boxes, agents.eligible, found, strict=True)

    def add_ade(self, ade: dynamics.Statistic) -> None:
        self.clips.append({"ade_px": ade.value})
        self.n += ade.n

    def row(self) -> dict[str, Any]:
        clips = pd.DataFrame(self.clips)
        means = clips.reindex(columns=[
            "ade_px", "ade_matched_px", "recall", "false_positives", "sharpness_ratio"
        ]).mean()  # fmt: skip
        precision = np.nan
        if self.frames:
            boxes, eligible, found = zip(*self.frames, strict=True)
            precision = detection.average_precision(boxes, eligible, found, min_iou=0.5).value
        return {
            **means, "ade_standard_error_px": clips["ade_px"].sem(), "average_precision_iou50": precision,
            "harmless": self.harmless, "clips": int(clips["ade_px"].notna().sum()), "n": self.n,
        }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- changes
def ways_to_show(
    clip: Frames, context_frames: int, sharpness: Sequence[float], against: str,
    autoencoder: Callable[[Frames], Frames] | None = None,
) -> Iterator[Shown]:  # fmt: skip
    """The future of a clip (T, H, W, 3): as it is, or changed in ways in which nothing moves; blurred; standing still."""
    real = clip[context_frames:]
    if against == TRUTH:
        yield Shown(REAL, real)
    else:  # as it is, it agrees with itself
        yield Shown("real, coded again", coded_again(clip)[context_frames:], harmless=True)
        yield Shown(f"real, shifted by {SHIFT_PX:g} px", shifted(real, SHIFT_PX), SHIFT_PX, True)
        if autoencoder is not None:
            yield Shown("real, autoencoder", autoencoder(clip)[context_frames:], harmless=True)
    for ratio in sharpness:
        yield Shown(f"real, blurred to {ratio:g}", blurred(real, blur_px_for(real, ratio)))
    yield Shown(COPIED, np.repeat(clip[context_frames - 1 : context_frames], len(real), axis=0))


def coded_again(clip: Frames) -> Frames:
    """Frames (T, H, W, 3) through H.264, as the videos of made domains are written; an odd side loses nothing."""
    from replaylab.data.video import write_video

    height, width = clip.shape[1:3]
    even = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, even, 8)
        return decode(path)[:, :height, :width]


def shifted(clip: Frames, shift_px: float) -> Frames:
    """Frames (T, H, W, 3) moved to the right and down (Lanczos, which blurs least); the edge goes on."""
    matrix = np.array([[1, 0, shift_px], [0, 1, shift_px]])
    size = (clip.shape[2], clip.shape[1])
    return np.stack([
        cv2.warpAffine(frame, matrix, size, flags=cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE) for frame in clip
    ]).astype(np.uint8)  # fmt: skip


def blurred(clip: Frames, blur_px: float) -> Frames:
    """Frames (T, H, W, 3) of any size under a Gaussian of that standard deviation, edges held; 0 leaves them as they are.

    `blur.blurred`, which needs torch, within a grey level.
    """
    if blur_px == 0:
        return clip
    side = 2 * int(np.ceil(3 * blur_px)) + 1
    return np.stack([
        cv2.GaussianBlur(frame, (side, side), blur_px, borderType=cv2.BORDER_REPLICATE) for frame in clip
    ]).astype(np.uint8)  # fmt: skip


def blur_px_for(clip: Frames, sharpness_ratio: float) -> float:
    """The standard deviation of the Gaussian under which a clip keeps this share of its sharpness.

    As `fidelity.sharpness_ratio` has it. ValueError where none that is small beside the image does.
    """
    if sharpness_ratio == 1:
        return 0.0
    most = clip.shape[1] / 8

    def excess(blur_px: float) -> float:
        return fidelity.sharpness_ratio(blurred(clip, blur_px), clip) - sharpness_ratio

    if excess(most) > 0:
        raise ValueError(f"sharpness: {sharpness_ratio:g} is not reached with a blur of {most:g} px")
    least = 0.05  # a Gaussian so narrow leaves 8-bit frames as they are
    return float(brentq(excess, least, most, xtol=0.01))
