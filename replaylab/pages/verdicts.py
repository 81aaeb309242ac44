"""The verdicts of the claims as a table, a figure and sentences, and the opening of every page of results.

Decision: verdict, effect, interval, seeds and rule are shown together, with the mean of each base, so that no verdict is
read without its evidence. A claim with missing runs has a line with the number of finished ones. Only the preregistered
presets give a verdict: all other runs are exploratory, whatever the number of their seeds.

Refused: presets that measure different splits together.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from replaylab.analysis import statistics
from replaylab.analysis.claims import CLAIMS, SEEDS_NEEDED, Claim, Configuration, Judged, changes, judge
from replaylab.analysis.statistics import Verdict, describe
from replaylab.analysis.tables import for_changes
from replaylab.catalogue import PSEUDO, domain_of, measure_of
from replaylab.pages import replay_sweep
from replaylab.pages.style import GREY, INK, SMALLEST_PT, WIDTH, IntervalCell, figure_style, styled, text_figure
from replaylab.store import Store, published_folder, store_of
from replaylab.sweeps import sweep
from replaylab.sweeps.presets import EDITIONS, PRESETS
from replaylab.sweeps.sweep import Table
from replaylab.util.text import counted, duration, number, percent

COLOURS: dict[Verdict, str] = {
    "holds": "#0173b2", "does not hold": "#d55e00", "undecided": GREY, "exploratory": "#cc78bc",
}  # fmt: skip
WORDS: dict[Verdict, str] = {
    "holds": "supported", "does not hold": "contradicted", "undecided": "inconclusive", "exploratory": "exploratory",
}  # fmt: skip
"""The words for verdicts on the pages."""
COLOURS_OF_WORDS = {WORDS[verdict]: colour for verdict, colour in COLOURS.items()}
MISSING, TOO_FEW = "not run yet", "too few runs"
BUDGET_ENDPOINTS = (("effnet_kd", "driving"), ("ade_px", "driving"), ("ade_px", "driving-eventful"))
PREREGISTERED = EDITIONS["first"].claims
Judgements = Sequence[tuple[Claim, Judged | None]]
JUDGED = {"ade_px", "effnet_kd", PSEUDO["effnet_kd"]}
"""The measures that determine the verdicts."""
SHOWN = JUDGED | set(replay_sweep.TABLE)
"""The measures that the page on the replay sweep shows."""


def read_together(
    presets: Sequence[str] = PREREGISTERED, store: str | Path = "", measures: Collection[str] = frozenset(JUDGED)
) -> Table:  # fmt: skip
    """Several presets as one table with the rows of some measures, each run and each reference once.

    `runs` has a further column `target`. Nothing is trained. ValueError for presets of different splits.
    """
    parts = [sweep.read(preset, store=store, measures=measures) for preset in presets]
    if len({part.split for part in parts}) > 1:
        raise ValueError(f"presets {', '.join(presets)} do not measure the same split; name some that do")
    rows = parts[0].rows
    for part in parts[1:]:
        rows = pd.concat([rows, part.rows[~part.rows["run"].isin(rows["run"].unique())]], ignore_index=True)
    specs = {spec.run_id: spec for part in parts for spec in part.specs}
    runs = pd.concat([part.runs for part in parts]).drop_duplicates("run", ignore_index=True)
    runs = runs.assign(target=[specs[run].target.name for run in runs["run"]])
    return replace(parts[0], preset=" + ".join(presets), rows=rows, runs=runs, specs=tuple(specs.values()))


def with_runs_without_replay(table: Table, measures: Collection[str]) -> Table:
    """The table with the runs of the preset that has those without replay (`Preset.without_replay_in`), if it is another."""
    without = PRESETS[table.preset].without_replay_in
    return replace(read_together((without, table.preset), table.store, measures), preset=table.preset) if without else table


def of_target(table: Table, target: str) -> Table:
    """The table with only the runs that were fine-tuned on this domain, and all references."""
    specs = tuple(spec for spec in table.specs if spec.target.name == target)
    runs = table.runs[table.runs["run"].isin([spec.run_id for spec in specs])].reset_index(drop=True)
    return replace(table, rows=table.rows[table.rows["target"].isin(["", target])], runs=runs, specs=specs)


def control() -> Table:
    """The published runs without replay whose target is eventful driving, with the measures of `replay_sweep.PANELS`."""
    read = sweep.read("dose", store=published_folder(), measures=[measure for measure, _ in replay_sweep.PANELS])
    return of_target(read, "driving-eventful")


def configuration_name(one: Configuration) -> str:
    """A configuration in words, as in figures: "near replay 25 %", or "replay 0 %, fine-tuned on eventful driving"."""
    kind = f"{one.replay} " if one.replay and one.replay_fraction else ""
    target = "" if one.target == "driving" else f", fine-tuned on {domain_of(one.target).label}"
    return f"{kind}replay {percent(one.replay_fraction)}{target}"


def judge_all(rows: pd.DataFrame) -> list[tuple[Claim, Judged | None]]:
    """Every preregistered claim with its result; None if runs are missing."""
    few = for_changes(rows[rows["measure"].isin(JUDGED)])
    return [(claim, judge(few, claim)) for claim in CLAIMS]


def opening(
    found: Judgements, names: Sequence[str], runs: pd.DataFrame, command: str, presets: Sequence[str],
    store: str | Path = "", beside: Sequence[str] = (),
) -> str:  # fmt: skip
    """Markdown for the top of a page of results: each claim's verdict, effect, interval and seeds, then the cost of the runs
    and the command that makes them again.

    found: as from `judge_all`; names: the claims to show, "C2" for all that begin so. runs: those of the page, with columns
    run, replay, replay_fraction, state, and target if there are several. presets and store: the source of the runs. beside:
    sentences of claims without a verdict, shown with the others.
    """
    runs = runs if "target" in runs else runs.assign(target=PRESETS[presets[0]].targets[0])
    is_preregistered = set(presets) <= set(PREREGISTERED)
    shown = [(claim, result) for claim, result in found if claim.name.split(",")[0] in names]
    lines = [_opened(claim, result, runs, is_preregistered) for claim, result in shown]
    lines += [f"- {sentence}" for sentence in beside]
    note = ""
    if set(presets) <= set(EDITIONS["second"].claims):
        note = (
            f" They belong to the second edition, whose verdicts have a page of their own; by the rule of the first, their "
            f"results are {replay_sweep.EXPLORATORY}."
        )
    elif not is_preregistered:
        note = f" They are not the preregistered ones: their results are {replay_sweep.EXPLORATORY}."
    elif (runs["state"] != "done").any():
        note = " **The sweep is not complete yet.**"
    split, home = PRESETS[presets[0]].split, store_of(presets[0], store)
    return "\n".join([*lines, *status_lines(runs, presets, split, command, home, note)])


def status_lines(
    runs: pd.DataFrame, presets: Sequence[str], split: str, command: str, store: Path, note: str = ""
) -> list[str]:  # fmt: skip
    """Items of Markdown: the finished runs of these presets and a note, their cost, and the command that repeats them."""
    done = int((runs["state"] == "done").sum())
    which = f"preset{'s' * (len(presets) > 1)} {', '.join(presets)}; *{split}* split"
    return [
        f"- **Runs**: {done} of {len(runs)} are complete ({which}).{note}",
        f"- **Cost**: {cost_in_words(runs, store)}",
        f"- **Reproduce**: `{command}`",
    ]


def opening_of(table: Table, names: Sequence[str], options: str = "", beside: Sequence[str] = ()) -> str:
    """`opening` for the page of one preset; options: further options of its command."""
    command = " ".join(f"python -m replaylab sweep --preset {table.preset} {options} --store FOLDER".split())
    return opening(judge_all(table.rows), names, table.runs, command, [table.preset], table.store, beside)


def _opened(claim: Claim, result: Judged | None, runs: pd.DataFrame, is_preregistered: bool) -> str:
    head = f"- **{claim.name}**, {claim.statement}: "
    if result is None:
        some = (claim.configuration.select(runs)["state"] == "done").any()
        needed = f"two are needed for an effect, {SEEDS_NEEDED} for a verdict"
        return f"{head}**{TOO_FEW if some else MISSING}** ({_count_runs(claim, runs)}; {needed})."
    verdict = result.verdict if is_preregistered else "exploratory"
    seeds = f"{result.interval.n} seeds of {configuration_name(claim.configuration)}"
    words = f"{head}**{WORDS[verdict]}**. {_where(claim)}: {_change(claim, result)}, {seeds}"
    if verdict == "exploratory":
        return f"{words}; no verdict ({_count_runs(claim, runs)})." if is_preregistered else f"{words}."
    why = f"; {result.why}" if result.why else ""
    return f"{words}. Supported if the interval lies {_limit(claim, result)}{why}."


def _count_runs(claim: Claim, runs: pd.DataFrame) -> str:
    """The number of a claim's finished runs, such as "2 of 5 runs of near replay 25 % are complete"."""
    both = [one for one in (claim.configuration, claim.against) if one is not None]
    counts = [(one.select(runs)["state"] == "done", configuration_name(one)) for one in both]
    return " and ".join(f"{done.sum()} of {len(done)} runs of {name} are complete" for done, name in counts)


