"""The variations of the ablations, and the alternatives to replay: a run with one change.

Decision: every variation is near replay of 25 % with one change, or the alternative to replay that it names. A variation is
a function of a run, so the sweep, its store and its pages are the same as for others. Alternatives have as many settings as
replay has fractions, on the dev split; the setting that `best` selects there is run on the test split.

Refused: the alternatives on the test split before those on the dev split are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from replaylab.catalogue import SOURCES
from replaylab.spec import RemedySpec, ReplaySpec, RunSpec, WorldSpec
from replaylab.store import Store
from replaylab.sweeps import presets
from replaylab.sweeps.presets import SHARES
from replaylab.worlds.named import domain_spec

SETTINGS = 5  # of every alternative, as many as replay has fractions
MORE_SEED = 100  # added to a run's seed, for clips that are not in its target


@dataclass(frozen=True)
class Variation:
    """A change of a run, with its group and name in tables."""

    group: str
    name: str
    change: Callable[[RunSpec], RunSpec]


def _replay(**changes: object) -> Callable[[RunSpec], RunSpec]:
    return lambda run: replace(run, replay=replace(run.replay, **changes))  # type: ignore[arg-type]


def _training(**changes: object) -> Callable[[RunSpec], RunSpec]:
    return lambda run: replace(run, training=replace(run.training, **changes))  # type: ignore[arg-type]


def _without_replay(change: Callable[[RunSpec], RunSpec]) -> Callable[[RunSpec], RunSpec]:
    return lambda run: change(replace(run, replay=ReplaySpec()))


def _source(*names: str) -> Callable[[RunSpec], RunSpec]:
    """Replay other domains, with the same total number of clips, generated separately for each seed."""

    def change(run: RunSpec) -> RunSpec:
        count = -(-run.replay.domains[0].videos[0] // len(names))
        worlds = tuple(domain_spec(name, videos=(count, 0, 0), seed=run.seed) for name in names)
        shares = next((SHARES.get(kind, ()) for kind, members in SOURCES.items() if members == names), ())
        return replace(run, replay=replace(run.replay, domains=worlds, weights=shares))

    return change


def _more_driving(run: RunSpec) -> RunSpec:
    """Replay further clips of the target's own distribution."""
    count = run.replay.domains[0].videos[0]
    more = domain_spec("driving", name="more-driving", videos=(count, 0, 0), seed=run.seed + MORE_SEED)
    return replace(run, replay=replace(run.replay, domains=(more,)))


def _target(videos: int, replayed: bool) -> Callable[[RunSpec], RunSpec]:
    def change(run: RunSpec) -> RunSpec:
        assert isinstance(run.target, WorldSpec)
        target = replace(run.target, videos=(videos, 0, 0))
        return replace(run, target=target, replay=run.replay if replayed else ReplaySpec())

    return change


def _remedy(kind: str, strength: float) -> Callable[[RunSpec], RunSpec]:
    """An alternative in place of replay. EWC estimates the Fisher information on clips of the replayed domain."""

    def change(run: RunSpec) -> RunSpec:
        known = {"domains": run.replay.domains, "clips": EWC_CLIPS} if kind == "ewc" else {}
        return replace(run, replay=ReplaySpec(), remedy=RemedySpec(kind, strength, **known))  # type: ignore[arg-type]

    return change


EWC_CLIPS = 128
STRENGTHS = {
    "l2-sp": (0.0001, 0.0003, 0.001, 0.003, 0.01),
    "ewc": (0.0001, 0.0003, 0.001, 0.003, 0.01),
    "lwf": (0.1, 0.3, 1.0, 3.0, 10.0),
    "wise-ft": (0.1, 0.25, 0.5, 0.75, 0.9),
}
LEARNING_RATES = (3e-4, 2.5e-4, 2e-4, 1.5e-4, 1e-4)  # the presets have 4e-4
FRACTIONS = (0.05, 0.1, 0.25, 0.5, 0.75)
NEAR_25 = Variation("replay", "near replay 25 %", lambda run: run)
NO_REPLAY = Variation("replay", "no replay", lambda run: replace(run, replay=ReplaySpec()))

