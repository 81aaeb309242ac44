"""Exact replay in other people's trainers: a plain loader, accelerate, torchdata; stopped and resumed."""

import importlib.util
from collections import Counter
from itertools import islice

import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from conftest import require_or_skip
from numbered_items import DATA, MIXTURE, STEPS, WANTED
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from replaylab.mixture import Mixture
from replaylab.sampler import ReplayBatchSampler, ReplayStream

LOADERS = [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 4}]


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


@pytest.mark.parametrize("options", LOADERS)
def test_a_loader_resumed_by_the_batches_trained_on_goes_on_as_if_uninterrupted(options):
    batches = ReplayBatchSampler(MIXTURE, STEPS)
    loader = DataLoader(DATA, batch_sampler=batches, **options)
    for trained in (0, 7, STEPS - 1, STEPS):
        batches.load_state_dict({"step": trained})
        assert len(loader) == STEPS - trained
        next(iter(loader), None)  # a pass that is broken off, when workers had read ahead, perhaps to the end
        passes = []
        for epoch in range(3, 5):
            batches.set_epoch(epoch)
            passes.append(batches_of(loader))
        assert passes == [WANTED[trained:], WANTED]


def test_a_pass_from_the_loaded_step_again_is_told():
    batches = ReplayBatchSampler(MIXTURE, STEPS)
    batches.load_state_dict({"step": 18})
    assert len(list(batches)) == 2
    with pytest.warns(UserWarning, match="begins at the loaded step 18 again"):
        assert len(list(batches)) == 2


@pytest.mark.parametrize("options", LOADERS)
def test_a_stateful_loader_resumes_with_the_next_batch(options):
    require_or_skip(importlib.util.find_spec("torchdata") is not None, "torchdata")
    from torchdata.stateful_dataloader import StatefulDataLoader

    def loader():
        return StatefulDataLoader(DATA, batch_sampler=ReplayBatchSampler(MIXTURE, STEPS), **options)

    stopped = loader()
    for trained in (7, STEPS):
        seen = [batch[0].tolist() for batch in islice(stopped, trained)]
        resumed = loader()
        resumed.load_state_dict(stopped.state_dict())
        assert seen + batches_of(resumed) == WANTED
        assert len(resumed) == STEPS and batches_of(resumed) == WANTED  # the next epoch
    assert batches_of(stopped) == WANTED
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())  # of a pass that has ended
    assert batches_of(resumed) == WANTED


def prepared(process, split, stateful=False, steps=STEPS, processes=2):
    """What accelerate makes, in one of two processes, of a loader; and its sampler."""
    batches = ReplayBatchSampler(MIXTURE, steps, shards=1 if split else processes)
    return prepare_data_loader(
        DataLoader(DATA, batch_sampler=batches), num_processes=processes, process_index=process, split_batches=split,
        use_stateful_dataloader=stateful,
    ), batches  # fmt: skip


def together(*ranks):
    """The batches of several ranks as one, each in ascending order."""
    return [sorted(item for part in parts for item in part) for parts in zip(*ranks, strict=True)]


ASCENDING = [sorted(batch) for batch in WANTED]


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("way", ["state", "skip", "stateful"])
def test_two_processes_of_accelerate_take_every_step_and_resume_anywhere(split, way):
    for trained in (7, STEPS):
        ranks = []
        for process in (0, 1):
            loader, batches = prepared(process, split, way == "stateful")
            assert len(loader) == STEPS
            seen = [batch[0].tolist() for batch in islice(loader, trained)]
            resumed, batches = prepared(process, split, way == "stateful")
            if way == "state":
                batches.load_state_dict({"step": trained})
                resumed.set_epoch(3)  # it counts no pass in which nothing was left
                assert len(resumed) == STEPS - trained
            elif way == "stateful":
                resumed.load_state_dict(loader.state_dict())
            rest = batches_of(skip_first_batches(resumed, trained) if way == "skip" else resumed)
            if not (way == "stateful" and trained == STEPS):  # accelerate's last batch ends the pass
                seen += rest
                if way == "state":
                    resumed.set_epoch(4)
                rest = batches_of(resumed)
            assert rest == batches_of(prepared(process, split)[0])  # the next epoch is a whole one
            ranks.append(seen)
        assert together(*ranks) == ASCENDING


def test_an_odd_number_of_steps_is_repeated_by_no_process():
    ranks = [batches_of(prepared(process, False, steps=7)[0]) for process in (0, 1)]
    assert together(*ranks) == ASCENDING[:7]


