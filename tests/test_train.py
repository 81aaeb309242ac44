"""The loop: it learns, it resumes to the bit, and what is on disk is whole or not there."""

import json
import shutil

import numpy as np
import pytest
import torch

from replaylab import checkpoint, models, sample, train
from replaylab.mixture import Mixture

FRAMES, CHANNELS, CELLS = models.CLIP_FRAMES, models.LATENT_CHANNELS, (16, 16)


@pytest.fixture(scope="module")
def latents():
    random = np.random.default_rng(0)
    moving = random.normal(size=(12, CHANNELS, 1, 16, 16)) + 0.1 * np.arange(FRAMES)[:, None, None]
    return [moving.astype(np.float32), -moving.astype(np.float32)]


def model():
    torch.manual_seed(0)
    return models.TinyWan(None, models.new_transformer(), models.new_scheduler())


def fit(folder, latents, steps=6, stop_after=None, monkeypatch=None, **changes):
    """Weights after `steps`, and the rows an evaluation saw; `stop_after` raises as if the process was killed there."""
    made, seen = model(), []
    mixture = Mixture(0.25, 4, [len(source) for source in latents], 1)
    recipe = train.Recipe(steps, **{"learning_rate": 1e-3, "ema_decay": 0.9, "seed": 1, **changes})
    folder.mkdir(exist_ok=True)
    if stop_after is not None:
        honest = train.loss_of

        def killed(model, batch, seed, step):
            if step == stop_after:
                raise KeyboardInterrupt
            return honest(model, batch, seed, step)

        monkeypatch.setattr(train, "loss_of", killed)
    try:
        train.fit(made, latents, mixture, recipe, folder, "test", (2, steps), seen.append)
    finally:
        if stop_after is not None:
            monkeypatch.undo()
    return {name: weight.clone() for name, weight in made.transformer.state_dict().items()}, seen


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_a_run_that_was_killed_ends_with_the_same_bits(stop_after, latents, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "STEPS_A_CHECKPOINT", 2)
    whole, _ = fit(tmp_path / "whole", latents)
    monkeypatch.setattr(train, "STEPS_A_CHECKPOINT", 2)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", latents, stop_after=stop_after, monkeypatch=monkeypatch)
    monkeypatch.setattr(train, "STEPS_A_CHECKPOINT", 2)
    resumed, _ = fit(tmp_path / "killed", latents)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert losses(tmp_path / "whole") == losses(tmp_path / "killed")
    assert len(losses(tmp_path / "killed")) == 6


def test_fine_tuning_lowers_the_loss(latents, tmp_path):
    before = train.loss_of(model(), torch.from_numpy(latents[0]), 5, 0).item()
    fit(tmp_path, latents, steps=40)
    assert np.mean(losses(tmp_path)[-5:]) < 0.9 * before


def test_evaluation_sees_the_average_and_training_goes_on_from_the_weights(latents, tmp_path):
    without, _ = fit(tmp_path / "a", latents, steps=4)
    made = model()
    seen = []
    mixture = Mixture(0.25, 4, [12, 12], 1)
    (tmp_path / "b").mkdir()
    first = next(made.transformer.parameters())
    train.fit(made, latents, mixture, train.Recipe(4, 1e-3, 0.9, 1), tmp_path / "b", "test", (1, 2, 3),
              lambda step: seen.append((step, first.detach().clone(), made.transformer.training)))  # fmt: skip
    assert [step for step, *_ in seen] == [1, 2, 3]
    assert not any(training for *_, training in seen)
    assert all(torch.equal(without[name], weight) for name, weight in made.transformer.state_dict().items())


def test_a_loss_that_is_not_finite_stops_with_the_step_and_loses_nothing(latents, tmp_path):
    bad = [latents[0].copy(), latents[1]]
    bad[0][:] = np.nan
    with pytest.raises(FloatingPointError, match="the loss of step 0 is nan"):
        fit(tmp_path, bad)


def test_the_loss_ignores_what_the_network_says_of_the_context(latents):
    made = model()
    batch = torch.from_numpy(latents[0][:4])
    honest = made.predict
    reference = train.loss_of(made, batch, 0, 0).item()

    def disturbed(*arguments):
        velocity = honest(*arguments).clone()
        velocity[:, :, : models.CONTEXT_FRAMES] += 100
        return velocity

    made.predict = disturbed
    assert train.loss_of(made, batch, 0, 0).item() == reference


def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"weights": {"w": torch.full((3,), float(step))}}, {"note": "x"})
    file = tmp_path / "step-000002" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    tensors, state = checkpoint.newest(tmp_path)
    assert state["step"] == 1 and torch.equal(tensors["weights"]["w"], torch.ones(3))
    assert "step-000002 is damaged" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "step-000001")
    assert checkpoint.newest(tmp_path) is None


