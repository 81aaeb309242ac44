"""Is the book whole: what it is made of is in git and clean, and it builds without a warning?"""

import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from conftest import ROOT, tracked_files

sys.path.append(str(ROOT / "book" / "_ext"))

import csv_files
from html_page import Page
from IPython.core.interactiveshell import InteractiveShell
from publishing import pack

from replaylab.analysis import second_edition
from replaylab.analysis.claims import CLAIMS

BOOK = ROOT / "book"


def notebooks() -> list[Path]:
    return [ROOT / name for name in tracked_files() if name.suffix == ".ipynb"]


def toc_entries() -> list[dict[str, str]]:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    return [{"file": toc["root"]}, *(entry for part in toc["parts"] for entry in part["chapters"])]


@pytest.mark.parametrize("name", ["_config.yml", "_toc.yml"])
def test_the_book_reads_the_two_files_at_the_top(name: str) -> None:
    link = BOOK / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


def test_every_page_in_the_contents_is_in_git() -> None:
    pages = {name.relative_to("book").with_suffix("") for name in tracked_files() if name.parts[0] == "book"}
    for entry in toc_entries():
        if "glob" in entry:
            assert any(page.match(entry["glob"]) for page in pages), f"nothing tracked fits {entry['glob']}"
        else:
            assert Path(entry["file"]) in pages, f"no page {entry['file']}"


def test_only_the_page_that_explains_the_folder_is_tracked_in_runs() -> None:
    assert [name for name in tracked_files() if name.is_relative_to("book/runs")] == [Path("book/runs/README.md")]


def test_the_notebooks_are_there() -> None:
    pages = ("01_worlds", "02_finetune_degradation", "03_replay_sweep", "04_ablations", "07_second_world",
             "08_architectures")  # fmt: skip
    assert {BOOK / f"{page}.ipynb" for page in pages} <= set(notebooks())


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: path.name)
def test_notebooks_in_git_carry_nothing_that_a_run_left(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "papermill" not in notebook.metadata
    for cell in notebook.cells:
        assert not cell.get("outputs"), "outputs in git"
        assert cell.get("execution_count") is None, "an execution count in git"
        assert "papermill" not in cell.metadata
        assert "execution" not in cell.metadata
        assert "injected-parameters" not in cell.metadata.get("tags", []), "a cell that papermill injected"


def test_the_index_names_every_claim_and_says_what_is_not_known() -> None:
    index = (BOOK / "index.md").read_text()
    for claim in range(1, 8):
        assert f"| C{claim} |" in index
    said = " ".join(index.split())
    for part in ("## Limitations", "## Related work", "## How to cite", "## Reproduce this book"):
        assert part in index
    assert "All that this project holds of the paper is its abstract and the first lines of its introduction" in said
    assert "a claim that does not hold here is reported as not holding" in said


def computed(page: str) -> list[Any]:
    """What the cells of a page of text give, in turn; the first that fails is raised."""
    shell, shown = InteractiveShell(), []
    for cell in re.findall(r"^```{code-cell} ipython3\n(.*?)^```", (BOOK / page).read_text(), re.M | re.S):
        # Without the cell's options.
        done = shell.run_cell(re.sub(r"\A(---\n.*?\n---\n|(:[^\n]*\n)+)", "", cell, flags=re.S))
        done.raise_error()
        shown.append(done.result)
    return shown


def test_the_index_computes_what_it_says_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BOOK)
    sentence, clips, rule, _, _, cards, caveats = computed("index.md")
    assert all(word in sentence.data for word in ("EffNet-KD", "ADE on eventful driving", "25 % of each batch"))
    assert clips.data.count('<figure class="rl-screen') == 4 and "nearest to the mean change of all test clips" in rule.data
    assert len(re.findall('class="rl-card ', cards.data)) == len(second_edition.CLAIMS) + 3  # C5 to C7 have no verdict
    assert caveats.data.count("constant velocity") == 1


def test_every_verdict_has_its_rule_on_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BOOK)
    progress, _, table, standing, cost = computed("verdicts.md")
    assert "preregistered runs" in progress.data and "preregistered endpoints" in standing.data
    assert list(table.data["claim"]) == [claim.name for claim in CLAIMS]
    assert cost.data.startswith("The preregistered runs: ")
    assert csv_files.check(table._repr_html_()) == 1


