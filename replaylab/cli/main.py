"""The command line: the parser of all verbs, and their exit status.

Decision: each group of verbs has a module with `add_parser`, and a function for each verb that takes the parsed options.
The function imports the modules that it needs, so that help is shown quickly.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from replaylab.cli import ceiling, compare, corruptions, doctor, domain, own, picture, publish, training, worlds
from replaylab.util.extras import MissingExtra
from replaylab.util.processes import ask_for_large_pages
from replaylab.util.progress import is_follower
from replaylab.util.text import printable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb given by the arguments; returns the exit status."""
    options = build_parser().parse_args(arguments)
    ask_for_large_pages()
    quiet = redirect_stdout(io.StringIO()) if is_follower() else nullcontext()
    try:
        with quiet:
            options.run(options)
    except (
        ValueError,
        OSError,
        FloatingPointError,
        MissingExtra,
    ) as error:  # bad input is a sentence, not a stack of frames
        print(printable(f"replaylab: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("replaylab: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    text = "Fine-tuning of video generators with replay: training, evaluation, domains and stores."
    top = argparse.ArgumentParser(prog="replaylab", description=text, epilog="Each verb has its own --help.")
    verbs = top.add_subparsers(required=True, metavar="VERB")
    for group in (worlds, domain, ceiling, own, corruptions, training, compare, publish, picture, doctor):
        group.add_parser(verbs)
    return top