def _where(claim: Claim) -> str:
    return f"{measure_of(claim.measure).name}, {domain_of(claim.domain).label}"


def _change(claim: Claim, result: Judged) -> str:
    return describe(result.interval, measure_of(claim.measure).digits)


def _limit(claim: Claim, result: Judged) -> str:
    return f"{claim.side} {number(result.margin, measure_of(claim.measure).digits) if result.margin else '0'}"


def progress(runs: pd.DataFrame) -> str:
    """Markdown: the number of complete preregistered runs, in all and in each incomplete configuration."""
    done = runs["state"] == "done"
    if done.all():
        return f"All **{len(runs)}** preregistered runs are complete."
    parts = []
    for (target, fraction, kind), of in done.groupby([runs["target"], runs["replay_fraction"], runs["replay"]], sort=False):
        if not of.all():
            parts.append(f"{configuration_name(Configuration(kind, fraction, target))}: {of.sum()} of {len(of)}")
    return (
        f"**{int(done.sum())} of {len(runs)} preregistered runs are complete**, and a claim whose configuration has fewer "
        f"than {SEEDS_NEEDED} seeds has no verdict. Incomplete: {'; '.join(parts)}."
    )


def cost_in_words(runs: pd.DataFrame, store: Path) -> str:
    """The time of the finished runs, from their summaries: in all, the median, and the machine."""
    done = runs.loc[runs["state"] == "done", "run"]
    summaries: list[dict[str, Any]] = [Store(store).summary(run) for run in done]
    if not summaries:
        return "no run is finished yet."
    seconds = [one["seconds"] for one in summaries]
    hours = f"{sum(seconds) / 3600:.1f} hours" if sum(seconds) > 3600 else duration(sum(seconds))
    return (
        f"{counted(len(seconds), 'run')}, {hours} in all, {duration(median(seconds))} each (the median), on "
        f"{machines_in_words(summaries)}."
    )