ABLATIONS = (
    NO_REPLAY,
    NEAR_25,
    Variation("replay", "near replay 1 %", _replay(fraction=0.01)),
    Variation("schedule", "bursts every 20 steps", _replay(schedule="periodic", period=20)),
    Variation("schedule", "ramp", _replay(schedule="ramp")),
    Variation("schedule", "anneal", _replay(schedule="anneal")),
    Variation("source", "physics", _source("physics")),
    Variation("source", "orbit", _source("orbit")),
    Variation("source", "doom", _source("doom")),
    Variation("source", "near and far", _source("near", "physics", "orbit", "doom")),
    Variation("control", "more driving", _more_driving),
    Variation("control", "still clips", _replay(still=True)),
    Variation("buffer", "16 clips", _replay(buffer_clips=16)),
    Variation("buffer", "64 clips", _replay(buffer_clips=64)),
    Variation("buffer", "256 clips", _replay(buffer_clips=256)),
    Variation("target", "64 videos, no replay", _target(64, replayed=False)),
    Variation("target", "64 videos", _target(64, replayed=True)),
    Variation("target", "2048 videos, no replay", _target(2048, replayed=False)),
    Variation("target", "2048 videos", _target(2048, replayed=True)),
    Variation("trained", "LoRA, no replay", _without_replay(_training(trained="lora"))),
    Variation("trained", "LoRA", _training(trained="lora")),
    Variation("trained", "temporal layers, no replay", _without_replay(_training(trained="temporal"))),
    Variation("trained", "temporal layers", _training(trained="temporal")),
)
"""Variations on the test split, three seeds each."""

SECOND_ABLATIONS = (
    NO_REPLAY,
    NEAR_25,
    *(each for each in ABLATIONS if each.name in ("bursts every 20 steps", "ramp", "LoRA", "LoRA, no replay")),
    Variation("source", "near, ordinary motion only", _source("near-ordinary")),
    *(each for each in ABLATIONS if each.group == "buffer"),
    *(Variation("loss weight", f"loss weight {weight:g}", _replay(loss_weight=weight)) for weight in (0.25, 0.5)),
    *(Variation("noise levels", f"{levels} noise levels only", _replay(noise_levels=levels)) for levels in ("high", "low")),
)
"""Variations on the test split, from three of the second edition's bases; NEAR_25 has a loss weight of 1 at all levels."""

ALTERNATIVES = (
    *(Variation("near replay", f"{100 * share:g} %", _replay(fraction=share)) for share in FRACTIONS),
    *(Variation(kind, f"{each:g}", _remedy(kind, each)) for kind, strengths in STRENGTHS.items() for each in strengths),
    *(Variation("lower rate", f"{rate:g}", _without_replay(_training(learning_rate=rate))) for rate in LEARNING_RATES),
    *(Variation("generative replay", f"{100 * share:g} %", _replay(fraction=share, generated=True)) for share in FRACTIONS),
)  # fmt: skip
"""Each method with SETTINGS settings on the dev split; early stopping uses the steps of the variation without replay."""

SECOND_RIVALS = tuple(each for each in ALTERNATIVES if each.group in ("ewc", "lwf", "wise-ft", "generative replay"))
"""Those that the first edition did not distinguish from replay, and the base's own predictions on the target's clips."""

CHOSEN_ON = {edition.alternatives: edition.dev for edition in presets.EDITIONS.values()}
"""The presets of alternatives in their best setting, and the one on the dev split that determines it."""
CANDIDATES = {"alternatives-dev": ALTERNATIVES, "second-alternatives-dev": SECOND_RIVALS}
"""The settings on the dev split, by preset."""
PRESETS = (*(edition.ablations for edition in presets.EDITIONS.values()), *CHOSEN_ON, *CHOSEN_ON.values())


