"""A store of made-up runs whose effects are known: what a sweep of variations leaves, without its training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from replaylab.analysis.configurations import name_of
from replaylab.spec import RunSpec, generator
from replaylab.store import COLUMNS, OF_DISTANCES, ReferenceSpec, claim, write_rows
from replaylab.sweeps import ablations
from replaylab.sweeps.ablations import Variation

SCENES = 12
KD, ADE = 20.0, 3.0  # of every base; a copied last frame has 30 and 7
COPIED = (30.0, 7.0)
SHARES = {
    25: 0.12,
    50: 0.25,
    100: 0.5,
    150: 0.75,
    300: 1.0,
}  # of a run's change in EffNet-KD by step; its ADE changes evenly
SECONDS = 260.0
STEP_SECONDS = 0.25
Effect = tuple[float, float]  # change of EffNet-KD and of eventful ADE at the last step
NOISE = 0.02


SETS = ("effnet_kd", "pull_to_mean")  # measures of all clips at once
Table = dict[str, list[object]]


def _add(table: Table, run: str, domain: str, step: int, kd: float, ade: float) -> None:
    """What a model with these means measures in a domain; the scenes are the same for all."""
    random = generator(0, f"{run}{domain}", step + 1)
    scene = generator(0, domain).normal(0, 0.5, SCENES)
    each = {
        "ade_px": ade + scene + random.normal(0, NOISE, SCENES),
        "recall": 0.9 - 0.05 * (ade - ADE) + 0.01 * scene,
        "effnet_kd_pseudo": kd + scene + random.normal(0, NOISE, SCENES),
        "video_kd_pseudo": 0.1 * kd + 0.01 * scene,
        "psnr_db": 20 - 0.2 * (kd - KD) + 0.01 * scene,
        "denoising_loss_0.5": 0.3 + 0.01 * (ade - ADE) + 0.01 * scene,
    }
    whole = dict(zip(SETS, (each["effnet_kd_pseudo"].mean(), 0.1 * ade), strict=True))
    values = [*np.concatenate(list(each.values())), *whole.values()]
    table["value"] += values
    table["measure"] += [*np.repeat(list(each), SCENES), *SETS]
    table["scene"] += [f"{domain}/{one}" for one in range(SCENES)] * len(each) + [""] * len(SETS)
    table["domain"] += [domain] * len(values)
    table["step"] += [step] * len(values)


def _write(folder: Path, tables: list[tuple[Table, dict[str, object]]]) -> None:
    rows = pd.concat([pd.DataFrame(table).assign(**facts) for table, facts in tables], ignore_index=True)
    rows = rows.assign(run=folder.name, start=0, n=1, **OF_DISTANCES)
    rows = rows.assign(**{name: "" for name in COLUMNS if name not in rows})
    write_rows(folder / "rows.parquet", rows)
    execution = {"threads": 1, "device": "cpu"}
    facts = {"seconds": SECONDS, "processors": 2, "machine": "x86_64", "execution": execution,
             "realised_replay_fraction": 0.0}  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(facts))


def _empty() -> Table:
    return {name: [] for name in ("value", "measure", "scene", "domain", "step")}


def write_run(run: RunSpec, store: Path, effect: Effect) -> None:
    """A finished run with this effect, and a little of its seed's own luck that is the same whatever the variation."""
    kd, ade = effect
    luck = generator(run.seed, "luck").normal(0, 0.05)
    facts = {"base": run.base, "model": "fine-tuned", "target": run.target.name, "replay": run.replay.name,
             "replay_fraction": run.replay.fraction, "seed": run.seed, "split": run.evaluation.split}  # fmt: skip
    table = _empty()
    for step in run.evaluate_at:
        at = {"kd": KD + SHARES[step] * kd + luck, "ade": ADE + ade * step / 300 + luck}
        for world in (*run.evaluation.domains, *(run.evaluation.at_the_end if step == 300 else ())):
            _add(table, run.run_id, world.name, step, **at)
    folder = claim(run, store)
    _write(folder, [(table, facts)])
    ends = STEP_SECONDS * np.arange(1, 301) + 30.0 * (np.arange(1, 301) > 150)  # in between it was evaluated
    lines = [json.dumps({"step": step, "seconds": float(end)}) for step, end in enumerate(ends, start=1)]
    (folder / "log.jsonl").write_text("\n".join(lines))


def write_references(runs: Sequence[RunSpec], store: Path) -> None:
    """What stands beside these runs."""
    for reference in dict.fromkeys(ReferenceSpec.of(run) for run in runs):
        tables = []
        worlds = (*reference.evaluation.domains, *reference.evaluation.at_the_end)
        for model, step, (kd, ade) in (("base", 0, (KD, ADE)), ("copy-last-frame", -1, COPIED)):
            facts = {"base": reference.base, "model": model, "target": "", "replay": "", "replay_fraction": np.nan,
                     "seed": -1, "split": reference.evaluation.split}  # fmt: skip
            tables.append((_empty(), facts))
            for world in worlds:
                _add(tables[-1][0], f"{reference.run_id}{model}", world.name, step, kd, ade)
        _write(claim(reference, store), tables)


def write_variations(
    preset: str, store: Path, effect: Callable[[Variation], Effect | None], seeds: Sequence[int] = ()
) -> None:
    """The runs of a preset of `ablations`, each variation with its effect; those without one are left out."""
    for variation in ablations.variations(preset, store):
        found = effect(variation)
        runs = ablations.runs_of(preset, variation, seeds)
        write_references(runs, store)
        for run in runs if found is not None else ():
            write_run(run, store, found)  # type: ignore[arg-type]


# What each configuration of the made-up world does. Near replay of 25 % gains 5 in EffNet-KD and loses 0.2 px.
EFFECTS_OF: dict[str, Effect] = {
    "replay 0 %": (-6.0, 1.2), "near replay 25 %": (-5.0, 0.2), "near replay 1 %": (-5.8, 1.0),
    "bursts every 20 steps": (-5.0, 0.2), "ramp": (-5.6, -0.3), "anneal": (-4.0, 0.7), "physics": (-5.0, 0.8),
    "orbit": (-4.5, 0.9), "doom": (-5.5, 0.6), "near and far": (-4.9, 0.3), "more driving": (-6.2, 1.1),
    "still clips": (-2.0, 0.9), "16 clips": (-4.6, 0.7), "64 clips": (-5.0, 0.2), "256 clips": (-5.01, 0.21),
    "64 videos, replay 0 %": (-4.0, 1.5), "64 videos": (-3.5, 0.4), "2048 videos, replay 0 %": (-6.5, 1.0),
    "2048 videos": (-5.6, 0.15), "LoRA, replay 0 %": (-1.5, 0.1), "LoRA": (-1.2, -0.05),
    "temporal layers, replay 0 %": (-3.0, 0.7), "temporal layers": (-2.6, 0.1),
}  # fmt: skip


def of_alternative(variation: Variation) -> Effect:
    """On dev and on test: stronger settings keep more and gain less."""
    if name_of(variation) in EFFECTS_OF:
        return EFFECTS_OF[name_of(variation)]
    group = [one for one in ablations.ALTERNATIVES if one.group == variation.group]
    at = group.index(variation) / (len(group) - 1)
    if variation.group == "near replay":
        changes = [(-5.8, 0.9), (-5.5, 0.6), EFFECTS_OF["near replay 25 %"], (-4.0, 0.05), (-3.0, 0.0)]
        return changes[group.index(variation)]
    if variation.group == "lower rate":
        return -4.0 + 3 * at, 0.6 - 0.5 * at
    return -6.0 + 4 * at, 1.2 - 1.1 * at
