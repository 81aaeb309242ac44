"""The runs of the smoke preset, measured on four clips of one domain, for tests of processes, jobs and queues: evaluation is
most of a smoke run's time, and nothing that they ask about. `light_runs.py WORDS` is `python -m replaylab WORDS` with them.
"""

import sys
from dataclasses import replace

from replaylab.cli import training
from replaylab.cli.main import main
from replaylab.spec import RunSpec
from replaylab.sweeps import presets, sweep


def grid(*arguments, **named) -> list[RunSpec]:
    """As `presets.grid`, but light."""
    return [_lighter(spec) for spec in presets.grid(*arguments, **named)]


def _lighter(spec: RunSpec) -> RunSpec:
    few = replace(spec.evaluation, domains=spec.evaluation.domains[:1], clips=4, reference_clips=4, sampler_steps=2)
    return replace(spec, evaluation=few)


def install() -> None:
    """For all of this process; jobs get their specs from it."""
    sweep.grid = training.grid = grid


if __name__ == "__main__":
    install()
    sys.exit(main())
