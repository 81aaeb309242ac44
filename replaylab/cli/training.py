"""The verbs `pretrain`, `train` and `evaluate`: the shipped weights, and one run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from replaylab.cli import options as shared
from replaylab.cli.sweep import print_runs
from replaylab.spec import MachineSpec
from replaylab.sweeps.presets import FAMILIES, grid


def add_parser(verbs: Any) -> None:
    """Add the verbs to those of the command."""
    text = "make the shipped weights again (hours; resumes where it was stopped)"
    pretrain = shared.add_verb(verbs, "pretrain", text, _pretrain)
    pretrain.add_argument("part", choices=("autoencoder", "detector", "videonet", "base"), help="which of them")
    text = "where domains, latents and checkpoints are kept (default: .cache)"
    pretrain.add_argument("--home", default=".cache", help=text)
    pretrain.add_argument("--seed", type=int, default=0, help="of the base only: another seed, another base")
    text = "of the base only (default: %(default)s)"
    pretrain.add_argument("--family", choices=FAMILIES, default=FAMILIES[0], help=text)
    shared.add_machine(pretrain)
    train = shared.add_verb(verbs, "train", "fine-tune and measure one run, or read it", _train)
    shared.add_run(train)
    shared.add_machine(train)
    shared.add_run(shared.add_verb(verbs, "evaluate", "measure a finished run's weights again", _evaluate))


def _pretrain(options: argparse.Namespace) -> None:
    from replaylab.training import pretrain

    machine = shared.machine(options)
    if options.part == "base":
        pretrain.base(Path(options.home), seed=options.seed, machine=machine, family=options.family)
    elif options.seed or options.family != FAMILIES[0] or machine != MachineSpec():
        raise ValueError(f"--seed, --family and the machine's options are for the base; {options.part} has none")
    else:
        pretrain.COMMANDS[options.part](Path(options.home))


def _train(options: argparse.Namespace) -> None:
    from replaylab.sweeps import sweep

    fractions, seeds = [options.replay_fraction], [options.seed]
    print_runs(sweep.run(options.preset, fractions, seeds, store=options.store, machine=shared.machine(options)))


def _evaluate(options: argparse.Namespace) -> None:
    from replaylab.store import store_of
    from replaylab.training import fine_tuning

    store = store_of(options.preset, options.store)
    for spec in grid(options.preset, [options.replay_fraction], [options.seed]):  # one a kind of replay
        rows = fine_tuning.evaluate_again(store / spec.run_id, store)
        print(f"{spec.run_id} {spec.replay.name}")
        print(rows.pivot_table(index="domain", columns="measure", values="value").round(4).to_string())
