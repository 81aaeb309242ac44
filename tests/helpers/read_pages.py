"""Reads what is published, and a store of the smoke preset, as a reader does, in a process of its own.

    python tests/helpers/read_pages.py FOLDER_OF_A_SMOKE_SWEEP EMPTY_FOLDER

Prints JSON: which heavy packages the process has imported after each stage.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BOOK = Path(__file__).resolve().parents[2] / "book"
HEAVY = ("torch", "pandas", "cv2", "panda3d", "vizdoom", "decord", "av")


def imported() -> list[str]:
    return [name for name in HEAVY if name in sys.modules]


def describe() -> None:
    """Run ids of a grid, and the options of all verbs."""
    from replaylab.cli.main import build_parser
    from replaylab.sweeps.presets import grid

    assert build_parser() and all(spec.run_id for spec in grid("quick"))


def compute() -> None:
    """Metrics of arrays, what names an extractor, and progress."""
    import replaylab.metrics.distances
    import replaylab.metrics.dynamics
    import replaylab.metrics.fidelity
    import replaylab.util.progress
    from replaylab.metrics import video_network

    assert replaylab.util.progress and video_network.extractor().weights_sha256


def show(page: str, **parameters: Any) -> None:
    """Every cell of a page, with these parameters, and what it displays in every format."""
    import nbformat
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    shell.reset()
    formatter = shell.display_formatter
    assert formatter is not None
    formatter.active_types = list(formatter.formatters)
    for cell in nbformat.read(BOOK / f"{page}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source).raise_error()
            if "parameters" in cell.metadata.get("tags", []):
                assert parameters.keys() <= shell.user_ns.keys(), page
                shell.user_ns.update(parameters)


def main(swept: str, empty: str) -> None:
    seen = {}
    for stage in (describe, compute):
        stage()
        seen[stage.__name__] = imported()
    pages: dict[str, dict[str, Any]] = {
        "01_worlds": {}, "05_measures": {}, "02_finetune_degradation": {"preset": "smoke", "store": swept},
        "04_ablations": {"store": empty}, "06_alignment": {"store": empty}, "07_second_world": {"store": empty},
        "08_architectures": {"store": empty}, "03_replay_sweep": {"preset": "smoke", "store": swept},
        "explorer": {"preset": "smoke", "store": swept},
    }  # fmt: skip
    for page, parameters in pages.items():
        show(page, **parameters)
        seen[page] = imported()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
