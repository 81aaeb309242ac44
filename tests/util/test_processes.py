"""Worker processes: what a script of one's own must do for them, said when it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPT = """
import sys
from pathlib import Path
from replaylab.util.files import locked
from replaylab.util.processes import map_in_processes

def work():
    with locked(Path(sys.argv[1])):
        print(sorted(map_in_processes(abs, [-1, -2], 2, "numbers", "n")))

"""


@pytest.mark.parametrize(
    ("ending", "said"),
    [("work()", "put what it does under `if __name__"), ('if __name__ == "__main__":\n    work()', "[1, 2]")],
)
def test_a_script_whose_workers_would_begin_it_anew_is_told_and_never_waits_for_itself(
    ending: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT + ending)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "made")]
    found = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120
    )
    assert said in found.stdout + found.stderr
    assert (found.returncode == 0) == ("__main__" in ending)
    assert ("ended early; its error stands above" in found.stderr) == (found.returncode != 0)
