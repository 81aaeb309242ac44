"""The provenance of a result: commit, package versions and machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "diffusers", "numpy", "panda3d", "decord", "av")
LIBRARY = Path(__file__).parents[1]


def provenance() -> dict[str, Any]:
    """Git commit, package versions and machine; no host name, no paths."""
    return {
        "replaylab": version("replaylab"), "git_commit": _git_commit(LIBRARY),
        "packages": {package: _version(package) for package in PACKAGES}, "python": platform.python_version(),
        "machine": platform.machine(), "processors": os.cpu_count(),
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit(folder: Path) -> str | None:
    """The commit; if files in `folder` differ from it, followed by "+changes-" and a digest of the difference and of the
    untracked files. None outside a repository.
    """

    def git(*words: str) -> bytes:
        return subprocess.run(["git", *words], cwd=folder, capture_output=True, check=True).stdout

    try:
        head = git("rev-parse", "HEAD").decode().strip()
        changes = hashlib.sha256(difference := git("diff", "HEAD", "--binary", "--", "."))
        unknown = sorted(filter(None, git("ls-files", "--others", "--exclude-standard", "-z", "--", ".").split(b"\0")))
        for name in unknown:
            changes.update(name + b"\0" + (folder / os.fsdecode(name)).read_bytes())
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{head}+changes-{changes.hexdigest()[:12]}" if difference or unknown else head
