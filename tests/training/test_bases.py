"""The second edition's bases: clips of their own, less training by branching off, and an autoencoder that is referred to."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from replaylab.catalogue import CLIP_FRAMES
from replaylab.models import pipelines
from replaylab.models.tiny import LARGE
from replaylab.models.tiny_wan import TinyWan
from replaylab.shipped_weights import base_folder, weights_digest
from replaylab.spec import MachineSpec
from replaylab.training import autoencoders, bases, recipe_study

FP32 = MachineSpec("fp32")


def few(specs):
    return tuple(dataclasses.replace(spec, videos=(3, 0, 0)) for spec in specs[:2])


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Three videos of two domains, a curve of four clips, and an untrained autoencoder of these bases."""
    recipe_of, recipe = bases.recipe_of, autoencoders.RECIPES[2]

    def small_recipe(*which):
        recipe = recipe_of(*which)
        worlds = tuple(dataclasses.replace(world, videos=(0, 8, 0)) for world in recipe.curve.domains[:2])
        curve = dataclasses.replace(recipe.curve, domains=worlds, clips=4, reference_clips=4, sampler_steps=2)
        folder = str(tmp_path / "autoencoder")
        training = dataclasses.replace(recipe.training, batch_size=4)
        return dataclasses.replace(
            recipe,
            near=few(recipe.near),
            far=few(recipe.far[:1]),
            training=training,
            curve=curve,
            points=4,
            autoencoder=folder,
        )

    monkeypatch.setattr(bases, "recipe_of", small_recipe)
    monkeypatch.setattr(autoencoders, "RECIPES", {2: dataclasses.replace(recipe, domains=few(recipe.domains))})
    autoencoders.train_autoencoder(tmp_path / "home", seed=2, steps=4)


def weights(folder):
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def test_no_two_bases_share_a_clip_and_none_sees_a_targets_look():
    recipes = [bases.recipe_of(seed) for seed in range(2, 8)]
    described = [spec for recipe in recipes for spec in recipe.domains]
    assert len(set(described)) == len(described) and len({(spec.world, spec.seed) for spec in described}) == len(described)
    seen = {spec.look for recipe in (*recipes, autoencoders.RECIPES[2]) for spec in recipe.domains}
    assert not seen & {"target", "country"}
    with pytest.raises(ValueError, match="-1; it must be 0 or above"):
        bases.recipe_of(-1)


@pytest.mark.slow
def test_less_training_branches_off_the_whole_to_the_same_bits_as_by_itself(small, tmp_path):
    bases.train_base(tmp_path / "home", tmp_path / "whole", steps=16, seed=2, machine=FP32)
    home = tmp_path / "home" / "base-2-8of16"
    branched_at = int((home / "checkpoints").glob("step-*").__next__().name.removeprefix("step-"))
    assert branched_at == 4 and len((home / "log.jsonl").read_text().splitlines()) >= branched_at
    bases.train_base(tmp_path / "home", tmp_path / "branched", steps=16, seed=2, machine=FP32, sixteenths=8)
    bases.train_base(tmp_path / "other home", tmp_path / "alone", steps=16, seed=2, machine=FP32, sixteenths=8)
    branched, alone, whole = (weights(tmp_path / name) for name in ("branched", "alone", "whole"))
    assert all(torch.equal(branched[name], alone[name]) for name in branched)
    assert any(not torch.equal(branched[name], whole[name]) for name in branched)
    curves = [pd.read_csv(tmp_path / name / "curve.csv") for name in ("branched", "alone", "whole")]
    steps = [curve["step"][curve["model"] == "base"].unique().tolist() for curve in curves]
    assert steps == [[4, 6, 8], [4, 6, 8], [4, 8, 12, 16]]
    pd.testing.assert_frame_equal(curves[0], curves[1])
    card = (tmp_path / "alone" / "README.md").read_text()
    assert "--seed 2 --sixteenths 8 --precision fp32`" in card and "| steps | 8 |" in card
    assert weights_digest(tmp_path / "alone") == weights_digest(tmp_path / "branched")  # whatever time it took
    rates = [json.loads(line)["learning_rate"] for line in (home / "log.jsonl").read_text().splitlines()]
    assert len(rates) == 8 and np.all(np.diff(rates[4:]) < 0)
    with pytest.raises(ValueError, match=r"3/16 .* by 1, 2, 4, 8, 16 sixteenths"):
        bases.train_base(tmp_path / "home", seed=2, sixteenths=3)
    with pytest.raises(ValueError, match="only bases from 2 on"):
        bases.train_base(tmp_path / "home", seed=0, sixteenths=8)


