"""The files of values that a page links to, read as a program would read them."""

from __future__ import annotations

import html
import io
import re
from urllib.parse import unquote

import pandas as pd

LINK = re.compile(r'<a download="([^"]+)" href="data:text/csv;charset=utf-8,([^"]*)">')
NUMBER = r"[-+\N{MINUS SIGN}]?(?:\d[\d.,]*|∞)"
INTERVAL = re.compile(rf"{NUMBER}\s*[(\[]\s*{NUMBER}\s*(?:to|,|–|;)\s*{NUMBER}|^{NUMBER} (?:to|–) {NUMBER}$")


def files_of(page: str) -> dict[str, pd.DataFrame]:
    """By name, the tables of all links of a page's HTML."""
    found = {html.unescape(name): unquote(html.unescape(text)) for name, text in LINK.findall(page)}
    return {name: pd.read_csv(io.StringIO(text)) for name, text in found.items() if text.strip()}


def intervals_as_text(table: pd.DataFrame) -> list[str]:
    """The cells with an interval, such as "-0.5 (-1.0 to 0.2)", in which no program reads a number."""
    texts = table.select_dtypes(["object", "string"])
    return [cell for name in texts for cell in texts[name] if isinstance(cell, str) and INTERVAL.search(cell)]


def check(page: str) -> int:
    """The number of a page's files of values, none of which has an interval as text."""
    files = files_of(page)
    for name, table in files.items():
        assert not intervals_as_text(table), f"{name}: {intervals_as_text(table)[0]!r} is text: give it an IntervalCell"
    return len(files)
