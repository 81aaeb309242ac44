"""Executes the notebooks of a book side by side, as many at a time as there are cores, and writes its pages likewise.

Decision: myst-nb reads the notebooks as ever, decides which need executing, and reports what failed; only where it would
execute one itself, it is given what was executed meanwhile. Pages without code are read first, while kernels work.
Nothing is kept between builds: Sphinx reads what changed, and only that is executed. A page that could not be computed fails
the build, with what it could not read, also without -W, and also where it failed in an earlier build and is kept.
"""

from __future__ import annotations

import logging
import re
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from forked_kernels import use_forked_kernels
from jupyter_cache.executors.utils import ExecutionResult, single_nb_execution
from myst_nb.core.execute import NotebookClientDirect, create_client, direct
from myst_nb.core.read import create_nb_reader
from myst_nb.sphinx_ import NbMetadataCollector, SphinxEnvType
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.logging import getLogger

from replaylab.util.processes import usable_cores

QUIET = logging.getLogger(__name__)  # what myst-nb decides is logged where the page is read


def start(app: Sphinx, env: SphinxEnvType, docnames: list[str]) -> None:
    """Execute the notebooks among the pages that are about to be read, and put these last."""
    pages = {name: notebook for name in docnames if (notebook := to_execute(Path(env.doc2path(name)), env))}
    docnames.sort(key=lambda name: name in pages)
    if not pages:
        return
    cores = usable_cores()
    at_once = min(cores, len(pages))
    use_forked_kernels(threads=cores // at_once)
    pool, config = ThreadPoolExecutor(at_once), env.mystnb_config
    started: dict[str, Future[ExecutionResult]] = {}
    for name, notebook in pages.items():
        started[name] = pool.submit(
            single_nb_execution, notebook, cwd=str(Path(env.doc2path(name)).parent), timeout=config.execution_timeout,
            allow_errors=config.execution_allow_errors,
        )  # fmt: skip
        started[name].add_done_callback(partial(_report, name))
    pool.shutdown(wait=False)

    def executed(notebook: NotebookNode, **options: Any) -> ExecutionResult:
        """In the place of `single_nb_execution` where myst-nb calls it: the notebook of the page that is being read."""
        try:
            result = started[env.docname].result()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        notebook.update(result.nb)
        return result

    direct.single_nb_execution = executed


def to_execute(path: Path, env: SphinxEnvType) -> NotebookNode | None:
    """The notebook of a page, if myst-nb is going to execute it."""
    config, text = env.mystnb_config, path.read_text()
    reader = create_nb_reader(str(path), env.myst_config, config, text)
    if reader is None:
        return None
    notebook = reader.read(text)
    return notebook if isinstance(create_client(notebook, str(path), config, QUIET), NotebookClientDirect) else None


def write_in_parallel(app: Sphinx, env: SphinxEnvType) -> None:
    """What was read, one page after the other, is written by as many processes as there are cores."""
    app.parallel = usable_cores() + 1  # one of them prepares pages for the others


def fail_with_the_pages(app: Sphinx, error: Exception | None) -> None:
    """Raise SphinxError, with each page and why, where a notebook failed: a report with a hole is none."""
    if error is not None:
        return
    data = NbMetadataCollector.get_doc_data(app.env)
    made = {name: data[name].get("exec_data") or {} for name in sorted(data) if name in app.env.found_docs}
    failed = {name: about["traceback"] or "" for name, about in made.items() if about.get("succeeded") is False}
    if failed:
        lines = [f"  {name}: {_last_line(text)}" for name, text in failed.items()]
        raise SphinxError("\n".join(["these pages could not be computed:", *lines]))


def _last_line(traceback: str) -> str:
    lines = [line for line in re.sub(r"\x1b\[[0-9;]*m", "", traceback).splitlines() if line.strip()]
    return (lines or ["no reason given"])[-1]


def _report(name: str, done: Future[ExecutionResult]) -> None:
    if not done.cancelled() and done.exception() is None:
        result = done.result()
        log, shown = getLogger(__name__), f"{name}: executed in {result.time:.1f} s"
        log.info(f"{shown}, up to the cell that failed\n{result.err}" if result.err else shown)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("env-before-read-docs", start)
    app.connect("env-updated", write_in_parallel)
    app.connect("build-finished", fail_with_the_pages)
    # Not in parallel: a page is given what was executed in this process.
    return {"parallel_read_safe": False, "parallel_write_safe": True}
