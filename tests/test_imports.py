"""What only reads stays light when it runs, too; tests/test_architecture.py has read the same from the source."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from conftest import HELPERS, ROOT, run

from replaylab.sweeps.sweep import Table

WITHOUT_CLIPS = {"compute", "01_worlds", "05_measures"}


@pytest.mark.slow
def test_reading_imports_neither_torch_nor_a_renderer_nor_decord(swept: Table, tmp_path: Path) -> None:
    """Descriptions of runs and the options of all verbs do without pandas and OpenCV, pages without clips without PyAV."""
    written = run([sys.executable, str(HELPERS / "read_pages.py"), str(swept.store), str(tmp_path)], ROOT)
    seen = json.loads(written.splitlines()[-1])
    assert seen.pop("describe") == []
    assert seen.keys() >= WITHOUT_CLIPS | {"03_replay_sweep", "explorer"}
    for stage, imported in seen.items():
        allowed = {"pandas", "cv2"} if stage in WITHOUT_CLIPS else {"pandas", "cv2", "av"}
        assert set(imported) <= allowed, stage
