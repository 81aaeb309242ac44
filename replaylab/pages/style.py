"""The appearance of the book: colours, the style of figures and tables, their legends, and links to their values."""

import html
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.io.formats.style import Styler

from replaylab.analysis.tables import REFERENCES

WIDTH = 5.2


INK, GREY = "#262626", "#767676"


DASHES: dict[str, Any] = {"real": "solid", "autoencoder": (0, (6, 2)), "copy-last-frame": (0, (1, 1.5)),
                           "constant-velocity": (0, (5, 1.5, 1, 1.5))}  # fmt: skip


# The colour-blind safe palette: vermilion for no replay, a hue for each kind of it.
BLUE, _, GREEN, VERMILION = sns.color_palette("colorblind")[:4]


HUES = [("#8cc9ee", BLUE, "#0b2d4e"), ("#7fd3b6", GREEN, "#00392a"), ("#c9b6e4", "#7b6fd0", "#32286b")]


SEED_DOT: dict[str, Any] = {"s": 12, "alpha": 0.8, "linewidth": 0, "zorder": 3}


SEED_POINT = {**SEED_DOT, "legend": False}


def csv_link(rows: pd.DataFrame, name: str) -> HTML:
    """A link that saves `rows` as name.csv, six digits a number; the file is in the page, and no host is asked."""
    text = rows.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    address = f"data:text/csv;charset=utf-8,{quote(text, safe=',/:;+')}"
    file = html.escape(f"{name}.csv")
    # A style of its own, because in the dark the theme puts pieces of HTML on a white card.
    return HTML(
        "<style>html[data-theme='dark'] .bd-content div.cell_output .text_html:has(.rl-csv) "
        "{ background: none !important; color: inherit !important; padding: 0 !important; }</style>"
        f'<p class="rl-csv"><a download="{file}" href="{html.escape(address)}">Values of this figure: {file}</a> '
        f"({len(rows)} rows)</p>"
    )


def styled(table: pd.DataFrame, name: str) -> Styler:
    """The look of every table of the book; `name` is its id on the page."""
    # The name is the table's id: one per page, and the same every time the page is made.
    styler = table.style.set_uuid(name).set_table_attributes('class="dataframe"')
    cells = "padding: 0.15em 0.6em; white-space: nowrap; vertical-align: top"
    heads = "white-space: normal; vertical-align: bottom"
    return styler.set_table_styles(
        [
            {"selector": "td, th", "props": cells},
            {"selector": "th.col_heading", "props": heads},
            {"selector": "th.row_heading.level0", "props": "white-space: normal"},
        ]
    )


def partial(runs: pd.DataFrame) -> str:
    """How much of the sweep is there, in words; "" if it is whole."""
    done = int((runs["state"] == "done").sum())
    return "" if done == len(runs) else f"{done} of {len(runs)} runs: not the whole sweep"


def saying(text: str) -> Figure:
    """A figure that is a sentence, where there is nothing to draw."""
    with figure_style():
        figure = plt.figure(figsize=(WIDTH, 1.0))
        figure.add_axes((0, 0, 1, 1)).set_axis_off()  # without axes IPython shows a figure's name instead of it
        figure.text(0.02, 0.5, text, va="center")
        plt.close(figure)
    return figure


@contextmanager
def figure_style() -> Iterator[None]:
    """The look of every figure of the book, as a matplotlib context."""
    look = {
        **sns.axes_style("ticks"),
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.labelsize": 10,
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 10,
        "legend.frameon": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GREY,
        "figure.facecolor": "white",
        "figure.dpi": 200,
    }
    with plt.rc_context(look):
        yield


def finish(figure: Figure, entries: list[Line2D], title: str, runs: pd.DataFrame) -> None:
    """Title with how much of the sweep is there, one legend below everything, and nothing left in pyplot."""
    figure.suptitle("\n".join(filter(None, [title, partial(runs)])), x=0.02, ha="left", fontsize=11, fontweight="bold")
    floors = [Line2D([], [], color=GREY, lw=1.2, ls=dashes, label=REFERENCES[one]) for one, dashes in DASHES.items()]
    height, line = figure.get_figheight(), 0.22
    lines_of_arms, lines_of_floors = -(-len(entries) // 3), -(-len(floors) // 2)
    above = (lines_of_floors * line + 0.04) / height
    narrow = {"fontsize": 9, "columnspacing": 1.0, "handlelength": 1.4} if len(entries) > 6 else {}
    figure.legend(handles=floors, loc="lower center", ncols=2)
    figure.legend(handles=entries, loc="lower center", ncols=3, bbox_to_anchor=(0.5, above), **narrow)
    figure.align_ylabels()
    figure.tight_layout(rect=(0, ((lines_of_arms + lines_of_floors) * line + 0.15) / height, 1, 1))
    # Otherwise a notebook shows it twice: once as the cell's value and once as pyplot's open figure.
    plt.close(figure)


def _entry(colour: Any, label: str, marker: str, line: str = "") -> Line2D:
    return Line2D([], [], color=colour, label=label, marker=marker, ms=7, ls=line, lw=2)
