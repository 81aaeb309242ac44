"""The experiment with your own model and videos: a diffusers model and domain folders.

    python -m replaylab own --preset wan --driving domains/driving --replay domains/kitchen domains/street

Decision: settings come from the family's preset; the size and the frame rate of clips from the domains; their number from
the scenes of the test split. Runs are described, stored, resumed and submitted to a cluster like all others (`sweep`).
Agents are measured if a detector is given; in a domain without tracks, against the detector's tracks in the real
frames (`pseudo_tracks.pseudo_tracks`).

Refused: domains of different sizes or frame rates, or with too few scenes, and clips that the family does not support.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import pandas as pd

from replaylab import spec
from replaylab.data.domain import Domain, open_domain
from replaylab.metrics.distances import N_MIN
from replaylab.store import store_of
from replaylab.sweeps import sweep
from replaylab.sweeps.own_settings import PRESETS, Settings
from replaylab.sweeps.sweep import Table
from replaylab.util.progress import report
from replaylab.util.reading import expanded

MOST_CLIPS, MOST_REFERENCES = 64, 128
MISS_CAP = 1 / 4  # of the height: the error of an agent that is not detected
EMA_DECAY = 0.99


def run(
    model: str, driving: str | Path, replay: Sequence[str | Path], replay_fractions: Sequence[float],
    settings: Settings, *, seeds: Sequence[int] = (0,), detector: str = "", agents: Sequence[str] = (),
    cluster: str = "inline", cluster_file: str | Path = "", store: str | Path = "", dry_run: bool = False, preset: str = "",
    tracker: str = "",
) -> Table:  # fmt: skip
    """Read the grid from its store, and train missing runs; arguments as in `grid` and `sweep.run`, `tracker` as in
    `training.trackers`.

    Gradient checkpointing is always on, because the models are large.
    """
    specs = grid(model, driving, replay, replay_fractions, settings, seeds, detector, agents, preset)
    first = specs[0].evaluation
    report(
        f"{len(specs)} runs; measured on {first.clips} clips a domain, beside {first.reference_clips} real ones"
        + ("" if first.object_detector else "; without a detector no agent is measured")
    )
    machine = spec.MachineSpec(gradient_checkpointing=True, tracker=tracker)
    return sweep.run_specs(
        "own", specs, store_of("own", store), cluster, machine, cluster_file, dry_run,
        "call the same again",
    )  # fmt: skip


def grid(
    model: str, driving: str | Path, replay: Sequence[str | Path], replay_fractions: Sequence[float],
    settings: Settings, seeds: Sequence[int] = (0,), detector: str = "", agents: Sequence[str] = (), preset: str = "",
) -> list[spec.RunSpec]:  # fmt: skip
    """The runs of one model, a folder in diffusers' layout or a name on the hub, for every seed and replay fraction.

    `driving` and `replay`: domain folders (`python -m replaylab domain add`). `detector`: an object detector of
    transformers, by name or folder, and `agents` its classes with their kinds, such as "car=car". `preset`: that of the
    settings; a model of another family is refused. Raises ValueError, FileNotFoundError or ConnectionError, with a remedy,
    for incompatible or missing inputs, before any weights are loaded.
    """
    if not str(driving) or not all(map(str, replay)):
        missing = "replay" if str(driving) else "driving"
        raise ValueError(f"{missing} is empty: name a domain's folder, such as `python -m replaylab domain add` makes")
    domains = [_opened(folder) for folder in (driving, *replay)]
    _check_alike(domains)
    if any(replay_fractions) and not replay:
        raise ValueError("replay: name at least one domain to replay, or the fraction 0 alone")
    _check_model(model, preset, domains, settings)
    clips, references = _counts(domains, settings)
    from replaylab.models import pipelines

    folders = tuple(_described(domain) for domain in domains)
    target, others = folders[0], folders[1:]
    about = spec.ModelSpec(
        _absolute(model), pipelines.digest_of(model), settings.frames, settings.context_frames,
        domains[0].frames_per_second, settings.prompt, settings.guidance,
    )  # fmt: skip
    evaluation = spec.EvaluationSpec(
        folders, "test", clips, references, sampler_steps=settings.sampler_steps,
        miss_cap_px=MISS_CAP * domains[0].height_px,
        object_detector=_detector(detector, agents, settings.detector_threshold),
    )  # fmt: skip
    training = spec.TrainingSpec(
        settings.steps, settings.batch_size, settings.learning_rate, EMA_DECAY,
        trained="lora" if settings.lora_rank else "full", lora_rank=settings.lora_rank or 1,
    )  # fmt: skip
    steps = tuple(sorted({max(1, settings.steps // 4), max(1, settings.steps // 2), settings.steps}))
    return [
        spec.RunSpec(
            about.digest, target, seed, training, steps, evaluation,
            spec.ReplaySpec(others, float(fraction)) if fraction else spec.ReplaySpec(), model=about,
        )
        for seed in seeds
        for fraction in replay_fractions
    ]  # fmt: skip


def estimates() -> str:
    """The GPU resources that each preset needs, counted and not run here, one line each."""
    from replaylab.models.families import estimates, presets

    return "\n".join(str(estimates.kept(presets.PRESETS[name])) for name in PRESETS)


def _opened(folder: str | Path) -> Domain:
    domain = open_domain(expanded(folder).absolute())
    for split in ("train", "test"):
        domain.split(split)
    return domain


def _described(domain: Domain) -> spec.FolderSpec:
    return spec.FolderSpec(domain.name, domain.digest, (domain.height_px, domain.width_px), str(domain.folder))


def _check_alike(domains: list[Domain]) -> None:
    first = domains[0]
    for domain in domains[1:]:
        for what in ("height_px", "width_px", "frames_per_second"):
            here, there = getattr(first, what), getattr(domain, what)
            if here != there:
                raise ValueError(
                    f"{domain.folder}: {what} is {there:g}, but {here:g} in {first.folder}; make both with the same --size "
                    "and --frames-per-second"
                )
    names = pd.Series([domain.name for domain in domains])
    if names.duplicated().any():
        raise ValueError(f"two domains are named {names[names.duplicated()].iloc[0]!r}: give one another --name")


def _check_model(model: str, preset: str, domains: list[Domain], settings: Settings) -> None:
    """Raises ValueError, from the model's configuration alone, if it does not match the preset or the clips."""
    from replaylab.models import families
    from replaylab.models.families import presets

    outline = families.outline(model)
    name, first = type(outline).__name__, domains[0]
    fitting = presets.preset_of(type(outline))
    if preset and preset != fitting:
        raise ValueError(f"{model} is a {name}, whose preset is {fitting!r} and not {preset!r}")
    try:
        outline.check_clips(settings.context_frames, settings.frames, first.height_px, first.width_px)
    except ValueError as error:
        raise ValueError(f"{first.folder}, {settings.frames} frames: {error}") from error
    if not outline.TEXT_ENCODERS:
        if settings.prompt:
            raise ValueError(f"{name} takes no text: leave out the prompt {settings.prompt!r}")
        for domain in domains:
            if domain.about.get("prompt"):
                report(f"{domain.folder}: its prompt is not used, since {name} takes no text")


