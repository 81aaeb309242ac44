"""The page on ablations: its data, table and sentences.

The functions take an `Ablations`, made by `read`, and return a pandas Styler or Markdown. Decision: early stopping is a
further alternative, whose settings are the evaluated steps of the run without replay; its setting is selected by the rule of
`ablations.best`. The recommendations are derived from the intervals of differences (`configurations.against_reference`), so
they state nothing that the intervals do not show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from replaylab.analysis import configurations, statistics
from replaylab.analysis.changes import of_measure
from replaylab.analysis.configurations import (
    DYNAMICS,
    EQUAL,
    FIDELITY,
    LAST,
    REFERENCE,
    TRADE,
    Configurations,
    by_replay,
    configurations_of,
    digits_of,
)
from replaylab.analysis.statistics import BETTER, CANNOT_TELL, FEW, WORSE, describe
from replaylab.analysis.tables import NONE
from replaylab.pages import comparisons, own_results, sample_clips, verdicts
from replaylab.pages.comparisons import by_outcome, describe_with_outcome, list_names, list_outcomes
from replaylab.pages.own_results import Comparison, OwnRun
from replaylab.pages.style import count_runs, styled
from replaylab.pages.verdicts import MISSING
from replaylab.spec import RunSpec
from replaylab.store import Store, published_folder, store_of
from replaylab.sweeps import ablations, presets
from replaylab.sweeps.ablations import NEAR_25, NO_REPLAY
from replaylab.sweeps.presets import EDITIONS, Edition, grid, steps_for
from replaylab.util.text import capital, counted, number, percent

EARLY_STOP = "early stop"
NEAR = "near replay"  # the method with which the alternatives are compared
ON_TARGET = (*configurations.FIDELITIES, configurations.ORDINARY_DYNAMICS)  # measures of the target itself
SHOWN = f"{NONE}, {REFERENCE}, and the configurations with the lowest and the highest change of ADE"
"""Whose clips are shown at the top of a reader's own page."""
USUAL = {
    "schedule": "constant replay", "source": "replay of near video", "control": "diverse, moving clips",
    "loss weight": "the same weight for all clips", "noise levels": "replay at all noise levels",
    "trained": "training all weights with replay",
}  # fmt: skip
"""Groups of ablations, and what near replay of 25 % has in their place."""
CHOSEN_BY = {"effnet_kd": "driving", "ade_px": "driving-eventful"}  # as in `ablations.best`: measure and domain


@dataclass(frozen=True)
class Ablations:
    """The finished runs of the page."""

    ablations: Configurations
    """near replay of 25 % with one change"""
    alternatives: Configurations
    """the alternatives to replay, each with its selected setting, beside replay 0 % and near replay of 25 %"""
    settings: pd.DataFrame
    """on the dev split: group, setting, effnet_kd and ade_px (means over seeds, NaN if some are missing), looks_as_good
    (EffNet-KD at most that of near replay 25 %), chosen"""
    areas: pd.Series[float]
    """method -> the area dominated by its settings, as a share of near replay's; empty if runs are missing"""
    fractions: Configurations
    """the replay fractions of the edition's sweep: of near replay in the first, of every kind in the second"""
    on_dev: pd.DataFrame
    """one row per run on the dev split: run, preset, seed, state"""
    edition: Edition
    own: OwnRun | None = None
    """the runs, if they are a reader's own"""


# ------------------------------------------------------------------------------------------------------------- reading
def read(seeds: Sequence[int] = (), store: str | Path = "", edition: str = "first") -> Ablations:
    """The finished runs of an edition, one of EDITIONS; nothing is trained. An empty `seeds` or `store` means the presets'
    own.

    Until `ablations.best` can select their settings, `alternatives` has only replay 0 % and near replay of 25 %. ValueError
    for another edition.
    """
    if edition not in EDITIONS:
        raise ValueError(f"edition {edition!r} is none of {', '.join(EDITIONS)}")
    of = EDITIONS[edition]
    home = store_of(of.dev, store)
    on_dev = _runs_on_dev(home, of.dev)
    settings = _settings(home, of.dev, on_dev)
    stop = settings.loc[settings["chosen"] & (settings["group"] == EARLY_STOP), "setting"]
    alternatives = _configurations(of.alternatives, "Alternatives to replay", seeds, home)
    if len(stop):
        alternatives = _stopped(alternatives, int(stop.item().removeprefix("step ")))
    changed = _configurations(of.ablations, "Near replay of 25 %, one thing changed", seeds, home)
    fractions = _fractions(of, seeds, home)
    made = Ablations(changed, alternatives, settings, _areas(settings, home, of.dev), fractions, on_dev, of)
    if not own_results.is_own(home, [of.ablations], changed.runs):
        return made
    steps, done = presets.PRESETS[of.ablations].training.steps, len(set(changed.done["configuration"]))
    counts = "{} of {} runs on *dev*".format(*_counts(on_dev))
    what = f"{done} of {len(changed.names)} ablations and {counts}, {steps} steps of fine-tuning each"
    needed, options = f"run of {REFERENCE} with another one", f"-p edition {edition}" if edition != "first" else ""
    return replace(made, own=OwnRun(
        "04_ablations", _runs(made), home, what, partial(_effects, made, edition), options, choosing=[of.dev], needed=needed,
        find_shown=partial(_shown, made, home), shown_rule=SHOWN,
    ))  # fmt: skip


