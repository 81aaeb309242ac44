"""Exact replay in your own trainer: the mixture as an ordinary torch batch sampler.

    data = ConcatDataset([driving, physics, game])
    batches = ReplayBatchSampler(Mixture(0.25, 32, [len(part) for part in data.datasets], seed=0), steps=1000)
    loader = DataLoader(data, batch_sampler=batches, num_workers=2)

Decision: the sampler's only state is the step it has reached; everything else is the mixture's. So `state_dict` is small, a
resumed loader continues with the very next batch, and every rank works out its own part.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from torch.utils.data import Sampler

from replaylab.mixture import Mixture


class ReplayBatchSampler(Sampler[list[int]]):
    """Batches of indices into `ConcatDataset([target, *replayed])`, as the mixture fills them.

    `rank` and `ranks` are for trainers that do not shard batches themselves; accelerate and Lightning do. Iterating
    continues from the step reached until `steps`; the next iteration starts over.
    """

    def __init__(self, mixture: Mixture, steps: int, rank: int = 0, ranks: int = 1) -> None:
        if steps < 1:
            raise ValueError(f"steps is {steps}; a run has at least one")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank is {rank}; with {ranks} ranks it must be from 0 to {ranks - 1}")
        self.mixture, self.steps, self.rank, self.ranks = mixture, steps, rank, ranks
        self.batch_size, self.drop_last = (mixture.batch_size // ranks, False)  # which accelerate reads of a batch sampler
        self.step = 0
        self._first = [0, *accumulate(mixture.clips)]

    def __iter__(self) -> Iterator[list[int]]:
        if self.step >= self.steps:
            self.step = 0
        while self.step < self.steps:
            self.step += 1
            slots = self.mixture.batch(self.step - 1, self.rank, self.ranks)
            yield [self._first[slot.domain] + slot.clip for slot in slots]

    def __len__(self) -> int:
        return self.steps

    def state_dict(self) -> dict[str, Any]:
        """The step reached. With loader workers that prefetch, save the step that your trainer has done instead."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the step of a `state_dict`; ValueError where it holds none of this run's."""
        step = state.get("step")
        if not isinstance(step, int) or not 0 <= step <= self.steps:
            raise ValueError(f"state of a ReplayBatchSampler must hold a step from 0 to {self.steps}; got {state}")
        self.step = step
