"""The video files in and below a folder.

Decision: linked folders are followed, each folder once. What has a video's ending and cannot be read (a dead link, no file,
a name that is not UTF-8, a folder that may not be opened) is `Unusable`; other files are counted and the first are named.
Hidden files and folders are left out. Refused: a folder that is none.
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
        """The number and names of files without a video's ending: "3 others: a.txt, b.txt, c.txt"."""
        shown = [*self.others[:MOST_NAMED], *(["..."] if len(self.others) > MOST_NAMED else [])]
        return f"{len(self.others)} others" + (f": {', '.join(shown)}" if shown else "")


def listed(folder: Path, without: Path | None = None) -> Listing:
    """The video files in and below a folder, by their endings; nothing below the folder `without`."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder")
    videos: list[str] = []
    others: list[str] = []
    unusable: list[Unusable] = []
    seen = {_identity(folder), *([_identity(without)] if without is not None and without.is_dir() else [])}

    def closed(error: OSError) -> None:
        place = printable(os.path.relpath(error.filename, folder))
        unusable.append(
            Unusable(place, f"a folder that cannot be opened ({error.strerror})", "get the right: chmod +rx FOLDER")
        )

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
    """A file's name with bytes that are not UTF-8 as backslash and number."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def _unreadable(path: Path, file: str) -> tuple[str, str] | None:
    """Why a file cannot be read, and what to do; None where nothing is known against it."""
    if printable(file) != file:
        return "its name is not UTF-8", "give it another name"
    if not path.exists():
        return "a link to what is not there", "copy the file itself, or mend the link"
    return None if path.is_file() else ("neither a file nor a folder", "leave it out")


def _identity(folder: Path) -> tuple[int, int]:
    known = folder.stat()
    return known.st_dev, known.st_ino
