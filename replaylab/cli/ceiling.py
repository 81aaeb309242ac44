"""The verb `ceiling`: the accuracy of a detector on real frames of a domain."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaylab.cli import options as shared

if TYPE_CHECKING:
    from replaylab.evaluation.detector_ceiling import Detect, Frames


def add_parser(verbs: Any) -> None:
    """Add the verb to those of the command."""
    text = "accuracy of a detector on your own real frames; check it before drawing conclusions from its boxes"
    parser = shared.add_verb(verbs, "ceiling", text, run)
    parser.add_argument("domain", metavar="DOMAIN", help="folder of a domain; tracks.parquet, if present, is the truth")
    text = "object detector of transformers, such as PekingU/rtdetr_r50vd (default: the shipped one, for rendered worlds)"
    parser.add_argument("--detector", default="", metavar="NAME_OR_FOLDER", help=text)
    text = "the detector's classes that are agents, with their kinds (default: COCO's on roads)"
    parser.add_argument("--agents", nargs="+", default=[], metavar="CLASS=AGENT", help=text)
    parser.add_argument("--threshold", type=float, default=0.5, help="minimum score of a box (default: 0.5)")
    parser.add_argument("--split", default="dev", help="train, dev or test (default: dev)")
    parser.add_argument("--clips", type=int, default=24, help="maximum number of clips, one per scene (default: 24)")
    parser.add_argument("--frames", type=int, default=8, help="frames of a clip, including the context (default: 8)")
    parser.add_argument("--context-frames", type=int, default=3, help="default: 3")
    text = "error of an undetected agent (default: a quarter of the height, as in the book)"
    parser.add_argument("--miss-cap-px", type=float, metavar="PX", help=text)
    text = "also on frames blurred to this share of their sharpness (the configurations' sharpness_ratio)"
    parser.add_argument("--sharpness", type=float, nargs="+", default=[], metavar="RATIO", help=text)
    text = "video model, name or folder, whose autoencoder is applied to real frames without known truth"
    parser.add_argument("--autoencoder", default="", metavar="MODEL", help=text)
    parser.add_argument("--csv", default="ceiling.csv", help="file for the table (default: ceiling.csv)")


def run(options: argparse.Namespace) -> None:
    """Print the table and the verdict; write the table."""
    from replaylab.data.domain import open_domain
    from replaylab.evaluation import detector_ceiling
    from replaylab.metrics.detectors import centre_point, pretrained
    from replaylab.util.files import write_atomically

    domain = open_domain(options.domain)
    pairs = pretrained.agents_of(options.agents)
    if options.detector:
        detect: Detect = pretrained.load(options.detector, pairs or None, options.threshold).detect
    elif pairs:
        raise ValueError("--agents: the shipped detector has no classes; give --detector too")
    else:
        detect = partial(centre_point.detect, centre_point.load())
    coder = _round_trip(options.autoencoder, options.context_frames) if options.autoencoder else None
    table, verdict = detector_ceiling.of_domain(
        domain, detect, split=options.split, clips=options.clips, frames=options.frames,
        context_frames=options.context_frames, sharpness=options.sharpness, autoencoder=coder,
        miss_cap_px=options.miss_cap_px,
    )  # fmt: skip
    named = table.assign(detector=options.detector or "shipped", domain=domain.name, split=options.split)
    write_atomically(Path(options.csv), lambda aside: named.to_csv(aside, index=False))
    shown = table.drop(columns=["harmless", "against"])
    print(shown.to_string(index=False, na_rep="", float_format="{:.3f}".format))
    print(verdict)


def _round_trip(name: str, context_frames: int) -> Callable[[Frames], Frames]:
    """A function that encodes and decodes a clip with a video model's autoencoder; loads the whole model, in bfloat16."""
    import torch

    from replaylab.models import families
    from replaylab.util import distributed

    model = families.load(name, dtype=torch.bfloat16).to(distributed.this_rank().device)

    def through(clip: Frames) -> Frames:
        model.check_clips(context_frames, *clip.shape[:3])
        return model.decode(model.encode(clip[None]))[0]

    return through
