"""The accuracy of a detector on real frames of a domain, to be checked before conclusions are drawn from its boxes.

There are two cases, which are kept apart. If the domain has ground truth (`tracks.parquet`), the detector is compared with
it. Otherwise only its *self-consistency* is measured: its tracks on real frames serve as the reference, and the frames are
changed in ways that move nothing (re-encoded, shifted by half a pixel, passed through an autoencoder). This is a lower bound
of its error and excludes agents that it never detects: on 24 dev clips of `driving`, the shipped detector has an error of
0.29 px against itself and 0.45 px against the ground truth, and the still clip one 10.9 and 7.1 times as large.

Decision: the verdict follows the rule that a measure which does not distinguish real clips from copy-last-frame is not used.
The repeated last context frame must have an ADE of at least LEAST_COPIED_TO_REAL times the detector's own error; with fewer
than LEAST_CLIPS clips with eligible agents there is no verdict. On frames blurred to a sharpness, the table shows the best
values that a model of that sharpness could reach.

Refused: clips without eligible agents, and frames that cannot be blurred that far. Shapes: T frames of a clip, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq

from replaylab.catalogue import LEAST_COPIED_TO_REAL
from replaylab.data import clips as clips_module
from replaylab.data.domain import Domain
from replaylab.data.video import coded
from replaylab.metrics import detection, dynamics, fidelity, template_tracking
from replaylab.metrics.detectors.pretrained import Detections
from replaylab.metrics.detectors.pseudo_tracks import tracks_of
from replaylab.util.progress import track

if TYPE_CHECKING:
    from replaylab.evaluation.evaluation_sets import TrueAgents

Frames = NDArray[np.uint8]
Detect = Callable[[Frames], Sequence[NDArray[np.floating[Any]]]]
"""Frames uint8 (N, H, W, 3) -> N arrays (K, 5): x0 y0 x1 y1 in pixels, and the score."""

LEAST_CLIPS = 8
MISS_CAP_SHARE = 16 / 64  # of the image's height: the error of an agent that is not detected
SHIFT_PX = 0.5
REAL, COPIED, TRACKED = "real", "copy-last-frame", "real, second tracker"
TRUTH, SELF = "truth", "self-consistency"
MEANS = ("ade_px", "ade_matched_px", "recall", "false_positives", "sharpness_ratio")


class Variant(NamedTuple):
    """The future frames of a real clip, unchanged or changed in one way."""

    name: str
    frames: Frames
    moved_px: float = 0.0  # how far everything was moved, right and down
    harmless: bool = False  # whether nothing moved but for that


@dataclass(frozen=True)
class CeilingVerdict:
    """Whether errors measured with this detector on these clips distinguish a moving future from a still one."""

    against: str  # TRUTH or SELF
    error_px: float  # the detector's ADE on real frames; of SELF, the largest after a harmless change
    copied_px: float  # that of the last context frame repeated
    clips: int  # with eligible agents

    @property
    def ratio(self) -> float:
        """The error of copy-last-frame divided by the detector's; NaN or infinite if that is zero."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return float(np.float64(self.copied_px) / self.error_px)

    @property
    def usable(self) -> bool | None:
        """Whether the detector may be used; None with too few clips for a verdict."""
        return self.ratio >= LEAST_COPIED_TO_REAL if self.clips >= LEAST_CLIPS else None

    def __str__(self) -> str:
        what, whom = f"the detector's ADE on real frames is {self.error_px:.2f} px", "the truth"
        if self.against == SELF:
            what = f"after changes that move nothing the detector's boxes are {self.error_px:.2f} px from its own"
            whom = "itself"
        summary = f"{what}, that of copy-last-frame {self.copied_px:.2f} px, {self.ratio:.1f} times as much "
        summary += f"({self.clips} clips, against {whom})"
        if self.usable is None:
            return f"No verdict: {summary}; at least {LEAST_CLIPS} clips with eligible agents are needed."
        if not self.usable:
            return (
                f"Not to be used: {summary}; at least {LEAST_COPIED_TO_REAL:g} times are needed. Take a better "
                "detector, larger frames, or clips in which more moves."
            )
        if self.against == TRUTH:
            return f"May be used: {summary}."
        return (
            f"May be used, as far as self-consistency can say: {summary}. Agents that it never finds, and errors that it "
            "makes in real and generated frames alike, are in neither number."
        )