def test_from_one_rank_to_two_and_back_nothing_is_lost_and_nothing_comes_twice():
    seen = []
    for start, stop, ranks in ((0, 5, 1), (5, 12, 2), (12, 15, 4), (15, STEPS, 1)):
        parts = []
        for rank in range(ranks):
            batches = ReplayBatchSampler(MIXTURE, STEPS, rank, ranks)
            batches.load_state_dict({"step": start})
            parts.append(list(islice(batches, stop - start)))
            assert batches.state_dict() == {"step": stop}
        seen += together(*parts)
    first = [0, *[sum(MIXTURE.clips[: number + 1]) for number in range(2)]]
    assert seen == [sorted(first[item // 100] + item % 100 for item in batch) for batch in WANTED]


@pytest.mark.parametrize("fraction", [1 / 8, 0.25, 0.5, 0.05])
@pytest.mark.parametrize("shards", [False, True])
def test_replayed_clips_are_dealt_to_the_ranks_in_turn(fraction, shards):
    mixture = Mixture(fraction, 8, [50, 9, 9], seed=1)
    if shards:
        parts = list(ReplayBatchSampler(mixture, 40, shards=4))
        ranks = [parts[rank::4] for rank in range(4)]
    else:
        ranks = [list(ReplayBatchSampler(mixture, 40, rank, 4)) for rank in range(4)]
    replayed = [0, 0, 0, 0]
    for step in range(40):
        replayed = [count + sum(item >= 50 for item in ranks[rank][step]) for rank, count in enumerate(replayed)]
        assert max(replayed) - min(replayed) <= 1 and sum(replayed) == sum(mixture.counts(step + 1)[1:])


class Recorder(torch.nn.Module):
    """A model of one weight that remembers its batches."""

    def __init__(self):
        super().__init__()
        self.weight, self.seen = torch.nn.Parameter(torch.zeros(())), []

    def forward(self, items):
        self.seen.append(items.tolist())
        return {"loss": (self.weight - 1) ** 2}


def test_a_trainer_of_transformers_killed_anywhere_sees_the_batches_of_one_that_was_not(tmp_path):
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Exact(Trainer):
        def get_train_dataloader(self):
            batches = ReplayBatchSampler(MIXTURE, STEPS)
            return self.accelerator.prepare(DataLoader(DATA, batch_sampler=batches, collate_fn=self.data_collator))

    class Kill(TrainerCallback):
        def __init__(self, at):
            self.at = at

        def on_step_end(self, args, state, control, **kwargs):
            control.should_save = control.should_training_stop = state.global_step == self.at
            return control

    arguments = {"output_dir": str(tmp_path), "num_train_epochs": 2, "use_cpu": True, "report_to": [], "save_strategy": "no",
                 "logging_strategy": "no", "disable_tqdm": True, "remove_unused_columns": False}  # fmt: skip
    model, resume = Recorder(), None
    for at in (7, STEPS, STEPS + 3, 2 * STEPS, 2 * STEPS):
        Exact(model, TrainingArguments(**arguments), train_dataset=DATA, callbacks=[Kill(at)],
              data_collator=lambda items: {"items": torch.stack([item[0] for item in items])},
        ).train(resume_from_checkpoint=resume)  # fmt: skip
        resume = str(tmp_path / f"checkpoint-{at}")
    assert model.seen == WANTED + WANTED


def test_lightning_gets_a_part_of_each_batch_or_is_told_how():
    """As Lightning calls a batch sampler: one from a hook with its arguments, one from elsewhere with those of torch's."""
    ranks = []
    for rank in (0, 1):
        sampler = DistributedSampler(DATA, num_replicas=2, rank=rank)
        ranks.append(batches_of(DataLoader(DATA, batch_sampler=ReplayBatchSampler(MIXTURE, STEPS, sampler=sampler))))
    assert together(*ranks) == ASCENDING
    with pytest.raises(TypeError, match=r"in a train_dataloader\(\) hook, or give Trainer\(use_distributed_sampler=False\)"):
        ReplayBatchSampler(sampler, batch_size=8, drop_last=False)


def test_lightning_itself_shares_the_batches_of_a_hook():
    require_or_skip(importlib.util.find_spec("lightning") is not None, "lightning (the extra `dev`)")
    from lightning.fabric.utilities.data import _replace_dunder_methods, _set_sampler_epoch
    from lightning.pytorch.utilities.data import _update_dataloader

    ranks = []
    for rank in (0, 1):
        with _replace_dunder_methods(DataLoader, "dataset"), _replace_dunder_methods(torch.utils.data.BatchSampler):
            batches = ReplayBatchSampler(MIXTURE, STEPS)
            batches.load_state_dict({"step": 7})
            loader = DataLoader(DATA, batch_sampler=batches)
        loader = _update_dataloader(loader, DistributedSampler(DATA, num_replicas=2, rank=rank))
        _set_sampler_epoch(loader, 0)
        seen = batches_of(loader)
        _set_sampler_epoch(loader, 1)
        ranks.append(seen + batches_of(loader))
    assert together(*ranks) == ASCENDING[7:] + ASCENDING
    with pytest.raises(TypeError, match="use_distributed_sampler=False"):
        _update_dataloader(
            DataLoader(DATA, batch_sampler=ReplayBatchSampler(MIXTURE, STEPS)), DistributedSampler(DATA, 2, 0)
        )


class Numbers(IterableDataset):
    """The numbers of a domain, shared among the workers that it sees, in another order in each epoch."""

    def __init__(self, start, count):
        self.numbers, self.epoch = range(start, start + count), 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        turned = [*self.numbers[self.epoch :], *self.numbers[: self.epoch]]
        yield from turned[worker.id :: worker.num_workers] if worker else turned


def stream(**given):
    return ReplayStream(
        MIXTURE, [Numbers(100 * domain, count) for domain, count in enumerate(MIXTURE.clips)], STEPS, **given
    )


def streamed():
    """The batches of a stream, filled one slot after another by the next sample of each domain."""

    def endless(domain, count):
        numbers = Numbers(100 * domain, count)
        for epoch in range(STEPS * 8):
            numbers.set_epoch(epoch)
            yield from numbers

    domains = [endless(domain, count) for domain, count in enumerate(MIXTURE.clips)]
    return [[next(domains[slot.domain]) for slot in MIXTURE.batch(step)] for step in range(STEPS)]


@pytest.mark.parametrize("options", LOADERS)
def test_streams_are_mixed_exactly_and_resume_whatever_the_workers(options):
    wanted = streamed()
    run = stream()
    loader = DataLoader(run, batch_size=None, collate_fn=list, **options)
    assert list(loader) == wanted and len(loader) == STEPS
    for trained in (7, STEPS):
        run = stream()
        run.load_state_dict({"step": trained})
        assert list(DataLoader(run, batch_size=None, collate_fn=list, **options)) == wanted[trained:]


@pytest.mark.parametrize("options", LOADERS)
def test_a_stateful_loader_resumes_streams(options):
    require_or_skip(importlib.util.find_spec("torchdata") is not None, "torchdata")
    from torchdata.stateful_dataloader import StatefulDataLoader

    wanted = streamed()
    for trained in (7, STEPS):
        stopped = StatefulDataLoader(stream(), batch_size=None, collate_fn=list, **options)
        seen = list(islice(stopped, trained))
        resumed = StatefulDataLoader(stream(), batch_size=None, collate_fn=list, **options)
        resumed.load_state_dict(stopped.state_dict())
        assert seen + list(resumed) == wanted
        assert list(resumed) == wanted


def test_ranks_share_the_batches_of_streams():
    ranks = [list(stream(rank=rank, ranks=2)) for rank in (0, 1)]
    assert together(*ranks) == [sorted(batch) for batch in streamed()]


def test_streams_that_cannot_be_mixed_are_refused_by_number():
    with pytest.raises(ValueError, match="there are 1 streams; the mixture has 3 domains"):
        ReplayStream(MIXTURE, [[1]], STEPS)
    with pytest.raises(ValueError, match=r"stream 1 .* gave no sample in pass 0"):
        next(iter(ReplayStream(MIXTURE, [[1], [], [1]], STEPS)))

    def split_by_node():
        """What WebDataset has in its pipeline."""

    shared = Numbers(0, 5)
    shared.pipeline = [split_by_node]
    with pytest.raises(ValueError, match="stream 2 shares itself among ranks: give WebDataset nodesplitter=None"):
        ReplayStream(MIXTURE, [[1], [1], shared], STEPS)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="steps is 0"):
        ReplayBatchSampler(MIXTURE, 0)
    with pytest.raises(ValueError, match="from 0 to 1"):
        ReplayBatchSampler(MIXTURE, 5, rank=2, ranks=2)
    with pytest.raises(ValueError, match="shards is 2, with 4 ranks"):
        ReplayBatchSampler(MIXTURE, 5, 0, 4, shards=2)
    with pytest.raises(ValueError, match="shared evenly by 3 ranks"):
        ReplayBatchSampler(MIXTURE, 5, 0, 3)
    with pytest.raises(TypeError, match="no argument step"):
        ReplayBatchSampler(MIXTURE, step=5)
    with pytest.raises(ValueError, match="a step from 0 to 5"):
        ReplayBatchSampler(MIXTURE, 5).load_state_dict({"step": 6})
