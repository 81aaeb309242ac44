"""The alternatives to replay: each against its closed form, and in the loop."""

import numpy as np
import pytest
import torch
from small_training import fit, log_of, loss_of, model, same, weights

from replaylab.catalogue import CONTEXT_FRAMES
from replaylab.models import sampling
from replaylab.models.interface import with_known
from replaylab.models.tiny_wan import TinyWan
from replaylab.spec import RemedySpec, WorldSpec
from replaylab.training import regularizers

WORLD = WorldSpec("near", "traffic", "diverse", "free", (4, 0, 0))
GENERATOR = torch.Generator().manual_seed(0)


def some_weights():
    return [torch.randn(shape, generator=GENERATOR, requires_grad=True) for shape in ((3, 4), (5,))]


@pytest.mark.parametrize("importances", [None, [torch.rand(3, 4), torch.rand(5)]])
def test_the_pull_is_the_gradient_of_the_penalty(importances):
    now, base = some_weights(), some_weights()
    regularizer = regularizers.L2SP(0.7) if importances is None else regularizers.EWC(0.7)
    regularizer.importances = importances
    regularizer.attach(base)
    for weight in now:
        weight.grad = torch.ones_like(weight)
    regularizer.add_gradient(now)
    factors = importances or [torch.ones_like(weight) for weight in now]
    penalty = sum(
        (0.7 / 2) * (factor * (weight - start.detach()) ** 2).sum()
        for factor, weight, start in zip(factors, now, base, strict=True)
    )
    for weight, wanted in zip(now, torch.autograd.grad(penalty, now), strict=True):
        assert torch.allclose(weight.grad, 1 + wanted)


def test_descent_under_l2_sp_ends_where_the_closed_form_says():
    """The minimum of 1/2 (w - a)^2 + s/2 (w - w0)^2 is (a + s w0) / (1 + s)."""
    (weight, _), (wanted, _) = some_weights(), some_weights()
    start = weight.detach().clone()
    regularizer = regularizers.L2SP(2.0)
    regularizer.attach([weight])
    for _ in range(200):
        weight.grad = (weight - wanted).detach()
        regularizer.add_gradient([weight])
        with torch.no_grad():
            weight -= 0.1 * weight.grad
    assert torch.allclose(weight, (wanted + 2 * start) / 3, atol=1e-5)


def test_importances_are_the_fisher_information_of_a_linear_model():
    """For 1/2 (y - x w)^2 the gradient of clip i is -(y_i - x_i w) x_i."""
    x, y = torch.randn(50, 4, generator=GENERATOR), torch.randn(50, generator=GENERATOR)
    weight = torch.randn(4, generator=GENERATOR, requires_grad=True)
    unused = torch.zeros(2, requires_grad=True)
    found = regularizers.fisher_information(((y[i] - x[i] @ weight).square() / 2 for i in range(50)), [weight, unused])
    wanted = (((y - x @ weight)[:, None] * x) ** 2).sum(0).detach()
    assert torch.allclose(found[0], wanted / (wanted.sum() / 6), rtol=1e-4)
    assert torch.equal(found[1], torch.zeros(2))
    with pytest.raises(ValueError, match="no gradient of 3 clips"):
        regularizers.fisher_information((0 * weight.sum() for _ in range(3)), [weight])


def distance(made):
    before = weights(model())
    return sum((weight - before[name]).square().sum().item() for name, weight in weights(made).items()) ** 0.5


@pytest.mark.parametrize("kind", ["l2-sp", "ewc"])
def test_a_stronger_pull_ends_nearer_to_the_base(kind, latents, tmp_path):
    about = {"domains": (WORLD,), "clips": 4} if kind == "ewc" else {}
    away = [distance(fit(tmp_path / "0", latents, 8))]
    for strength in (1.0, 100.0):
        remedy = RemedySpec(kind, strength, **about)
        away.append(distance(fit(tmp_path / f"{strength}", latents, 8, remedy=remedy, base_clips=latents[1][:4])))
    assert away[0] > away[1] > away[2] > 0
    assert log_of(tmp_path / "0")[0] == {**log_of(tmp_path / "100.0")[0]}  # at the base nothing pulls yet


