"""The verb `sweep`: a grid of runs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from replaylab.cli import options as shared
from replaylab.sweeps.presets import BUDGETS

if TYPE_CHECKING:
    from replaylab.sweeps.sweep import Table

SHOWN = ("effnet_kd", "effnet_fd", "ade_px", "fde_px", "recall")


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "train what is missing of a grid of runs and show its measures"
    parser = shared.add_verb(verbs, "sweep", text, run)
    shared.add_sweep(parser)
    parser.add_argument("--replay-fractions", type=float, nargs="+", default=[], help="default: the preset's own")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], help="default: the preset's own")
    shared.add_cluster(parser)
    text = "what all fractions have equally much of (default: steps)"
    parser.add_argument("--budget", choices=BUDGETS, default="steps", help=text)
    shared.add_machine(parser)
    parser.add_argument("--headline", action="store_true", help="print one line with the figures found")


def run(options: argparse.Namespace) -> None:
    """Train or read the runs; print them and their means, or the headline."""
    from replaylab.pages import replay_sweep
    from replaylab.sweeps import sweep

    table = sweep.run(
        options.preset, options.replay_fractions, options.seeds, options.cluster, options.store, options.budget,
        shared.machine(options), options.cluster_file, options.dry_run,
    )  # fmt: skip
    if options.dry_run:
        print(table.runs.drop(columns=["trained_now", "reason"]).to_string(index=False))
    elif options.headline:
        print(replay_sweep.headline(table.rows))
    else:
        print_runs(table)


def print_runs(table: Table) -> None:
    """The runs and their means; raises ValueError if not all of them are done."""
    print(table.runs.to_string(index=False))
    shared.print_means(table.rows, SHOWN)
    if missing := (table.runs["state"] != "done").sum():
        raise ValueError(f"{missing} of {len(table.runs)} runs are not done")
