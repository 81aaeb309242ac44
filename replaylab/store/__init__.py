"""Runs and their measurements: one folder for each run during training, a few Parquet files for all published runs.

`run_folders` writes the first form, `packing` the second, and `reading.Store` reads both. Imports no torch.
"""

from replaylab.store.locations import base_curve, book_folder, published_folder, store_of
from replaylab.store.origin import provenance
from replaylab.store.reading import Store
from replaylab.store.run_folders import (
    COLUMNS,
    OF_DISTANCES,
    ReferenceSpec,
    check_result,
    check_store,
    checked_rows,
    claim,
    finish,
    samples_folder,
    write_rows,
)

__all__ = [
    "COLUMNS", "OF_DISTANCES", "ReferenceSpec", "Store", "base_curve", "book_folder", "check_result", "check_store",
    "checked_rows", "claim", "finish", "provenance", "published_folder", "samples_folder", "store_of", "write_rows",
]  # fmt: skip
