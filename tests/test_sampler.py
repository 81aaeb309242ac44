"""Exact replay in other people's trainers: a plain loader, accelerate, torchdata; stopped and resumed."""

import importlib.util
from collections import Counter

import pytest
from conftest import require_or_skip
from numbered_items import DATA, MIXTURE, STEPS, WANTED
from torch.utils.data import DataLoader

from replaylab.sampler import ReplayBatchSampler


def batches_of(loader) -> list[list[int]]:
    return [batch[0].tolist() for batch in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_plain_loader_gets_exactly_the_mixture(workers):
    loader = DataLoader(DATA, batch_sampler=ReplayBatchSampler(MIXTURE, STEPS), num_workers=workers)
    batches = batches_of(loader)
    assert batches == WANTED and len(loader) == STEPS
    counts = Counter(item // 100 for batch in batches for item in batch)
    assert [counts[domain] for domain in range(3)] == MIXTURE.counts(STEPS)
    assert batches_of(loader) == WANTED  # an epoch more is the same run again


def test_a_resumed_sampler_goes_on_with_the_next_batch():
    whole, stopped = ReplayBatchSampler(MIXTURE, STEPS), ReplayBatchSampler(MIXTURE, STEPS)
    batches = iter(stopped)
    first = [next(batches) for _ in range(7)]
    resumed = ReplayBatchSampler(MIXTURE, STEPS)
    resumed.load_state_dict(stopped.state_dict())
    assert first + list(resumed) == list(whole)


def test_ranks_of_a_trainer_that_does_not_shard_see_every_batch_once():
    ranks = [list(ReplayBatchSampler(MIXTURE, STEPS, rank, 4)) for rank in range(4)]
    for step, whole in enumerate(ReplayBatchSampler(MIXTURE, STEPS)):
        assert sorted(item for rank in ranks for item in rank[step]) == sorted(whole)


def test_under_accelerate_one_process_gets_exactly_the_mixture():
    from accelerate import Accelerator

    loader = Accelerator(cpu=True).prepare(DataLoader(DATA, batch_sampler=ReplayBatchSampler(MIXTURE, STEPS)))
    assert batches_of(loader) == WANTED


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_resumes_with_the_next_batch(workers):
    require_or_skip(importlib.util.find_spec("torchdata") is not None, "torchdata")
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader():
        return StatefulDataLoader(DATA, batch_sampler=ReplayBatchSampler(MIXTURE, STEPS), num_workers=workers)

    stopped, seen = loader(), []
    for batch in stopped:
        seen.append(batch[0].tolist())
        if len(seen) == 7:
            state = stopped.state_dict()
            break
    resumed = loader()
    resumed.load_state_dict(state)
    assert seen + batches_of(resumed) == WANTED


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="steps is 0"):
        ReplayBatchSampler(MIXTURE, 0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        ReplayBatchSampler(MIXTURE, 5, rank=2, ranks=2)
    with pytest.raises(ValueError, match="a step from 0 to 5"):
        ReplayBatchSampler(MIXTURE, 5).load_state_dict({"step": 6})
