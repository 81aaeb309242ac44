"""Exact replay in your own trainer: the mixture as an ordinary torch batch sampler, and as a mixed stream.

    data = ConcatDataset([driving, physics, game])
    batches = ReplayBatchSampler(Mixture(0.25, 32, [len(part) for part in data.datasets], seed=0), steps=1000)
    loader = DataLoader(data, batch_sampler=batches, num_workers=2)

Decision: each pass over a run begins at the loaded step and has its own counter, so passes that a loader starts, prefetches
or abandons do not affect later ones; all else is determined by the mixture. The state is therefore one number of steps, the
same for any number of ranks; a resumed loader continues with the next batch, and every rank computes its own part.

Refused: batches that ranks cannot share evenly, Lightning's replacement of a sampler created outside its hooks, and
streams that are empty or split themselves among ranks.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Protocol

import torch.utils.data._utils.worker as torch_worker
from torch.utils.data import BatchSampler, IterableDataset, Sampler, get_worker_info

from replaylab.mixture import Slot


class Mixing(Protocol):
    """The interface of `Mixture` and `BucketedMixture`."""

    @property
    def batch_size(self) -> int:
        """Slots of a step, of all ranks together."""

    @property
    def clips(self) -> Sequence[int]:
        """The number of clips of each domain."""

    def batch(self, step: int) -> list[Slot]:
        """The slots of one step (from 0)."""

    def counts(self, steps: int) -> list[int]:
        """Samples of each domain in the first `steps` steps."""


class _Run:
    """The steps that a pass covers: from the loaded one, 0 unless `load_state_dict` was called, to the last.

    Every pass begins at the loaded step until `set_epoch` is called with an epoch other than the first after loading.
    """

    def __init__(self, mixture: Mixing, steps: int, ranks: int) -> None:
        if steps < 1:
            raise ValueError(f"steps is {steps}; a run has at least one")
        if mixture.batch_size % ranks:
            raise ValueError(f"batch_size {mixture.batch_size} cannot be shared evenly by {ranks} ranks: make it a multiple")
        self.mixture, self.steps = mixture, steps
        self._start = self._reached = 0
        self._completed = False  # a pass that began at the loaded step
        self._epoch: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """The step that the latest pass has reached. A loader's workers prefetch: save the number of batches trained on."""
        return {"step": self._reached}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin after the step of a `state_dict`; raises ValueError unless it holds a step of this run."""
        self._start = self._reached = _step_of(state, self.steps)
        self._completed, self._epoch = False, None

    def set_epoch(self, epoch: int) -> None:
        """Called by trainers before each pass: the first epoch begins at the loaded step, all others are whole runs."""
        if self._epoch is not None and epoch != self._epoch:
            self._start = 0
        self._epoch, self._completed = epoch, False

    def _begin(self) -> int:
        if self._start and self._completed:
            warnings.warn(
                f"this pass begins at the loaded step {self._start} again; before a pass that is a whole run, call "
                "set_epoch(epoch)",
                stacklevel=3,
            )
        self._reached = self._start
        return self._start


class ReplayBatchSampler(_Run, BatchSampler):
    """Batches of indices into `ConcatDataset([target, *replayed])`, as the mixture fills them.

    `rank` and `ranks` are for trainers that do not distribute batches themselves. `shards` is for accelerate where it does
    not split batches: its `num_processes`. The batch of each step is then given in that many parts, one for each process.
    Replayed clips are dealt to ranks and shards in turn. A pass runs from the loaded step to `steps`; its length is the
    number of remaining batches.
    """

    def __init__(
        self, mixture: Mixing, steps: int = 0, rank: int = 0, ranks: int = 1, *, shards: int = 1,
        sampler: Any = None, **lightning: Any,
    ) -> None:  # fmt: skip
        # Lightning calls `class(sampler, batch_size, drop_last)`, or with the first arguments again and its own `sampler`.
        if isinstance(mixture, Sampler):
            raise TypeError(
                "Lightning cannot share the batches of a ReplayBatchSampler that was made before Trainer.fit: make it in a "
                "train_dataloader() hook, or give Trainer(use_distributed_sampler=False) and the sampler its rank and ranks"
            )
        if lightning:
            raise TypeError(f"ReplayBatchSampler has no argument {', '.join(lightning)}")
        if ranks == 1 and hasattr(sampler, "num_replicas"):
            rank, ranks = sampler.rank, sampler.num_replicas
        if not 0 <= rank < ranks:
            raise ValueError(f"rank is {rank}; with {ranks} ranks it must be from 0 to {ranks - 1}")
        if shards < 1 or (shards > 1 and ranks > 1):
            raise ValueError(f"shards is {shards}, with {ranks} ranks; give one of the two, the other 1")
        _Run.__init__(self, mixture, steps, ranks * shards)
        self.rank, self.ranks, self.shards = rank, ranks, shards
        # What accelerate and Lightning read of a batch sampler; `set_epoch` they call of its sampler.
        self.batch_size, self.drop_last, self.sampler = mixture.batch_size // (ranks * shards), False, self  # type: ignore[assignment]
        self._first = [0, *accumulate(mixture.clips)]

    def __iter__(self) -> Iterator[list[int]]:
        return _Pass(self)

    def __len__(self) -> int:
        return (self.steps - self._start) * self.shards

    def parts(self, step: int) -> list[list[int]]:
        """The parts of a step's batch: one list of indices for each shard."""
        ranks = _shared(self.mixture, step, self.ranks * self.shards)
        mine = ranks if self.shards > 1 else [ranks[self.rank]]
        return [[self._first[slot.domain] + slot.clip for slot, _ in part] for part in mine]


