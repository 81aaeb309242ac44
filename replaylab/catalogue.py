"""Every domain, kind of replay and measure of the experiment: name, label, unit, group, and direction of improvement.

Decision: tables, axes and sentences take their words from here, so one thing has one name. A domain or measure that is not
listed, such as a user's own, is shown under its own name (`domain_of`, `measure_of`).

Not here: numbers, paths and code; presets define what is evaluated on which domain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

CONTEXT_FRAMES, CLIP_FRAMES = 3, 8  # given, and all of a clip of the tiny models
FRAMES_PER_SECOND = 4.0  # of the rendered domains


# ------------------------------------------------------------------------------------------------------------- domains
@dataclass(frozen=True)
class DomainEntry:
    """A domain in words."""

    label: str
    group: str
    role: str
    short: str = ""
    """its motion alone, under a heading that names the appearance"""


TARGET, REPLAY, SECOND = "the target and its twins", "what can be replayed", "a second driving world"
NATURAL, OWN = "simulated traffic", "others"
DOMAINS = {
    "driving": DomainEntry("ordinary driving", TARGET, "the target: what models are fine-tuned on", "ordinary"),
    "driving-eventful": DomainEntry("eventful driving", TARGET, "test: events that near replay shows too", "eventful"),
    "driving-held-out": DomainEntry("held-out events", TARGET, "test: events that nobody trains on", "held-out"),
    "driving-repetitive": DomainEntry("one repeated event", TARGET, "control: eventful, and yet regular", "one event"),
    "diverse-driving": DomainEntry("diverse driving", TARGET, "control: the target's appearance, free motion", "free"),
    "driving-family-a": DomainEntry("events A", TARGET, "target: cars cut in, or the ego car turns", "events A"),
    "driving-family-b": DomainEntry("events B", TARGET, "target: braking, oncoming or overtaking cars", "events B"),
    "near": DomainEntry(
        "other appearances, free motion", REPLAY, "near replay: roads, never in the target's appearance", "free"
    ),
    "near-ordinary": DomainEntry(
        "other appearances, ordinary", REPLAY, "test: the target's motion in other appearances", "ordinary"
    ),
    "near-eventful": DomainEntry("other appearances, eventful", REPLAY, "test: events in other appearances", "eventful"),
    "near-held-out": DomainEntry(
        "other appearances, held-out events", REPLAY, "test: held-out events in other appearances", "held-out"
    ),
    "near-without-a": DomainEntry(
        "other appearances, all but events A", REPLAY, "near replay that lacks events A", "without A"
    ),
    "near-without-b": DomainEntry(
        "other appearances, all but events B", REPLAY, "near replay that lacks events B", "without B"
    ),
    "near-all-events": DomainEntry("other appearances, all events", REPLAY, "near replay with every event", "all events"),
    "physics": DomainEntry("rigid bodies", REPLAY, "far replay: no road, no car"),
    "orbit": DomainEntry("moving camera", REPLAY, "far replay: mostly the camera moves"),
    "doom": DomainEntry("first-person game", REPLAY, "far replay: a world that nobody here made"),
    "country": DomainEntry("country road", SECOND, "second target: other road, camera and rules"),
    "country-eventful": DomainEntry("eventful country road", SECOND, "test of the second target"),
    "country-held-out": DomainEntry("country road, held-out events", SECOND, "test of the second target"),
    "natural": DomainEntry("natural driving", NATURAL, "third target: simulated drivers, events as they come", "natural"),
    "natural-eventful": DomainEntry(
        "natural driving, with an event", NATURAL, "test: its clips with an event", "with an event"
    ),
    "natural-unfiltered": DomainEntry(
        "natural driving, unfiltered", NATURAL, "test: also what three frames do not determine", "unfiltered"
    ),
    "natural-regular": DomainEntry("simulated regular driving", NATURAL, "control: drivers who are all alike", "regular"),
}
"""By name, in the order of tables."""
HEADLINE = ("driving", "driving-eventful", "near")
"""The domains of the main figures: the target, its events, and what near replay shows."""
TARGET_LOOK = ("driving", "driving-eventful", "driving-held-out")
OTHER_LOOKS = ("near-ordinary", "near-eventful", "near-held-out", "near")

SOURCES = {"near": ("near",), "far": ("physics", "orbit", "doom"), "all": ("near", "physics", "orbit", "doom")}
"""Kinds of replay: near (driving in other appearances), far (other scenes), and both in the proportions of pretraining."""

MAIN_FRACTION = 0.25
"""The replay fraction of the preregistered comparison."""

LEAST_COPIED_TO_REAL = 5.0
"""An error of agents is used if that of copy-last-frame is at least this many times that of real frames."""

PUBLISHED = (
    "pilot", "pilot-diverse", "published", "dose", "dose-between", "ablations", "alternatives-dev", "alternatives",
    "second-world", "second-family", "confirmatory", "confirmatory-targets", "confirmatory-natural",
)  # fmt: skip
"""The presets whose runs are in the repository."""


def domain_of(name: str) -> DomainEntry:
    """An entry of DOMAINS, or for another domain an entry under its own name."""
    return DOMAINS.get(name, DomainEntry(name, OWN, "not one of this book's domains"))


# ------------------------------------------------------------------------------------------------------------ measures
@dataclass(frozen=True)
class MeasureEntry:
    """A measure in words."""

    label: str
    unit: str
    """as it stands in brackets; empty for a number without one"""
    group: str
    better: Literal["low", "high", "real"] = "low"
    """which way is better; "real": as close as can be to its value on real clips"""
    decimals: int | None = 2
    """in tables and sentences; None for a measure of unknown size"""

    @property
    def name(self) -> str:
        """With its unit, where it has one: "ADE (px)"."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def digits(self) -> str:
        """How its values are formatted, as Python's format takes it: `decimals`, or else three significant digits."""
        return ".3g" if self.decimals is None else f".{self.decimals}f"

    @property
    def axis(self) -> str:
        """For an axis: "EffNet-KD (no unit)"."""
        return f"{self.label} ({self.unit or 'no unit'})"


