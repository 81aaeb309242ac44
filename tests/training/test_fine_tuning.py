"""What a run's spec can ask for: each way through the whole run, and what it leaves."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from replaylab.models import pipelines
from replaylab.shipped_weights import base_folder, base_of, weights_digest
from replaylab.spec import RemedySpec, ReplaySpec, WorldSpec
from replaylab.sweeps.presets import grid
from replaylab.training import fine_tuning
from replaylab.util.distributed import best_precision

NEAR = grid("smoke", [0.5])[0].replay.domains[0]
assert isinstance(NEAR, WorldSpec)
PHYSICS = replace(NEAR, name="physics", world="physics", look="any", motion="bodies", videos=(4, 0, 0))
VARIANTS = {
    "ramp": {"replay": ReplaySpec((NEAR,), 0.5, schedule="ramp")},
    "bursts": {"replay": ReplaySpec((NEAR,), 0.5, schedule="periodic", period=2)},
    "two sources, weighted": {"replay": ReplaySpec((NEAR, PHYSICS), 0.5, weights=(3.0, 1.0))},
    "a random buffer": {"replay": ReplaySpec((NEAR,), 0.5, buffer_clips=4)},
    "a buffer that covers": {"replay": ReplaySpec((NEAR,), 0.5, buffer_clips=4, buffer_choice="coverage")},
    "drawn by the base": {"replay": ReplaySpec((NEAR,), 0.5, buffer_clips=4, generated=True)},
    "still clips": {"replay": ReplaySpec((NEAR,), 0.5, still=True)},
    "ewc": {"remedy": RemedySpec("ewc", 1.0, domains=(NEAR,), clips=3)},
    "lora": {"trained": "lora"},
    "another family": {"base": weights_digest(base_folder(family="cogvideox"))},
    "another family, lora": {"base": weights_digest(base_folder(family="cogvideox")), "trained": "lora"},
}


def run(swept, **changes):
    """A run of four steps, measured once on few clips, in the shared store; its spec and folder."""
    few = replace(swept.specs[0].evaluation, clips=4, reference_clips=4, sampler_steps=2)
    spec = replace(swept.specs[0], evaluate_at=(4,), evaluation=few)
    if "trained" in changes:
        changes["training"] = replace(spec.training, trained=changes.pop("trained"))
    spec = replace(spec, **changes)
    fine_tuning.train_one(spec.as_dict(), swept.store)
    return spec, swept.store / spec.run_id


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_every_way_of_fine_tuning_goes_through_to_its_rows(name, swept):
    spec, folder = run(swept, **VARIANTS[name])
    rows, summary = (pd.read_parquet(folder / "rows.parquet"), json.loads((folder / "summary.json").read_text()))
    assert set(rows["step"]) == {4} and set(rows["domain"]) == {"driving", "driving-eventful", "near"}
    counts = summary["realised_samples"]
    assert sum(counts.values()) == 16 and summary["realised_replay_fraction"] == spec.replay.fraction
    if name == "two sources, weighted":
        assert counts == {"driving": 8, "near": 6, "physics": 2}
    assert summary["execution"]["ranks"] == 1 and summary["execution"]["precision"] == best_precision("cpu")[0]
    assert not (folder / "checkpoints").exists()
    base = pipelines.load_tiny(base_of(spec.base)).model.transformer.state_dict()
    kept = fine_tuning.load_fine_tuned(spec, swept.store, folder).model.transformer.state_dict()
    assert kept.keys() == base.keys() and any(not torch.equal(kept[name], base[name]) for name in base)
    assert (folder / "transformer").is_dir() == ("lora" not in name)
    if "lora" in name:
        adapters = load_file(folder / "pytorch_lora_weights.safetensors")
        assert sum(map(torch.Tensor.numel, adapters.values())) < 0.4 * sum(map(torch.Tensor.numel, base.values()))
        again = fine_tuning.evaluate_again(folder, swept.store)["value"]
        # on disk are twelve binary digits
        assert np.allclose(again, rows["value"], rtol=2**-11, atol=1e-2, equal_nan=True)


def clips_of(swept, **changes):
    spec = replace(swept.specs[1], replay=ReplaySpec((NEAR,), 0.5, **changes))
    (_, replayed), _ = fine_tuning.mixed_sources(pipelines.load(spec, swept.store), spec, swept.store)
    return np.stack(list(replayed))


def test_still_clips_are_their_first_frame(swept):
    moving, still = clips_of(swept), clips_of(swept, still=True)
    assert np.array_equal(still, np.repeat(moving[:, :, :1], moving.shape[2], axis=2))
    assert not np.array_equal(still, moving)


def test_a_buffer_keeps_that_many_of_the_domains_clips(swept):
    everything = clips_of(swept)
    kept = {choice: clips_of(swept, buffer_clips=5, buffer_choice=choice) for choice in ("first", "random", "coverage")}
    assert np.array_equal(kept["first"], everything[:5])
    for clips in kept.values():
        assert len(clips) == 5
        assert all(any(np.array_equal(clip, one) for one in everything) for clip in clips)
    assert not np.array_equal(kept["random"], kept["coverage"])


def test_generated_replay_keeps_contexts_and_draws_the_rest_once(swept, monkeypatch):
    real, generated = clips_of(swept, buffer_clips=3), clips_of(swept, buffer_clips=3, generated=True)
    assert np.array_equal(real[:, :, :3], generated[:, :, :3]) and not np.allclose(
        real[:, :, 3:], generated[:, :, 3:], atol=0.1
    )
    monkeypatch.setattr(fine_tuning.regularizers, "generate_replay", lambda *_: pytest.fail("generated again"))
    assert np.array_equal(clips_of(swept, buffer_clips=3, generated=True), generated)