class _Pass(Iterator[list[int]]):
    """One pass over the batches of a sampler."""

    def __init__(self, sampler: ReplayBatchSampler) -> None:
        self._sampler, self._step = sampler, sampler._begin()
        self._parts: list[list[int]] = []  # of the step, that are still to be handed out

    def __next__(self) -> list[int]:
        sampler = self._sampler
        if not self._parts:
            if self._step >= sampler.steps:
                sampler._completed = True
                raise StopIteration
            self._parts = sampler.parts(self._step)
        part = self._parts.pop(0)
        if not self._parts:  # accelerate's dispatcher reads the state between two parts: only whole steps count
            self._step += 1
            sampler._reached = self._step
        return part

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called by torchdata: the loaded step applies to this pass, and the next pass is a whole run."""
        self._step, self._parts = _step_of(state, self._sampler.steps), []
        self._sampler._start = 0


class ReplayStream(_Run, IterableDataset):
    """The batches of a run, lists of samples, from streams: one iterable for each domain, restarted when it is exhausted.

        stream = ReplayStream(Mixture(0.25, 32, [1, 1], seed=0), [driving, physics], steps=1000)
        loader = DataLoader(stream, batch_size=None, collate_fn=default_collate, num_workers=2)

    Each rank and worker reads every stream in full and keeps the samples of its own slots: decode in `collate_fn`, which
    receives only these. The batches therefore do not depend on the number of workers. Only the domains of the mixture's
    slots are used, and the next sample of a domain is the next of its stream. If a stream has `set_epoch(n)`, it is called
    before the n-th pass over it, from 0. A resumed stream skips the samples already used: it must give the same samples in
    each run.
    """

    def __init__(self, mixture: Mixing, streams: Sequence[Iterable[Any]], steps: int, rank: int = 0, ranks: int = 1) -> None:
        if len(streams) != len(mixture.clips):
            raise ValueError(f"there are {len(streams)} streams; the mixture has {len(mixture.clips)} domains")
        for number, stream in enumerate(streams):
            if any(getattr(stage, "__name__", "") == "split_by_node" for stage in getattr(stream, "pipeline", ())):
                raise ValueError(f"stream {number} shares itself among ranks: give WebDataset nodesplitter=None")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank is {rank}; with {ranks} ranks it must be from 0 to {ranks - 1}")
        super().__init__(mixture, steps, ranks)
        self.streams, self.rank, self.ranks = list(streams), rank, ranks

    def __iter__(self) -> Iterator[list[Any]]:
        return _StreamPass(self)

    def __len__(self) -> int:
        return self.steps - self._start


class _StreamPass(Iterator[list[Any]]):
    """One pass over the batches of streams: all of them, or every `stride`-th where there are `stride` workers."""

    def __init__(self, run: ReplayStream) -> None:
        worker = get_worker_info()
        self._run, self._stride = run, worker.num_workers if worker else 1
        self._step = run._begin() + (worker.id if worker else 0)
        self._readers: list[_Reader] = []

    def __next__(self) -> list[Any]:
        run = self._run
        if self._step >= run.steps:
            run._completed = True
            raise StopIteration
        if not self._readers:
            self._readers = [_Reader(stream, number) for number, stream in enumerate(run.streams)]
        taken = _shared(run.mixture, self._step, run.ranks)[run.rank]
        samples = [self._readers[slot.domain].sample(number) for slot, number in taken]
        self._step += self._stride
        run._reached = min(self._step, run.steps)
        return samples

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Called by torchdata with the next step of this worker."""
        self._step, self._readers = _step_of(state, self._run.steps + self._stride), []
        self._run._start = 0


