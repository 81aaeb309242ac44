"""What else is done against forgetting? The alternatives to replay, each a few lines around the same loop.

| remedy | what it does |
|---|---|
| l2-sp | pulls every weight towards the base's (Li, Grandvalet and Davoine 2018, arXiv 1802.01483) |
| ewc | the same, each weight by its diagonal Fisher information (Kirkpatrick et al. 2017, arXiv 1612.00796, eq. 3) |
| lwf | asks for the base's own predictions on the new clips, in the model's loss (Li and Hoiem 2016, arXiv 1606.09282) |
| wise-ft | averages the weights with the base's (Wortsman et al. 2022, arXiv 2109.01903) |
| generative replay | replays clips that the base drew (Shin et al. 2017, arXiv 1705.08690): `ReplaySpec.generated` |
| lower rate | `TrainingSpec.learning_rate` |
| early stop | `early_stop`, over the steps that were evaluated |

Decision: a pull towards the base enters as its gradient, which is known in closed form: no graph is kept for it, it works
on sharded weights, and the loss in the log stays the loss of the clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import torch
from torch import Tensor

from replaylab.models import sampling
from replaylab.models.interface import Clip, VideoModel, stacked, to_draw


class Anchor:
    """The base's weights, and how much each matters: the penalty is strength / 2 x sum of importance x (w - base)^2."""

    def __init__(self, weights: Sequence[Tensor], importances: Sequence[Tensor] | None = None) -> None:
        self.base = [weight.detach().clone() for weight in weights]
        self.importances = importances

    @torch.no_grad()
    def pull(self, weights: Sequence[Tensor], strength: float) -> None:
        """Add the penalty's gradient to each weight's own."""
        for i, (weight, base) in enumerate(zip(weights, self.base, strict=True)):
            assert weight.grad is not None
            away = weight - base if self.importances is None else (weight - base) * self.importances[i]
            weight.grad.add_(away, alpha=strength)

    @torch.no_grad()
    def mix(self, weights: Sequence[Tensor], share: float) -> None:
        """WiSE-FT, in place: (1 - share) x weight + share x base. Share 1 is the base, to the bit."""
        for weight, base in zip(weights, self.base, strict=True):
            weight.lerp_(base, share)


def importances(loss_of_clip: Callable[[int], Tensor], clips: int, weights: Sequence[Tensor]) -> list[Tensor]:
    """The diagonal Fisher information of each weight, estimated as the mean squared gradient over single clips.

    Divided by their overall mean, so that a strength means as much as it does in L2-SP. Raises ValueError where no
    gradient reaches any weight.
    """
    sums = [torch.zeros_like(weight) for weight in weights]
    for clip in range(clips):
        gradients = torch.autograd.grad(loss_of_clip(clip), list(weights), allow_unused=True)
        for total, gradient in zip(sums, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient.square())
    mean = sum(float(total.sum()) for total in sums) / sum(total.numel() for total in sums)
    if not mean > 0:
        raise ValueError(f"no gradient of {clips} clips reaches the weights: nothing to measure importance by")
    return [total / mean for total in sums]


def generated(base: VideoModel, clips: Sequence[Clip], sampler_steps: int, seed: int) -> Tensor:
    """Latents (N, C, T, h, w): the clips' own contexts, and the futures that the base draws for them.

    The noise of a clip depends on the seed and its number alone.
    """
    latents, known = stacked(clips)
    return sampling.futures(base, to_draw(latents, known), latents.shape[1:], sampler_steps, seed)


def early_stop(rows: pd.DataFrame, measure: str, domain: str, patience: int = 1) -> int:
    """The step to stop at: the best one before `measure` (lower is better) failed `patience` times to get better.

    `rows` of one run, or of several whose mean decides. Raises ValueError, naming what there is, if there are none.
    """
    chosen = rows[(rows["measure"] == measure) & (rows["domain"] == domain)]
    if chosen.empty:
        raise ValueError(
            f"no rows of measure {measure!r} in domain {domain!r}; measures: {sorted(set(rows['measure']))}, domains: "
            f"{sorted(set(rows['domain']))}"
        )
    best, lowest, worse = -1, float("inf"), 0
    for step, value in chosen.groupby("step")["value"].mean().items():
        best, lowest, worse = (step, value, 0) if value < lowest else (best, lowest, worse + 1)
        if worse >= patience:
            break
    return int(best)
