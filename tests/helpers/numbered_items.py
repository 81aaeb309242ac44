"""A mixture of three sources whose items are numbers, and the batches that it makes of them."""

import torch
from torch.utils.data import ConcatDataset, TensorDataset

from replaylab.mixture import Mixture

STEPS = 20
MIXTURE = Mixture(0.3, 8, [11, 5, 7], seed=3)
# An item is the number of its place: 100 x domain + clip.
DATA: ConcatDataset = ConcatDataset(
    [TensorDataset(100 * domain + torch.arange(count)) for domain, count in enumerate(MIXTURE.clips)]
)
WANTED = [[100 * slot.domain + slot.clip for slot in MIXTURE.batch(step)] for step in range(STEPS)]
