"""Are the notebooks of a build executed side by side, and only those that have to be; does one that fails fail the build?"""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

CONF = """
import side_by_side

side_by_side.usable_cores = lambda: 2  # as on the smallest machine that has something to gain
extensions = ["myst_nb", "side_by_side"]
exclude_patterns = ["_build"]
nb_execution_mode = "auto"
nb_execution_excludepatterns = ["never.ipynb"]
"""
MEETS = """
from pathlib import Path
from time import sleep

open("log.txt", "a").write("{own}\\n")
Path("{own}.txt").touch()
while not Path("{other}.txt").exists():
    sleep(0.05)
print("{own} has met {other}")
"""


STARTS_A_PROCESS = """
import multiprocessing

with multiprocessing.get_context("spawn").Pool(1) as pool:
    found = pool.apply(abs, [-7654321])
found
"""


def write(path: Path, *cells: str) -> None:
    cells_ = [nbformat.v4.new_markdown_cell("# A page"), *map(nbformat.v4.new_code_cell, cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells_, metadata=kernel), path)


def build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """A build, strict with -W."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'book' / '_ext'}"}
    command = [sys.executable, "-m", "sphinx", *options, "--keep-going", "-b", "html", ".", "_build/html"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small book whose first two notebooks wait for each other."""
    folder = tmp_path_factory.mktemp("book")
    (folder / "conf.py").write_text(CONF)
    (folder / "index.md").write_text("# Index\n\n```{toctree}\none\ntwo\nthree\nnever\n```\n")
    write(folder / "one.ipynb", MEETS.format(own="one", other="two"))
    write(folder / "two.ipynb", MEETS.format(own="two", other="one"))
    write(folder / "three.ipynb", 'open("log.txt", "a").write("three\\n")\n"a value"', STARTS_A_PROCESS)
    write(folder / "never.ipynb", 'open("log.txt", "a").write("never\\n")')
    done = build(folder, "-W")
    assert done.returncode == 0, done.stderr[-4000:]
    for name in ("one", "two", "three"):
        assert f"{name}: executed in " in done.stdout
    return folder


def executed(folder: Path) -> list[str]:
    """Which notebooks were executed since this was asked last."""
    log = folder / "log.txt"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return sorted(names)


def page(folder: Path, name: str) -> str:
    return (folder / "_build" / "html" / f"{name}.html").read_text()


def test_notebooks_are_executed_side_by_side_and_only_those_that_change(built: Path) -> None:
    assert executed(built) == ["one", "three", "two"]  # each once, and the excluded one not
    assert "one has met two" in page(built, "one") and "two has met one" in page(built, "two")
    assert "a value" in page(built, "three") and "7654321" in page(built, "three").replace("-7654321", "")
    assert build(built, "-W").returncode == 0
    assert executed(built) == []
    write(built / "three.ipynb", 'open("log.txt", "a").write("three\\n")\n"another value"')
    assert build(built, "-W").returncode == 0
    assert executed(built) == ["three"]
    assert "another value" in page(built, "three") and "one has met two" in page(built, "one")


def test_a_notebook_that_fails_fails_the_build_and_is_named_with_its_cell(built: Path) -> None:
    """Also without -W, as the README builds the book; and also a build that finds it unchanged."""
    write(built / "two.ipynb", "right = 1", "import json\n\njson.loads(right) + wrong")
    write(built / "one.ipynb", '"this one works"')
    done = build(built)
    assert done.returncode != 0
    (warning,) = [line for line in done.stderr.splitlines() if "Executing notebook failed" in line]
    assert "two.ipynb" in warning and "CellExecutionError" in warning
    assert "json.loads(right) + wrong" in done.stdout and "TypeError" in done.stdout
    assert "this one works" in page(built, "one")
    assert "these pages could not be computed:" in done.stderr and "  two: TypeError" in done.stderr
    again = build(built)
    assert again.returncode != 0 and "  two: TypeError" in again.stderr
