"""What a published book says of itself: version, licence and date on each page, and links to its repository on GitHub.

Decision: the repository is the one that GitHub builds for (GITHUB_REPOSITORY), so that a fork's book links to the fork;
built elsewhere, a book has no such links.
"""

from __future__ import annotations

import os
from importlib.metadata import metadata
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the options when the configuration has been read."""
    app.connect("config-inited", add_options)
    return {"parallel_read_safe": True}


def add_options(_: Sphinx, config: Config) -> None:
    """The theme's options for footer, buttons and date."""
    about = metadata("replaylab")
    config.html_theme_options["extra_footer"] = f"replaylab {about['Version']}, {about['License-Expression']}"
    config.html_last_updated_fmt = "%Y-%m-%d"
    if repository := os.environ.get("GITHUB_REPOSITORY", ""):
        config.html_theme_options |= {
            "repository_url": f"https://github.com/{repository}", "repository_branch": "main", "path_to_docs": "book",
            "use_repository_button": True, "use_issues_button": True,
            "launch_buttons": {"colab_url": "https://colab.research.google.com"},
        }  # fmt: skip