def _runs_on_dev(home: Path, dev: str) -> pd.DataFrame:
    store = Store(home)
    runs = [(run.run_id, dev, run.seed, "done" if store.is_done(run) else "missing") for run in ablations.grid(dev)]
    return pd.DataFrame(runs, columns=["run", "preset", "seed", "state"]).drop_duplicates("run", ignore_index=True)


def _counts(runs: pd.DataFrame) -> tuple[int, int]:
    """The number of finished and of all runs."""
    return int((runs["state"] == "done").sum()), len(runs)


def _runs(made: Ablations) -> pd.DataFrame:
    """All runs of the page: run, preset, seed, state; without ids for alternatives whose settings are not chosen yet."""
    of, columns = made.edition, list(made.on_dev.columns)
    methods = dict.fromkeys(one.group for one in ablations.CANDIDATES[of.dev] if one.group != NEAR)
    known = set(made.alternatives.runs["group"])
    seeds = made.ablations.runs["seed"].unique()
    unknown = [
        (f"{one}, seed {seed}", of.alternatives, seed, "missing") for one in methods if one not in known for seed in seeds
    ]
    parts = [part.assign(preset=preset) for preset, part in
             ((of.alternatives, made.alternatives.runs), (of.ablations, made.ablations.runs))]  # fmt: skip
    runs = pd.concat([made.on_dev, pd.DataFrame(unknown, columns=columns), *parts])[columns]
    return runs.drop_duplicates("run", keep="last", ignore_index=True)


def _effects(made: Ablations, edition: str) -> list[Comparison]:
    """The difference of each configuration to near replay 25 % in ADE on eventful driving, at equal fidelity if it reaches
    that, beside the published one.
    """
    published, found = read(store=published_folder(), edition=edition), []
    for own, beside, left_out in (
        (made.ablations, published.ablations, {REFERENCE}),
        (made.alternatives, published.alternatives, {REFERENCE, NONE}),
    ):
        for name in [one for one in own.names if one not in left_out]:
            at_equal = not np.isnan(own.difference_from_reference(name, DYNAMICS, EQUAL).estimate)
            reading = EQUAL if at_equal else LAST
            differences = (one.difference_from_reference(name, DYNAMICS, reading) for one in (own, beside))
            found.append(Comparison(f"{DYNAMICS}, {reading}: {name} − {REFERENCE}", "ade_px", *differences))
    return own_results.measured(found)


def _shown(made: Ablations, home: Path) -> dict[str, RunSpec]:
    """The runs whose clips are shown (SHOWN)."""
    both = (made.ablations, made.alternatives)
    there = sample_clips.of_one_seed(home, ((name, run) for one in both for run, _, name in one.named))
    always = [NONE, REFERENCE]
    changes = {name: one.change(name).estimate for one in both for name in one.names if name in there and name not in always}
    in_order = pd.Series(changes, dtype=float).dropna().sort_values().index
    return {name: there[name] for name in [*always, *in_order[:1], *in_order[-1:]] if name in there}


def _fractions(of: Edition, seeds: Sequence[int], home: Path) -> Configurations:
    """`Ablations.fractions`, as far as this store has them: near replay, and in the second edition every kind."""
    runs = [run for preset in of.sweep for run in grid(preset, None, list(seeds))]
    kinds = ("", "near") if of == EDITIONS["first"] else {run.replay.name for run in runs}
    named = by_replay([run for run in runs if run.replay.name in kinds])
    return configurations_of(of.sweep[0], "Fractions of replay", named, home, "driving", "driving-eventful")