def test_old_checkpoints_are_pruned_and_half_written_ones_do_not_count(tmp_path):
    (tmp_path / ".step-000009.aside").mkdir(parents=True)
    for step in range(1, 5):
        checkpoint.save(tmp_path, step, {"weights": {"w": torch.zeros(1)}}, {})
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000003", "step-000004"]
    assert checkpoint.newest(tmp_path)[1]["step"] == 4


def test_condition_repeats_the_last_latent_its_change_and_how_that_changes():
    context = torch.arange(3.0).reshape(1, 1, 3, 1, 1).expand(2, CHANNELS, 3, 16, 16) ** 2  # 0, 1, 4
    condition = model().condition(context)
    assert condition.shape == (2, 3 * CHANNELS, FRAMES, 16, 16)
    for part, value in zip(condition.split(CHANNELS, dim=1), (4, 3, 2), strict=True):
        assert (part == value).all()


def test_an_untrained_model_that_says_nothing_copies_the_last_frame():
    made = model()
    torch.nn.init.zeros_(made.transformer.proj_out.weight)
    torch.nn.init.zeros_(made.transformer.proj_out.bias)
    context = torch.randn(2, CHANNELS, 3, *CELLS, generator=torch.Generator().manual_seed(0))
    copied = context[:, :, -1:].expand(-1, -1, FRAMES - 3, -1, -1)
    assert torch.allclose(sample.futures(made, context, 3, 0)[:, :, 3:], copied, atol=1e-4)


def test_the_loss_is_the_error_of_the_clean_latents(latents):
    """With the copy of the last frame as prediction the loss is its squared error, whatever noise was drawn."""
    made = model()
    torch.nn.init.zeros_(made.transformer.proj_out.weight)
    torch.nn.init.zeros_(made.transformer.proj_out.bias)
    batch = torch.from_numpy(latents[0][:4])
    error = (batch[:, :, 3:] - batch[:, :, 2:3]).square().mean().item()
    assert train.loss_of(made, batch, 0, 0).item() == pytest.approx(error, rel=1e-4)


def test_futures_keep_the_context_and_do_not_depend_on_the_batch(monkeypatch):
    made = model()
    made.transformer.eval()
    context = torch.randn(5, CHANNELS, 3, *CELLS, generator=torch.Generator().manual_seed(0))
    together = sample.futures(made, context, 2, noise_seed=0)
    monkeypatch.setattr(sample, "CLIPS_AT_ONCE", 2)
    apart = sample.futures(made, context, 2, noise_seed=0)
    assert torch.equal(together[:, :, :3], context)
    assert torch.allclose(together, apart, atol=1e-4)
    assert not torch.allclose(together, sample.futures(made, context, 2, noise_seed=1), atol=1e-2)


def test_euler_sampling_of_the_true_velocity_arrives_at_the_data():
    """With a network that knows the answer, any number of steps ends at the data (flow matching's straight paths)."""
    made = model()
    data = torch.randn(2, CHANNELS, FRAMES, *CELLS, generator=torch.Generator().manual_seed(3))

    def oracle(noisy, sigma, condition):
        return (noisy - data) / sigma[:, None, None, None, None]

    made.predict = oracle
    for steps in (1, 4):
        assert torch.allclose(sample.futures(made, data[:, :, :3], steps, 0), data, atol=1e-4)


def test_a_model_survives_diffusers_folder_layout(tmp_path):
    torch.manual_seed(0)
    vae = models.new_vae()
    vae.register_to_config(latents_mean=[0.1] * CHANNELS, latents_std=[2.0] * CHANNELS)
    made = models.TinyWan(vae.eval(), models.new_transformer(), models.new_scheduler())
    made.save(tmp_path)
    again = models.TinyWan.load(tmp_path)
    frames = np.random.default_rng(0).integers(0, 255, (1, FRAMES, 64, 64, 3), dtype=np.uint8)
    assert torch.equal(made.encode(frames), again.encode(frames))
    assert made.encode(frames).shape == (1, CHANNELS, FRAMES, 16, 16)
    assert again.decode(again.encode(frames)).shape == frames.shape
    assert not list(tmp_path.rglob("*.bin")) and (tmp_path / "model_index.json").is_file()
    with pytest.raises(FileNotFoundError, match="transformer is missing"):
        models.TinyWan.load(tmp_path / "vae")


def test_folding_is_undone_exactly():
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    assert np.array_equal(models.to_frames(models.pixels_of(models.fold(frames))), frames)


def test_flushing_small_numbers_ends_with_training():
    small = torch.tensor(1e-39)
    with models.no_denormals():
        assert (small * 1.0).item() == 0
    assert (small * 1.0).item() > 0
