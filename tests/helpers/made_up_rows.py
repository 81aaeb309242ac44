"""Rows of made-up runs whose effects are known: what `claims` judges."""

from __future__ import annotations

import numpy as np
import pandas as pd

SCENES, BASES = 30, {0: "one", 1: "one", 2: "one", 3: "two", 4: "two"}
NONE, NEAR_CONFIGURATION = ("", 0.0, "driving"), ("near", 0.25, "driving")


def made_up(effects: dict[tuple[str, float, str], dict[str, float]], seeds=BASES, of_base=(0.0, 0.0)) -> pd.DataFrame:
    """Rows of runs that start at ADE 3 and KD 20, and end at that plus their effect, with noise; copy is at 7 and 0.

    effects: (replay, fraction, target) -> measure -> after − before. of_base: what each base's runs have besides.
    """
    random, rows = np.random.default_rng(0), []
    scene_effect = random.normal(0, 1, SCENES)

    def add(model, base, seed, step, configuration, measure, domain, values, scenes=SCENES):
        replay, fraction, target = configuration
        rows.extend(
            {"run": f"{model}{base}{seed}{configuration}", "base": base, "model": model, "target": target, "replay": replay,
             "replay_fraction": fraction, "seed": seed, "step": step, "domain": domain, "scene": f"scene {number}",
             "measure": measure, "value": value, "n": 1}
            for number, value in enumerate(np.broadcast_to(values, scenes))
        )  # fmt: skip

    nothing = ("", np.nan, "")
    for domain in ("driving", "driving-eventful"):
        for base in ("one", "two"):
            add("base", base, -1, 0, nothing, "ade_px", domain, 3 + scene_effect)
            add("base", base, -1, 0, nothing, "effnet_kd", domain, 20.0, 1)
            add("base", base, -1, 0, nothing, "effnet_kd_pseudo", domain, 20 + scene_effect)
        add("copy-last-frame", "one", -1, -1, nothing, "ade_px", domain, 7 + scene_effect)
        add("copy-last-frame", "one", -1, -1, nothing, "effnet_kd", domain, 0.0, 1)
        for configuration, effect in effects.items():
            for seed, base in seeds.items():
                luck = random.normal(0, 0.05) + of_base[base == "two"]
                for step, share in ((10, 0.2), (100, 0.7), (300, 1.0)):
                    noise = random.normal(0, 0.1, SCENES)
                    ade = 3 + scene_effect + share * (effect.get(domain, 0.0) + luck) + noise
                    kd = 20 + share * (effect.get("kd", 0.0) + luck)
                    add("fine-tuned", base, seed, step, configuration, "ade_px", domain, ade)
                    add("fine-tuned", base, seed, step, configuration, "effnet_kd", domain, kd, 1)
                    add("fine-tuned", base, seed, step, configuration, "effnet_kd_pseudo", domain, kd + scene_effect + noise)
    return pd.DataFrame(rows)