class _Reader:
    """The samples of a stream by number, in ascending order, pass after pass."""

    def __init__(self, stream: Iterable[Any], domain: int) -> None:
        self._stream, self._domain = stream, domain
        self._samples: Iterator[Any] | None = None
        self._next = self._began = self._passes = 0

    def sample(self, number: int) -> Any:
        with _no_workers():
            while True:
                if self._samples is None:
                    if hasattr(self._stream, "set_epoch"):
                        self._stream.set_epoch(self._passes)
                    self._samples, self._began = iter(self._stream), self._next
                for sample in self._samples:
                    self._next += 1
                    if self._next > number:
                        return sample
                if self._next == self._began:
                    raise ValueError(f"stream {self._domain} (0 is the target) gave no sample in pass {self._passes}")
                self._samples, self._passes = None, self._passes + 1


@contextmanager
def _no_workers() -> Iterator[None]:
    """In this context streams that split themselves among workers, as WebDataset does, yield all samples to each."""
    info = torch_worker._worker_info
    torch_worker._worker_info = None
    try:
        yield
    finally:
        torch_worker._worker_info = info


def _shared(mixture: Mixing, step: int, ranks: int) -> list[list[tuple[Slot, int]]]:
    """The slots of a step for each rank, each slot with its number among those of its domain in the whole run.

    The replayed slots of the run are dealt to the ranks in turn, so that the numbers of two ranks differ by at most one.
    """
    before = mixture.counts(step)
    slots, dealt = [], sum(before[1:])
    for slot in mixture.batch(step):
        slots.append((slot, before[slot.domain]))
        before[slot.domain] += 1
    if ranks == 1:
        return [slots]
    places: list[list[int]] = [[] for _ in range(ranks)]
    order = sorted((place for place in range(len(slots)) if slots[place][0].domain), key=lambda place: slots[place][0])
    for number, place in enumerate(order, start=dealt):
        places[number % ranks].append(place)
    rest = iter([place for place in range(len(slots)) if not slots[place][0].domain])
    for mine in places:
        mine += [next(rest) for _ in range(len(slots) // ranks - len(mine))]
    return [[slots[place] for place in sorted(mine)] for mine in places]


def _step_of(state: dict[str, Any], steps: int) -> int:
    step = state.get("step")
    if not isinstance(step, int) or not 0 <= step <= steps:
        raise ValueError(f"the state to load must hold a step from 0 to {steps}; got {state}")
    return step
