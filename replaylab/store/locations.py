"""Where results are kept: the book's folder, its stores, and the shipped bases' learning curves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from replaylab.catalogue import PUBLISHED
from replaylab.shipped_weights import WEIGHTS
from replaylab.util import reading

LANDMARK = "03_replay_sweep.ipynb"


def store_of(preset: str, store: str | Path) -> Path:
    """The folder that a sweep reads and writes: `store` if given, else book/results for PUBLISHED, else book/runs/store."""
    if str(store):
        return reading.expanded(store).absolute()
    return book_folder() / ("results" if preset in PUBLISHED else "runs/store")


def book_folder() -> Path:
    """The folder of the book's pages, found from the working directory upwards.

    papermill runs a notebook in the directory where papermill was called (the repository's root), Jupyter and Jupyter Book
    in the notebook's own folder. Raises FileNotFoundError if neither this folder nor one above it holds the book.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        for book in (folder, folder / "book"):
            if (book / LANDMARK).is_file() and (book / "_toc.yml").exists():
                return book
    raise FileNotFoundError(
        f"no book/{LANDMARK} with a _toc.yml beside it in {here} or above: run this from the repository's root or from "
        "book/, or name a store"
    )


def published_folder() -> Path:
    """The published results: book/results; without a book, the path of a missing folder, which holds no run."""
    try:
        return book_folder() / "results"
    except FileNotFoundError:
        return Path.cwd() / "book" / "results"


def base_curve(base: str = "base") -> pd.DataFrame:
    """The learning curve of a shipped base: columns model, step, domain, measure, value (on dev clips)."""
    return reading.csv(WEIGHTS / base / "curve.csv", "restore it: it comes with the package")
