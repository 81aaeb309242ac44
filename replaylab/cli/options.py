"""Options shared by several verbs of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from replaylab.spec import CLUSTERS, PRECISIONS, MachineSpec
from replaylab.sweeps.presets import PRESETS

if TYPE_CHECKING:
    import pandas as pd


def add_verb(
    verbs: Any, name: str, text: str, run: Callable[[argparse.Namespace], None], description: str = ""
) -> argparse.ArgumentParser:
    """The parser of a verb that calls `run`; its default description is the `text` in the list of verbs."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=description or text)
    parser.set_defaults(run=run)
    return parser


def add_group(verbs: Any, name: str, text: str, metavar: str = "VERB") -> Any:
    """A verb with verbs of its own; returns the object to which they are added."""
    return verbs.add_parser(name, help=text, description=text).add_subparsers(required=True, metavar=metavar)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """`--preset` of a sweep, and its store."""
    about = "; ".join(f"{preset.name}: {preset.about}" for preset in PRESETS.values()).replace("%", "%%")
    parser.add_argument("--preset", choices=PRESETS, default="quick", help=about)
    about = "folder of runs (default: book/results for the published presets, else book/runs/store)"
    parser.add_argument("--store", default="", help=about)


def add_run(parser: argparse.ArgumentParser) -> None:
    """The options that name one run of a sweep."""
    add_sweep(parser)
    about = "replayed share of each batch, 0 to 1"
    parser.add_argument("--replay-fraction", type=float, required=True, help=about)
    parser.add_argument("--seed", type=int, default=0, help="seed of the run (default: 0)")


def add_cluster(parser: argparse.ArgumentParser, dry_run: str = "") -> None:
    """Options of where missing runs are trained; `dry_run`: the additional output of a dry run."""
    parser.add_argument("--cluster", choices=CLUSTERS, default="inline", help="where missing runs are trained")
    about = "YAML file with a job's resources (default: the cluster's own)"
    parser.add_argument("--cluster-file", default="", help=about)
    about = f"report the runs to be trained and their cost{dry_run}"
    parser.add_argument("--dry-run", action="store_true", help=about)


def add_machine(parser: argparse.ArgumentParser) -> None:
    """The fields of `MachineSpec`, as a group."""
    group = parser.add_argument_group("machine", "how to execute; several processes are started by torchrun")
    about = (
        "auto: bf16 if GPU or processor has it, else fp32 (default: the preset's own, bf16 for published runs; else auto)"
    )
    group.add_argument("--precision", choices=PRECISIONS, help=about)
    about = "per process; 0 for torch's own choice (default: the preset's own, 1 for published runs; else 0)"
    group.add_argument("--threads", type=int, help=about)
    for name, about in {
        "compiled": "torch.compile; pays after some hundreds of steps",
        "sharded": "FSDP2 instead of DDP, with several processes",
        "gradient-checkpointing": "less memory, a third more time",
    }.items():
        group.add_argument(f"--{name}", action="store_true", help=about)
    group.add_argument("--checkpoint-steps", type=int, help=f"default: {MachineSpec().checkpoint_steps}")
    add_tracker(group)


def add_tracker(parser: Any) -> None:
    """`--tracker`, of the verbs that train."""
    about = (
        "receives the values of each run's log.jsonl: tensorboard, wandb (offline unless WANDB_MODE is set), mlflow, "
        "trackio, aim, or another of accelerate's (default: none)"
    )
    parser.add_argument("--tracker", default="", metavar="NAME", help=about)


def machine(options: argparse.Namespace, default: MachineSpec = MachineSpec()) -> MachineSpec:
    """The options of `add_machine`; missing ones have the values of `default`."""
    given = {field.name: getattr(options, field.name) for field in fields(MachineSpec)}
    return replace(
        default, **{name: value for name, value in given.items() if value not in (None, "") and value is not False}
    )


def print_means(rows: pd.DataFrame, measures: tuple[str, ...]) -> None:
    """Print each configuration's means of these measures after the last step, if there are any rows."""
    from replaylab.analysis.tables import last_step, per_configuration

    if len(rows):
        last = last_step(per_configuration(rows))
        shown = last[last["measure"].isin(measures)]
        print(shown.pivot(index="configuration", columns=["measure", "domain"], values="value").round(3).to_string())
