"""The verbs `pretrain`, `train`, `evaluate` and `sweep`: the shipped weights, one run, and a grid of runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaylab.cli import options as shared
from replaylab.spec import MachineSpec
from replaylab.sweeps.presets import BUDGETS, FAMILIES, PRESETS, grid

if TYPE_CHECKING:
    from replaylab.sweeps.sweep import Table

SHOWN = ("effnet_kd", "effnet_fd", "ade_px", "fde_px", "recall")


def add_parser(verbs: Any) -> None:
    """Add the verbs to those of the command."""
    text = "train the shipped weights again (hours; an interrupted training resumes)"
    pretrain = shared.add_verb(verbs, "pretrain", text, _pretrain)
    parts = ("autoencoder", "detector", "second-detector", "videonet", "base", "recipes")
    pretrain.add_argument("part", choices=parts, help="the weights to train")
    text = "folder for domains, latents and checkpoints (default: .cache)"
    pretrain.add_argument("--home", default=".cache", help=text)
    text = "of a base: 0 and 1 are the first edition's, from 2 on the second's; of an autoencoder, a detector: 0 or 2"
    pretrain.add_argument("--seed", type=int, default=0, help=f"{text} (default: 0)")
    text = "family of a base (default: %(default)s)"
    pretrain.add_argument("--family", choices=FAMILIES, default=FAMILIES[0], help=text)
    text = "a larger base with larger batches, from seed 2 on, for a GPU"
    pretrain.add_argument("--large", action="store_true", help=text)
    text = "part of a base's whole training, from seed 2 on: 1, 2, 4, 8 or 16 (default: 16)"
    pretrain.add_argument("--sixteenths", type=int, default=16, help=text)
    shared.add_machine(pretrain)
    train = shared.add_verb(verbs, "train", "fine-tune and measure one run, or read it", _train)
    shared.add_run(train)
    shared.add_machine(train)
    shared.add_run(shared.add_verb(verbs, "evaluate", "measure a finished run's weights again", _evaluate))
    text = "train the missing runs of a grid and show its measures"
    sweep = shared.add_verb(verbs, "sweep", text, _sweep)
    shared.add_sweep(sweep)
    sweep.add_argument("--replay-fractions", type=float, nargs="+", default=[], help="default: the preset's own")
    sweep.add_argument("--seeds", type=int, nargs="+", default=[], help="default: the preset's own")
    shared.add_cluster(sweep)
    text = "the quantity that is equal for all fractions (default: steps)"
    sweep.add_argument("--budget", choices=BUDGETS, default="steps", help=text)
    shared.add_machine(sweep)
    sweep.add_argument("--headline", action="store_true", help="print one line with the main results")


def _pretrain(options: argparse.Namespace) -> None:
    machine, home = shared.machine(options), Path(options.home)
    given = {
        "--family": options.family != FAMILIES[0], "--sixteenths": options.sixteenths != 16,
        "--large": options.large, "--seed": options.seed != 0,
        "the machine's options": machine != MachineSpec(),
    }  # fmt: skip
    taken = {"base": set(given), "autoencoder": {"--seed"}, "detector": {"--seed"}, "recipes": {"the machine's options"}}
    if wrong := [name for name, is_given in given.items() if is_given and name not in taken.get(options.part, ())]:
        raise ValueError(f"{options.part} does not take {' and '.join(wrong)}")
    from replaylab.training import autoencoders, bases, instruments, recipe_study, trackers

    trackers.check(machine.tracker)
    if options.part == "base":
        bases.train_base(
            home, seed=options.seed, machine=machine, family=options.family, sixteenths=options.sixteenths,
            large=options.large,
        )  # fmt: skip
    elif options.part == "autoencoder":
        autoencoders.train_autoencoder(home, seed=options.seed)
    elif options.part == "recipes":
        recipe_study.run(home, machine=machine)
    else:
        instruments.COMMANDS[options.part](home, **({"seed": options.seed} if options.seed else {}))


def machine_of(options: argparse.Namespace) -> MachineSpec:
    """The settings of execution: those of the preset's runs, unless changed by an option."""
    return shared.machine(options, PRESETS[options.preset].execution)


def _train(options: argparse.Namespace) -> None:
    from replaylab.sweeps import sweep

    fractions, seeds = [options.replay_fraction], [options.seed]
    _print_runs(sweep.run(options.preset, fractions, seeds, store=options.store, machine=machine_of(options)))


def _evaluate(options: argparse.Namespace) -> None:
    from replaylab.store import store_of
    from replaylab.training import fine_tuning

    store = store_of(options.preset, options.store)
    for spec in grid(options.preset, [options.replay_fraction], [options.seed]):  # one a kind of replay
        rows = fine_tuning.evaluate_again(store / spec.run_id, store)
        print(f"{spec.run_id} {spec.replay.name}")
        print(rows.pivot_table(index="domain", columns="measure", values="value").round(4).to_string())


def _sweep(options: argparse.Namespace) -> None:
    from replaylab.pages import replay_sweep
    from replaylab.sweeps import sweep

    table = sweep.run(
        options.preset, options.replay_fractions, options.seeds, options.cluster, options.store, options.budget,
        machine_of(options), options.cluster_file, options.dry_run,
    )  # fmt: skip
    if options.dry_run:
        print(table.runs.drop(columns=["trained_now", "reason"]).to_string(index=False))
    elif options.headline:
        print(replay_sweep.headline(table.rows))
    else:
        _print_runs(table)


def _print_runs(table: Table) -> None:
    """The runs and their means; raises ValueError if not all of them are done."""
    print(table.runs.to_string(index=False))
    shared.print_means(table.rows, SHOWN)
    if missing := (table.runs["state"] != "done").sum():
        raise ValueError(f"{missing} of {len(table.runs)} runs are not done")