def _configurations(preset: str, title: str, seeds: Sequence[int], home: Path) -> Configurations:
    try:
        variations = ablations.variations(preset, home)
    except FileNotFoundError:
        variations, title = (NO_REPLAY, NEAR_25), f"{title}, settings not chosen yet"
    named = [
        (run, one.group, f"{one.group} {one.name}" if one in ablations.ALTERNATIVES else configurations.name_of(one))
        for one in variations
        for run in ablations.runs_of(preset, one, list(seeds))
    ]
    return configurations_of(preset, title, named, home, "driving", "driving-eventful")


def _stopped(made: Configurations, step: int) -> Configurations:
    """The same with early stopping as a further configuration: the runs without replay, at this step."""
    runs = made.runs[made.runs["configuration"] == NONE]
    runs = runs.assign(group=EARLY_STOP, configuration=f"{EARLY_STOP}, step {step}", last=step)
    return replace(made, runs=pd.concat([made.runs, runs], ignore_index=True))


def _settings(home: Path, dev: str, on_dev: pd.DataFrame) -> pd.DataFrame:
    """`Ablations.settings` from `Ablations.on_dev`; nothing is selected before all runs are finished."""
    candidates = ablations.CANDIDATES[dev]
    runs = {one: ablations.runs_of(dev, one) for one in (NO_REPLAY, NEAR_25, *candidates)}
    rows = Store(home).rows(list(on_dev.loc[on_dev["state"] == "done", "run"]), CHOSEN_BY)
    lines = [(one.group, one.name, *_by_step(runs[one], rows).iloc[-1]) for one in candidates]
    without = _by_step(runs[NO_REPLAY], rows)
    if len(without) > 1:
        lines += [(EARLY_STOP, f"step {step}", *values) for step, *values in without.itertuples(name=None)]
    table = pd.DataFrame(lines, columns=["group", "setting", *CHOSEN_BY])
    limit = _by_step(runs[NEAR_25], rows)["effnet_kd"].iloc[-1]
    table = table.assign(looks_as_good=table["effnet_kd"] <= limit, chosen=False)
    if table["effnet_kd"].notna().all() and not np.isnan(limit):
        chosen = [(one.group, one.name) for one in ablations.best(home, dev)]
        table["chosen"] = pd.MultiIndex.from_frame(table[["group", "setting"]]).isin(chosen)
        early = table[table["group"] == EARLY_STOP]
        if len(early):
            table.loc[ablations.choice(early, limit), "chosen"] = True
    return table


def _by_step(runs: Sequence[RunSpec], rows: pd.DataFrame) -> pd.DataFrame:
    """The measures by which settings are selected, a row for each evaluated step: means over runs, NaN if one is missing."""
    names = {run.run_id for run in runs}
    rows = rows[rows["run"].isin(names)]
    if set(rows["run"]) != names:
        return pd.DataFrame(np.nan, index=runs[0].evaluate_at, columns=list(CHOSEN_BY))
    return pd.DataFrame({
        measure: of_measure(rows, measure, domain).groupby(["run", "step"])["value"].mean().groupby("step").mean()
        for measure, domain in CHOSEN_BY.items()
    })  # fmt: skip


def _areas(settings: pd.DataFrame, home: Path, dev: str) -> pd.Series[float]:
    """`Ablations.areas`, by `statistics.hypervolume`; the reference point is the base's EffNet-KD and copying's ADE."""
    references = Store(home).references(ablations.runs_of(dev, NO_REPLAY), CHOSEN_BY)
    if references.empty or settings["effnet_kd"].isna().any() or NEAR not in set(settings["group"]):
        return pd.Series(dtype=float)
    means = references.groupby(["model", "measure", "domain"])["value"].mean()
    corner = [means[model, *of] for model, of in zip(("base", "copy-last-frame"), CHOSEN_BY.items(), strict=True)]
    groups = settings.groupby("group", sort=False)[list(CHOSEN_BY)]
    areas = groups.apply(lambda points: statistics.hypervolume(points.to_numpy(), corner))
    return areas / areas[NEAR] if areas[NEAR] > 0 else pd.Series(dtype=float)


# ---------------------------------------------------------------------------------------------------- opening, settings
def opening(made: Ablations, store: str | Path = "") -> str:
    """Markdown for the top of the page: the outcomes of the comparisons, the number of finished runs, cost and command; or
    the banner of a reader's own runs.
    """
    if made.own:
        return own_results.banner(made.own)
    runs = pd.concat([made.ablations.runs, made.alternatives.runs]).drop_duplicates("run")
    of = made.edition
    again = (
        f"for preset in {of.ablations} {of.dev} {of.alternatives}; "
        "do python -m replaylab sweep --preset $preset --store FOLDER; done"
    )
    beside = [f"**{one.title}**: {comparisons.short_summary(one)}" for one in (made.ablations, made.alternatives)]
    return verdicts.opening([], [], runs, again, (of.ablations, of.alternatives), store, beside)


