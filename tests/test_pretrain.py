"""The shipped weights: there, carded, small enough; and the commands that make them run through in small."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from replaylab import models, pretrain
from replaylab.spec import WEIGHTS


@pytest.fixture
def small(monkeypatch):
    """Three videos a domain."""
    for name in ("DIVERSE_TRAFFIC", "PHYSICS", "TARGET_LOOK"):
        monkeypatch.setattr(pretrain, name, dataclasses.replace(getattr(pretrain, name), videos=(3, 2, 0)))


def test_every_shipped_part_has_a_card_and_all_are_small():
    for part, command in (("base", "base"), ("base/vae", "autoencoder"), ("detector", "detector")):
        assert f"python -m replaylab pretrain {command}" in (WEIGHTS / part / "README.md").read_text()
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30e6
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md"}


def test_the_base_never_saw_the_targets_look():
    assert {spec.look for spec in (pretrain.DIVERSE_TRAFFIC, pretrain.PHYSICS)} == {"diverse", "any"}
    assert pretrain.TARGET_LOOK.name not in (WEIGHTS / "base" / "README.md").read_text()


def test_autoencoder_and_base_are_made_and_made_again_alike(small, tmp_path):
    weights = []
    for home, stops in (("a", (4,)), ("b", (2, 4))):  # the second is stopped half way and goes on
        folder = tmp_path / f"weights {home}"
        pretrain.autoencoder(tmp_path / home, folder, steps=4)
        for steps in stops:
            pretrain.base(tmp_path / home, folder, steps=steps)
        model = models.TinyWan.load(folder)
        assert (folder / "README.md").is_file() and (folder / "vae" / "README.md").is_file()
        weights.append(model)
    vaes = [
        load_file(tmp_path / f"weights {home}" / "vae" / "diffusion_pytorch_model.safetensors")
        for home in "ab"
    ]
    assert all(torch.equal(vaes[0][name], vaes[1][name]) for name in vaes[0])
    frames = np.zeros((1, models.CLIP_FRAMES, 64, 64, 3), np.uint8)
    assert torch.equal(weights[0].encode(frames), weights[1].encode(frames))


def test_the_autoencoder_learns():
    frames = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    torch.manual_seed(0)
    vae = models.new_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss = pretrain._reconstruction_loss(vae, frames)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
