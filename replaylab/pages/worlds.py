"""The page on the worlds: one function for each of its videos, tables, figures and sentences.

The functions take a `Survey` and return HTML, a pandas Styler, a matplotlib figure or Markdown. Decision: the direction and
the numbers of sentences are determined by the survey. Refused: videos selected by eye; they are the first of their split.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter
from pandas.io.formats.style import Styler

from replaylab.catalogue import DOMAINS, NATURAL, REPLAY, SECOND, TARGET, DomainEntry, domain_of
from replaylab.pages.style import GREY, INK, LIGHT_GREY, WIDTH, figure_style, finished, on_the_page, styled
from replaylab.util.text import capital, number, percent, plain_number

if TYPE_CHECKING:
    from replaylab.analysis.world_survey import Survey

COLUMNS = {
    "patterns": "effective patterns",
    "lane_keepers": "agents that keep lane",
    "velocity_spread_px_s": "velocity spread (px/s)",
    "ego_yaw_deg_s": "ego yaw (°/s)",
    "moved_px": "agents move (px)",
}
COLOURS = dict(zip((TARGET, REPLAY, SECOND, NATURAL), sns.color_palette("colorblind"), strict=False))


# -------------------------------------------------------------------------------------------------------------- videos
CSS = """
.worlds { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: 1.4rem 1rem; }
.worlds figure { margin: 0; }
.worlds video { display: block; width: 100%; height: auto; border-radius: 4px; }
.worlds figcaption { margin: 0.4rem 0 0; font: inherit; font-size: 0.9rem; line-height: 1.4; text-align: left;
  color: inherit; }
.worlds figcaption span { opacity: 0.85; }
"""
# CSS cannot stop a video; for readers who prefer reduced motion, videos are paused and can be started.
SCRIPT = """
if (window.matchMedia("(prefers-reduced-motion: reduce)").matches)
  document.querySelectorAll(".worlds video").forEach(video => { video.autoplay = false; video.pause(); });
"""


def videos(survey: Survey, *groups: str) -> HTML:
    """The sample videos of the domains of some groups of the catalogue (none: all), embedded in the page."""
    chosen = [name for name in _ordered(survey.domains) if not groups or domain_of(name).group in groups]
    if not chosen:
        return HTML("<p>None of these domains was requested.</p>")
    figures = "\n".join(_video(name, survey.sample(name)) for name in chosen)
    style = f"{on_the_page('worlds')}<style>{CSS}</style>"
    return HTML(f'{style}\n<div class="worlds">\n{figures}\n</div>\n<script>{SCRIPT}</script>')


def _video(domain: str, mp4: bytes) -> str:
    entry = domain_of(domain)
    name = html.escape(capital(entry.label))
    label = f"{name}: six videos side by side, with boxes around the agents and dots where they were before"
    source = "data:video/mp4;base64," + base64.b64encode(mp4).decode()
    return (
        f'<figure><video src="{source}" aria-label="{label}" controls loop muted autoplay playsinline></video>'
        f"<figcaption><strong>{name}</strong> <code>{html.escape(domain)}</code><br>"
        f"<span>{html.escape(capital(entry.role))}</span></figcaption></figure>"
    )


def _ordered(domains: Sequence[str]) -> list[str]:
    """The domains in the catalogue's order; others last."""
    return sorted(domains, key=lambda name: list(DOMAINS).index(name) if name in DOMAINS else len(DOMAINS))


# --------------------------------------------------------------------------------------------------------------- table
def statistics_table(survey: Survey) -> Styler:
    """A row per domain, a column per statistic: the value, and below it its 95 % interval."""
    domains, values = _ordered(survey.domains), survey.statistics.set_index("domain")
    of_statistics = {name: values[values["statistic"] == name].loc[domains] for name in COLUMNS}
    shown = {
        COLUMNS[name]: pd.Series([_cell(one) for _, one in of.iterrows()], of.index, dtype=object)
        for name, of in of_statistics.items()
    }
    table = pd.DataFrame({**shown, "windows": of_statistics["patterns"]["n"].map("{:.0f}".format)})
    table.index = [capital(domain_of(name).label) for name in domains]
    groups = pd.Series([domain_of(name).group for name in domains])
    firsts = np.flatnonzero(groups != groups.shift())
    intervals = [
        {"selector": "td", "props": "line-height: 1.35"},
        {"selector": "td small", "props": "opacity: 0.8; font-size: 0.85em"},
    ]
    in_view = list(COLUMNS.values())
    styler = styled(table, "worlds-statistics", ruled=firsts, shown=in_view, values=survey.statistics)
    return styler.set_table_styles(intervals, overwrite=False)


