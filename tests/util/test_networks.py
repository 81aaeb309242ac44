"""Properties of networks made ready for inference."""

import torch
from torch import nn

from replaylab.metrics.detectors import centre_point
from replaylab.util.networks import without_batch_norm


def norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d)]


def test_without_batch_norms_a_network_gives_the_same():
    torch.manual_seed(0)
    network = centre_point.load()
    frames = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        before = network(frames)
        assert norms(network)
        after = without_batch_norm(network)(frames)
    assert not norms(network)
    for one, other in zip(before, after, strict=True):
        assert torch.allclose(one, other, atol=1e-4)


def test_a_batch_norm_that_follows_no_convolution_stays():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4))
    assert len(norms(without_batch_norm(network))) == 2
