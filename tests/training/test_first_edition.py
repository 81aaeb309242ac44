"""The first edition's bases and autoencoder: made in small, and made again alike."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from replaylab.catalogue import CLIP_FRAMES
from replaylab.models import pipelines
from replaylab.models.autoencoder import new_autoencoder
from replaylab.models.tiny_cogvideox import TinyCogVideoX
from replaylab.models.tiny_wan import TinyWan
from replaylab.shipped_weights import WEIGHTS
from replaylab.training import autoencoders, bases


@pytest.fixture
def small(monkeypatch):
    """Three videos a domain, and not all domains."""
    recipe_of = bases.recipe_of

    def few(specs):
        return tuple(dataclasses.replace(spec, videos=(3, 4, 0)) for spec in specs[:2])

    def small_recipe(*which):
        recipe = recipe_of(*which)
        worlds = tuple(dataclasses.replace(world, videos=(0, 8, 0)) for world in recipe.curve.domains[:2])
        curve = dataclasses.replace(recipe.curve, domains=worlds, clips=4, reference_clips=4, sampler_steps=2)
        return dataclasses.replace(recipe, near=few(recipe.near), far=few(recipe.far[:1]), curve=curve, points=2)

    monkeypatch.setattr(bases, "recipe_of", small_recipe)
    monkeypatch.setattr(bases, "NEAR", few([bases.NEAR])[0])
    monkeypatch.setattr(autoencoders, "TARGET_LOOKS", few(autoencoders.TARGET_LOOKS))
    recipes = {seed: dataclasses.replace(each, domains=few(each.domains)) for seed, each in autoencoders.RECIPES.items()}
    monkeypatch.setattr(autoencoders, "RECIPES", recipes)


def test_the_base_never_saw_the_targets_look():
    assert {spec.look for spec in bases.BASE_DOMAINS} == {"diverse", "any"}
    card = (WEIGHTS / "base" / "README.md").read_text()
    assert not [spec.name for spec in autoencoders.TARGET_LOOKS if spec.name in card]


@pytest.mark.slow
def test_autoencoder_and_base_are_made_and_made_again_alike(small, tmp_path):
    weights = []
    for home, stops in (("a", (4,)), ("b", (2, 4))):  # the second is stopped half way and goes on
        folder = tmp_path / f"weights {home}"
        autoencoders.train_autoencoder(tmp_path / home, folder, steps=4)
        for steps in stops:
            bases.train_base(tmp_path / home, folder, steps=steps)
        model = TinyWan.load(folder)
        curve = pd.read_csv(folder / "curve.csv")
        assert set(zip(curve["model"], curve["step"], strict=True)) == {
            ("copy-last-frame", -1), ("autoencoder", -1), ("constant-velocity", -1), ("base", 2), ("base", 4)
        }  # fmt: skip
        assert {"ade_px", "recall", "effnet_kd"} <= set(curve["measure"]) and len(set(curve["domain"])) == 2
        assert (folder / "README.md").is_file() and (folder / "vae" / "README.md").is_file()
        weights.append(model)
    vaes = [load_file(tmp_path / f"weights {home}" / "vae" / "diffusion_pytorch_model.safetensors") for home in "ab"]
    assert all(torch.equal(vaes[0][name], vaes[1][name]) for name in vaes[0])
    frames = np.zeros((1, CLIP_FRAMES, 64, 64, 3), np.uint8)
    assert torch.equal(weights[0].encode(frames), weights[1].encode(frames))


def test_another_family_has_a_base_and_a_folder_of_its_own(small, tmp_path):
    folder = tmp_path / "weights"
    bases.train_base(tmp_path / "home", folder, steps=2, family="cogvideox")
    made = pipelines.load_tiny(folder).model
    assert isinstance(made, TinyCogVideoX) and all(one.isfinite().all() for one in made.transformer.parameters())
    card = (folder / "README.md").read_text()
    assert "python -m replaylab pretrain base --family cogvideox --precision" in card


def test_the_autoencoder_learns():
    frames = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    torch.manual_seed(0)
    vae = new_autoencoder()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    losses = []
    for _ in range(15):
        loss = autoencoders._reconstruction_loss(vae, frames)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
