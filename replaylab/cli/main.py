"""The same verbs for people without notebooks: `python -m replaylab --help`."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaylab.analysis.tables import last_step, per_arm
from replaylab.cli import ceiling, own
from replaylab.cli import domain as domain_module
from replaylab.spec import CLUSTERS, PRECISIONS, MachineSpec
from replaylab.store import store_of
from replaylab.sweeps.presets import BUDGETS, FAMILIES, PRESETS, evaluated_worlds, grid, trained_worlds
from replaylab.util.progress import is_follower
from replaylab.worlds.named import DOMAINS, domain_spec

if TYPE_CHECKING:
    from replaylab.sweeps.sweep import Table


CHANGES = ("videos", "size_px", "seed", "look", "motion", "eventful_share")  # options that change a domain


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    speaks = redirect_stdout(io.StringIO()) if is_follower() else nullcontext()
    try:
        with speaks:
            options.verb(options)
    except (ValueError, OSError) as error:  # bad input is a sentence, not a stack of frames
        print(f"replaylab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("replaylab: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def worlds_list(options: argparse.Namespace) -> None:
    for spec in DOMAINS.values():
        print(f"{spec.name:20} {spec.world}, look {spec.look}, motion {spec.motion}, videos {spec.videos}")


def worlds_build(options: argparse.Namespace) -> None:
    from replaylab.worlds.build import build_domain, check_world

    changes = {key: getattr(options, key) for key in CHANGES if getattr(options, key) is not None}
    if "videos" in changes:
        changes["videos"] = tuple(changes["videos"])
    if options.preset and (options.names or changes):
        raise ValueError("--preset says which domains and how: give it without names and without changes")
    if options.preset:
        preset = PRESETS[options.preset]
        specs = [world for seed in preset.seeds for world in trained_worlds(preset, seed).values()]
        specs += [*evaluated_worlds(preset).values(), *evaluated_worlds(preset, at_the_end=True).values()]
        home = Path(options.home) if options.home else store_of(options.preset, "") / "domains"
    else:
        specs = [domain_spec(name, **changes) for name in options.names or DOMAINS]
        home = Path(options.home or "domains")
    for spec in specs:
        check_world(spec)
    for spec in specs:
        domain = build_domain(spec, home)
        counts = domain.videos["split"].value_counts().to_dict()
        print(f"{domain.folder}: {counts}, {len(domain.tracks)} agent-frames of truth")


def worlds_survey(options: argparse.Namespace) -> None:
    from replaylab.analysis import world_statistics

    made = world_statistics.run(options.preset, options.names, options.store)
    table = made.statistics.pivot(index="domain", columns="statistic", values="value")
    print(table.loc[made.domains, list(world_statistics.STATISTICS)].round(2).to_string())


def damage(options: argparse.Namespace) -> None:
    from replaylab.evaluation import corruption_study as room
    from replaylab.pages import measures

    made = room.run(options.preset, options.store)
    for domain in room.DOMAINS:
        print(measures.found(made, domain), end="\n\n")


def pretrain(options: argparse.Namespace) -> None:
    from replaylab.training import pretrain as room

    machine = _machine(options)
    if options.part == "base":
        room.base(Path(options.home), seed=options.seed, machine=machine, family=options.family)
    elif options.seed or options.family != FAMILIES[0] or machine != MachineSpec():
        raise ValueError(f"--seed, --family and the machine's options are for the base; {options.part} has none")
    else:
        room.COMMANDS[options.part](Path(options.home))


def train(options: argparse.Namespace) -> None:
    from replaylab.sweeps import sweep as sweep_module

    _print(
        sweep_module.run(
            options.preset,
            [options.replay_fraction],
            [options.seed],
            "inline",
            options.store,
            machine=_machine(options),
        )
    )


def evaluate(options: argparse.Namespace) -> None:
    from replaylab.training import fine_tuning

    store = store_of(options.preset, options.store)
    for spec in grid(options.preset, [options.replay_fraction], [options.seed]):  # one a kind of replay
        rows = fine_tuning.evaluate_again(store / spec.run_id, store)
        print(f"{spec.run_id} {spec.replay.name}")
        print(rows.pivot_table(index="domain", columns="measure", values="value").round(4).to_string())


def sweep(options: argparse.Namespace) -> None:
    from replaylab.pages import figures
    from replaylab.sweeps import sweep as room

    table = room.run(
        options.preset, options.replay_fractions, options.seeds, options.cluster, options.store, options.budget,
        _machine(options), options.cluster_file, options.dry_run,
    )  # fmt: skip
    if options.dry_run:
        print(table.runs.drop(columns=["trained_now", "reason"]).to_string(index=False))
    elif options.headline:
        print(figures.headline(table.rows))
    else:
        _print(table)


def compare(options: argparse.Namespace) -> None:
    from replaylab.evaluation import compare as room
    from replaylab.util.files import write_atomically

    table = room.table(
        options.made, options.real, options.extractor, options.context_frames, options.frames, options.split, options.paired
    )  # fmt: skip
    if options.csv:
        write_atomically(Path(options.csv), lambda path: table.to_csv(path, index=False))
    shown = table.assign(extractor_digest=table["extractor_digest"].str[:12])  # whole in the file
    print(shown.to_string(index=False, na_rep="", float_format="{:.4f}".format))


def _machine(options: argparse.Namespace) -> MachineSpec:
    return MachineSpec(**{field.name: getattr(options, field.name) for field in fields(MachineSpec)})


def _print(table: Table) -> None:

    print(table.runs.to_string(index=False))
    if len(table.rows):
        last = last_step(per_arm(table.rows))
        shown = last[last["measure"].isin(["effnet_kd", "effnet_fd", "ade_px", "fde_px", "recall"])]
        print(shown.pivot(index="arm", columns=["measure", "domain"], values="value").round(3).to_string())
    if (table.runs["state"] != "done").any():
        raise ValueError(f"{(table.runs['state'] != 'done').sum()} of {len(table.runs)} runs are not done")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="replaylab", description=__doc__, epilog="Each verb has its own --help.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(function: object, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(function.__name__, help=text, description=text)  # type: ignore[attr-defined]
        sub.set_defaults(verb=function)
        return sub

    def of_a_sweep(sub: argparse.ArgumentParser) -> None:
        about = "; ".join(f"{preset.name}: {preset.about}" for preset in PRESETS.values()).replace("%", "%%")
        sub.add_argument("--preset", choices=PRESETS, default="quick", help=about)
        sub.add_argument(
            "--store", default="", help="folder of runs (default: book/runs/store; published, diverse: book/results)"
        )

    def of_a_run(sub: argparse.ArgumentParser) -> None:
        of_a_sweep(sub)
        sub.add_argument(
            "--replay-fraction", type=float, required=True, help="share of each batch that is replayed, 0 to 1"
        )
        sub.add_argument("--seed", type=int, default=0, help="which run of that share (default: 0)")

    def of_a_machine(sub: argparse.ArgumentParser) -> None:
        group = sub.add_argument_group("machine", "how to execute; several processes are started by torchrun")
        group.add_argument(
            "--precision", choices=PRECISIONS, default="auto", help="auto: bf16 where a GPU has it, else fp32"
        )
        for name, about in {
            "compiled": "torch.compile; pays after some hundreds of steps",
            "sharded": "FSDP2 instead of DDP, with several processes",
            "gradient-checkpointing": "less memory, a third more time",
            "tensorboard": "event files beside each run's log.jsonl",
        }.items():
            group.add_argument(f"--{name}", action="store_true", help=about)
        group.add_argument(
            "--checkpoint-steps", type=int, default=MachineSpec().checkpoint_steps, help="default: %(default)s"
        )

    _worlds_verbs(verbs)
    domain_module.add_parser(verbs)
    ceiling.add_parser(verbs)
    own.add_parser(verbs)
    sub = verb(damage, "measure clips that were damaged in known ways; goes on where it was stopped")
    sub.add_argument("--preset", default="quick", help="published, quick or smoke: how many clips (default: quick)")
    sub.add_argument("--store", default="", help="folder to keep it in (default: the preset's own)")
    sub = verb(pretrain, "make the shipped weights again (hours; resumes where it was stopped)")
    sub.add_argument("part", choices=("autoencoder", "detector", "videonet", "base"), help="which of them")
    sub.add_argument(
        "--home", default=".cache", help="where domains, latents and checkpoints are kept (default: .cache)"
    )
    sub.add_argument("--seed", type=int, default=0, help="of the base only: another seed, another base")
    sub.add_argument("--family", choices=FAMILIES, default=FAMILIES[0], help="of the base only (default: %(default)s)")
    of_a_machine(sub)
    sub = verb(train, "fine-tune and measure one run, or read it")
    of_a_run(sub)
    of_a_machine(sub)
    of_a_run(verb(evaluate, "measure a finished run's weights again"))
    sub = verb(sweep, "train what is missing of a grid of runs and show its measures")
    of_a_sweep(sub)
    sub.add_argument("--replay-fractions", type=float, nargs="+", default=[], help="default: the preset's own")
    sub.add_argument("--seeds", type=int, nargs="+", default=[], help="default: the preset's own")
    sub.add_argument("--cluster", choices=CLUSTERS, default="inline", help="who trains missing runs")
    sub.add_argument(
        "--cluster-file", default="", help="YAML: what a job gets of the cluster (default: the cluster's own)"
    )
    sub.add_argument("--dry-run", action="store_true", help="say what would be trained and what it would cost")
    sub.add_argument(
        "--budget", choices=BUDGETS, default="steps", help="what all fractions have equally much of (default: steps)"
    )
    of_a_machine(sub)
    sub.add_argument("--headline", action="store_true", help="print one line with the figures found")
    _compare_verb(verb(compare, "distances between two folders of videos, and all that is needed to compare them"))
    return parser


def _compare_verb(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("made", metavar="MADE", help="folder of mp4 files, or a domain")
    sub.add_argument("real", metavar="REAL", help="likewise; 20 videos or more in each, of one size and rate")
    sub.add_argument("--context-frames", type=int, default=0, help="first frames to leave out (default: 0)")
    sub.add_argument("--frames", type=int, default=0, help="to take after them (default: what all videos have)")
    sub.add_argument("--split", default="test", help="of a domain: train, dev or test (default: test)")
    sub.add_argument("--paired", action="store_true", help="PSNR, SSIM ... of files of one name, too")
    sub.add_argument("--csv", help="file to keep the table in")
    sub.add_argument(
        "--extractor",
        nargs="+",
        default=["efficientnet"],
        help="efficientnet, videonet, inception=FILE, i3d=FILE, videomae=FOLDER, vjepa2=FOLDER (default: efficientnet)",
    )


def _worlds_verbs(verbs: Any) -> None:
    text = "render videos with known truth"
    sub = verbs.add_parser("worlds", help=text, description=text).add_subparsers(required=True, metavar="VERB")
    text = "the domains that can be built by name"
    sub.add_parser("list", help=text, description=text).set_defaults(verb=worlds_list)
    text = "render domains on all cores; goes on where it was stopped"
    build = sub.add_parser("build", help=text, description=text)
    build.set_defaults(verb=worlds_build)
    build.add_argument("names", nargs="*", metavar="NAME", help="see `worlds list` (default: all)")
    build.add_argument("--preset", choices=PRESETS, help="the domains of a preset, in its size, into its store")
    build.add_argument("--home", help="folder to make them in (default: domains; of a preset: in its store)")
    build.add_argument("--videos", type=int, nargs=3, metavar=("TRAIN", "DEV", "TEST"), help="how many of each split")
    build.add_argument("--size-px", type=int, help="width and height, even (default: 64)")
    build.add_argument("--seed", type=int, help="other seeds give other scenes (default: 0)")
    build.add_argument("--look", help="of a driving world: target, diverse, day, fog, rain, night, country, narrow N")
    build.add_argument("--motion", help="what happens: ordinary, eventful, held-out, free, an event's name")
    build.add_argument("--eventful-share", type=float, help="share of videos with an event, 0 to 1")
    text = "what moves in domains, and how regularly; made once, then read"
    survey = sub.add_parser("survey", help=text, description=text)
    survey.set_defaults(verb=worlds_survey)
    survey.add_argument("names", nargs="*", metavar="NAME", help="see `worlds list` (default: all)")
    survey.add_argument("--preset", choices=PRESETS, default="quick", help="how many videos")
    survey.add_argument("--store", default="", help="folder to keep it in (default: the preset's own)")
