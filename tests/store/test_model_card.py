"""A run's card is one that the hub's own library reads, and what is on it is what the run's rows say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard, ModelCardData

from replaylab.spec import ModelSpec, RunSpec
from replaylab.store import model_card
from replaylab.sweeps.presets import grid
from replaylab.sweeps.sweep import Table

SHOWN = {"driving": 12, "near": 4}


def read(text: str) -> ModelCardData:
    """The metadata, as the hub's library reads it."""
    data = ModelCard(text, ignore_metadata_errors=False).data
    assert isinstance(data, ModelCardData)
    return data


@pytest.fixture
def spec() -> RunSpec:
    return next(one for one in grid("smoke") if one.replay.fraction == 0.5)


def rows_of(spec: RunSpec) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        [
            {"step": step, "domain": domain, "measure": measure, "value": random.uniform(1, 9)}
            for step in spec.evaluate_at for domain in SHOWN for measure in ("ade_px", "psnr_db") for _ in range(5)
        ]
    )  # fmt: skip


def test_the_hubs_library_reads_the_means_after_the_last_step(spec: RunSpec) -> None:
    rows = rows_of(spec)
    text = model_card.text_of(spec, rows, SHOWN)
    data, last = read(text), rows[rows["step"] == spec.training.steps].groupby(["domain", "measure"])["value"].mean()
    assert data.to_dict()["replay_fraction"] == 0.5 and data.datasets == ["driving", "near"]
    results = {(one.dataset_type, one.metric_type): one.metric_value for one in data.eval_results or ()}
    assert results == pytest.approx(last.to_dict(), rel=1e-3)
    assert {one.dataset_split for one in data.eval_results or ()} == {"dev"}
    assert "12 of driving, 4 of near" in text and text.count("\n| ") == 1 + len(last)


def test_a_measure_that_no_clip_has_is_left_out_and_a_card_without_results_is_one(spec: RunSpec) -> None:
    rows = rows_of(spec)
    rows.loc[rows["measure"] == "ade_px", "value"] = np.nan
    assert set(model_card.means_of(spec, rows)["measure"]) == {"psnr_db"}
    assert not read(model_card.text_of(spec, rows[:0], SHOWN)).eval_results


@pytest.mark.parametrize(("folder", "base"), [("Wan-AI/Wan2.1", "Wan-AI/Wan2.1"), ("/home/somebody/model", None)])
def test_a_base_is_named_as_on_the_hub_and_never_by_a_path(folder: str, base: str | None, spec: RunSpec) -> None:
    own = replace(spec, model=ModelSpec(folder, "0" * 12, 9, 1, 8.0))
    text = model_card.text_of(own, rows_of(spec), SHOWN)
    assert read(text).base_model == base and "/home" not in text


def test_every_finished_run_has_one(swept: Table) -> None:
    cards = [read((swept.store / run / "README.md").read_text()) for run in swept.runs["run"]]
    assert cards and all(card.eval_results for card in cards)