def settings_table(made: Ablations) -> Styler:
    """The settings on the dev split: their measures, and which one was selected."""
    names = {"group": "method", "effnet_kd": FIDELITY, "ade_px": DYNAMICS, "looks_as_good": "fidelity kept"}
    shown = made.settings.drop(columns="chosen").rename(columns=names)
    for label in (FIDELITY, DYNAMICS):
        shown[label] = shown[label].map(partial(number, digits=digits_of(label)))
    shown["fidelity kept"] = shown["fidelity kept"].map({True: "yes", False: "no"})
    shown.loc[made.settings["effnet_kd"].isna(), [FIDELITY, DYNAMICS, "fidelity kept"]] = "–"
    shown["choice"] = [_choice(one) for one in made.settings.itertuples()]
    return styled(shown, "settings").hide(axis="index")


def _choice(one: Any) -> str:
    if np.isnan(one.effnet_kd):
        return MISSING
    if one.group == NEAR:
        return "the comparison"
    if not one.chosen:
        return "–"
    return "chosen" if one.looks_as_good else "chosen, best fidelity"


def settings_summary(made: Ablations) -> str:
    """Markdown: the selected setting of each method, or why there is none yet, and the areas dominated by the settings."""
    table = made.settings
    done, asked = _counts(made.on_dev)
    if done < asked:
        return (
            f"Settings on dev: {MISSING} ({done} of {asked} runs are complete). Until all are, no setting is chosen, and "
            "no alternative is run on the test split."
        )
    chosen = table[table["chosen"]]
    names = ", ".join(f"{one.group} {one.setting}" for one in chosen.itertuples())
    seeds = made.on_dev["seed"].nunique()
    text = f"Chosen on dev, with {'one seed' if seeds == 1 else counted(seeds, 'seed')}: {names}."
    if none := list(chosen.loc[~chosen["looks_as_good"], "group"]):
        text += f" No setting of {', '.join(none)} keeps the fidelity of {REFERENCE}: that with the best one is chosen."
    if len(made.areas):
        each = ", ".join(f"{group} {percent(share)}" for group, share in made.areas.items() if group != NEAR)
        text += (
            " Hypervolume (the area that a method's settings dominate in the plane of EffNet-KD and ADE, up to the base's "
            f"EffNet-KD and the ADE of copying the last frame), relative to that of near replay's five settings: {each}."
        )
    return text


# ------------------------------------------------------------------------------------------------------- recommendations
def answer(made: Ablations) -> str:
    """Markdown: recommendations derived from the runs: fraction, schedule, source, clips, cost, and alternatives."""
    changed = made.ablations
    if changed.done.empty:
        return f"Recommendations: {MISSING}, {count_runs(changed.runs)}."
    there = set(changed.runs["group"])
    items = [
        _of_fractions(changed, made.fractions),
        *(_of_group(changed, group, usual) for group, usual in USUAL.items() if group in there),
        _of_buffers(changed),
        _of_pairs(changed),
        _of_cost(changed),
        _of_alternatives(made.alternatives),
        _of_doubt(changed),
    ]
    return "\n".join(f"- {item}" for item in items)


def _of_fractions(made: Configurations, swept: Configurations) -> str:
    """Replay or none, from the ablations; then the other fractions of the sweep, and the differences of better ones."""
    found = by_outcome(made, [name for name in (NONE, "near replay 1 %") if name in made.names])
    word = next(word for word, names in found.items() if NONE in names)
    advice = {
        WORSE: f"do replay: {REFERENCE} is better than {NONE}",
        BETTER: f"do not replay: {NONE} is better than {REFERENCE}",
        TRADE: "it depends: replay is better in one of fidelity and accuracy, and worse in the other",
        CANNOT_TELL: f"the data cannot tell {REFERENCE} from {NONE}",
    }.get(word, "no recommendation, which takes three seeds")
    others = [name for name in swept.names if name not in (REFERENCE, NONE)]
    stands = by_outcome(swept, others)
    seeds = swept.done.loc[swept.done["configuration"].isin(others), "seed"].nunique()
    text = f"**Fraction**: {advice} ({list_outcomes(found)})."
    if seeds:
        text += f" Of the replay sweep's fractions ({counted(seeds, 'seed')}): {list_outcomes(stands)}."
    for name in stands.get(BETTER, []) + stands.get(TRADE, []):
        motion, fidelity = (
            describe(swept.difference_from_reference(name, label), digits_of(label)) for label in (DYNAMICS, FIDELITY)
        )
        text += f" *{capital(name)}* − {REFERENCE}: ADE {motion} px, EffNet-KD {fidelity}."
    return text


