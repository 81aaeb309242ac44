"""Training loops as people write them around a family of tiny random weights, with a monitor of forgetting or without."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import LoraConfig
from tiny_families import FRAMES, SIDE, TINY
from torch import Tensor

from replaylab.models import families
from replaylab.models.interface import stack_clips
from replaylab.monitor import ForgettingMonitor
from replaylab.util import distributed
from replaylab.util.distributed import Rank

STEPS, EVERY = 4, 2
ADAPTERS = LoraConfig(r=2, target_modules=["to_q", "to_v"], lora_dropout=0.3)  # draws, in training mode
Held = Mapping[str, Sequence[Any]]


def made(name: str, folder: Path) -> tuple[Path, Held]:
    """A tiny model, and `encoded` clips."""
    TINY[name](folder)
    return folder, encoded(name, folder)


def encoded(name: str, folder: Path) -> Held:
    """Clips of what is trained on, and of two domains to be kept."""
    drawn = np.random.default_rng(0).integers(0, 256, (7, FRAMES[name], SIDE[name], SIDE[name], 3), dtype=np.uint8)
    clips = families.load(folder).examples(drawn, ["a car drives"] * len(drawn), 1, 8.0)
    return {"driving": clips[:2], "kitchen": clips[2:5], "street": clips[5:]}


def kept(clips: Held) -> Held:
    """Those of the domains to be kept."""
    return {name: clips[name] for name in ("kitchen", "street")}


class Trained(NamedTuple):
    """What a loop leaves."""

    network: torch.nn.Module
    monitor: ForgettingMonitor | None
    state: list[Any]  # weights, the optimizer's state, modes, and all streams of random numbers


def fine_tuned(
    folder: Path, clips: Held, settings: dict[str, Any] | None, *, lora: bool = False, sharded: bool = False,
    rank: Rank = Rank(), own_loss: bool = False,
) -> Trained:  # fmt: skip
    """A script of diffusers and accelerate. `settings` of a monitor, or None for none; `sharded`: by FSDP2, whose outermost
    module stays gathered after a forward pass, as is torch's default.
    """
    from accelerate import Accelerator

    seed_all()
    accelerator, adapter = Accelerator(cpu=True), families.load(folder)
    network = adapter.transformer.train()
    network.patch_embed.eval() if hasattr(network, "patch_embed") else network.rope.eval()  # people freeze parts
    if lora:
        network.requires_grad_(False)
        network.add_adapter(ADAPTERS)
    if sharded:
        from torch.distributed.fsdp import fully_shard

        for block in network.modules():
            if type(block).__name__ in network._no_split_modules:
                fully_shard(block)
        fully_shard(network)
    else:
        network = accelerator.prepare(network)
    assert hasattr(network, "module") == (rank.world_size > 1 and not sharded)  # DDP
    monitor = None
    if settings is not None:
        model = families.load(folder, network=network)
        loss: Any = (lambda batch, level: loss_of(model, network, batch, level)) if own_loss else model
        monitor = ForgettingMonitor(kept(clips), loss, network, **{"every": EVERY, "at_most": 1.0, **settings})
        monitor(0)  # an optimizer that is made after it has the same weights
    optimizer = torch.optim.AdamW([weight for weight in network.parameters() if weight.requires_grad], 1e-2)
    for step in range(STEPS):
        if monitor:
            monitor(step)
        error = loss_of(adapter, network, clips["driving"][rank.index :: rank.world_size])
        accelerator.backward(error)
        torch.nn.utils.clip_grad_norm_([weight for weight in network.parameters() if weight.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    if monitor:
        monitor(STEPS, last=True)
    inner = distributed.unwrapped(network)
    state = [
        *(distributed.full_tensor(weight) for weight in inner.state_dict().values()),
        *(distributed.full_tensor(value) for of in optimizer.state.values() for value in of.values()),
        torch.tensor([module.training for module in inner.modules()]),
        torch.get_rng_state(), torch.tensor(random.getstate()[1]),
        torch.tensor(np.random.get_state(legacy=False)["state"]["key"].tolist()),  # noqa: NPY002
    ]  # fmt: skip
    return Trained(inner, monitor, state)


def seed_all() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    random.seed(0)


def loss_of(model: families.Family, network: Any, batch: Sequence[Any], level: float | None = None) -> Tensor:
    """The loss of Wan written out, as in a script; of others, the adapter's. With global random numbers."""
    latents, condition = stack_clips(batch)
    noise = torch.randn_like(latents)
    shares = torch.rand(len(latents)) if level is None else torch.full((len(latents),), level)
    at = model.levels(torch.special.ndtri(shares), latents.shape)
    if "image" not in condition:
        return model.loss(latents, noise, at, condition)
    noisy = torch.cat([latents.lerp(noise, at.view(-1, 1, 1, 1, 1)), condition["channels"]], dim=1)
    predicted = network(noisy, 1000 * at, condition["text"], condition["image"], return_dict=False)[0]
    return (predicted - (noise - latents)).square().mean()


def same(one: Trained, other: Trained) -> bool:
    """Whether two loops left the same bits."""
    return len(one.state) == len(other.state) and all(map(torch.equal, one.state, other.state))
