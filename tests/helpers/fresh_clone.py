"""What somebody does who clones the repository and goes the README's way; the book that this builds is the tests' book."""

import re
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import Any

from conftest import copy_of_the_tree, run

IN_A_FRESH_CLONE = [
    "make reproduce",
    "make setup",
    "source .venv/bin/activate",
    "papermill book/03_replay_sweep.ipynb book/runs/quick.ipynb -p preset quick",
    "jupyter-book build book",
    'papermill book/03_replay_sweep.ipynb book/runs/two.ipynb -p preset quick -y "replay_fractions: [0, 0.5]"',
]
STRICTLY = "jupyter-book build book -W -n --keep-going"


def commands(path: Path) -> list[str]:
    """The commands in the fenced bash blocks of a Markdown file, in order."""
    blocks = re.findall(r"^```bash\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def borrow_packages(clone: Path) -> None:
    """A .venv in which this Python's packages count as installed, so that `make setup` downloads nothing.

    That a bare clone really installs is proven by .ci/run, which does it before it starts these tests.
    """
    run([sys.executable, "-m", "venv", "--without-pip", ".venv"], clone)
    (packages,) = clone.glob(".venv/lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name in ("papermill", "jupyter-book"):
        script = clone / ".venv" / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{clone}/.venv/bin/python" "{Path(sys.executable).parent / name}" "$@"\n')
        script.chmod(0o755)


def html_of(clone: Path) -> Path:
    return clone / "book" / "_build" / "html"


def go_the_readmes_way(clone: Path) -> dict[str, Any]:
    """The README's commands in a fresh clone, in their order, with the smallest preset: on one core quick takes as long as
    a third of all tests. Both builds are strict.

    Between the two, two more runs appear: an executed copy of another page, and one that differs by its name alone.
    Returns what was seen on the way, for tests to judge.
    """
    copy_of_the_tree(clone)
    borrow_packages(clone)
    runs, page = clone / "book" / "runs", html_of(clone) / "runs" / "smoke.html"
    seen: dict[str, Any] = {"reproduce": run("make reproduce PRESET=smoke", clone), "reproduced": page.exists()}
    seen["trained"] = _times(runs)
    page.unlink(missing_ok=True)

    run("source .venv/bin/activate\npapermill book/explorer.ipynb book/runs/explorer-smoke.ipynb -p preset smoke", clone)
    shutil.copy2(runs / "smoke.ipynb", runs / "another.ipynb")

    by_hand = [line for line in commands(clone / "README.md") if line in IN_A_FRESH_CLONE and line != "make reproduce"]
    by_hand = [STRICTLY if line == "jupyter-book build book" else line.replace("quick", "smoke") for line in by_hand]
    run("\n".join(by_hand), clone)
    seen["trained_by_hand"] = _times(runs)
    return seen


def _times(runs: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in sorted((runs / "store").glob("*/summary.json"))}
