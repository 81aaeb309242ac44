"""What every test can ask for: slow tests on demand, optional parts, a fresh clone, a built book."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import settings
from in_browser import FLAGS

from replaylab.spec import MachineSpec
from replaylab.sweeps import sweep
from replaylab.sweeps.sweep import Table
from replaylab.util.processes import ask_for_large_pages

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A slow machine is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

ask_for_large_pages()  # as every command does

ROOT = Path(__file__).resolve().parents[1]
HELPERS = ROOT / "tests" / "helpers"
# Python's arguments to run a script in two processes.
TWO_RANKS = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SLOW = os.environ.get("SLOW", "") == "1"
CI = os.environ.get("CI", "") == "true"
# The limit of what a test waits for: it ends what hangs, before pytest does (pyproject.toml), on slow machines too.
LIMIT_SECONDS = 1200


@pytest.hookimpl(trylast=True)  # the terminal's own comes first
def pytest_configure(config: pytest.Config) -> None:
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if CI and terminal is not None:  # not in xdist's workers, which report to the process that has the terminal
        # A job that is started in the background inherits that Ctrl-C is ignored; .ci/run ends pytest by it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        config.pluginmanager.register(ReportsAtOnce(terminal))


class ReportsAtOnce:
    """In continuous integration a failure is shown when it happens: a run that is cut off has no summary."""

    def __init__(self, terminal: Any) -> None:
        self.terminal = terminal

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.terminal.write_line("")
            self.terminal.write_sep("_", f"FAILED ({report.when}, {report.duration:.0f} s) {report.nodeid}", red=True)
            self.terminal.write_line(report.longreprtext)
            for title, text in report.sections:
                self.terminal.write_sep("-", title)
                self.terminal.write_line(text[-5000:])


# Files whose tests take longest come first, so that the workers end together; what opens the book comes well after the
# test of the README's commands, which builds it, and what reads a swept store after one that has it made.
FIRST = (
    "test_readme", "test_slurm", "test_faults", "test_sumo", "test_ablations_page", "test_side_by_side", "test_cluster",
    "test_sweep", "test_fine_tuning", "test_notebook", "test_corruptions", "test_families", "test_bases", "test_loop",
    "test_family_presets", "test_book", "test_browser", "test_own_model", "test_measurement", "test_verdicts_from_outside",
    "test_first_edition", "test_instruments", "test_ranks", "test_video_network", "test_imports", "test_loader",
    "test_generalisation", "test_explorer", "test_packaging", "test_evaluate",
)  # fmt: skip
OPENING = "test_the_readme_in_a_fresh_clone"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and tests stay until the end: they are not searched for garbage, now or in any later search."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first; skip what is marked slow, unless SLOW=1."""
    place = {name: number for number, name in enumerate(FIRST)}
    items.sort(key=lambda item: (place.get(item.path.stem, len(FIRST)), item.name != OPENING))
    if SLOW:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; SLOW=1 runs it"))


def require_or_skip(there: bool, what: str) -> None:
    """An optional part that is missing: skip and say which; with SLOW=1 everything is required, so fail."""
    if there:
        return
    if SLOW:
        pytest.fail(f"SLOW=1 requires everything optional, and this is missing: {what}")
    pytest.skip(f"missing: {what}")


def run(command: str | list[str], folder: Path, timeout_seconds: int = LIMIT_SECONDS) -> str:
    """What `command` wrote (both streams), run in `folder` with this Python's environment on the path.

    A string goes through bash. Fails with the whole output if the exit status is not 0.
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for name in (
        "PYTHONPATH",
        "MAKELEVEL",
        "MAKEFLAGS",
        "MFLAGS",
        "PYTEST_ADDOPTS",
    ):  # of the make, and the pytest, that may be running these tests
        environment.pop(name, None)
    if not (folder / ".venv").exists():
        # The package of this folder, not the one that is installed beside this Python.
        environment["PYTHONPATH"] = str(folder)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command] if isinstance(command, str) else command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
    )
    if done.returncode != 0:
        pytest.fail(f"{command!r} in {folder} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def tracked_files() -> list[Path]:
    """The files of the repository, relative to its root: those in git and those that would be."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    return [Path(name) for name in names if name and os.path.lexists(ROOT / name)]


def copy_of_the_tree(folder: Path) -> Path:
    """What somebody who clones the repository would get, uncommitted work included, committed in `folder`."""
    for name in tracked_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name, follow_symlinks=False)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    for verb in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "clone"]):
        subprocess.run([*git, *verb], cwd=folder, check=True)
    return folder


def made_once(name: str, make: Callable[[Path], None], factory: pytest.TempPathFactory) -> Path:
    """A folder that `make` fills, made by the first of xdist's workers that needs it while the others wait."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    made = folder.with_name(f"{name}.made")
    with FileLock(folder.with_name(f"{name}.lock")):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a worker that did not get to the end
            make(folder)
            made.touch()
    return folder


@contextmanager
def without_estimates() -> Iterator[None]:
    """Within it sweeps do not time this machine before they begin, for a sentence that no test with it reads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "estimate", lambda *_: "")
        yield


@pytest.fixture(scope="session")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A real sweep of the smoke preset, trained once for all tests that look at what a sweep leaves."""

    def make(folder: Path) -> None:
        # On one thread, as jobs are, so that theirs are the same bits.
        with without_estimates():
            done = sweep.run("smoke", store=folder / "store", machine=MachineSpec(threads=1))
        done.runs.to_parquet(folder / "runs.parquet")

    shared, store = made_once("smoke", make, tmp_path_factory), tmp_path_factory.mktemp("swept") / "store"
    shutil.copytree(shared / "store", store, symlinks=True)  # tests add to it
    return replace(sweep.read("smoke", store=store), runs=pd.read_parquet(shared / "runs.parquet"))


@pytest.fixture(scope="session")
def light(swept: Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the light runs of `light_runs`, trained once for all tests, on one thread."""
    from light_runs import grid

    def make(folder: Path) -> None:
        store = folder / "store"
        store.mkdir(parents=True)
        (store / "domains").symlink_to(swept.store / "domains")
        with without_estimates():
            table = sweep.run_specs("smoke", grid("smoke"), store, "inline", MachineSpec(threads=1), "", False, "")
        assert (table.runs["state"] == "done").all(), table.runs["reason"].tolist()

    shared, store = made_once("light", make, tmp_path_factory), tmp_path_factory.mktemp("light") / "store"
    shutil.copytree(shared / "store", store, symlinks=True)  # tests add to it
    return store


@pytest.fixture(scope="session")
def readers_clone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A fresh clone in which somebody went the README's way, with what was seen on it."""
    from fresh_clone import go_the_readmes_way

    def make(folder: Path) -> None:
        seen = go_the_readmes_way(folder / "clone with spaces")
        (folder / "seen.json").write_text(json.dumps(seen))

    folder = made_once("readme", make, tmp_path_factory)
    return folder / "clone with spaces", json.loads((folder / "seen.json").read_text())


@pytest.fixture(scope="session")
def built_book(readers_clone: tuple[Path, dict[str, Any]]) -> Path:
    """The HTML folder of the whole book, built strictly as the README says, with executed copies under Your runs."""
    from fresh_clone import html_of

    return html_of(readers_clone[0])


@pytest.fixture(scope="module")
def latents() -> list[np.ndarray]:
    """Two sources of latents, to train on for seconds."""
    from small_training import sources

    return sources()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    require_or_skip(importlib.util.find_spec("playwright") is not None, "the package playwright (make setup)")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    require_or_skip(chromium is not None, "chromium (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()
