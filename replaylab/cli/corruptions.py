"""The verb `damage`: the study of which measure responds to which corruption."""

from __future__ import annotations

import argparse
from typing import Any

from replaylab.cli import options as shared


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "measure clips that were damaged in known ways; goes on where it was stopped"
    parser = shared.add_verb(verbs, "damage", text, run)
    parser.add_argument("--preset", default="quick", help="published, quick or smoke: how many clips (default: quick)")
    parser.add_argument("--store", default="", help="folder to keep it in (default: the preset's own)")


def run(options: argparse.Namespace) -> None:
    """Measure, or read, and print what was found in each domain."""
    from replaylab.evaluation import corruption_study
    from replaylab.pages import measures

    study = corruption_study.run(options.preset, options.store)
    for domain in corruption_study.DOMAINS:
        print(measures.summary(study, domain), end="\n\n")
