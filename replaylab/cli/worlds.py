"""The verbs `worlds list`, `worlds build`, `worlds survey` and `worlds tracks`: rendered domains."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from replaylab.cli import options as shared
from replaylab.sweeps.presets import PRESETS, evaluated_worlds, trained_worlds
from replaylab.worlds.named import ALL_DOMAINS, DOMAINS, SURVEYS, domain_spec

CHANGES = ("videos", "size_px", "seed", "look", "motion", "eventful_share")  # options that change a domain


def add_parser(verbs: Any) -> None:
    """Add the verbs to those of the command."""
    verbs = shared.add_group(verbs, "worlds", "render videos with known truth")
    shared.add_verb(verbs, "list", "the domains that can be built by name", _list)
    build = shared.add_verb(verbs, "build", "render domains on all cores; an interrupted build continues", _build)
    build.add_argument("names", nargs="*", metavar="NAME", help="see `worlds list` (default: all)")
    build.add_argument("--preset", choices=PRESETS, help="the domains of a preset, in its size, into its store")
    build.add_argument("--home", help="folder for the domains (default: domains; for a preset: in its store)")
    build.add_argument("--videos", type=int, nargs=3, metavar=("TRAIN", "DEV", "TEST"), help="videos of each split")
    build.add_argument("--size-px", type=int, help="width and height, even (default: 64)")
    build.add_argument("--seed", type=int, help="other seeds give other scenes (default: 0)")
    about = "appearance of a driving world: target, country, winter, diverse, broad, day, fog, rain, night, narrow N"
    build.add_argument("--look", help=about)
    build.add_argument("--motion", help="motion: ordinary, eventful, held-out, free, an event's name")
    build.add_argument("--eventful-share", type=float, help="share of videos with an event, 0 to 1")
    survey = shared.add_verb(verbs, "survey", "statistics of motion in domains; computed once, then read", _survey)
    survey.add_argument("names", nargs="*", metavar="NAME", help="see `worlds list` (default: all)")
    survey.add_argument("--preset", choices=SURVEYS, default="quick", help="how many videos, and of which domains")
    survey.add_argument("--store", default="", help="folder for the results (default: the preset's own)")
    about = "simulate the traffic of natural driving again; needs the extra `sumo`"
    tracks = shared.add_verb(verbs, "tracks", about, _tracks)
    tracks.add_argument("--out", required=True, metavar="FOLDER", help="folder for the tables")


def _list(options: argparse.Namespace) -> None:
    for spec in ALL_DOMAINS.values():
        print(f"{spec.name:20} {spec.world}, look {spec.look}, motion {spec.motion}, videos {spec.videos}")


def _build(options: argparse.Namespace) -> None:
    from replaylab.store import store_of
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


def _survey(options: argparse.Namespace) -> None:
    from replaylab.analysis import world_statistics, world_survey

    survey = world_survey.run(options.preset, options.names, options.store)
    table = survey.statistics.pivot(index="domain", columns="statistic", values="value")
    print(table.loc[survey.domains, list(world_statistics.STATISTICS)].round(2).to_string())


def _tracks(options: argparse.Namespace) -> None:
    from replaylab.worlds.sumo import tracks

    print(tracks.make(Path(options.out)).to_string(index=False))