def _counts(domains: list[Domain], settings: Settings) -> tuple[int, int]:
    """The numbers of test clips to be continued and of reference clips, determined by the smallest domain."""
    from replaylab.data.clips import clips_of, one_per_scene  # a decoder that reading pages do without

    counts = [len(one_per_scene(clips_of(domain, "test", settings.frames))) for domain in domains]
    fewest, least = min(counts), 2 * ceil(N_MIN / (settings.frames - settings.context_frames))
    if fewest < least:
        raise ValueError(
            f"{domains[counts.index(fewest)].folder}: the test split has {fewest} scenes with {settings.frames} frames; at "
            f"least {least} are needed: add videos, or a larger --test share"
        )
    clips = min(MOST_CLIPS, fewest // 2)
    return clips, min(MOST_REFERENCES, fewest - clips)


def _detector(name: str, agents: Sequence[str], threshold: float) -> spec.DetectorSpec | None:
    if not name:
        return None
    from replaylab.metrics.detectors import pretrained

    found = pretrained.load(name, pretrained.agents_of(agents) or None, threshold)
    return spec.DetectorSpec(_absolute(name), found.digest, tuple(agents), threshold)


def _absolute(name: str) -> str:
    """A folder's absolute path, since jobs run elsewhere; a name on the hub unchanged."""
    folder = expanded(name)
    return str(folder.absolute()) if folder.is_dir() else name


def hub_name(preset: str) -> str:
    """The name of a preset's model on the Hugging Face hub."""
    from replaylab.models.families import presets

    return presets.PRESETS[preset].hub_name
