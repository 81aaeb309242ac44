"""The verb `own`: fine-tunes and measures your own model on your own videos."""

from __future__ import annotations

import argparse
from typing import Any

from replaylab.cli import options as shared
from replaylab.sweeps.own_settings import OPTIONS, PRESETS, Settings

SHOWN = ("effnet_kd", "ade_px", "recall", "flow_error_px")


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "fine-tune your own model on your own videos, with and without replay, and measure it"
    parser = shared.add_verb(verbs, "own", text, run)
    parser.add_argument("--preset", choices=PRESETS, default="wan", help="settings of a family (default: %(default)s)")
    parser.add_argument("--model", help="folder in diffusers' layout, or a name on the hub (default: the preset's)")
    parser.add_argument("--driving", metavar="DOMAIN", help="domain for fine-tuning (`domain add` makes one)")
    parser.add_argument("--replay", nargs="+", default=[], metavar="DOMAIN", help="what is replayed")
    parser.add_argument("--replay-fractions", type=float, nargs="+", default=[0.0, 0.25], help="default: 0 0.25")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    text = "object detector of transformers; without one no agent is measured"
    parser.add_argument("--detector", default="", metavar="NAME_OR_FOLDER", help=text)
    text = "the detector's classes that are agents (default: COCO's)"
    parser.add_argument("--agents", nargs="+", default=[], metavar="CLASS=KIND", help=text)
    for name, (kind, about) in OPTIONS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"{about} (default: the preset's)")
    parser.add_argument("--store", default="", help="folder of runs (default: book/runs/store)")
    shared.add_tracker(parser)
    shared.add_cluster(parser, "; without --driving, the GPU resources of each preset")


def run(options: argparse.Namespace) -> None:
    """Train or read the runs and print their means; without a domain, print what each preset costs."""
    from replaylab.sweeps import own_model

    if not options.driving:
        if not options.dry_run:
            raise ValueError("--driving is needed: a domain, such as `python -m replaylab domain add` makes")
        print(own_model.estimates())
        return
    table = own_model.run(
        options.model or own_model.hub_name(options.preset), options.driving, options.replay, options.replay_fractions,
        Settings.of(options.preset, vars(options)), seeds=options.seeds, detector=options.detector,
        agents=options.agents, cluster=options.cluster, cluster_file=options.cluster_file, store=options.store,
        dry_run=options.dry_run, preset=options.preset, tracker=options.tracker,
    )  # fmt: skip
    print(table.runs.to_string(index=False))
    shared.print_means(table.rows, SHOWN)
