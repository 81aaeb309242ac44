"""Short trainings of one base with one setting changed at a time, from which the second edition's recipe was chosen.

    python -m replaylab pretrain recipes

Decision: every variation starts from the same weights with the same noise, is trained on the number of clips in STEPS steps,
the same ones unless the clips are varied, and is measured on dev like the bases. `recipes.csv` beside the weights has one
row per variation, domain and measure; finished parts are kept in `home`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from replaylab.description import digest
from replaylab.shipped_weights import WEIGHTS
from replaylab.spec import MachineSpec, WorldSpec
from replaylab.training import bases, loop
from replaylab.util import reading
from replaylab.util.distributed import flush_denormals
from replaylab.util.files import write_atomically
from replaylab.util.progress import track
from replaylab.worlds.named import domain_spec

STEPS, SEED = 900, 2


def _near(**names: str) -> tuple[WorldSpec, ...]:
    """The recipe's number of near videos, all with one motion and appearance."""
    videos = sum(spec.videos[0] for spec in bases.recipe_of(SEED).near)
    return (domain_spec("near", videos=(videos, 0, 0), seed=1000 + SEED, **names),)


VARIATIONS: dict[str, dict[str, Any]] = {
    "the recipe": {},
    "AdamW": {"muon_rate": 0.0},
    "Muon at 0.006": {"muon_rate": 6e-3},
    "Muon at 0.04": {"muon_rate": 4e-2},
    "AdamW's rate 0.006": {"learning_rate": 6e-3},
    "decay from the start": {"stable_share": 0.0},
    "decay in the last fifth": {"stable_share": 0.8},
    "batches of 8": {"batch_size": 8},
    "average over 100 steps": {"ema_decay": 0.99},
    "a tenth far": {"far_share": 0.1},
    "any motion only": {"near": _near(name="near-any", look="broad", motion="any")},
    "free motion only": {"near": _near(name="near-free", look="broad", motion="free")},
    "free motion in the diverse look": {"near": _near(motion="free")},
}
"""The changes of the recipe or of its training, by name."""


@flush_denormals()
def run(home: Path, folder: Path = WEIGHTS, machine: MachineSpec = MachineSpec(), steps: int = STEPS) -> pd.DataFrame:
    """Train and measure missing variations, and write `recipes.csv`: variation, domain, measure, value.

    `domain` is empty for the mean loss of the last tenth of the steps.
    """
    recipe, parts = bases.recipe_of(SEED), []
    for name, changes in track(VARIATIONS.items(), what="recipes", total=len(VARIATIONS), unit="variations"):
        varied = _changed(recipe, steps, changes)
        aside = home / "recipes" / digest(varied)
        if not (aside / "rows.csv").is_file():
            model = bases.new_model("wan", SEED, WEIGHTS / recipe.autoencoder)
            sources = bases.sources_of(varied, model, home)
            mixture = bases.mixture_of(varied, sources, SEED)
            loop.fit(model, sources, mixture, varied.training, SEED, aside, name, machine=machine)
            rows = pd.concat([bases.measured(model, recipe.curve, home), _loss(aside)])
            write_atomically(aside / "rows.csv", lambda aside, rows=rows: rows.to_csv(aside, index=False))
        parts.append(reading.csv(aside / "rows.csv", keep_default_na=False).assign(variation=name))
    table = pd.concat(parts)[["variation", "domain", "measure", "value"]]
    write_atomically(folder / "recipes.csv", lambda aside: table.to_csv(aside, index=False, float_format="%.4f"))
    return table


def _changed(recipe: bases.Recipe, steps: int, changes: dict[str, Any]) -> bases.Recipe:
    """The recipe with fewer steps, whose number is adapted to the batch size to keep the number of clips."""
    of_training = {name: value for name, value in changes.items() if name not in vars(recipe)}
    training = replace(recipe.training, steps=steps, **of_training)
    training = replace(training, steps=steps * recipe.training.batch_size // training.batch_size)
    return replace(recipe, training=training, **{name: changes[name] for name in changes.keys() - of_training.keys()})


def _loss(folder: Path) -> pd.DataFrame:
    with reading.named(folder / "log.jsonl", "whole log"):
        losses = [line["loss"] for line in reading.json_lines(folder / "log.jsonl")]
    last = losses[-max(1, len(losses) // 10) :]
    return pd.DataFrame({"domain": [""], "measure": ["loss"], "value": [sum(last) / len(last)]})
