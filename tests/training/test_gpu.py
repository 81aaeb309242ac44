"""What needs a CUDA device: `make gpu-check`. It skips itself where there is none.

The same properties as in test_loop and test_ranks, with bf16, TF32, torch.compile, fused AdamW, gradient checkpointing
and pinned prefetch on one GPU, and with NCCL, DDP and FSDP2 on all of them. Nobody on this project has run it yet.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import HELPERS, TWO_RANKS
from on_ranks import VARIANTS
from small_training import CELLS, CHANNELS, FRAMES, Killed, fit, log_of, loss_of, model, same, sampled, weights

from replaylab.models.autoencoder import decode, encode, new_autoencoder
from replaylab.monitor import ForgettingMonitor
from replaylab.spec import MachineSpec, RemedySpec
from replaylab.training import loop
from replaylab.util import distributed

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch sees none"),
]
MACHINES = {
    "fp32": MachineSpec(precision="fp32"),
    "bf16": MachineSpec(precision="bf16"),
    "checkpointed": MachineSpec(precision="bf16", gradient_checkpointing=True),
    "compiled": MachineSpec(precision="bf16", compiled=True),
}


@pytest.fixture
def rank():
    return distributed.Rank(device=torch.device("cuda", 0))


@pytest.mark.parametrize("name", MACHINES)
def test_it_learns_what_the_cpu_learns_within_rounding(name, latents, tmp_path, rank):
    fit(tmp_path / "cpu", latents, 8, machine=MachineSpec(precision="fp32"))
    fit(tmp_path / "gpu", latents, 8, machine=MACHINES[name], rank=rank)
    cpu, gpu = ([line["loss"] for line in log_of(tmp_path / where)] for where in ("cpu", "gpu"))
    assert np.allclose(cpu, gpu, rtol=5e-3 if name == "fp32" else 0.03)


def test_a_monitor_of_forgetting_leaves_the_random_numbers_of_the_gpu(rank):
    network = torch.nn.Dropout(0.5).to(rank.device)
    network.weight = torch.nn.Parameter(torch.ones(4, device=rank.device))

    def loss(batch, level):
        return (network(network.weight) * torch.randn(4, device=rank.device)).mean()

    def monitored():
        return ForgettingMonitor({"kept": [0, 1]}, loss, network, levels=(0.5,))(0).loss

    torch.cuda.manual_seed(5)
    before = torch.cuda.get_rng_state(rank.device)
    first = monitored()
    assert torch.equal(torch.cuda.get_rng_state(rank.device), before)
    torch.randn(3, device=rank.device)
    assert monitored() == first and network.training


@pytest.mark.parametrize("trained", ["full", "lora", "temporal"])
def test_fine_tuning_lowers_the_loss(trained, latents, tmp_path, rank):
    before = loss_of(model(), latents[0])
    made = fit(tmp_path, latents, 40, rank=rank, trained=trained, learning_rate=3e-3)
    made.transformer.to("cpu")
    assert loss_of(made, latents[0]) < 0.9 * before


@pytest.mark.parametrize("remedy", [RemedySpec("lwf", 1.0), RemedySpec("l2-sp", 1.0), RemedySpec("wise-ft", 0.5)])
def test_remedies_do_what_they_do_on_the_cpu(remedy, latents, tmp_path, rank):
    fit(tmp_path / "cpu", latents, 4, machine=MachineSpec(precision="fp32"), remedy=remedy)
    fit(tmp_path / "gpu", latents, 4, machine=MachineSpec(precision="fp32"), remedy=remedy, rank=rank)
    cpu, gpu = ([line["loss"] for line in log_of(tmp_path / where)] for where in ("cpu", "gpu"))
    assert np.allclose(cpu, gpu, rtol=5e-3)


def test_a_run_that_was_killed_ends_with_the_same_bits(latents, tmp_path, rank):
    machine = MachineSpec(checkpoint_steps=2)

    def killed(step):
        raise Killed

    whole = fit(tmp_path / "whole", latents, 6, machine=machine, rank=rank)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", latents, 6, (3,), killed, machine=machine, rank=rank)
    resumed = fit(tmp_path / "killed", latents, 6, machine=machine, rank=rank)
    assert same(weights(whole), weights(resumed))
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "killed")


def test_a_loss_that_is_not_finite_is_noticed_before_a_checkpoint_is_made(latents, tmp_path, rank):
    with pytest.raises(FloatingPointError, match="the loss of step 1 is nan"):
        fit(tmp_path, [latents[0] * np.nan, latents[1]], machine=MachineSpec(checkpoint_steps=1), rank=rank)
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_batches_are_pinned(latents, rank):
    from replaylab.mixture import Mixture

    assert loop.batch_of(model(), latents, Mixture(0.25, 4, [12, 12], 1), 0, 0, rank).latents.is_pinned()


def test_sampling_and_the_autoencoder_give_what_they_give_on_the_cpu():
    made = model()
    context = torch.randn(3, CHANNELS, 3, CELLS, CELLS, generator=torch.Generator().manual_seed(0))
    on_cpu = sampled(made, context, 4, 0)
    vae = new_autoencoder().eval()
    frames = np.random.default_rng(0).integers(0, 255, (2, FRAMES, 32, 32, 3), np.uint8)
    coded = encode(vae, frames)
    decoded = decode(vae, coded)
    made.transformer.to("cuda")
    vae.to("cuda")
    assert torch.allclose(sampled(made, context, 4, 0), on_cpu, atol=0.02)
    assert torch.allclose(encode(vae, frames), coded, atol=0.02)
    assert np.abs(decode(vae, coded).astype(int) - decoded).max() <= 3


def test_all_gpus_together_learn_what_the_cpu_learns(tmp_path):
    """Every variant by DDP and by FSDP2 over NCCL, as test_ranks does it over gloo."""
    count = torch.cuda.device_count()
    if count < 2:
        pytest.skip(f"needs two CUDA devices or more, and torch sees {count}")
    done = subprocess.run(
        [sys.executable, *TWO_RANKS, str(HELPERS / "on_ranks.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stderr
    for name in VARIANTS:
        ddp, fsdp = ([line["loss"] for line in log_of(tmp_path / way / name)] for way in ("DDP", "FSDP2"))
        assert np.allclose(ddp, fsdp, rtol=0.03)