def machines_in_words(summaries: Sequence[dict[str, Any]]) -> str:
    """The machines of runs, from their summaries, such as "2 x86_64 processors, 1 thread a run"."""
    machines = dict.fromkeys(f"{one['processors']} {one['machine']} processors, {_device(one)}" for one in summaries)
    return " or ".join(machines)


def _device(summary: dict[str, Any]) -> str:
    device, threads = (summary["execution"][name] for name in ("device", "threads"))
    return f"{counted(threads, 'thread')} a run" if device == "cpu" else f"device {device}"


def verdict_table(found: Judgements) -> Styler:
    """A row per claim: the verdict, the change with its interval, and the rule."""
    lines = [_line(claim, result) for claim, result in found]
    shown = ["claim", "statement", "verdict", "change", "supported if", "measure"]
    styler = styled(pd.DataFrame(lines), "verdicts", shown=shown).hide(axis="index")
    # A coloured edge, because coloured words are hard to read on either a light or a dark page.
    return styler.map(edge, subset=["verdict"])


def edge(verdict: str) -> str:
    """The style of a cell with the word for a verdict."""
    return f"font-weight: bold; border-left: 5px solid {COLOURS_OF_WORDS.get(verdict, GREY)}"


def _line(claim: Claim, result: Judged | None) -> dict[str, Any]:
    change = IntervalCell(statistics.interval([]) if result is None else result.interval, measure_of(claim.measure).digits)
    line = {
        "claim": claim.name, "statement": claim.statement, "verdict": MISSING, "change": change, "supported if": "–",
        "seeds": change.interval.n, "measure": _where(claim), "configuration": configuration_name(claim.configuration),
    }  # fmt: skip
    if result is None:
        return line
    bases = {f"mean of base {place}": mean for place, mean in enumerate(result.of_bases.values(), start=1)}
    return {**line, "verdict": WORDS[result.verdict], "supported if": _limit(claim, result), **bases}


def budgets(store: str | Path = "") -> pd.DataFrame:
    """Changes with replay after as many steps as without, and after as many driving samples (more steps); exploratory.

    Columns configuration, budget, steps, and for each endpoint an `Interval`, None if runs are missing.
    """
    seeds, store = [0, 1, 2], store or published_folder()
    tables = {
        "equal steps": sweep.read("published", [0.0, 0.1, 0.25], seeds, store, "steps", JUDGED),
        "equal driving samples": sweep.read("published", [0.1, 0.25], seeds, store, "driving-samples", JUDGED),
    }
    lines = []
    for budget, table in tables.items():
        steps = {(spec.replay.name, spec.replay.fraction): spec.training.steps for spec in table.specs}
        for (kind, fraction), count in steps.items():
            configuration = Configuration(kind, fraction)
            line: dict[str, Any] = {"configuration": configuration_name(configuration), "budget": budget, "steps": count}
            for measure, domain in BUDGET_ENDPOINTS:
                found = changes(table.rows, configuration, measure, domain) if len(table.rows) else None
                change = None if found is None else statistics.seeds_and_scenes(found[0])
                line[f"{measure_of(measure).name}, {domain_of(domain).label}"] = change
            lines.append(line)
    return pd.DataFrame(lines)


