"""Tables fit a page, their files hold all of them, and numbers look the same everywhere."""

import io
import re
from urllib.parse import unquote

import csv_files
import numpy as np
import pandas as pd
import pytest

from replaylab.analysis.statistics import Interval, describe, interval
from replaylab.catalogue import MEASURES, measure_of
from replaylab.pages.style import MOST_COLUMNS, IntervalCell, styled
from replaylab.util.text import MINUS, number

WIDE = pd.DataFrame({f"column {place}": [-1.5 * place, 2.0] for place in range(MOST_COLUMNS + 1)}, index=["a", "b"])


def test_a_table_that_is_too_wide_is_refused_until_columns_are_chosen() -> None:
    with pytest.raises(ValueError, match=f"'mine' has {MOST_COLUMNS + 2} columns, and a page has room for {MOST_COLUMNS}"):
        styled(WIDE, "mine")
    styled(WIDE, "mine", shown=list(WIDE)[: MOST_COLUMNS - 1])  # and the names of rows


def test_the_file_below_a_table_has_every_column_and_numbers_as_programs_read_them() -> None:
    table = WIDE.assign(interval=describe(Interval(-0.5, np.nan, np.nan, 1), ".2f"), name="Rue\N{MINUS SIGN}Nord")
    page = str(styled(table, "mine", shown=["column 1", "interval"]).format("{:.1f}", subset=["column 1"])._repr_html_())
    assert (
        page.count("<th") - page.count("<thead") == 5 and "\N{MINUS SIGN}1.5" in page and "-1.5" not in page.split("<p")[0]
    )
    (text,) = re.findall(r'download="mine.csv" href="data:text/csv;charset=utf-8,([^"]+)"', page)
    saved = pd.read_csv(io.StringIO(unquote(text)), index_col=0)
    assert list(saved) == list(table) and saved["column 6"].tolist() == [-9.0, 2.0]
    assert saved["interval"].tolist() == [-0.5] * 2
    assert set(saved["name"]) == {"Rue\N{MINUS SIGN}Nord"}


def test_an_interval_is_text_on_the_page_and_three_numbers_in_the_file() -> None:
    cells = [IntervalCell(Interval(-0.5, -1.0, 0.25, 5), ".2f"), IntervalCell(interval([])), "not run yet"]
    table = pd.DataFrame({"claim": ["C1", "C2", "C3"], "change": cells, "rule": "below 0"})
    page = str(styled(table, "mine").hide(axis="index")._repr_html_())
    shown = re.findall(r"<td[^>]*col1[^>]*>(.*?)</td>", page)
    assert shown == ["\N{MINUS SIGN}0.50 (\N{MINUS SIGN}1.00 to 0.25)", "–", "not run yet"]
    (saved,) = csv_files.files_of(page).values()
    assert list(saved) == ["claim", "change", "change, low", "change, high", "rule"]
    assert saved.iloc[0, 1:4].tolist() == [-0.5, -1.0, 0.25] and saved.iloc[1:, 1:4].isna().all(axis=None)


def test_a_file_with_an_interval_as_text_is_noticed() -> None:
    for text in ("-0.5 (-1.0 to 0.25)", "\N{MINUS SIGN}0.78 (\N{MINUS SIGN}1.47 to \N{MINUS SIGN}0.08)", "0.1 to 0.3"):
        page = str(styled(pd.DataFrame({"claim": ["C1"], "change": [text]}), "mine")._repr_html_())
        with pytest.raises(AssertionError, match=r"mine\.csv"):
            csv_files.check(page)
    assert csv_files.check(str(styled(pd.DataFrame({"ends": ["1.5 to 2 frames", "above 0"]}), "mine")._repr_html_())) == 1


@pytest.mark.parametrize("measure", [*MEASURES, "ade_px_frame_3", "denoising_loss_0.25"])
def test_a_measure_has_its_decimals_in_every_number(measure: str) -> None:
    digits, decimals = measure_of(measure).digits, measure_of(measure).decimals
    said = describe(Interval(-1.23456, -12.3456, 0.0, 5), digits)
    parts = re.fullmatch(rf"{MINUS}1(.*) \({MINUS}12(.*) to 0(.*)\)", said)
    assert parts is not None and {len(part.removeprefix(".")) for part in parts.groups()} == {decimals}


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(-0.001, ".2f", "0.00"), (-0.006, ".2f", "\N{MINUS SIGN}0.01"), (-1234.5, "", "\N{MINUS SIGN}1234"),
     (float("-inf"), ".1f", "\N{MINUS SIGN}∞"), (float("nan"), ".2f", "not measured"), (0.5, "+.2f", "+0.50")],
)  # fmt: skip
def test_numbers_have_a_minus_sign_and_no_negative_zero(value: float, digits: str, text: str) -> None:
    assert number(value, digits) == text