def _cell(one: pd.Series[Any]) -> str:
    if np.isnan(one["value"]):
        return "–"
    text = _number(one["value"], one["statistic"])
    if np.isnan(one["low"]) or one["low"] == one["high"]:  # one video, or no two that differ
        return text
    low, high = (_number(one[end], one["statistic"]).removesuffix(" %") for end in ("low", "high"))
    return Markup("{}<br><small>{} – {}</small>").format(text, low, high)


def _number(value: float, statistic: str) -> str:
    return percent(round(value, 2)) if statistic == "lane_keepers" else plain_number(value)


# ------------------------------------------------------------------------------------------------------------- figures
def velocity_clouds(survey: Survey) -> Figure:
    """The velocities of agents in the image (px/s), a panel per domain with the same axes."""
    domains = _ordered(survey.domains)
    speeds = survey.velocities
    larger = speeds[["vx_px_s", "vy_px_s"]].abs().max(axis=1)
    limit = float(max(10.0, np.ceil(larger.quantile(0.985) / 10) * 10))
    rows = -(-len(domains) // 3)
    with figure_style():
        figure, panels = plt.subplots(rows, 3, figsize=(WIDTH, 1.8 * rows + 0.7), sharex=True, sharey=True, squeeze=False)
        for axes, domain in zip(panels.flat, domains, strict=False):
            _cloud(axes, speeds[speeds["domain"] == domain], domain_of(domain), limit)
        for axes in panels.flat[len(domains) :]:
            axes.set_axis_off()
        panels.flat[0].set(xlim=(-limit, limit), ylim=(limit, -limit))  # y downwards, as in the image
        figure.supxlabel("velocity to the right (px/s)", fontsize=10)
        figure.supylabel("velocity downwards (px/s)", fontsize=10)
        return finished(figure, "How agents move in the image")


def _cloud(axes: Axes, speeds: pd.DataFrame, entry: DomainEntry, limit: float) -> None:
    for line in (axes.axhline, axes.axvline):
        line(0, color=GREY, lw=0.6, zorder=0)
    colour = COLOURS.get(entry.group, INK)
    sns.scatterplot(speeds, x="vx_px_s", y="vy_px_s", s=9, alpha=0.45, linewidth=0, color=colour, ax=axes, legend=False)
    outside = int((speeds[["vx_px_s", "vy_px_s"]].abs() > limit).any(axis=1).sum())
    if outside:
        axes.text(0.98, 0.02, f"{outside} of {len(speeds)} outside", ha="right", va="bottom",
                  fontsize=8, color=GREY, transform=axes.transAxes,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})  # fmt: skip
    axes.set_title(_wrapped(capital(entry.label)), fontsize=9)
    axes.set(xlabel="", ylabel="", aspect="equal")


def patterns_figure(survey: Survey) -> Figure:
    """The effective number of motion patterns of each domain with its 95 % interval, on a logarithmic axis."""
    values = survey.statistics[survey.statistics["statistic"] == "patterns"].set_index("domain")
    domains = _ordered(survey.domains)
    with figure_style():
        figure, axes = plt.subplots(figsize=(WIDTH, 0.34 * len(domains) + 1.2))
        for row, domain in enumerate(domains):
            one, colour = values.loc[domain], COLOURS.get(domain_of(domain).group, INK)
            axes.plot([one["low"], one["high"]], [row, row], color=colour, lw=2, zorder=2, solid_capstyle="round")
            axes.plot(one["value"], row, "o", color=colour, ms=7, mec="white", mew=0.8, zorder=3)
        axes.set(xscale="log", xlim=(0.93, survey.windows * 1.07), ylim=(len(domains) - 0.4, -0.6))
        ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if tick < 0.75 * survey.windows]
        axes.set_xticks([*ticks, survey.windows])
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", length=0)
        axes.grid(axis="x", color=LIGHT_GREY, lw=0.8)
        axes.set_axisbelow(True)
        axes.set_yticks(range(len(domains)), [capital(domain_of(domain).label) for domain in domains])
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"effective number of motion patterns in {survey.windows} windows")
        axes.spines["left"].set_visible(False)
        return finished(figure, "How repetitive is the motion?")


