"""What every tiny model promises, whatever its family: its noise, its loss and its sampler fit together."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.models import pipelines
from replaylab.models.autoencoder import LATENT_CHANNELS
from replaylab.models.interface import Condition, with_known
from replaylab.models.tiny import TinyModel

SHAPE = (3, LATENT_CHANNELS, CLIP_FRAMES, 8, 8)
FUTURE = slice(CONTEXT_FRAMES, None)


class Knowing(torch.nn.Module):
    """In a transformer's place: puts out this change of the last context latent, whatever it is shown."""

    def __init__(self, change: Tensor, transposed: bool) -> None:
        super().__init__()
        self.change = change.transpose(1, 2) if transposed else change

    def forward(self, **_: object) -> tuple[Tensor]:
        return (self.change,)


@pytest.fixture(params=list(pipelines.TINY))
def family(request: pytest.FixtureRequest) -> type[TinyModel]:
    return pipelines.TINY[request.param]


@pytest.fixture
def knowing(family: type[TinyModel]) -> Callable[[Tensor], TinyModel]:
    """A model of the family that holds that these (B, C, T, h, w) are the clean latents."""

    def make(clean: Tensor) -> TinyModel:
        model = family.new(None)
        change = clean[:, :, FUTURE] - clean[:, :, CONTEXT_FRAMES - 1 : CONTEXT_FRAMES]
        model.transformer = Knowing(change, model.NETWORK[1].startswith("CogVideoX"))
        return model

    return make


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


def context_of(latents: Tensor) -> Condition:
    return {"known": latents[:, :, :CONTEXT_FRAMES]}


def test_the_ends_of_the_noise_are_the_clip_and_noise_alone(family):
    model, latents, noise = family.new(None), numbers(0), numbers(1)
    least, most = (model.level_at(share, SHAPE).expand(3) for share in (0.0, 1.0))
    assert (model.add_noise(latents, noise, least) - latents).square().mean().sqrt() < 0.1
    assert torch.allclose(model.add_noise(latents, noise, most), noise, atol=1e-5)


def test_levels_are_known_from_their_numbers_and_noisier_where_these_are_higher(family):
    model = family.new(None)
    levels = model.levels(torch.linspace(-6, 6, 101), SHAPE)
    ends = model.level_at(0.0, SHAPE), model.level_at(1.0, SHAPE)
    assert (levels.diff() >= 0).all() and len(levels.unique()) > 50
    assert ends[0] <= levels.min() and levels.max() <= ends[1]
    assert torch.equal(levels, model.levels(torch.linspace(-6, 6, 101), SHAPE))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_the_loss_is_the_squared_error_of_the_clean_latents_at_any_level(family, knowing, share):
    """So that a level does not count for more than its error: whatever is predicted, and from whatever noise."""
    latents, wrong = numbers(0), numbers(2)
    wrong[:, :, :CONTEXT_FRAMES] = latents[:, :, :CONTEXT_FRAMES]
    model = knowing(wrong)
    level = model.level_at(share, SHAPE).expand(3)
    expected = (wrong - latents)[:, :, FUTURE].square().mean()
    assert torch.allclose(model.loss(latents, numbers(1), level, context_of(latents)), expected, rtol=1e-4)


def test_a_model_that_knows_the_clip_has_no_loss_and_no_error(knowing):
    latents = numbers(0)
    model = knowing(latents)
    level = model.levels(numbers(3, 3), SHAPE)
    assert model.loss(latents, numbers(1), level, context_of(latents)) < 1e-6
    assert (model.errors(latents, numbers(1), level, context_of(latents)) < 1e-4).all()


@pytest.mark.parametrize("steps", [1, 4, 8])
def test_a_model_that_knows_the_clip_samples_it_from_any_noise(knowing, steps):
    latents = numbers(0)
    with torch.no_grad():
        sampled = knowing(latents).sample(numbers(1), context_of(latents), steps)
    assert torch.allclose(sampled, latents, atol=1e-3)


def test_the_network_is_told_of_the_future_no_more_than_noise_lets_through(family):
    """At pure noise, two clips with the same context give the same prediction."""
    model, noise = family.new(None), numbers(1)
    one, other = numbers(0), numbers(2)
    level = model.level_at(1.0, SHAPE).expand(3)
    with torch.no_grad():
        predicted = [model.predict(model.add_noise(clip, noise, level), level, context_of(one)) for clip in (one, other)]
    assert torch.allclose(*predicted, atol=1e-4)


def test_known_latents_are_put_in_place_without_a_change_of_memory_layout():
    """Latents of stacked clips are permuted in memory, and the last bits of a loss depend on that."""
    latents, known = numbers(0).transpose(1, 2).contiguous().transpose(1, 2), numbers(1)[:, :, :CONTEXT_FRAMES]
    before = latents.clone()
    placed = with_known(latents, {"known": known})
    assert placed.stride() == latents.stride() and torch.equal(latents, before)
    assert torch.equal(placed, torch.cat([known, latents[:, :, CONTEXT_FRAMES:]], dim=2))
