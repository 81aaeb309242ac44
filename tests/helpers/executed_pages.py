"""A page of the book, executed by papermill."""

import contextlib
import os
import sys
from pathlib import Path
from unittest import mock

import csv_files
import nbformat
from conftest import ROOT

sys.path.append(str(ROOT / "book" / "_ext"))


def papermill(*words: str) -> None:
    """papermill's command with these words, in the repository's root: in this process, with kernels that are forked as those
    of the book, so that not each of them imports everything again.
    """
    from forked_kernels import use_forked_kernels
    from jupyter_client.provisioning import KernelProvisionerFactory
    from papermill.cli import papermill as command

    factory = KernelProvisionerFactory.instance()
    usual = factory.default_provisioner_name
    with mock.patch.dict(os.environ, PYTHONPATH=str(ROOT)), contextlib.chdir(ROOT):
        use_forked_kernels(threads=1)
        try:
            command.main(["--no-progress-bar", *words], standalone_mode=False)
        finally:
            factory.default_provisioner_name = usual


def shown(store: Path, out: Path, page: str) -> dict[str, dict[str, str]]:
    """What each cell of a page shows, executed by papermill; the files that it links to have numbers for intervals."""
    papermill(f"book/{page}.ipynb", str(out), "-p", "store", str(store))
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
