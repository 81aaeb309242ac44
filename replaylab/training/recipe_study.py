"""Short trainings of one base with one setting changed at a time: what the recipe of the second edition was chosen from.

    python -m replaylab pretrain recipes

Decision: every variation trains on the same clips, from the same weights and noise, for as many clips as STEPS steps have,
and is measured on dev as the bases are. One row a variation, domain and measure, in `recipes.csv` beside the weights; what
is done is kept in `home`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from replaylab.spec import WEIGHTS, MachineSpec, digest
from replaylab.training import bases, loop
from replaylab.util.distributed import flush_denormals
from replaylab.util.files import write_atomically
from replaylab.util.progress import track

STEPS, SEED = 900, 2
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
}
"""What is changed of the recipe's training, by name."""


@flush_denormals()
def run(home: Path, folder: Path = WEIGHTS, machine: MachineSpec = MachineSpec(), steps: int = STEPS) -> pd.DataFrame:
    """Train and measure what is missing, and write `recipes.csv`: variation, domain, measure, value.

    `domain` is empty for the mean loss of the last tenth of the steps.
    """
    recipe, parts = bases.recipe_of(SEED), []
    for name, changes in track(VARIATIONS.items(), what="recipes", total=len(VARIATIONS), unit="variations"):
        training = replace(recipe.training, steps=steps, **changes)
        training = replace(training, steps=steps * recipe.training.batch_size // training.batch_size)  # as many clips
        aside = home / "recipes" / digest(training)
        if not (aside / "rows.csv").is_file():
            model = bases.new_model("wan", SEED, WEIGHTS / recipe.autoencoder)
            sources = bases.sources_of(recipe, model, home)
            loop.fit(model, sources, bases.mixture_of(training, sources, SEED), training, SEED, aside, name, machine=machine)
            rows = pd.concat([bases.measured(model, recipe.curve, home), _loss(aside)])
            write_atomically(aside / "rows.csv", lambda aside, rows=rows: rows.to_csv(aside, index=False))
        parts.append(pd.read_csv(aside / "rows.csv", keep_default_na=False).assign(variation=name))
    table = pd.concat(parts)[["variation", "domain", "measure", "value"]]
    write_atomically(folder / "recipes.csv", lambda aside: table.to_csv(aside, index=False, float_format="%.4f"))
    return table


def _loss(folder: Path) -> pd.DataFrame:
    losses = [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]
    last = losses[-max(1, len(losses) // 10) :]
    return pd.DataFrame({"domain": [""], "measure": ["loss"], "value": [sum(last) / len(last)]})