def drawn_patterns(survey: Survey) -> pd.DataFrame:
    """The values of `patterns_figure`: domain, value, low, high and n."""
    return survey.statistics[survey.statistics["statistic"] == "patterns"].drop(columns="statistic")


def _wrapped(name: str, width: int = 17) -> str:
    """A long name in two lines, so that titles of neighbouring panels do not overlap."""
    if len(name) <= width:
        return name
    words = name.split()
    breaks = [(" ".join(words[:cut]), " ".join(words[cut:])) for cut in range(1, len(words))]
    return "\n".join(min(breaks, key=lambda halves: max(map(len, halves)), default=(name, "")))


# --------------------------------------------------------------------------------------------------------------- texts
def status_line(survey: Survey) -> str:
    """Markdown: the preset and domains of the survey, and those that are missing or outdated."""
    text = (
        f"Preset **{survey.preset}**: {len(survey.domains)} domains, {survey.videos} videos of each "
        f"(the *{survey.split}* split)."
    )
    if survey.missing:
        text += f" **Not in this survey:** {', '.join(survey.missing)}."
    if survey.outdated:
        text += f" **Made from an earlier description of:** {', '.join(survey.outdated)}."
    return text


def summary(survey: Survey) -> str:
    """Markdown: ordinary driving compared with diverse driving, and the most and the least repetitive domain."""
    at = survey.statistics.set_index(["statistic", "domain"])
    lines = []
    if {"driving", "diverse-driving"} <= set(survey.domains):
        lines += [_patterns_of_the_twins(survey, at), _other_statistics_of_the_twins(at)]
    ranked = at.loc["patterns", "value"].dropna().sort_values()
    if len(ranked) > 1:
        ends = [f"*{domain_of(name).label}* ({_number(ranked[name], 'patterns')})" for name in ranked.index[[0, -1]]]
        lines.append(
            f"Of the {len(ranked)} domains, {ends[0]} is the most repetitive and {ends[1]} the least, "
            f"with {survey.windows} windows each."
        )
    return "\n".join(f"- {line}" for line in lines) or "Too few domains to compare."


def _patterns_of_the_twins(survey: Survey, at: pd.DataFrame) -> str:
    one, other = (at.loc[("patterns", name)] for name in ("driving", "diverse-driving"))
    if np.isnan([one["value"], other["value"]]).any():
        return "Too few agents to count the motion patterns of ordinary driving."
    apart = one["high"] < other["low"] or other["high"] < one["low"]
    return (
        f"Ordinary driving has {_with_interval(one)} effective motion patterns at n = {survey.windows} windows; diverse "
        f"driving, with the same appearance, has {_with_interval(other)}, {number(other['value'] / one['value'])} times as "
        f"many. The intervals {'do not overlap' if apart else 'overlap or are not known: the two may be alike'}."
    )


def _with_interval(one: pd.Series[float]) -> str:
    value = _number(one["value"], "patterns")
    if np.isnan(one["low"]):
        return f"**{value}**"
    return f"**{value}** (95 % interval {number(one['low'])} to {number(one['high'])})"


def _other_statistics_of_the_twins(at: pd.DataFrame) -> str:
    def pair(statistic: str, unit: str = "") -> str:
        values = [at.loc[(statistic, name), "value"] for name in ("driving", "diverse-driving")]
        return " against ".join(_number(value, statistic) + unit for value in values)

    return (
        f"In the same order, {pair('lane_keepers')} of the agents keep their lane, the spread of velocities is "
        f"{pair('velocity_spread_px_s', ' px/s')}, the yaw rate of the ego car is {pair('ego_yaw_deg_s', '°/s')}, and the "
        f"agents move by {pair('moved_px', ' px')} over the next five frames."
    )
