"""What was found about each claim? The verdicts as a table, a figure and a sentence; no torch.

Decision: verdict, effect, interval, seeds and rule stand together, each base's own mean beside them, so that no verdict
is read without what it rests on. A claim whose runs are missing has a line that says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from replaylab import figures
from replaylab.claims import CLAIMS, SEEDS_NEEDED, Claim, Judged, judge
from replaylab.verdicts import Verdict

UNITS = {"ade_px": "ADE, px", "effnet_kd": "EffNet-KD", "alignment": "ρ"}
COLOURS: dict[Verdict, str] = {
    "holds": "#0173b2", "does not hold": "#d55e00", "undecided": figures.GREY, "exploratory": "#cc78bc",
}  # fmt: skip
MISSING = "not run yet"


def judged(rows: pd.DataFrame) -> list[tuple[Claim, Judged | None]]:
    """Every claim of the preregistration with what the rows say; None where runs are missing."""
    return [(claim, judge(rows, claim)) for claim in CLAIMS]


def verdict_table(found: Sequence[tuple[Claim, Judged | None]]) -> Styler:
    """A line a claim: what was changed, by how much, and the verdict."""
    lines = [_line(claim, result) for claim, result in found]
    styler = figures.styled(pd.DataFrame(lines), "verdicts").hide(axis="index")
    return styler.map(
        lambda verdict: f"font-weight: bold; color: {COLOURS.get(verdict, figures.GREY)}", subset=["verdict"]
    )


def _line(claim: Claim, result: Judged | None) -> dict[str, str]:
    where = figures.DOMAINS.get(claim.domain, claim.domain)
    line = {
        "claim": claim.name,
        "says": claim.says,
        "arm": claim.arm.name,
        "measure": f"{UNITS[claim.measure]}, {where}",
    }
    if result is None:
        return {**line, "change": "–", "holds if": "–", "seeds": "–", "bases": "–", "verdict": MISSING}
    limit = figures.number(result.margin) if result.margin else "0"
    return {
        **line,
        "change": in_words(result),
        "holds if": f"{'under' if claim.side == 'below' else 'over'} {limit}",
        "seeds": str(result.interval.n),
        "bases": " and ".join(f"{mean:+.3g}" for mean in result.of_bases.values()),
        "verdict": result.verdict,
    }  # fmt: skip


def in_words(result: Judged) -> str:
    """The change and its interval, such as "+1.2 (0.9 to 1.5)"."""
    interval = result.interval
    return f"{interval.estimate:+.3g} ({interval.low:.3g} to {interval.high:.3g})"


def forest(found: Sequence[tuple[Claim, Judged | None]]) -> Figure:
    """Each claim's change with its interval, in units of what the claim's own interval and margin span; seeds of the two
    bases apart. The shaded side is where the claim holds.
    """
    shown = [(claim, result) for claim, result in found if result is not None]
    with figures.style():
        figure, panels = plt.subplots(
            max(len(shown), 1), 1, figsize=(figures.WIDTH, 0.4 + 0.72 * max(len(shown), 1)), squeeze=False
        )
        for axes, (claim, result) in zip(panels[:, 0], shown, strict=False):
            _one_of_the_forest(axes, claim, result)
        if not shown:
            panels[0, 0].set_axis_off()
            panels[0, 0].text(0, 0.5, "No claim has its runs yet.", va="center")
        figure.tight_layout(h_pad=0.2)
        plt.close(figure)
    return figure


def _one_of_the_forest(axes: plt.Axes, claim: Claim, result: Judged) -> None:
    interval, margin = result.interval, result.margin
    reach = (
        max(abs(interval.low), abs(interval.high), abs(margin), *map(abs, result.of_bases.values())) * 1.15
    )
    axes.set(xlim=(-reach, reach), ylim=(-1, 1), yticks=[])
    axes.axvspan(
        *((-reach, margin) if claim.side == "below" else (margin, reach)), color="#0173b2", alpha=0.12, lw=0
    )
    axes.axvline(0, color=figures.GREY, lw=0.8)
    axes.plot([interval.low, interval.high], [0, 0], color=COLOURS[result.verdict], lw=2.5)
    axes.plot(interval.estimate, 0, "o", color=COLOURS[result.verdict], ms=7)
    for mean in result.of_bases.values():
        axes.plot(mean, 0, "|", color=figures.INK, ms=11)
    axes.set_title(f"{claim.name}: {claim.says} – {result.verdict}", fontsize=9)
    axes.set_xlabel(f"change of {UNITS[claim.measure]}", fontsize=8, labelpad=1)
    axes.spines["left"].set_visible(False)


def standing(found: Sequence[tuple[Claim, Judged | None]]) -> str:
    """Markdown: how many claims have a verdict, and each in a sentence."""
    lines = []
    for claim, result in found:
        if result is None:
            lines.append(f"- **{claim.name}** ({claim.says}): {MISSING}.")
            continue
        why = f" ({result.why})" if result.why else ""
        lines.append(
            f"- **{claim.name}** ({claim.says}): **{result.verdict}**{why}. {UNITS[claim.measure]} on "
            f"{figures.DOMAINS.get(claim.domain, claim.domain)} changes by {in_words(result)}, {result.interval.n} seeds. "
            f"{result.rule}"
        )
    decided = sum(result is not None and result.verdict != "exploratory" for _, result in found)
    head = f"{decided} of {len(found)} preregistered endpoints have the {SEEDS_NEEDED} seeds that a verdict takes."
    return "\n".join([head, "", *lines])
