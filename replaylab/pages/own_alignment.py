"""The top of the page on claim C3: the claim's verdict, or a reader's own runs of its targets.

The functions take an `alignment.Sweeps`. Decision: a reader's own runs are compared target by target; the clips shown are
those of runs without replay.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd

from replaylab.analysis import alignment
from replaylab.analysis.alignment import CLAIM, DYNAMICS, EVENTFUL, FIDELITY, ORDINARY, PREREGISTERED, Sweeps
from replaylab.analysis.changes import of_measure
from replaylab.analysis.statistics import interval
from replaylab.catalogue import ALIGNMENT, PUBLISHED, domain_of, measure_of
from replaylab.pages import own_results, sample_clips, second_edition, verdicts
from replaylab.pages.alignment import judged_claim, last_changes, target_name
from replaylab.pages.own_results import Comparison, OwnRun
from replaylab.spec import RunSpec
from replaylab.store import published_folder, store_of
from replaylab.sweeps.presets import PRESETS


def own_run_of(made: Sweeps, store: str | Path = "") -> OwnRun | None:
    """A reader's own runs of these presets; None for published ones. `store`: as given to `alignment.read`."""
    home = store_of(made.presets[0], store)
    if not own_results.is_own(home, made.presets, made.runs):
        return None
    steps, targets = PRESETS[made.presets[0]].training.steps, ", ".join(map(target_name, made.done_targets))
    what = f"{steps} steps of fine-tuning on {targets or 'ordinary driving with replay'}"
    options = f'-y "presets: [{", ".join(made.presets)}]"'
    return OwnRun(
        "06_alignment", made.runs, home, what, partial(_effects, made), options, find_shown=partial(_shown, made, home),
        shown_rule="without replay, by target",
    )  # fmt: skip


def _effects(made: Sweeps) -> list[Comparison]:
    """Changes and ρ of each target without replay, and the endpoint of C3, beside the published ones."""
    presets = made.presets if {*made.presets} <= {*PUBLISHED} else verdicts.PREREGISTERED
    both = made, alignment.read(presets, store=published_folder())
    found = []
    for target in made.done_targets:
        for measure, domain in ((FIDELITY, ORDINARY), (DYNAMICS, ORDINARY), (DYNAMICS, EVENTFUL)):
            effect = f"{measure_of(measure).name}, {domain_of(domain).label}: fine-tuned on {target_name(target)}"
            changes = (of_measure(last_changes(one), measure, domain) for one in both)
            found.append(Comparison(effect, measure, *(interval(_of(one, target, "change")) for one in changes)))
        effect = f"ρ over checkpoints, {domain_of(EVENTFUL).label}: fine-tuned on {target_name(target)}"
        rhos = (_of(one.rhos_of(EVENTFUL, PREREGISTERED), target, "rho") for one in both)
        found.append(Comparison(effect, ALIGNMENT, *(interval(values, 1.0) for values in rhos)))
    target = CLAIM.configuration.target
    differences = (interval(alignment.rho_minus_ordinary(one, target), 2.0) for one in both)
    found.append(Comparison(f"ρ: {target_name(target)} − {target_name(ORDINARY)}", ALIGNMENT, *differences))
    return own_results.measured(found)


def _shown(made: Sweeps, home: Path) -> dict[str, RunSpec]:
    """The runs whose clips are shown: those without replay, by target."""
    without = ((run.target.name, run) for run in made.specs if not run.replay.fraction)
    there = sample_clips.of_one_seed(home, without)
    return {target_name(target): there[target] for target in made.targets if target in there}


def _of(table: pd.DataFrame, target: str, column: str) -> pd.Series[float]:
    return table.loc[table["target"] == target, column]


def opening(made: Sweeps, store: str | Path = "") -> str:
    """Markdown for the top of the page: the claim's verdict, effect, seeds, cost and command; or the banner of a reader's
    own runs.
    """
    if own := own_run_of(made, store):
        return own_results.banner(own)
    again = f"for preset in {' '.join(made.presets)}; do python -m replaylab sweep --preset $preset --store FOLDER; done"
    beside = second_edition.beside([CLAIM.name])
    return verdicts.opening(judged_claim(made), [CLAIM.name], made.runs, again, made.presets, store, beside)
