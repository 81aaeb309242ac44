"""A training run of seconds: a small untrained model, two sources of latents, and what a run leaves."""

import json

import numpy as np
import torch

from replaylab.catalogue import CLIP_FRAMES
from replaylab.mixture import Mixture
from replaylab.models import pipelines, sampling
from replaylab.models.autoencoder import LATENT_CHANNELS
from replaylab.spec import MachineSpec, RemedySpec, TrainingSpec
from replaylab.training import loop

FRAMES, CHANNELS, CELLS = CLIP_FRAMES, LATENT_CHANNELS, 8


def sources():
    """Latents of two sources: noise that grows with time, and its opposite."""
    random = np.random.default_rng(0)
    moving = random.normal(size=(12, CHANNELS, 1, CELLS, CELLS)) + 0.1 * np.arange(FRAMES)[:, None, None]
    return [moving.astype(np.float32), -moving.astype(np.float32)]


def model(family="wan"):
    """The base's transformer with half its layers, untrained."""
    torch.manual_seed(0)
    whole = pipelines.TINY[family].new(None)
    shape = {**whole.transformer.config, "num_layers": 2}
    return whole.with_network(type(whole.transformer).from_config(shape))


def training(steps=6, **changes):
    return TrainingSpec(**{"steps": steps, "batch_size": 4, "learning_rate": 1e-3, "ema_decay": 0.9, **changes})


def fit(folder, latents, steps=6, evaluate_at=(), evaluate=lambda step: None, mixture=None, machine=None,
        remedy=RemedySpec(), base_clips=(), **changes):  # fmt: skip
    """The model after `steps`."""
    made = model()
    mixture = mixture or Mixture(0.25, 4, [len(source) for source in latents], 1)
    loop.fit(
        made, latents, mixture, training(steps, **changes), 1, folder, "test",
        machine=machine or MachineSpec("fp32", checkpoint_steps=2), remedy=remedy, base_clips=base_clips,
        evaluate_at=evaluate_at, evaluate=evaluate,
    )  # fmt: skip
    return made


def weights(made):
    return {name: weight.clone() for name, weight in made.transformer.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def loss_of(made, latents):
    """The loss of a model on fixed noise."""
    batch = loop.batch_of(made, [latents], Mixture(0, 8, [len(latents)], 0), 5, 0)
    with torch.no_grad():
        return loop.Objective(made)(batch).item()


def sampled(made, context, steps, noise_seed):
    """Whole clips, generated from context latents."""
    shape = (context.shape[1], FRAMES, *context.shape[3:])
    return sampling.futures(made, {"known": context}, shape, steps, noise_seed)


class Killed(BaseException):
    """No handler of `Exception` catches it."""