OF_FRAMES, OF_VIDEOS = "Fidelity of frames", "Fidelity of videos"
OF_AGENTS, OF_BACKGROUND, OF_MODELS, OTHERS = ("Accuracy of agents", "Background and ego car", "Denoising", "Others")
ALIGNMENT = "alignment"  # of a run: the rank correlation of its gains in fidelity and in accuracy
GROUPS = (OF_FRAMES, OF_VIDEOS, OF_AGENTS, OF_BACKGROUND, OF_MODELS, OTHERS)
MEASURES = {
    "effnet_kd": MeasureEntry("EffNet-KD", "", OF_FRAMES),
    "effnet_fd": MeasureEntry("EffNet-FD", "", OF_FRAMES, decimals=0),
    "effnet_perceptual": MeasureEntry("EffNet perceptual", "", OF_FRAMES),
    "psnr_db": MeasureEntry("PSNR", "dB", OF_FRAMES, "high"),
    "ssim": MeasureEntry("SSIM", "", OF_FRAMES, "high", decimals=3),
    "latent_mse": MeasureEntry("latent error", "", OF_FRAMES, decimals=3),
    "sharpness_ratio": MeasureEntry("sharpness", "of the truth's", OF_FRAMES, "real"),
    "video_kd": MeasureEntry("video-KD", "", OF_VIDEOS, decimals=3),
    "video_fd": MeasureEntry("video-FD", "", OF_VIDEOS),
    "flicker_excess": MeasureEntry("flicker excess", "", OF_VIDEOS, "real"),
    "ade_px": MeasureEntry("ADE", "px", OF_AGENTS),
    "ade_best_px": MeasureEntry("ADE, best future", "px", OF_AGENTS),
    "fde_px": MeasureEntry("FDE", "px", OF_AGENTS),
    "ade_matched_px": MeasureEntry("ADE, matched", "px", OF_AGENTS),
    "recall": MeasureEntry("recall", "share", OF_AGENTS, "high", decimals=3),
    "vanishing_rate": MeasureEntry("vanishing", "share", OF_AGENTS, decimals=3),
    "false_positives": MeasureEntry("false positives", "per frame", OF_AGENTS, decimals=3),
    "average_precision_iou50": MeasureEntry("AP, IoU 0.5", "", OF_AGENTS, "high", decimals=3),
    "nta_iou": MeasureEntry("NTA-IoU", "", OF_AGENTS, "high", decimals=3),
    "iou_matched": MeasureEntry("IoU, matched", "", OF_AGENTS, "high", decimals=3),
    "size_error_matched": MeasureEntry("size error", "log", OF_AGENTS, decimals=3),
    "growth_matched": MeasureEntry("growth", "log", OF_AGENTS, "real", decimals=3),
    "position_error_m": MeasureEntry("position error", "m", OF_AGENTS),
    "range_error_matched_m": MeasureEntry("range error", "m", OF_AGENTS),
    "bearing_error_matched_deg": MeasureEntry("bearing error", "°", OF_AGENTS),
    "displacement_slope": MeasureEntry("displacement slope", "", OF_AGENTS, "real", decimals=3),
    "motion_share": MeasureEntry("motion share", "of the truth's", OF_AGENTS, "real"),
    "pull_to_mean": MeasureEntry("pull to the mean", "share", OF_AGENTS, "real", decimals=3),
    "residual_agent_error_px": MeasureEntry("residual agent error", "px", OF_AGENTS),
    "ade_tracked_px": MeasureEntry("ADE, second tracker", "px", OF_AGENTS),
    "ade_second_detector_px": MeasureEntry("ADE, 2nd detector", "px", OF_AGENTS),
    "recall_second_detector": MeasureEntry("recall, 2nd detector", "share", OF_AGENTS, "high", decimals=3),
    "background_flow_error_px": MeasureEntry("background flow", "px", OF_BACKGROUND),
    "flow_error_px": MeasureEntry("flow error", "px", OF_BACKGROUND),
    "ego_speed_error_m_s": MeasureEntry("ego speed error", "m/s", OF_BACKGROUND),
    "ego_yaw_rate_error_deg_s": MeasureEntry("ego yaw rate error", "°/s", OF_BACKGROUND),
    ALIGNMENT: MeasureEntry("ρ", "", OTHERS, "high"),
}
"""By name, in the order of tables."""
BY_HORIZON = "ade_px_frame_"  # ADE of each of the generated frames
DENOISING = "denoising_loss"  # begins the names of measures that only models have, not their reference baselines
NOISE_LEVELS = (0.25, 0.5, 0.75)  # at which denoising is measured
DENOISING_LOSSES = tuple(f"{DENOISING}_{level:g}" for level in NOISE_LEVELS)
PSEUDO_SUFFIX = "_pseudo"
"""Ends the names of rows that hold what each clip adds to a measure of a whole set (`statistics.pseudo_values`)."""
PSEUDO = {measure: measure + PSEUDO_SUFFIX for measure in ("effnet_kd", "video_kd")}
"""The distances between whole sets that every run is evaluated with, and the names of those rows."""

