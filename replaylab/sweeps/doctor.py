"""The capabilities of this machine: one line for each requirement of training, reading video, clusters and the book.

Decision: everything is checked and nothing is changed; a missing part gives a line with a remedy, not an error.
The time of training is measured on this machine, by one step and a few evaluated clips; the GPU resources that a preset
for your own model needs are counted (`models.families.estimates`).
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from replaylab.util.processes import memory_gb, usable_cores

TESTED_PYTHON = (3, 11)
CODECS = ("h264", "hevc", "vp9", "av1")
TIMED = ("quick", "published")
"""The presets whose time is estimated."""
LEAST_FREE_GB = 5.0
"""Disk space for the packages, the domains of `quick`, its runs and the book."""
USEFUL_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One line: the checked part, its state, and a remedy, empty if none is needed."""

    name: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        line = f"{self.name:<13} {self.found}"
        return f"{line}\n{'':<13} -> {self.advice}" if self.advice else line


def findings(folder: Path = Path(), timed: bool = True) -> Iterator[Finding]:
    """All lines, in the order in which they are ready. `folder`: on the disk to be checked. `timed`: whether the presets'
    time is estimated, which takes about ten seconds.
    """
    yield from (python(), packages(), *extras(), processor(), memory(), disk(folder), gpu(), video(), compiler(), cluster())
    if timed:
        yield from map(preset, TIMED)
    yield from own_models()
    yield next_step()


def python() -> Finding:
    """The version of Python, and whether the tests run with it."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    tested = ".".join(map(str, TESTED_PYTHON))
    return Finding("Python", found, "" if sys.version_info[:2] == TESTED_PYTHON else f"tested with Python {tested}")


def packages() -> Finding:
    """The versions of the main packages."""
    names = ("torch", "diffusers", "transformers", "jupyter-book")
    return Finding("packages", ", ".join(f"{name} {version(name) or 'missing'}" for name in names))


def extras() -> list[Finding]:
    """Each optional part of the package, and whether its requirements are installed."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(line) for line in metadata.requires("replaylab") or ()]
        names = [name for name in metadata.metadata("replaylab").get_all("Provides-Extra") or () if name != "all"]
    except metadata.PackageNotFoundError:
        return [Finding("extras", "unknown: replaylab is not installed here", "run `make setup`, or pip install it")]
    whole, lines = [], []
    for extra in names:
        of_it = [each for each in needed if each.marker and each.marker.evaluate({"extra": extra})
                 and not each.marker.evaluate({"extra": ""})]  # fmt: skip
        missing = [each.name for each in of_it if version(each.name) is None]
        if missing:
            advice = f"pip install 'replaylab[{extra}]', if you need it"
            lines.append(Finding(f"  {extra}", f"optional, without {', '.join(missing)}", advice))
        else:
            whole.append(extra)
    return [Finding("extras", ", ".join(whole) or "none"), *lines]


def version(name: str) -> str | None:
    """The version of an installed distribution; None if it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def processor() -> Finding:
    """Usable cores, their fast precisions, and the precision that training uses as a result."""
    from replaylab.util.distributed import best_precision

    flags = _cpu_flags()
    named = [flag for flag in USEFUL_FLAGS if flag in flags]
    precision, why = best_precision("cpu")
    return Finding("processor", f"{usable_cores()} cores, {', '.join(named) or 'flags unknown'}; {precision}, because {why}")


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return set()
    return set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def memory() -> Finding:
    """This machine's memory, total and free."""
    sizes = memory_gb()
    return Finding("memory", f"{sizes[0]:.0f} GB, {sizes[1]:.0f} GB free" if sizes else "unknown")


def disk(folder: Path = Path()) -> Finding:
    """Free disk space for runs."""
    free = shutil.disk_usage(folder).free / GB
    advice = f"{LEAST_FREE_GB:.0f} GB are needed; --store names another disk" if free < LEAST_FREE_GB else ""
    return Finding("disk", f"{free:.0f} GB free in {folder.resolve()}", advice)


def gpu() -> Finding:
    """Each GPU that torch can use, with its memory."""
    import torch

    if not torch.cuda.is_available():
        advice = "a driver is there, but this torch does not reach it" if shutil.which("nvidia-smi") else ""
        return Finding("GPU", "none: everything published ran on a CPU", advice)
    cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16"
    return Finding("GPU", ", ".join(f"{card.name} ({card.total_memory / GB:.0f} GB)" for card in cards) + f"; {bf16}")


def video() -> Finding:
    """The video formats that can be decoded, and the reader."""
    import av

    from replaylab.data.video import chosen_reader

    known = [codec for codec in CODECS if codec in av.codecs_available]
    missing = [codec for codec in CODECS if codec not in known]
    advice = f"videos in {', '.join(missing)} cannot be read: install PyAV from its wheel" if missing else ""
    return Finding("video", f"{', '.join(known)}; read with {chosen_reader()}", advice)


def compiler() -> Finding:
    """Whether --compiled has an effect."""
    import torch

    from replaylab.util.distributed import can_compile

    there = can_compile("cuda" if torch.cuda.is_available() else "cpu")
    return Finding("compiler", "torch.compile can be used (--compiled)" if there else "none: --compiled changes nothing")


def cluster() -> Finding:
    """Whether jobs can be sent to SLURM, and to which partitions."""
    if not shutil.which("sbatch"):
        return Finding("SLURM", "none: runs are trained in this process, or in local ones (--cluster local)")
    try:
        asked = subprocess.run(["sinfo", "-h", "-o", "%R"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("SLURM", "sbatch is there, sinfo cannot be run", str(error))
    if asked.returncode:
        said = (asked.stderr.splitlines() or ["it says nothing"])[0]
        return Finding("SLURM", "sbatch is there, but no controller answers", f"sinfo: {said}")
    return Finding("SLURM", f"partitions {', '.join(sorted(set(asked.stdout.split())))} (--cluster slurm)")


def preset(name: str) -> Finding:
    """The estimated time of a sweep on this machine, including all missing inputs."""
    from replaylab.sweeps import sweep
    from replaylab.sweeps.cluster import ClusterSpec
    from replaylab.sweeps.presets import PRESETS, grid

    specs = grid(name)
    with tempfile.TemporaryDirectory() as empty:
        said = sweep.estimate(specs, Path(empty), specs, "inline", ClusterSpec(), PRESETS[name].execution)
    return Finding(name, said.removeprefix("Estimated: "))


def own_models() -> list[Finding]:
    """The GPU resources for fine-tuning each preset of `own`, and whether this GPU has them."""
    import torch

    from replaylab.models.families import estimates, presets

    have = torch.cuda.get_device_properties(0).total_memory / GB if torch.cuda.is_available() else 0.0
    lines = []
    for name, one in presets.PRESETS.items():
        counted = estimates.kept(one)
        need = max(counted.training_gb, counted.encoding_gb)
        fits = "fits" if have > need else "does not fit this GPU" if have else "needs a GPU"
        lines.append(Finding(f"own {name}", f"{need:.0f} GB, {counted.hours:.1f} H100 hours a run (counted): {fits}"))
    return lines


def next_step() -> Finding:
    """The command to run first on this machine."""
    import torch

    if torch.cuda.is_available():
        return Finding("next", "make gpu-check, which tests on this GPU what was only tested on CPUs")
    return Finding("next", "make reproduce")
