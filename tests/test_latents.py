"""Latents: encoded once, keyed by content, the same as encoding the clip."""

import numpy as np
import pytest
import torch

from replaylab import clips, latents, models, worlds
from replaylab.spec import WorldSpec


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    vae = models.new_vae().eval()
    vae.register_to_config(
        latents_mean=[0.0] * models.LATENT_CHANNELS, latents_std=[1.0] * models.LATENT_CHANNELS
    )
    return models.TinyWan(vae, None, None)


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    spec = WorldSpec("near", "traffic", "diverse", "free", (4, 0, 0))
    return worlds.build(spec, tmp_path_factory.mktemp("latents"))


def test_a_clips_latents_are_those_of_its_frames(model, domain, tmp_path):
    chosen = clips.clips_of(domain, "train", models.CLIP_FRAMES)[1::3]
    coded = latents.encoded(model, domain, "train", chosen, tmp_path, "key")
    frames = np.stack(list(clips.read(domain, chosen, models.CLIP_FRAMES)))
    assert len(coded) == len(chosen) == 4
    assert np.allclose(np.stack(list(coded)), model.encode(frames).numpy(), atol=1e-4)


def test_they_are_read_the_second_time_and_made_anew_for_another_autoencoder(
    model, domain, tmp_path, monkeypatch
):
    chosen = clips.clips_of(domain, "train", models.CLIP_FRAMES)
    first = latents.encoded(model, domain, "train", chosen, tmp_path, "key")
    latents.encoded(model, domain, "train", chosen, tmp_path, "another")
    assert len(list(tmp_path.glob("*.npy"))) == 2
    monkeypatch.setattr(latents, "_encode", lambda *_: pytest.fail("encoded again"))
    again = latents.encoded(model, domain, "train", chosen, tmp_path, "key")
    assert np.array_equal(first[5], again[5])
    assert not list(tmp_path.glob(".*"))