def _of_group(made: Configurations, group: str, usual: str) -> str:
    found = by_outcome(made, list(made.runs.loc[made.runs["group"] == group, "configuration"].unique()))
    if found.get(BETTER):
        advice = f"take {list_names(found[BETTER])}"
    elif {FEW, MISSING} & set(found):
        advice = f"no recommendation: not all have the three seeds that a comparison with {usual} takes"
    else:
        advice = f"nothing is shown to be better than {usual}"
    return f"**{capital(group)}**: {advice} ({list_outcomes(found)})."


def _of_buffers(made: Configurations) -> str:
    here = made.runs[(made.runs["group"] == "buffer") | (made.runs["configuration"] == REFERENCE)]
    kept = here.groupby("configuration")["clips_kept"].first().sort_values()
    whole = f"all {kept.pop(REFERENCE)}"
    found = by_outcome(made, list(kept.index))
    unshown = [name for name in kept.index if name not in found.get(WORSE, [])]
    if {FEW, MISSING} & set(found):
        advice = f"no recommendation: not all have the three seeds that a comparison with {whole} takes"
    elif unshown:
        advice = f"*{unshown[0]}* are the fewest that are not shown to be worse than {whole}"
    else:
        advice = f"keep {whole}: every smaller buffer is worse"
    return f"**Clips to keep**: {advice} ({list_outcomes(found)})."


def _of_pairs(made: Configurations) -> str:
    """With − without replay, for every configuration that was run in both ways."""
    each = []
    for name in made.names:
        without = NONE if name == REFERENCE else f"{name}, {NONE}"
        if without in made.names:
            difference = made.difference(name, without)
            each.append(f"*{name}* {MISSING if np.isnan(difference.estimate) else describe_with_outcome(difference)}")
    topics = {"target": "the target's size", "trained": "what is trained"}
    varied = " and ".join(words for group, words in topics.items() if group in set(made.runs["group"]))
    return (
        f"**Does replay help, whatever {varied}?** With − without replay in ADE on eventful driving, px: {'; '.join(each)}."
    )


def _of_cost(made: Configurations) -> str:
    training, share = presets.PRESETS[made.preset].training, 0.25
    longer = steps_for(training.steps * training.batch_size, share, training.batch_size)
    medians = made.done.groupby("configuration")["step_seconds"].median()
    steps_ms = [1000 * medians.get(name, np.nan) for name in (REFERENCE, NONE)]
    text = (
        f"**Cost**: {percent(share)} of every batch is not driving, so training on as much driving takes {longer} steps "
        f"instead of {training.steps}"
    )
    if np.isnan(steps_ms).any():
        return f"{text}; the time of a step: {MISSING}."
    differences = {label: made.difference(REFERENCE, NONE, label) for label in ON_TARGET}
    each = [f"{label} {describe_with_outcome(one, label)}" for label, one in differences.items()]
    return (
        f"{text}. A step took {steps_ms[0]:.0f} ms with replay and {steps_ms[1]:.0f} ms without (medians). On the target "
        f"itself, after the same number of steps, with − without replay: {'; '.join(each)}."
    )


def _of_alternatives(made: Configurations) -> str:
    names = [name for name in made.names if name not in (REFERENCE, NONE)]
    if not names:
        return f"**Instead of replay**: {MISSING}."
    return f"**Instead of replay**, against {REFERENCE}: {list_outcomes(by_outcome(made, names))}."


def _of_doubt(made: Configurations) -> str:
    names = [name for name in made.names if name != REFERENCE]
    differences = [made.difference_from_reference(name) for name in names]
    halves = [(one.high - one.low) / 2 for one in differences if not np.isnan(one.low)]
    if not halves:
        return "**Where the data cannot tell**: everywhere, because no configuration has three seeds yet."
    unsure = by_outcome(made, names).get(CANNOT_TELL, [])
    named = f" ({list_names(unsure)})" if unsure else ""
    return (
        f"**Where the data cannot tell**: {len(unsure)} of {len(names)} configurations{named} cannot be distinguished from "
        f"{REFERENCE}, which does not mean that they are equal: the difference of two configurations in ADE on eventful "
        f"driving is known to ± {number(median(halves), digits_of(DYNAMICS))} px (the median)."
    )