def budgets_table(made: pd.DataFrame) -> Styler | None:
    """The table of `budgets`; None if it is empty, as on the page of a reader's own run."""
    if made.empty:
        return None
    words = made.copy()
    for column, digits in zip(words.columns[3:], _digits_of_budgets(), strict=True):
        words[column] = [MISSING if one is None else IntervalCell(one, digits) for one in made[column]]
    return styled(words, "budgets").hide(axis="index")


def _digits_of_budgets() -> list[str]:
    return [measure_of(measure).digits for measure, _ in BUDGET_ENDPOINTS]


def budgets_summary(made: pd.DataFrame) -> str:
    """Markdown: the changes of ADE on eventful driving in `budgets`."""
    if made.empty:
        return "This section is about the published runs; its table is on the book's page on replay."
    column = made.columns[-1]
    by = {(line["configuration"], line["budget"]): line[column] for _, line in made.iterrows()}
    none = by[made["configuration"][0], "equal steps"]
    names = list(made["configuration"][made["budget"] != "equal steps"])
    pairs = [(name, by[name, "equal steps"], by[name, "equal driving samples"]) for name in names]
    if none is None or any(one is None for pair in pairs for one in pair):
        return "Not all runs of equal driving samples are complete."
    digits = _digits_of_budgets()[-1]
    each = [f"{name}: {describe(equal, digits)} and {describe(longer, digits)}" for name, equal, longer in pairs]
    return (
        f"{column} changes by {describe(none, digits)} without replay. With equal steps, and with equal driving samples: "
        f"{'; '.join(each)}."
    )


def forest(found: Judgements) -> Figure:
    """Each claim's change with its interval, a panel per measure; dashed: the margin, which the interval of a supported
    claim does not cross.
    """
    shown = [(claim, result) for claim, result in found if result is not None]
    if not shown:
        return text_figure("No claim has enough runs yet.")
    blocks: dict[str, list[tuple[Claim, Judged]]] = {}
    for claim, result in shown:
        blocks.setdefault(claim.measure, []).append((claim, result))
    blocks = dict(sorted(blocks.items(), key=lambda block: -len(block[1])))
    with figure_style():
        heights = [0.75 + 0.5 * len(block) for block in blocks.values()]
        figure, panels = plt.subplots(
            len(blocks), 1, figsize=(WIDTH, sum(heights)), squeeze=False, height_ratios=heights, layout="constrained"
        )
        for axes, (measure, block) in zip(panels[:, 0], blocks.items(), strict=True):
            _block(axes, measure, block)
        plt.close(figure)
    return figure


def _block(axes: Axes, measure: str, block: Judgements) -> None:
    axes.axvline(0, color=GREY, lw=0.8)
    for place, (claim, result) in enumerate(block):
        if result is None:
            continue
        interval, colour = result.interval, COLOURS[result.verdict]
        axes.plot([interval.low, interval.high], [place, place], color=colour, lw=3)
        axes.plot(interval.estimate, place, "o", color=colour, ms=7)
        axes.plot(list(result.of_bases.values()), [place] * len(result.of_bases), "|", color=INK, ms=10)
        axes.plot([result.margin] * 2, [place - 0.3, place + 0.3], color=INK, lw=1.2, ls=(0, (3, 2)))
        axes.annotate(f"{claim.name.split(',')[0]}: {claim.statement} – {WORDS[result.verdict]}", (0.0, place), (0, 11),
                      xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=SMALLEST_PT)  # fmt: skip
    axes.set(ylim=(len(block) - 0.5, -0.85), yticks=[], xlabel=f"change of {measure_of(measure).name}")
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)


def summary(found: Judgements) -> str:
    """Markdown: the number of claims with a verdict, and the result of each in a sentence."""
    lines = []
    for claim, result in found:
        if result is None:
            lines.append(f"- **{claim.name}** ({claim.statement}): {MISSING}.")
            continue
        why = f" ({result.why})" if result.why else ""
        lines.append(
            f"- **{claim.name}** ({claim.statement}): **{WORDS[result.verdict]}**{why}. {measure_of(claim.measure).name} on "
            f"{domain_of(claim.domain).label} changes by {_change(claim, result)}, {result.interval.n} seeds. "
            f"{result.rule}"
        )
    decided = sum(result is not None and result.verdict != "exploratory" for _, result in found)
    head = f"{decided} of {len(found)} preregistered endpoints have the {SEEDS_NEEDED} seeds that a verdict takes."
    return "\n".join([head, "", *lines])
