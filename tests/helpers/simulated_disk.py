"""A disk that keeps what was fsynced and nothing else: the worst that POSIX allows a power failure to leave.

A file has the content of its last fsync, and a folder the names that it had at its own. Whatever is fsynced, renamed or
removed by this process is followed; content is read when it is fsynced, whoever wrote it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import pytest


class Disk:
    """Of a folder that is empty, or whose content counts as fsynced, until the context ends."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self._patch = root, monkeypatch
        self.at_every_event: Callable[[], None] = lambda: None
        self._looking = False
        self._content: dict[int, bytes] = {}  # by inode
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}  # a folder's: name -> inode, whether it is a folder
        self._held: list[int] = []  # descriptors, so that no inode is given away again

    def __enter__(self) -> Self:
        for here, _, names in os.walk(self.root):
            for path in (Path(here), *(Path(here, name) for name in names)):
                self._keep(path)
        for name in ("fsync", "replace", "rename", "unlink", "rmdir"):
            self._patch.setattr(os, name, self._followed(getattr(os, name), name == "fsync"))
        return self

    def __exit__(self, *about: object) -> None:
        self._patch.undo()
        for descriptor in self._held:
            os.close(descriptor)

    def _followed(self, honest: Callable[..., None], is_fsync: bool) -> Callable[..., None]:
        def follow(*arguments: object, **named: object) -> None:
            if self._looking:  # what looks may write, too
                honest(*arguments, **named)
                return
            self._look()
            honest(*arguments, **named)
            if is_fsync:
                path = Path(os.readlink(f"/proc/self/fd/{arguments[0]}"))
                if path.is_relative_to(self.root):
                    self._keep(path)
            self._look()

        return follow

    def _look(self) -> None:
        self._looking = True
        try:
            self.at_every_event()
        finally:
            self._looking = False

    def _keep(self, path: Path) -> None:
        if path.is_symlink() or not path.exists():
            return
        self._held.append(os.open(path, os.O_RDONLY))
        inode = path.stat().st_ino
        if path.is_dir():
            with os.scandir(path) as entries:
                self._names[inode] = {each.name: (each.inode(), each.is_dir()) for each in entries}
        else:
            self._content[inode] = path.read_bytes()

    def tree(self, with_hidden: bool = False) -> dict[str, bytes]:
        """Every file that a power failure would leave now: its path and its content."""
        return {
            name: data for name, data in self._files(self.root.stat().st_ino, "") if with_hidden or "/." not in f"/{name}"
        }

    def _files(self, folder: int, above: str) -> Iterator[tuple[str, bytes]]:
        for name, (inode, is_folder) in sorted(self._names.get(folder, {}).items()):
            if is_folder:
                yield from self._files(inode, f"{above}{name}/")
            else:
                yield above + name, self._content.get(inode, b"")

    def fail(self, to: Path) -> None:
        """What a power failure would leave now, as a folder."""
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir()
        for name, data in self.tree(with_hidden=True).items():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes(data)
