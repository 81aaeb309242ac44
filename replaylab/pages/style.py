"""The appearance of the book: colours, the style of figures and tables, their legends, and links to their values.

Decision: names in tables and figures may come from outside, so they are shown as plain text: tables are escaped and ignored
by MathJax, unless a cell is `markupsafe.Markup`, and figures have no mathtext. In Markdown, use `text.in_markdown`.
"""

import html
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any
from urllib.parse import quote

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.core.getipython import get_ipython
from IPython.display import HTML
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib_inline.backend_inline import set_matplotlib_formats
from pandas.io.formats.style import Styler

from replaylab.analysis import statistics
from replaylab.analysis.statistics import Interval
from replaylab.analysis.tables import REFERENCES
from replaylab.util.text import MINUS, with_minus_sign

WIDTH = 4.8  # inches: on a phone a point is then a CSS pixel, and on a desk text of 10 pt is as large as a page's own
SMALLEST_PT = 9.5  # text in figures
INK, GREY, LIGHT_GREY = "#262626", "#767676", "#e4e4e4"
# The colour-blind safe palette: vermilion for replay 0 %, a hue for each kind of replay.
BLUE, _, GREEN, VERMILION = sns.color_palette("colorblind")[:4]
HUES = [("#8cc9ee", BLUE, "#0b2d4e"), ("#7fd3b6", GREEN, "#00392a"), ("#c9b6e4", "#7b6fd0", "#32286b")]
DASHES: dict[str, Any] = {
    "real": "solid", "autoencoder": (0, (6, 2)), "copy-last-frame": (0, (1, 1.5)),
    "constant-velocity": (0, (5, 1.5, 1, 1.5)),
}  # fmt: skip
MOST_COLUMNS = 6  # of a table on a page
LEGEND_LINE_IN = 0.22
NOTE_CHARACTERS = 62  # of small text, across a figure
SEED_DOT: dict[str, Any] = {"s": 12, "alpha": 0.8, "linewidth": 0, "zorder": 3}


# -------------------------------------------------------------------------------------------------------------- tables
@dataclass(frozen=True)
class IntervalCell:
    """A cell with an interval: text on the page (`statistics.describe`), three columns of numbers in the file."""

    interval: Interval
    digits: str = ".3g"

    def __str__(self) -> str:
        return statistics.describe(self.interval, self.digits)


def csv_link(rows: pd.DataFrame, name: str) -> HTML:
    """A link that saves `rows` as name.csv, with six significant digits; the file is embedded in the page."""
    return HTML(f"{on_the_page('rl-csv')}{_csv_link(rows, name, 'Values of this figure')}")


def _csv_link(rows: pd.DataFrame, name: str, what: str) -> str:
    rows = _as_numbers(rows)
    text = rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    address = f"data:text/csv;charset=utf-8,{quote(text, safe=',/:;+')}"
    file = html.escape(f"{name}.csv")
    return f'<p class="rl-csv"><a download="{file}" href="{html.escape(address)}">{what}: {file}</a> ({len(rows)} rows)</p>'


def _as_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """The table with estimate, low and high in separate columns instead of each column of `IntervalCell`."""
    parts = []
    for name, cells in table.items():
        if not any(isinstance(cell, IntervalCell) for cell in cells):
            parts.append(cells)
            continue
        intervals = [cell.interval if isinstance(cell, IntervalCell) else statistics.interval([]) for cell in cells]
        for end, of in (("", "estimate"), (", low", "low"), (", high", "high")):
            parts.append(pd.Series([getattr(one, of) for one in intervals], table.index, float, f"{name}{end}"))
    return pd.concat(parts, axis=1) if parts else table


def on_the_page(css_class: str) -> str:
    """A style element for HTML of this class, which the theme's dark mode would otherwise put on a white card."""
    return (
        f"<style>html[data-theme='dark'] .bd-content div.cell_output .text_html:has(.{css_class}) "
        "{ background: none !important; color: inherit !important; padding: 0 !important; }</style>"
    )


class BookTable(Styler):
    """A Styler that escapes cells, with any format, and the names of rows and columns; numbers have a minus sign. Below the
    table, a page has a link to a file of all its columns, including hidden ones.
    """

    file_name = ""
    values = pd.DataFrame()
    """the contents of the file"""

    def format(self, formatter: Any = None, subset: Any = None, *arguments: Any, **options: Any) -> Any:
        """As `Styler.format`, but escaped for HTML."""
        if callable(formatter) or isinstance(formatter, str):
            formatter = _with_minus_sign(formatter)
        return super().format(formatter, subset, *arguments, **{**options, "escape": "html"})

    def _repr_html_(self) -> str | None:
        shown = super()._repr_html_()
        if not self.file_name or shown is None:
            return shown
        return f"{shown}\n{_csv_link(_with_hyphens(self.values), self.file_name, 'Values of this table, all columns')}"