_UNITS = {"px": "px", "m": "m", "deg": "°", "db": "dB"}
_IN_NAMES = {OF_BACKGROUND: ("background", "flow", "ego"), OF_AGENTS: ("ade_", "tracker", "agent"), OF_VIDEOS: ("video",)}
_LOWER_IS_BETTER = ("error", "ade_", "fde_", "_fd", "_kd", "loss")


def measure_of(name: str) -> MeasureEntry:
    """An entry of MEASURES, or for another measure an entry made from its name."""
    if name in MEASURES:
        return MEASURES[name]
    if name.endswith(PSEUDO_SUFFIX):
        whole = measure_of(name.removesuffix(PSEUDO_SUFFIX))
        return replace(whole, label=f"{whole.label}, pseudo-value")
    if name.startswith(BY_HORIZON):
        return MeasureEntry(f"ADE, frame {name.removeprefix(BY_HORIZON)}", "px", OF_AGENTS)
    if name.startswith(DENOISING):
        return MeasureEntry(f"denoising loss, level {name.removeprefix(DENOISING).lstrip('_')}", "", OF_MODELS, decimals=4)
    group = next((group for group, words in _IN_NAMES.items() if any(word in name for word in words)), OTHERS)
    words, _, last = name.rpartition("_")
    label, unit = (words, _UNITS[last]) if words and last in _UNITS else (name, "")
    better: Literal["low", "real"] = "low" if any(word in name for word in _LOWER_IS_BETTER) else "real"
    return MeasureEntry(label.replace("_", " "), unit, group, better, decimals=None)