def of_domain(
    domain: Domain, detect: Detect, *, split: str = "dev", clips: int = 24, frames: int = 8, context_frames: int = 3,
    sharpness: Sequence[float] = (), autoencoder: Callable[[Frames], Frames] | None = None,
    miss_cap_px: float | None = None,
) -> tuple[pd.DataFrame, CeilingVerdict]:  # fmt: skip
    """The table and the verdict for the first `clips` clips of a split, one per scene, `frames` frames with the context.

    One row per variant of the future frames: `frames` (its name), ade_px and its standard error over clips,
    ade_matched_px, recall, false_positives (per frame), average_precision_iou50, all as in `dynamics` and `detection`;
    sharpness_ratio; `clips` with eligible agents, and n, their number of agent-frames. Values are means over clips, except
    the precision, which is computed from all boxes together. Self-consistency has one more row, TRACKED: the error of
    `template_tracking`, which uses pixels alone, relative to the detector's tracks.

    sharpness: ratios to the sharpness of the real frames (0 to 1), to which each clip is blurred. autoencoder:
    (T, H, W, 3) -> the same clip, decoded. ValueError says what is wrong with the arguments or the clips.
    """
    if not 0 < context_frames < frames:
        raise ValueError(f"context_frames {context_frames} of {frames} frames: at least one, and one after it to look at")
    if wrong := [ratio for ratio in sharpness if not 0 < ratio <= 1]:
        raise ValueError(f"sharpness: {wrong[0]!r}, expected shares of the real frames' such as 0.8")
    from replaylab.evaluation.evaluation_sets import TrueAgents  # with it comes torch

    chosen = clips_module.one_per_scene(clips_module.clips_of(domain, split, frames))[:clips]
    truth = clips_module.truth_of(domain, chosen, frames) if domain.has_tracks else None
    against = SELF if truth is None else TRUTH
    scores: dict[str, list[dict[str, float]]] = {}
    detections: dict[str, list[Any]] = {}
    harmless = set()
    videos = track(clips_module.read(domain, chosen, frames), "ceiling", total=len(chosen), unit="clips")
    for number, clip in enumerate(videos):
        tables = truth[number] if truth is not None else _own_tracks(clip, detect)
        agents = TrueAgents.of(tables[context_frames:])
        cap = miss_cap_px or MISS_CAP_SHARE * clip.shape[1]
        for variant in variants(clip, context_frames, sharpness, against, autoencoder):
            true = agents._replace(boxes=[boxes + variant.moved_px for boxes in agents.boxes])
            boxes = detect(variant.frames)
            errors = dynamics.agent_errors(*true, [each[:, :4] for each in boxes], miss_cap_px=cap)
            accuracy = dynamics.accuracy(errors)
            score = {name: value for name, (value, _) in accuracy._asdict().items()}
            score["sharpness_ratio"] = fidelity.sharpness_ratio(variant.frames, clip[context_frames:])
            scores.setdefault(variant.name, []).append({**score, "n": accuracy.ade_px.n})
            detections.setdefault(variant.name, []).extend(zip(true.boxes, true.eligible, boxes, strict=True))
            harmless |= {variant.name} if variant.harmless else set()
        if against == SELF:
            ade = _second_tracker(clip[context_frames - 1 :], tables[context_frames - 1], agents, cap)
            scores.setdefault(TRACKED, []).append({"ade_px": ade.value, "n": ade.n})
    rows = [
        {"frames": name, **_means(pd.DataFrame(clips_scores), detections.get(name, []), name in harmless)}
        for name, clips_scores in scores.items()
    ]
    table = pd.DataFrame(rows)
    if not table["n"].max():
        raise ValueError(
            f"{domain.folder}: no agent that counts in {len(chosen)} clips of split {split!r}: "
            + ("none is eligible" if against == TRUTH else "the detector follows none that is tall enough")
        )
    by_name = table.set_index("frames")
    error, copied = by_name.loc[REAL if against == TRUTH else by_name["harmless"], "ade_px"], by_name.loc[COPIED]
    verdict = CeilingVerdict(against, float(np.max(error)), float(copied["ade_px"]), int(copied["clips"]))
    return table.assign(against=against), verdict


