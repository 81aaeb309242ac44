"""Rows of made-up runs from many bases whose effects are known: what `second_edition` judges."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from replaylab.analysis.second_edition import CLAIMS, READINGS

SCENES = 24
BASES = tuple(f"base {number}" for number in range(6))
DOMAINS = tuple(dict.fromkeys(domain for claim in CLAIMS for domain in claim.domains))
STEPS = {10: 0.2, 100: 0.7, 300: 1.0}  # and the share of its effect that a run has by then
WAY, AHEAD = 4.0, 1.0  # by how much a copied last frame, and constant velocity, are worse than the base
REAL = 0.5  # error of detections in real frames
Name = tuple[str, float, str]
"""Replay, replay fraction, target."""
NONE, NEAR, FAR = ("", 0.0, "driving"), ("near", 0.25, "driving"), ("far", 0.25, "driving")


def made_up(
    effects: Mapping[Name, Mapping[tuple[str, str], float]], bases: tuple[str, ...] = BASES, spread: float = 0.02,
    ahead: float = AHEAD, real: float = REAL,
) -> pd.DataFrame:  # fmt: skip
    """Runs that start at ADE 3 and KD 20, and end at that plus their effect by (measure, domain), with noise.

    "ade" is the effect of all readings, "" of all domains. spread: of the bases' effects. ahead, real: as AHEAD, REAL.
    """
    random, lines, values_of = np.random.default_rng(0), [], []
    scene_effect = random.normal(0, 1, SCENES)

    def add(model: str, base: str, seed: int, step: int, name: Name, measure: str, domain: str, values: object) -> None:
        lines.append((f"{model} {base} {name}", base, model, *name, seed, step, measure, domain))
        values_of.append(np.atleast_1d(np.asarray(values, float)))

    nothing = ("", np.nan, "")
    for domain in DOMAINS:
        for measure in READINGS:
            add("copy-last-frame", BASES[0], -1, -1, nothing, measure, domain, 3 + WAY + scene_effect)
            add("real", BASES[0], -1, -1, nothing, measure, domain, real * np.abs(1 + 0.1 * scene_effect))
            add("constant-velocity", BASES[0], -1, -1, nothing, measure, domain, 3 + ahead + scene_effect)
        for base in bases:
            for measure in READINGS:
                add("base", base, -1, 0, nothing, measure, domain, 3 + scene_effect)
            add("base", base, -1, 0, nothing, "effnet_kd", domain, 20.0)
            add("base", base, -1, 0, nothing, "effnet_kd_pseudo", domain, 20 + scene_effect)
    for name, effect in effects.items():
        for seed, base in enumerate(bases):
            luck = random.normal(0, spread)
            for domain in DOMAINS:

                def of(measure: str, domain: str = domain, effect: Mapping[tuple[str, str], float] = effect) -> float:
                    return next((effect[key] for key in ((measure, domain), (measure, "")) if key in effect), 0.0)

                for step, share in STEPS.items():
                    noise = random.normal(0, 0.05, SCENES)
                    for measure in READINGS:
                        change = share * ((of(measure) or of("ade")) + luck)
                        add("fine-tuned", base, seed, step, name, measure, domain, 3 + scene_effect + change + noise)
                    kd = 20 + share * (of("kd") + luck)
                    add("fine-tuned", base, seed, step, name, "effnet_kd", domain, kd)
                    add("fine-tuned", base, seed, step, name, "effnet_kd_pseudo", domain, kd + scene_effect + noise)
    counts = [len(values) for values in values_of]
    columns = ["run", "base", "model", "replay", "replay_fraction", "target", "seed", "step", "measure", "domain"]
    rows = pd.DataFrame(lines, columns=columns).loc[np.repeat(np.arange(len(lines)), counts)].reset_index(drop=True)
    scenes = [f"scene {number}" if count > 1 else "" for count in counts for number in range(count)]
    return rows.assign(scene=scenes, value=np.concatenate(values_of), n=1)
