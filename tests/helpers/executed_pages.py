"""A page of the book, executed by papermill."""

from pathlib import Path

import csv_files
import nbformat
from conftest import ROOT, run


def shown(store: Path, out: Path, page: str) -> dict[str, dict[str, str]]:
    """What each cell of a page shows, executed by papermill; the files that it links to have numbers for intervals."""
    run(f"papermill book/{page}.ipynb {out} -p store {store}", ROOT)
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    outputs = {cell.id: [one.data for one in cell.outputs if one.output_type == "execute_result"] for cell in cells}
    for datas in outputs.values():
        csv_files.check("".join("".join(data.get("text/html", "")) for data in datas))
    return {name: datas[0] for name, datas in outputs.items() if datas}


def run_here(page: str) -> dict[str, object]:
    """The names that a page's code cells define, executed in this process with the page's own parameters."""
    names: dict[str, object] = {}
    for cell in nbformat.read(ROOT / "book" / f"{page}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    return names
