"""What a published book says of itself: version, licence and date on each page, and links to its repository on GitHub; all
its data as one file; and a search that lists prose first.

Decision: the repository is the one that GitHub builds for (GITHUB_REPOSITORY), so that a fork's book links to the fork;
built elsewhere, a book has no such links. The file is an archive of book/results as it is, the same bytes for the same
results, whenever it is made.
"""

from __future__ import annotations

import os
import zipfile
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

DATA = "replaylab-results.zip"
"""The archive's name, beside the first page."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the options when the configuration has been read."""
    app.connect("config-inited", add_options)
    app.connect("build-finished", add_data)
    return {"parallel_read_safe": True}


def add_options(app: Sphinx, config: Config) -> None:
    """The theme's options for footer, buttons and date, and in which order the search lists what it finds."""
    config.html_search_scorer = str(Path(app.srcdir) / "_ext" / "search_scores.js")
    about = metadata("replaylab")
    config.html_theme_options["extra_footer"] = f"replaylab {about['Version']}, {about['License-Expression']}"
    config.html_last_updated_fmt = "%Y-%m-%d"
    if repository := os.environ.get("GITHUB_REPOSITORY", ""):
        config.html_theme_options |= {
            "repository_url": f"https://github.com/{repository}", "repository_branch": "main", "path_to_docs": "book",
            "use_repository_button": True, "use_issues_button": True,
            "launch_buttons": {"colab_url": "https://colab.research.google.com"},
        }  # fmt: skip


def add_data(app: Sphinx, exception: Exception | None) -> None:
    """All that is published, with its sums and the README that explains it, in the folder of the pages."""
    if exception is None and app.builder.format == "html":
        pack(Path(app.srcdir) / "results", Path(app.outdir) / DATA)


def pack(folder: Path, file: Path) -> None:
    """A folder as an archive: files by name, all of one date and mode, not compressed, since tables and clips are."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = zipfile.ZipInfo(f"{file.stem}/{path.relative_to(folder).as_posix()}")
            member.external_attr = 0o644 << 16
            archive.writestr(member, path.read_bytes())