def test_a_base_refers_to_its_autoencoder_and_another_one_there_is_refused(small, tmp_path):
    folder = tmp_path / "base"
    bases.train_base(tmp_path / "home", folder, steps=2, seed=2, machine=FP32)
    assert not (folder / "vae").exists() and {weight.dtype for weight in weights(folder).values()} == {torch.float16}
    model = TinyWan.load(folder)
    assert {weight.dtype for weight in model.transformer.parameters()} == {torch.float32}
    frames = np.random.default_rng(0).integers(0, 256, (1, CLIP_FRAMES, 64, 64, 3), dtype=np.uint8)
    assert model.encode(frames).shape[1] == autoencoders.RECIPES[2].latent_channels
    curve = pd.read_csv(folder / "curve.csv")
    assert {"copy-last-frame", "autoencoder", "constant-velocity", "base"} == set(curve["model"])
    kept = [sorted(file.name for file in (folder / "samples" / name).iterdir()) for name in ("base", "real")]
    assert kept[0] == kept[1] and {"driving-50.json", "driving-50.mp4", "driving-eventful-95.mp4"} <= set(kept[0])
    model.save(tmp_path / "copy")  # with the autoencoder, as runs keep it
    assert torch.equal(TinyWan.load(tmp_path / "copy").encode(frames), model.encode(frames))
    digest = weights_digest(folder)
    autoencoders.train_autoencoder(tmp_path / "home 2", tmp_path / "autoencoder", seed=2, steps=2)
    with pytest.raises(ValueError, match="copy both folders again"):
        pipelines.load_tiny(folder)
    assert weights_digest(folder) == digest  # which names the autoencoder too: see model_index.json
    assert "digest" in json.loads((folder / "model_index.json").read_text())["_autoencoder"]


@pytest.mark.slow
def test_the_study_of_recipes_changes_one_thing_at_a_time_and_goes_on_where_it_was(small, tmp_path, monkeypatch):
    assert all(len(changes) <= 1 for changes in recipe_study.VARIATIONS.values())
    chosen = {name: recipe_study.VARIATIONS[name] for name in ("the recipe", "AdamW")}
    monkeypatch.setattr(recipe_study, "VARIATIONS", chosen)
    table = recipe_study.run(tmp_path / "home", tmp_path, FP32, steps=2)
    assert set(table["variation"]) == set(chosen) and {"loss", "ade_px", "effnet_kd"} <= set(table["measure"])
    losses = table.query("measure == 'loss'").set_index("variation")["value"]
    assert losses["the recipe"] != losses["AdamW"]
    monkeypatch.setattr(recipe_study.loop, "fit", None)  # nothing is trained again
    again = recipe_study.run(tmp_path / "home", tmp_path, FP32, steps=2)
    assert pd.read_csv(tmp_path / "recipes.csv").shape == again.shape == table.shape


def test_a_large_base_is_wider_and_deeper_and_is_read_back_as_it_was(small, tmp_path):
    bases.train_base(tmp_path / "home", tmp_path / "large", steps=1, seed=2, machine=FP32, large=True)
    config = TinyWan.load(tmp_path / "large").transformer.config
    assert (config["num_attention_heads"], config["num_layers"]) == LARGE
    about = json.loads((tmp_path / "large" / "pretraining.json").read_text())
    assert about["million_weights"] > 20 and "--seed 2 --large" in (tmp_path / "large" / "README.md").read_text()
    assert base_folder(2, large=True).name == "base-large-2"
    with pytest.raises(ValueError, match="base 1 has no large recipe"):
        bases.train_base(tmp_path / "home", seed=1, large=True)


def test_folders_are_named_by_seed_family_and_share():
    names = [base_folder(2).name, base_folder(3, "cogvideox").name, base_folder(2, sixteenths=4).name]
    assert names == ["base-2", "base-cogvideox-3", "base-2-4of16"]
    assert autoencoders.autoencoder_folder(2).name == "autoencoder-2" and autoencoders.autoencoder_folder(0).name == "base"


def test_an_autoencoder_without_a_recipe_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no autoencoder has the seed 1: there are 0 and 2"):
        autoencoders.train_autoencoder(tmp_path, seed=1)
