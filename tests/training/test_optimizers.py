"""Muon beside AdamW: which weights each has, that a killed run ends in the same bits, and what is refused."""

import json
from itertools import pairwise

import pytest
import torch
from small_training import Killed, fit, loss_of, model, same, training, weights

from replaylab.spec import TrainingSpec
from replaylab.training import checkpoint, loop
from replaylab.training.optimizers import Optimizer

MUON = {"muon_rate": 2e-2}


def test_muon_has_the_blocks_matrices_and_adamw_all_else():
    named = dict(model().transformer.named_parameters())
    optimizer = Optimizer(named, training(**MUON))
    for weight in named.values():
        weight.grad = torch.ones_like(weight)
    optimizer.step(1.0)
    for name, weight in named.items():
        has_muon = set(optimizer.state(weight)) == {"momentum_buffer"}
        assert has_muon == (name.startswith("blocks.") and weight.ndim == 2), name


def test_a_step_of_muon_is_orthogonal_and_as_large_as_adamws():
    named = {"blocks.0.a.weight": torch.nn.Parameter(torch.zeros(32, 32))}
    named["blocks.0.a.weight"].grad = torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
    Optimizer(named, training(**MUON)).step(0.5)
    step = named["blocks.0.a.weight"].detach()
    singular = torch.linalg.svdvals(step)
    assert singular.min() > 0.4 * singular.max() and step.square().mean().sqrt() == pytest.approx(0.2 * 0.5 * 2e-2, rel=0.3)


def test_a_killed_run_with_muon_ends_with_the_same_bits(latents, tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole", latents, **MUON)
    honest = loop.batch_of

    def until(made, sources, mixture, seed, at, *others):
        if at == 3:
            raise Killed
        return honest(made, sources, mixture, seed, at, *others)

    monkeypatch.setattr(loop, "batch_of", until)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", latents, **MUON)
    monkeypatch.undo()
    resumed = fit(tmp_path / "killed", latents, **MUON)
    assert same(weights(whole), weights(resumed))
    (one, _), (other, _) = (checkpoint.newest(tmp_path / name / "checkpoints") for name in ("whole", "killed"))
    assert "momentum_buffer" in one and all(same(one[group], other[group]) for group in one)


def test_muon_learns_more_of_the_same_in_the_same_steps(latents, tmp_path):
    before = loss_of(model(), latents[0])
    losses = {rate: loss_of(fit(tmp_path / str(rate), latents, 30, muon_rate=rate), latents[0]) for rate in (0.0, 2e-2)}
    assert losses[2e-2] < losses[0.0] < before


def test_the_rate_stays_whole_in_the_stable_phase_and_falls_to_zero_after_it(latents, tmp_path):
    fit(tmp_path, latents, 40, decay=True, stable_share=0.75)
    rates = [json.loads(line)["learning_rate"] / 1e-3 for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rates[19:31] == pytest.approx([1.0] * 12) and rates[-1] == pytest.approx(0.1)
    assert all(after < before for before, after in pairwise(rates[30:]))


def test_what_cannot_be_is_refused():
    named = dict(model().transformer.named_parameters())
    with pytest.raises(ValueError, match="weights are sharded: set it to 0"):
        Optimizer(named, training(**MUON), sharded=True)
    with pytest.raises(ValueError, match="no block of the network has a trained matrix"):
        Optimizer({name: weight for name, weight in named.items() if weight.ndim != 2}, training(**MUON))
    for wrong in ({"muon_rate": -1.0}, {"muon_rate": float("nan")}, {"stable_share": 1.0}):
        with pytest.raises(ValueError, match=r"stable_share is .* and muon_rate .*; they must be"):
            TrainingSpec(1, 1, 1e-3, 0.9, **wrong)