def _own_tracks(clip: Frames, detect: Detect) -> list[pd.DataFrame]:
    """The detector's tracks in a real clip (T, H, W, 3), by frame."""
    frames = [Detections(np.asarray(boxes, np.float32), ["agent"] * len(boxes)) for boxes in detect(clip)]
    return tracks_of(frames, *clip.shape[1:3])


def _second_tracker(clip: Frames, first: pd.DataFrame, agents: TrueAgents, cap: float) -> dynamics.Statistic:
    """ADE of `template_tracking`, which is independent of the detector, started from the boxes of the clip's first frame
    (the last of the context).
    """
    start = first[first["eligible"]]
    followed = template_tracking.track_templates(clip, start[["x0", "y0", "x1", "y1"]].to_numpy(float))[1:]
    return template_tracking.ade_tracked_px(followed, start["agent"].to_numpy(), *agents, miss_cap_px=cap)


def _means(clips: pd.DataFrame, detections: list[Any], harmless: bool) -> dict[str, Any]:
    """A row of the table, from one row per clip and the true, eligible and detected boxes of every frame."""
    precision = np.nan
    if detections:
        precision = detection.average_precision(*zip(*detections, strict=True), min_iou=0.5).value
    ade = clips["ade_px"]
    return {
        **clips.reindex(columns=MEANS).mean(), "ade_standard_error_px": ade.sem(), "average_precision_iou50": precision,
        "harmless": harmless, "clips": int(ade.notna().sum()), "n": int(clips["n"].sum()),
    }  # fmt: skip


def variants(
    clip: Frames, context_frames: int, sharpness: Sequence[float], against: str,
    autoencoder: Callable[[Frames], Frames] | None = None,
) -> Iterator[Variant]:  # fmt: skip
    """The future of a clip (T, H, W, 3): unchanged, changed in ways that move nothing, blurred, and still."""
    real = clip[context_frames:]
    if against == TRUTH:
        yield Variant(REAL, real)
    else:  # unchanged, the detector agrees with itself
        yield Variant("real, coded again", coded_again(clip)[context_frames:], harmless=True)
        yield Variant(f"real, shifted by {SHIFT_PX:g} px", shifted(real, SHIFT_PX), SHIFT_PX, True)
        if autoencoder is not None:
            yield Variant("real, autoencoder", autoencoder(clip)[context_frames:], harmless=True)
    for ratio in sharpness:
        yield Variant(f"real, blurred to {ratio:g}", blurred(real, blur_px_for(real, ratio)))
    yield Variant(COPIED, np.repeat(clip[context_frames - 1 : context_frames], len(real), axis=0))


def coded_again(clip: Frames) -> Frames:
    """Frames (T, H, W, 3) encoded as H.264 like the videos of rendered domains, and decoded; odd sides are preserved."""
    height, width = clip.shape[1:3]
    even = np.pad(clip, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return coded(even, 8)[:, :height, :width]


def shifted(clip: Frames, shift_px: float) -> Frames:
    """Frames (T, H, W, 3) shifted to the right and down (Lanczos, which blurs least), with repeated edges."""
    matrix = np.array([[1, 0, shift_px], [0, 1, shift_px]])
    size, lanczos, border = (clip.shape[2], clip.shape[1]), cv2.INTER_LANCZOS4, cv2.BORDER_REPLICATE
    frames = [cv2.warpAffine(frame, matrix, size, flags=lanczos, borderMode=border) for frame in clip]
    return np.stack(frames).astype(np.uint8)


def blurred(clip: Frames, blur_px: float) -> Frames:
    """Frames (T, H, W, 3) blurred by a Gaussian of standard deviation `blur_px`, with repeated edges; unchanged for 0.

    Equal to `blur.blurred`, which needs torch, within one grey level.
    """
    if blur_px == 0:
        return clip
    size, border = (2 * int(np.ceil(3 * blur_px)) + 1,) * 2, cv2.BORDER_REPLICATE
    return np.stack([cv2.GaussianBlur(frame, size, blur_px, borderType=border) for frame in clip]).astype(np.uint8)


def blur_px_for(clip: Frames, sharpness_ratio: float) -> float:
    """The standard deviation of the Gaussian that reduces a clip's sharpness to this ratio
    (`fidelity.sharpness_ratio`); ValueError if none up to an eighth of the height does.
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