def test_every_source_is_cited_and_every_citation_has_a_source() -> None:
    sources = set(re.findall(r"^@\w+\{([^,]+),", (BOOK / "references.bib").read_text(), re.MULTILINE))
    texts = [path.read_text() for path in [*BOOK.glob("*.md"), *notebooks()]]
    cited = {key for text in texts for keys in re.findall(r"\{cite:\w+\}`([^`]+)`", text) for key in keys.split(",")}
    assert {key.strip() for key in cited} == sources


def pages(html: Path) -> dict[str, Page]:
    found = [path for path in html.rglob("*.html") if "_static" not in path.parts]
    return {path.relative_to(html).as_posix(): Page(path) for path in found}


@pytest.mark.slow
def test_the_book_builds_strictly_and_lists_every_page(built_book: Path) -> None:
    built = pages(built_book)
    assert {
        "index.html",
        "02_finetune_degradation.html",
        "03_replay_sweep.html",
        "explorer.html",
        "preregistration.html",
        "references.html",
        "runs/README.html",
    } <= set(built)
    for name in ("01_worlds.html", "03_replay_sweep.html", "runs/smoke.html", "references.html"):
        assert name in built["index.html"].links, f"the sidebar does not list {name}"


@pytest.mark.slow
def test_a_run_that_is_new_is_listed_on_every_page_under_its_own_name(built_book: Path) -> None:
    """The run `another` came after a first build, which knew `smoke` alone."""
    for name, page in pages(built_book).items():
        if name not in ("genindex.html", "search.html"):
            assert "(another)" in page.text, f"{name} does not list the new run"
            assert "(smoke)" in page.text, f"{name} does not list the old run"


@pytest.mark.slow
def test_an_executed_copy_stands_under_your_runs_with_its_figures(built_book: Path) -> None:
    page = pages(built_book)["runs/smoke.html"]
    figures = [image for image in page.images if "_images" in str(image.get("src"))]
    assert figures, "the executed copy shows no figure"
    assert "Traceback" not in page.text


@pytest.mark.slow
def test_pages_fetch_nothing_from_another_host_and_link_to_nothing_missing(built_book: Path) -> None:
    for name, page in pages(built_book).items():
        outside = [address for address in page.fetched if re.match(r"(https?:)?//", address)]
        assert not outside, f"{name} fetches {outside}"
        for link in page.links:
            target = link.split("#")[0].split("?")[0]
            if target and not re.match(r"[a-z]+:", target):
                assert (built_book / name).parent.joinpath(target).exists(), f"{name} links to {link}"


@pytest.mark.slow
def test_the_files_of_values_have_numbers_for_intervals(built_book: Path) -> None:
    counts = [csv_files.check(path.read_text()) for path in built_book.rglob("*.html") if "_static" not in path.parts]
    assert sum(count > 0 for count in counts) > 8 and sum(counts) > 30


@pytest.mark.slow
def test_all_data_are_one_file_that_the_first_page_links_to(built_book: Path) -> None:
    file = built_book / "replaylab-results.zip"
    assert file.name in pages(built_book)["index.html"].links
    with zipfile.ZipFile(file) as archive:
        names = {name.removeprefix(f"{file.stem}/") for name in archive.namelist()}
        there = BOOK / "results"
        assert names == {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
        assert archive.read(f"{file.stem}/SHA256SUMS") == (there / "SHA256SUMS").read_bytes()


def test_an_archive_of_the_same_files_is_the_same_bytes(tmp_path: Path) -> None:
    made: list[bytes] = []
    for seconds in (1e9, 2e9):
        folder = tmp_path / f"{seconds:g}" / "results"
        for name in ("b.txt", "rows/a.txt") if made else ("rows/a.txt", "b.txt"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
            os.utime(folder / name, (seconds, seconds))
        pack(folder, folder.with_name("data.zip"))
        made.append(folder.with_name("data.zip").read_bytes())
    assert made[0] == made[1]


@pytest.mark.slow
def test_progress_lines_stay_off_the_pages(built_book: Path) -> None:
    for path in built_book.rglob("*.html"):
        assert "output stderr" not in path.read_text(), path.name