def grid(preset: str, seeds: Sequence[int] = (), store: Path | None = None) -> list[RunSpec]:
    """The runs of a preset of PRESETS: every variation with every seed. `store`: that of the runs on the dev split."""
    return [run for variation in variations(preset, store) for run in runs_of(preset, variation, seeds)]


def variations(preset: str, store: Path | None = None) -> tuple[Variation, ...]:
    """The variations of a preset; raises FileNotFoundError for the alternatives before their settings were chosen."""
    if preset == "ablations":
        return ABLATIONS
    if preset == "second-ablations":
        return SECOND_ABLATIONS
    if preset == "alternatives-dev":
        return (NO_REPLAY, *ALTERNATIVES)
    if preset == "second-alternatives-dev":
        return (NO_REPLAY, NEAR_25, *SECOND_RIVALS)
    if preset in CHOSEN_ON:
        return (NO_REPLAY, NEAR_25, *best(store, CHOSEN_ON[preset]))
    raise ValueError(f"preset {preset!r} is none of {', '.join(PRESETS)}")


def runs_of(preset: str, variation: Variation, seeds: Sequence[int] = ()) -> list[RunSpec]:
    """A variation's runs, one per seed."""
    plain = presets.grid(preset, [0.25], list(seeds) or None)
    return [variation.change(run) for run in plain]


def named(preset: str, seeds: Sequence[int] = (), store: Path | None = None) -> pd.DataFrame:
    """The variation of each run: columns run, group, variation."""
    lines = [
        {"run": run.run_id, "group": variation.group, "variation": variation.name}
        for variation in variations(preset, store)
        for run in runs_of(preset, variation, seeds)
    ]
    return pd.DataFrame(lines).drop_duplicates("run")


def best(store: Path | None, preset: str = "alternatives-dev") -> tuple[Variation, ...]:
    """The setting of each alternative for the test split: the one with the lowest ADE on eventful driving, on the dev split,
    among those whose EffNet-KD on the target is at most that of near replay 25 %; if there is none, the lowest EffNet-KD.

    preset: that of the runs on the dev split; its seeds are averaged. Raises FileNotFoundError, with the command to run, if
    some of them are missing.
    """
    candidates = {
        variation: runs_of(preset, variation) for variation in (*CANDIDATES[preset], replace(NEAR_25, group="limit"))
    }
    every = [run for runs in candidates.values() for run in runs]
    missing = [run for run in every if store is None or not Store(store).is_done(run)]
    if missing or store is None:
        raise FileNotFoundError(
            f"{len(missing)} of {len(every)} runs that settings are chosen by are not in {store}: run "
            f"`python -m replaylab sweep --preset {preset}` first"
        )
    rows = Store(store).rows([run.run_id for run in every], ("effnet_kd", "ade_px"))
    lines = [
        {"variation": variation, "group": variation.group, **_at_last_step(runs, rows)}
        for variation, runs in candidates.items()
    ]
    table = pd.DataFrame(lines)
    limit = table.loc[table["group"] == "limit", "effnet_kd"].item()
    chosen = []
    for group, settings in table.groupby("group", sort=False):
        if group in ("near replay", "limit"):
            continue
        chosen.append(table.loc[choice(settings, limit), "variation"])
    return tuple(chosen)


def choice(settings: pd.DataFrame, limit: float) -> int:
    """The row that the rule of `best` selects; columns effnet_kd and ade_px."""
    admissible = settings[settings["effnet_kd"] <= limit]
    return int(admissible["ade_px"].idxmin() if len(admissible) else settings["effnet_kd"].idxmin())


def _at_last_step(runs: Sequence[RunSpec], rows: pd.DataFrame) -> dict[str, float]:
    """Means over runs, of their means over clips."""
    last = rows[rows["run"].isin([run.run_id for run in runs]) & (rows["step"] == runs[0].training.steps)]
    means = last.groupby(["measure", "domain", "run"])["value"].mean().groupby(["measure", "domain"]).mean()
    return {
        measure: float(means[measure, domain])
        for measure, domain in (("effnet_kd", "driving"), ("ade_px", "driving-eventful"))
    }
