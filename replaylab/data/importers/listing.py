"""The video files in and below a folder.

Decision: linked folders are followed, each folder once. Files with a video's extension that cannot be read (a broken link, a
device, a name that is not UTF-8) and folders without permission are `Unusable`; other files are counted and the first are
named. Hidden files and folders are left out. Refused: a path that is not a folder.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from replaylab.data.importers.sources import Unusable

ENDINGS = (  # in lower case
    ".3g2", ".3gp", ".asf", ".avi", ".f4v", ".flv", ".gif", ".h264", ".hevc", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
MOST_NAMED = 5  # other files


@dataclass(frozen=True)
class Listing:
    """The files in and below a folder, by paths relative to it, sorted."""

    videos: list[str]
    unusable: list[Unusable]
    others: list[str]

    @property
    def described_others(self) -> str:
        """The number and names of files without a video's extension: "3 others: a.txt, b.txt, c.txt"."""
        shown = [*self.others[:MOST_NAMED], *(["..."] if len(self.others) > MOST_NAMED else [])]
        return f"{len(self.others)} others" + (f": {', '.join(shown)}" if shown else "")


def listed(folder: Path, without: Path | None = None) -> Listing:
    """The video files in and below a folder, by their extensions, except those below the folder `without`.

    Raises FileNotFoundError if the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder")
    videos: list[str] = []
    others: list[str] = []
    unusable: list[Unusable] = []
    seen = {_identity(folder), *([_identity(without)] if without is not None and without.is_dir() else [])}

    def closed(error: OSError) -> None:
        place = printable(os.path.relpath(error.filename, folder))
        unusable.append(Unusable(place, f"a folder that cannot be opened ({error.strerror})", "allow it: chmod +rx FOLDER"))

    for place, below, names in os.walk(folder, followlinks=True, onerror=closed):
        kept = []
        for name in sorted(below):
            if not name.startswith(".") and (one := _identity(Path(place, name))) not in seen:
                seen.add(one)
                kept.append(name)
        below[:] = kept
        for name in names:
            if name.startswith("."):
                continue
            path = Path(place, name)
            file = path.relative_to(folder).as_posix()
            if path.suffix.lower() not in ENDINGS:
                others.append(printable(file))
            elif why := _unreadable(path, file):
                unusable.append(Unusable(printable(file), *why))
            else:
                videos.append(file)
    return Listing(sorted(videos), unusable, sorted(others))


def printable(file: str) -> str:
    """A file's name with bytes that are not UTF-8 as backslash escapes."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def _unreadable(path: Path, file: str) -> tuple[str, str] | None:
    """The reason why a file cannot be read, and the remedy; None if there is none."""
    if printable(file) != file:
        return "its name is not UTF-8", "give it another name"
    if not path.exists():
        return "a broken link", "copy the file itself, or repair the link"
    return None if path.is_file() else ("neither a file nor a folder", "leave it out")


def _identity(folder: Path) -> tuple[int, int]:
    known = folder.stat()
    return known.st_dev, known.st_ino
