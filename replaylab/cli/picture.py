"""The verb `picture`: the first page's clips as a moving picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from replaylab.cli import options as shared


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "the four clips of the book's first page as one moving picture"
    parser = shared.add_verb(verbs, "picture", text, run)
    parser.add_argument("out", help="the file to write, such as four.webp")


def run(options: argparse.Namespace) -> None:
    """Write the picture, and print its size."""
    from replaylab.pages import first_page, moving_picture

    out = Path(options.out).expanduser()
    if out.suffix != ".webp":
        raise ValueError(f"{out}: a moving picture is written as WebP; give a name that ends in .webp")
    every = first_page.read().every
    shown = first_page.versions(every)
    chosen = first_page.chosen_clip(shown, first_page.effects(every.rows))
    moving_picture.write([one for one in shown if one.percentile == chosen], out)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")
