"""A page of the book, executed by papermill."""

from pathlib import Path

import nbformat
from conftest import ROOT, run


def shown(store: Path, out: Path, page: str) -> dict[str, dict[str, str]]:
    """What each cell of a page shows, executed by papermill."""
    run(f"papermill book/{page}.ipynb {out} -p store {store}", ROOT)
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    outputs = {cell.id: [one.data for one in cell.outputs if one.output_type == "execute_result"] for cell in cells}
    return {name: datas[0] for name, datas in outputs.items() if datas}
