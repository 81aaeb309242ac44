"""The command line of `own`: a model and videos of one's own in, a table out.

The rooms that do it are imported when they are asked for.
"""

from __future__ import annotations

import argparse
from typing import Any

from replaylab.analysis.tables import last_step, per_arm
from replaylab.spec import CLUSTERS
from replaylab.sweeps.own_settings import OPTIONS, PRESETS

SHOWN = ("effnet_kd", "ade_px", "recall", "flow_error_px")


def add_parser(verbs: Any) -> None:
    """Add the verb `own` to the subparsers of the command."""
    text = "fine-tune your own model on your own videos, with and without replay, and measure it"
    sub = verbs.add_parser("own", help=text, description=text)
    sub.set_defaults(verb=own)
    sub.add_argument("--preset", choices=PRESETS, default="wan", help="settings of a family (default: %(default)s)")
    sub.add_argument("--model", help="folder in diffusers' layout, or a name on the hub (default: the preset's)")
    sub.add_argument("--driving", metavar="DOMAIN", help="what it is fine-tuned on (`domain add` makes one)")
    sub.add_argument("--replay", nargs="+", default=[], metavar="DOMAIN", help="what is replayed")
    sub.add_argument("--replay-fractions", type=float, nargs="+", default=[0.0, 0.25], help="default: 0 0.25")
    sub.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    sub.add_argument(
        "--detector",
        default="",
        metavar="NAME_OR_FOLDER",
        help="object detector of transformers; without one no agent is measured",
    )
    sub.add_argument(
        "--agents", nargs="+", default=[], metavar="CLASS=KIND", help="its classes that are agents (default: COCO's)"
    )
    for name, (kind, about) in OPTIONS.items():
        sub.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"{about} (default: the preset's)")
    sub.add_argument("--store", default="", help="folder of runs (default: book/runs/store)")
    sub.add_argument("--cluster", choices=CLUSTERS, default="inline", help="who trains missing runs")
    sub.add_argument("--cluster-file", default="", help="YAML: what a job gets of the cluster")
    sub.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be trained and what it would cost; without --driving, what each preset takes of a GPU",
    )


def own(options: argparse.Namespace) -> None:
    """What the verb does."""
    from replaylab.sweeps import own_model as room

    if not options.driving:
        if not options.dry_run:
            raise ValueError("--driving is needed: a domain, such as `python -m replaylab domain add` makes")
        print(room.estimates())
        return
    table = room.run(
        options.model or room.hub_name(options.preset), options.driving, options.replay, options.replay_fractions,
        room.settings(options.preset, vars(options)), seeds=options.seeds, detector=options.detector,
        agents=options.agents, cluster=options.cluster, cluster_file=options.cluster_file, store=options.store,
        dry_run=options.dry_run,
    )  # fmt: skip
    print(table.runs.to_string(index=False))
    if len(table.rows):
        means = last_step(per_arm(table.rows))
        shown = means[means["measure"].isin(SHOWN)]
        print(shown.pivot(index="arm", columns=["measure", "domain"], values="value").round(3).to_string())
