"""The verb `damage`: the study of the measures' responses to controlled corruptions."""

from __future__ import annotations

import argparse
from typing import Any

from replaylab.cli import options as shared


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "measure clips with controlled corruptions; an interrupted study continues"
    parser = shared.add_verb(verbs, "damage", text, run)
    parser.add_argument("--preset", default="quick", help="published, quick or smoke: how many clips (default: quick)")
    parser.add_argument("--store", default="", help="folder for the results (default: the preset's own)")


def run(options: argparse.Namespace) -> None:
    """Measure, or read, and print the results for each domain."""
    from replaylab.evaluation import corruption_study
    from replaylab.pages import measures

    study = corruption_study.run(options.preset, options.store)
    for domain in corruption_study.DOMAINS:
        print(measures.summary(study, domain), end="\n\n")
