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

OF_LARGE_TENSORS = """
import hashlib, resource
from replaylab.util.processes import importing_torch
with importing_torch():
    import torch
torch.manual_seed(0)
weights = torch.randn(256, 256, requires_grad=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.nn.functional.gelu(torch.randn(20000, 256) @ weights).square().mean().backward()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(hashlib.sha256(weights.grad.numpy().tobytes()).hexdigest(), faults)
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


def test_large_pages_give_the_same_bits_with_fewer_faults_and_can_be_refused() -> None:
    found = {}
    for asked in ("", "0"):
        environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
        environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | ({"THP_MEM_ALLOC_ENABLE": asked} if asked else {})
        command = [sys.executable, "-c", OF_LARGE_TENSORS]
        found[asked] = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
    (bits, faults), (plain_bits, plain_faults) = found[""], found["0"]
    assert bits == plain_bits
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if setting.is_file() and "[madvise]" in setting.read_text():
        assert int(faults) < 0.8 * int(plain_faults)  # 0.05 to 0.25: memory may be too scattered for large pages
