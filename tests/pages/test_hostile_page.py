"""A page that shows names of others, built as the book is and opened in a browser: text, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from conftest import ROOT
from hostile_names import HOSTILE, clip_of, table_of
from in_browser import complaints

from replaylab.pages import explorer, replay_sweep, sample_clips, style, your_model
from replaylab.util.text import in_markdown, printable

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow

CONF = f"""
import sys
sys.path.append({str(ROOT / "book" / "_ext")!r})
extensions = ["myst_nb", "lighter"]
nb_execution_mode = "off"
myst_enable_extensions = ["colon_fence", "dollarmath", "linkify", "substitution", "tasklist"]
myst_url_schemes = ["mailto", "http", "https"]
html_math_renderer = "mathml"
"""
SHOWN = {what: text for what, text in HOSTILE.items() if what != "no text"}  # a surrogate is in no table


def outputs(text: str) -> list[dict[str, str]]:
    """What the page on one's own model displays of domains of this name, as a notebook keeps it."""
    table = table_of([text, f"{text} too"])
    clips = [clip_of(text, sample_clips.TRUTH, 0), clip_of(text, text, 2)]
    pieces = [str(made._repr_html_()) for made in (your_model.measures_table(table), replay_sweep.status_table(table.runs))]
    pieces += [explorer.player(clips).data, explorer.explorer(clips).data, style.csv_link(table.rows, text).data]
    return [*({"text/html": piece} for piece in pieces), {"text/markdown": f"- **{in_markdown(text)}**: it changes."}]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("book")
    (folder / "conf.py").write_text(CONF)
    cells = [nbformat.v4.new_markdown_cell("# Index\n\nOne formula: $x$")]
    for text in SHOWN.values():
        cell = nbformat.v4.new_code_cell("'a table'", execution_count=1)
        cell["outputs"] = [nbformat.v4.new_output("display_data", data=data) for data in outputs(text)]
        cells.append(cell)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "index.ipynb")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", ".", "_build"]
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "_build" / "index.html"


def test_no_name_runs_a_script_fetches_anything_or_becomes_an_element(page: Path, browser: Browser) -> None:
    opened = browser.new_page()
    wrong = complaints(opened)
    opened.goto(page.as_uri(), wait_until="load")
    opened.wait_for_timeout(1000)  # for what an element of a name would do
    for event in ("mouseover", "click", "focus", "error"):
        opened.evaluate(
            "name => document.querySelectorAll('main *, body *').forEach(each => each.tagName == 'A' || "
            "each.dispatchEvent(new Event(name)))",
            event,
        )
    assert opened.evaluate("window.hit") is None, "a name ran a script"
    assert not wrong, wrong
    assert opened.locator("a[href^='javascript:'], svg[onload], img[src$='/x']").count() == 0
    assert opened.locator("math").count() == 1, "the formula is not there, or a name was taken for one"
    shown = opened.evaluate("document.body.textContent")
    for what, text in SHOWN.items():
        assert " ".join(printable(text).split())[:30] in " ".join(shown.split()), f"{what} is not there as it is"
    opened.close()