def _with_minus_sign(formatter: str | Callable[[Any], str]) -> Callable[[Any], str]:
    """The formatter, with a minus sign instead of a hyphen in numbers."""
    made = formatter.format if isinstance(formatter, str) else formatter
    return lambda value: with_minus_sign(made(value)) if isinstance(value, Real) else made(value)


def _with_hyphens(table: pd.DataFrame) -> pd.DataFrame:
    """The table with hyphens instead of minus signs in text, as programs read numbers."""
    return table.map(lambda cell: re.sub(f"{MINUS}(?=[0-9.∞])", "-", cell) if isinstance(cell, str) else cell)


def styled(
    table: pd.DataFrame, name: str, *, ruled: Iterable[int] = (), shown: Sequence[Any] = (),
    values: pd.DataFrame | None = None,
) -> BookTable:  # fmt: skip
    """A table in the style of the book. `name`: its id, unique on a page and the same in every build.

    `ruled`: the positions of rows with a line above them. `shown`: the columns on the page (none: all), at most MOST_COLUMNS
    including the names of rows; ValueError for more. The file, `name`.csv, contains all columns, or `values` if given.
    """
    is_numbered = pd.api.types.is_integer_dtype(table.index.dtype)
    names_of_rows = 0 if is_numbered else table.index.nlevels
    hidden = [column for column in table if len(shown) and column not in shown]
    if (count := names_of_rows + table.shape[1] - len(hidden)) > MOST_COLUMNS:
        raise ValueError(
            f"table {name!r} has {count} columns, and a page has room for {MOST_COLUMNS}: name those to be shown"
        )
    styles = [
        {"selector": "td, th", "props": "padding: 0.15em 0.6em; vertical-align: top"},
        {"selector": "th.col_heading", "props": "vertical-align: bottom"},
    ]
    if rows := ", ".join(f".row{row}" for row in ruled):
        styles.append({"selector": rows, "props": f"border-top: 1px solid {GREY}"})
    styler = BookTable(table).set_uuid(name).set_table_attributes('class="dataframe tex2jax_ignore mathjax_ignore"')
    styler.file_name = name
    styler.values = values if values is not None else table if is_numbered else table.reset_index(allow_duplicates=True)
    for axis in (0, 1):
        styler.format_index(axis=axis, escape="html").format_index_names(axis=axis, escape="html")
    if hidden:
        styler.hide(hidden, axis="columns")
    return styler.set_table_styles(styles)


def count_runs(runs: pd.DataFrame) -> str:
    """The number of finished runs, such as "3 of 69 runs"; a run that is read at two steps counts once."""
    once = runs.drop_duplicates("run")
    return f"{(once['state'] == 'done').sum()} of {len(once)} runs"


def completeness(runs: pd.DataFrame) -> str:
    """The number of finished runs of an incomplete sweep, for the title of a figure; "" if it is complete."""
    return "" if (runs["state"] == "done").all() else f"{count_runs(runs)} are complete"


def completeness_paragraph(runs: pd.DataFrame) -> str:
    """`completeness` as a paragraph before a summary, in Markdown."""
    return f"**{completeness(runs)}.**\n\n" if completeness(runs) else ""


# ------------------------------------------------------------------------------------------------------------- figures
def _show_as_svg() -> None:
    """In a notebook, show figures as vector graphics, with identical bytes in every build."""
    if get_ipython() is not None:
        set_matplotlib_formats("svg", metadata={"Date": None})
        plt.rcParams["svg.hashsalt"] = "replaylab"


@contextmanager
def figure_style() -> Iterator[None]:
    """A matplotlib context with the style of every figure of the book: dark on transparent; the style sheet of the dark mode
    inverts it with the same hues.
    """
    settings = {
        **sns.axes_style("ticks"), "font.size": 10, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.labelsize": 10,
        "xtick.labelsize": SMALLEST_PT, "ytick.labelsize": SMALLEST_PT, "legend.fontsize": SMALLEST_PT,
        "legend.frameon": False, "axes.spines.top": False,
        "axes.spines.right": False, "axes.edgecolor": GREY, "figure.titlesize": 11, "figure.titleweight": "bold",
        "figure.facecolor": "none", "axes.facecolor": "none", "text.parse_math": False,
    }  # fmt: skip
    _show_as_svg()
    with plt.rc_context(settings):
        yield


def text_figure(text: str) -> Figure:
    """A sentence in place of a figure, if there are no data to draw."""
    with figure_style():
        figure = plt.figure(figsize=(WIDTH, 1.0))
        figure.add_axes((0, 0, 1, 1)).set_axis_off()  # without axes IPython shows a figure's name instead of it
        figure.text(0.02, 0.5, text, va="center")
        plt.close(figure)
    return figure