def test_a_pulled_run_that_was_killed_remembers_the_base_and_not_where_it_resumed(latents, tmp_path):
    remedy = RemedySpec("ewc", 10.0, domains=(WORLD,), clips=4)
    clips = latents[1][:4]
    whole = fit(tmp_path / "whole", latents, 6, remedy=remedy, base_clips=clips)

    def killed(step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", latents, 6, (3,), killed, remedy=remedy, base_clips=clips)
    resumed = fit(tmp_path / "killed", latents, 6, remedy=remedy, base_clips=clips)
    assert same(weights(whole), weights(resumed))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")


def test_distillation_is_the_weighted_squared_difference_of_the_futures(latents):
    made, teacher = model(), model()
    teacher.transformer.proj_out.bias.data += 0.5
    level = torch.tensor([0.5, 0.25])
    clips = torch.from_numpy(latents[0][:2])
    noise = torch.randn(clips.shape, generator=GENERATOR)
    with torch.no_grad():
        known = {"known": clips[:, :, :CONTEXT_FRAMES]}
        plain, taught = (made.loss(clips, noise, level, known, *by).item() for by in ((), (teacher, 4.0)))
        noisy = with_known(made.add_noise(clips, noise, level), known)
        apart = (made.predict(noisy, level, known) - teacher.predict(noisy, level, known))[:, :, CONTEXT_FRAMES:]
    wanted = np.mean([(s * apart[i].numpy()) ** 2 for i, s in enumerate((0.5, 0.25))])
    assert wanted > 0 and taught - plain == pytest.approx(4 * wanted, rel=1e-4)


def test_distilled_it_stays_nearer_to_what_the_base_says(latents, tmp_path):
    """The teacher agrees at first, so the first loss is that of a run without; then it holds the predictions back."""
    fit(tmp_path / "without", latents, 10)
    fit(tmp_path / "with", latents, 10, remedy=RemedySpec("lwf", 20.0))
    without, held = log_of(tmp_path / "without"), log_of(tmp_path / "with")
    assert held[0]["loss"] == pytest.approx(without[0]["loss"], rel=1e-6)
    free, taught = (
        fit(tmp_path / f"{name} again", latents, 10, remedy=remedy)
        for name, remedy in (("without", RemedySpec()), ("with", RemedySpec("lwf", 20.0)))
    )
    base = loss_of(model(), latents[1])
    assert abs(loss_of(taught, latents[1]) - base) < abs(loss_of(free, latents[1]) - base)


def test_wise_ft_averages_with_the_base_and_leaves_training_alone(latents, tmp_path):
    plain = weights(fit(tmp_path / "plain", latents, 4))
    base, seen = weights(model()), []
    for share in (0.25, 1.0):
        folder = tmp_path / f"{share}"
        made = fit(folder, latents, 4, (2,), seen.append, remedy=RemedySpec("wise-ft", share))
        assert log_of(folder) == log_of(tmp_path / "plain")
        for name, weight in weights(made).items():
            assert torch.allclose(weight, (1 - share) * plain[name] + share * base[name], atol=1e-6), name
    assert same(weights(made), base) and seen == [2, 2]


def test_generated_clips_keep_their_context_and_go_on_as_the_base_would(latents, monkeypatch):
    base, clips = model(), list(latents[0][:5])
    made = regularizers.generate_replay(base, clips, 2, seed=3).numpy()
    assert made.shape == (5, *clips[0].shape) and made.dtype == np.float32
    context = torch.from_numpy(np.stack(clips))[:, :, :CONTEXT_FRAMES]
    assert np.array_equal(made[:, :, :CONTEXT_FRAMES], context.numpy())
    assert np.array_equal(made, sampling.futures(base, {"known": context}, clips[0].shape, 2, 3).numpy())
    monkeypatch.setattr(TinyWan, "CLIPS_AT_ONCE", 2)
    assert np.allclose(made, regularizers.generate_replay(base, clips, 2, seed=3), atol=1e-5)
    assert not np.allclose(made, regularizers.generate_replay(base, clips, 2, seed=4), atol=1e-2)
