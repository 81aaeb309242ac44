"""The verb `compare`: distances between two folders of videos."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from replaylab.cli import options as shared


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "distances between two folders of videos, with all settings needed to compare them"
    parser = shared.add_verb(verbs, "compare", text, run)
    parser.add_argument("made", metavar="MADE", help="folder of generated videos, searched recursively, or a domain")
    parser.add_argument("real", metavar="REAL", help="the same with real videos; at least 20 in each, of one size and rate")
    parser.add_argument("--context-frames", type=int, default=0, help="first frames to leave out (default: 0)")
    parser.add_argument("--frames", type=int, default=0, help="number of frames after them (default: that of the shortest)")
    parser.add_argument("--split", default="test", help="split of a domain: train, dev or test (default: test)")
    parser.add_argument("--paired", action="store_true", help="also PSNR, SSIM ... of files with the same name")
    parser.add_argument("--csv", help="file for the table")
    text = "efficientnet, videonet, inception=FILE, i3d=FILE, videomae=FOLDER, vjepa2=FOLDER (default: efficientnet)"
    parser.add_argument("--extractor", nargs="+", default=["efficientnet"], help=text)
    text = "run TorchScript files of inception= and i3d= that are not the published ones: they are programs"
    parser.add_argument("--allow-unknown-programs", action="store_true", help=text)


def run(options: argparse.Namespace) -> None:
    """Print the table; write it, with full digests, if a file is named."""
    from replaylab.evaluation import compare
    from replaylab.util.files import write_atomically

    table = compare.table(
        options.made, options.real, options.extractor, options.context_frames, options.frames, options.split, options.paired,
        options.allow_unknown_programs,
    )  # fmt: skip
    if options.csv:
        write_atomically(Path(options.csv), lambda aside: table.to_csv(aside, index=False))
    shown = table.assign(extractor_digest=table["extractor_digest"].str[:12])
    print(shown.to_string(index=False, na_rep="", float_format="{:.4f}".format))