def legend_entry(colour: Any, label: str, marker: str, line: Any = "", **changes: Any) -> Line2D:
    """An entry of a legend; `line`: matplotlib's linestyle, "" for a marker without a line."""
    return Line2D([], [], **{"color": colour, "label": label, "marker": marker, "ms": 7, "ls": line, "lw": 2, **changes})


def reference_style(model: str) -> dict[str, Any]:
    """The line style of a reference baseline, for `axhline` and `axvline`."""
    return {"color": GREY, "lw": 0.9, "ls": DASHES[model], "zorder": 0}


def reference_entries(models: Sequence[str] = tuple(DASHES)) -> list[Line2D]:
    """Entries of a legend for the level lines of reference baselines."""
    return [legend_entry(GREY, REFERENCES[model], "", DASHES[model], lw=1.2) for model in models]


def label_ends(axes: Axes, ends: Mapping[str, float], colours: Mapping[str, Any]) -> None:
    """Label lines at their right ends, in their colours, instead of a legend; labels that would overlap are moved apart.

    `ends`: the last value of each line, within the axis's current limits.
    """
    low, high = axes.get_ylim()
    height_pt = axes.get_window_extent().height * 72 / plt.rcParams["figure.dpi"]
    gap = 1.25 * SMALLEST_PT * (high - low) / height_pt
    ordered = sorted((name for name in ends if not np.isnan(ends[name])), key=lambda name: ends[name])
    places = [ends[name] for name in ordered]
    for _ in range(len(places)):  # each pass moves neighbours apart by half of what is missing
        for place in range(1, len(places)):
            missing = gap - (places[place] - places[place - 1])
            if missing > 0:
                places[place - 1], places[place] = places[place - 1] - missing / 2, places[place] + missing / 2
    for name, y in zip(ordered, places, strict=True):
        axes.annotate(name, (1.02, y), xycoords=("axes fraction", "data"), fontsize=SMALLEST_PT, color=colours[name],
                      va="center", annotation_clip=False)  # fmt: skip


def add_title(figure: Any, title: str, runs: pd.DataFrame | None = None) -> None:
    """Add a title to a figure or subfigure, with a second line if the sweep of these runs is incomplete."""
    part = "" if runs is None else completeness(runs)
    figure.suptitle("\n".join(filter(None, [title, part])), x=0.02, ha="left", parse_math=False)


def finished(
    figure: Figure, title: str, /, runs: pd.DataFrame | None = None, entries: Sequence[Artist] = (), *,
    columns: int = 2, extra_in: float = 0.05, note: str = "", **legend: Any,
) -> Figure:  # fmt: skip
    """The figure, closed in pyplot, with a title, the number of finished `runs` if some are missing, a legend at the bottom,
    with `extra_in` inches of additional space, and below it a note in small grey letters.
    """
    add_title(figure, title, runs)
    note = "\n".join(line for part in note.splitlines() for line in textwrap.wrap(part, NOTE_CHARACTERS))
    note_in = LEGEND_LINE_IN * len(note.splitlines())
    below_in = note_in
    if note:
        figure.text(0.02, 0.02 / figure.get_figheight(), note, fontsize=SMALLEST_PT, color=GREY, va="bottom")
    if entries:
        above_the_note = {"bbox_to_anchor": (0.5, note_in / figure.get_figheight())} if note else {}
        with plt.rc_context({"text.parse_math": False}):
            figure.legend(handles=list(entries), loc="lower center", ncols=columns, **above_the_note, **legend)
        below_in += -(-len(entries) // columns) * LEGEND_LINE_IN + extra_in
    figure.align_ylabels()
    figure.tight_layout(rect=(0, below_in / figure.get_figheight(), 1, 1))
    # Otherwise a notebook shows it twice: as the cell's value and as pyplot's open figure.
    plt.close(figure)
    return figure


def finished_with_references(figure: Figure, title: str, runs: pd.DataFrame, entries: Sequence[Artist]) -> Figure:
    """`finished`, with a second legend, of the reference baselines, below the first."""
    references = reference_entries()
    references_in = -(-len(references) // 2) * LEGEND_LINE_IN
    figure.legend(handles=references, loc="lower center", ncols=2)
    narrow: dict[str, Any] = {"fontsize": 9, "columnspacing": 1.0, "handlelength": 1.4} if len(entries) > 6 else {}
    above_them = (0.5, (references_in + 0.04) / figure.get_figheight())
    return finished(
        figure, title, runs, entries, columns=3, extra_in=references_in + 0.15, bbox_to_anchor=above_them, **narrow
    )  # fmt: skip
