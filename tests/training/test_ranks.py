"""Two processes compute what one does: by DDP and by FSDP2, whatever is trained, and under accelerate."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import monitored_loops
import numpy as np
import pytest
import submitit
import torch
from conftest import HELPERS, TWO_RANKS
from numbered_items import STEPS, WANTED
from on_ranks import VARIANTS, fitted, monitored
from safetensors.torch import load_file
from small_training import log_of
from tiny_families import TINY

from replaylab.models import sampling
from replaylab.spec import MachineSpec
from replaylab.util import distributed
from replaylab.util.distributed import Rank


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder that two ranks have filled."""
    folder = tmp_path_factory.mktemp("ranks")
    TINY["wan"](folder / "wan")
    done = subprocess.run(
        [sys.executable, *TWO_RANKS, str(HELPERS / "on_ranks.py"), str(folder)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", ["DDP", "FSDP2"])
@pytest.mark.parametrize("name", VARIANTS)
def test_two_ranks_learn_what_one_learns(way, name, two, tmp_path):
    alone = fitted(tmp_path, name, MachineSpec("fp32", checkpoint_steps=2))
    theirs = load_file(two / way / name / "weights.safetensors")
    assert theirs.keys() == alone.keys()
    for weight in alone:
        assert torch.allclose(theirs[weight], alone[weight], atol=2e-4), weight
    for measure, tolerance in (("loss", 1e-4), ("gradient_norm", 1e-3)):
        mine, others = ([line[measure] for line in log_of(folder)] for folder in (tmp_path, two / way / name))
        assert np.allclose(mine, others, rtol=tolerance), measure
    about = json.loads((two / way / name / "manifest.json").read_text())
    assert about["ranks"] == 2 and about["sharded"] == (way == "FSDP2")


@pytest.mark.slow
def test_accelerate_gives_two_ranks_exactly_the_mixture(two):
    ranks = [json.loads((two / f"accelerate-{rank}.json").read_text()) for rank in (0, 1)]
    split = [first + second for first, second in zip(*(rank["split"] for rank in ranks), strict=True)]
    assert split == WANTED
    in_turns = [batch for pair in zip(*(rank["in turns"] for rank in ranks), strict=True) for batch in pair]
    assert in_turns == WANTED and len(in_turns) == STEPS
    resumed = [way for way in ranks[0] if way.startswith("resumed")]
    assert len(resumed) == 4
    for way in resumed:
        both = [sorted(first + second) for first, second in zip(*(rank[way] for rank in ranks), strict=True)]
        assert both == [sorted(batch) for batch in WANTED], way


@pytest.mark.slow
def test_a_monitor_of_forgetting_measures_on_two_ranks_what_it_measures_on_one(two):
    tiny = two / "wan", monitored_loops.encoded("wan", two / "wan")
    ranks = [json.loads((two / f"monitored-{rank}.json").read_text()) for rank in (0, 1)]
    alone = monitored(*tiny, False, False)
    for way, found in ranks[0].items():
        assert found["same"] and ranks[1][way] == found, way
        steps, losses, *_ = zip(*found["history"], strict=True)
        assert list(steps) == [0, 2, 4] and losses[2] != losses[1] != losses[0], way
        for domain, levels in alone["history"][0][1].items():
            assert losses[0][domain] == pytest.approx(levels, rel=1e-6), way


@pytest.mark.slow
def test_a_loss_that_is_not_finite_on_one_rank_stops_both(two):
    assert all("the loss of step 1 is nan" in (two / f"bad-{rank}.txt").read_text() for rank in (0, 1))


def test_ranks_take_turns_with_the_batches_of_a_sampling(monkeypatch):
    """Each rank, played in turn, draws its batches; put together they are what one process draws."""
    model = SimpleNamespace(
        transformer=SimpleNamespace(device=torch.device("cpu")), CLIPS_AT_ONCE=2,
        sample=lambda noise, condition, steps: noise.clone(),
    )  # fmt: skip
    given = {"known": torch.zeros(7, 2, 3, 4, 4)}, (2, 8, 4, 4)
    whole = sampling.futures(model, *given, 1, 0)
    drawn = {}
    for index in (0, 1, 2):

        def keep(rank, source, tensor):
            return drawn.setdefault((rank.index, source, len(drawn)), tensor) if rank.index == source else tensor

        monkeypatch.setattr(distributed, "broadcast", keep)
        part = sampling.futures(model, *given, 1, 0, rank=Rank(index, 3))
        assert part.shape == whole.shape
        for number in range(index, 4, 3):
            assert torch.equal(part[2 * number : 2 * number + 2], whole[2 * number : 2 * number + 2])


@pytest.mark.slow
def test_the_tasks_of_a_submitit_job_find_each_other(tmp_path):
    def meet():
        rank = distributed.this_rank()
        return (
            rank.index,
            rank.world_size,
            distributed.broadcast_number(rank, 7 + rank.index),
            float(distributed.all_reduce_mean(rank, torch.tensor(1.0 * rank.index))),
        )

    executor = submitit.LocalExecutor(tmp_path)
    executor.update_parameters(tasks_per_node=2, timeout_min=5)
    assert executor.submit(meet).results() == [(0, 2, 7, 0.5), (1, 2, 7, 0.5)]
