"""The alternatives to replay against forgetting, each as hooks in the same training loop.

| remedy | what it does |
|---|---|
| l2-sp | pulls every weight towards the base's (Li, Grandvalet and Davoine 2018, arXiv 1802.01483) |
| ewc | the same, each weight by its diagonal Fisher information (Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3) |
| lwf | distils the base's own predictions on the new clips, in the model's loss (Li and Hoiem 2016, arXiv 1606.09282) |
| wise-ft | averages the weights with the base's (Wortsman et al. 2022, arXiv 2109.01903) |
| generative replay | replays clips that the base generated (Shin et al. 2017, arXiv 1705.08690): `ReplaySpec.generated` |
| lower rate | `TrainingSpec.learning_rate` |

Decision: each is a class that overrides the hooks of `Regularizer` that it needs. A penalty on the distance from the base is
applied through its gradient, known in closed form: it needs no graph, works on sharded weights, and does not change the loss
in the log, which is that of the clips.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from replaylab.models import sampling
from replaylab.models.interface import Clip, VideoModel, stack_clips
from replaylab.util.distributed import shard_like


class Regularizer:
    """No regularizer: the hooks do nothing."""

    teacher: VideoModel | None = None  # whose predictions the loss is pulled towards, `strength` times

    def __init__(self, strength: float = 0.0) -> None:
        self.strength = strength

    def measure_base(self, model: VideoModel, weights: Sequence[Tensor], losses: Iterable[Tensor]) -> None:
        """Called before training and before the weights are sharded; `losses`: of single clips of the base's domains."""

    def attach(self, weights: Sequence[Tensor]) -> None:
        """Called with the optimizer's weights, possibly sharded, while they are still those of the base."""

    def add_gradient(self, weights: Sequence[Tensor]) -> None:
        """Called after the backward pass of each step."""

    def average(self, weights: Sequence[Tensor]) -> None:
        """Called with the averaged weights that are evaluated and kept, to change them in place."""


class _Anchored(Regularizer):
    """A regularizer that stores the base's weights."""

    def attach(self, weights: Sequence[Tensor]) -> None:
        self.base = [weight.detach().clone() for weight in weights]


class L2SP(_Anchored):
    """The penalty strength / 2 x sum of (w - base)^2."""

    @torch.no_grad()
    def add_gradient(self, weights: Sequence[Tensor]) -> None:
        """Add the gradient of the penalty: strength x (w - base), scaled."""
        for number, (weight, base) in enumerate(zip(weights, self.base, strict=True)):
            assert weight.grad is not None
            weight.grad.add_(self._scaled(weight - base, number), alpha=self.strength)

    def _scaled(self, difference: Tensor, number: int) -> Tensor:
        return difference


class EWC(L2SP):
    """The penalty strength / 2 x sum of importance x (w - base)^2."""

    importances: Sequence[Tensor]

    def measure_base(self, model: VideoModel, weights: Sequence[Tensor], losses: Iterable[Tensor]) -> None:
        """Compute the Fisher information at the base's weights."""
        self.importances = fisher_information(losses, weights)

    def attach(self, weights: Sequence[Tensor]) -> None:
        """Store the base's weights, and importances sharded like them."""
        super().attach(weights)
        self.importances = [shard_like(each, weight) for each, weight in zip(self.importances, weights, strict=True)]

    def _scaled(self, difference: Tensor, number: int) -> Tensor:
        return difference * self.importances[number]


class LearningWithoutForgetting(Regularizer):
    """A frozen copy of the base as teacher."""

    def measure_base(self, model: VideoModel, weights: Sequence[Tensor], losses: Iterable[Tensor]) -> None:
        self.teacher = model.with_network(copy.deepcopy(model.transformer).requires_grad_(False).eval())


class WiSEFT(_Anchored):
    """(1 - strength) x weight + strength x base; strength 1 gives exactly the base."""

    @torch.no_grad()
    def average(self, weights: Sequence[Tensor]) -> None:
        """Interpolate in place."""
        for weight, base in zip(weights, self.base, strict=True):
            weight.lerp_(base, self.strength)


REGULARIZERS: dict[str, type[Regularizer]] = {  # by spec.REMEDIES
    "none": Regularizer, "l2-sp": L2SP, "ewc": EWC, "lwf": LearningWithoutForgetting, "wise-ft": WiSEFT,
}  # fmt: skip


def fisher_information(losses: Iterable[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """The diagonal Fisher information of each weight, estimated as the mean squared gradient over single clips.

    Divided by their overall mean, so that strengths are comparable with those of L2-SP. Raises ValueError if no
    gradient reaches any weight.
    """
    sums, clips = [torch.zeros_like(weight) for weight in weights], 0
    for loss in losses:
        clips += 1
        gradients = torch.autograd.grad(loss, list(weights), allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient.square())
    mean = sum(float(total.sum()) for total in sums) / sum(total.numel() for total in sums)
    if not mean > 0:
        raise ValueError(f"no gradient of {clips} clips reaches the weights: nothing to measure importance by")
    return [total / mean for total in sums]


def generate_replay(base: VideoModel, clips: Sequence[Clip], sampler_steps: int, seed: int) -> Tensor:
    """Latents (N, C, T, h, w): the clips' own contexts, and the futures that the base generates for them.

    The noise of a clip depends on the seed and its number alone.
    """
    latents, condition = stack_clips(clips)
    return sampling.futures(base, condition, latents.shape[1:], sampler_steps, seed)
