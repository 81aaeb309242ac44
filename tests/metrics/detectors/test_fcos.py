"""The second detector learns from drawn rectangles, comes back from disk unchanged, and its targets are what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_rectangles import SIZE, drawn

from replaylab.metrics import network_training
from replaylab.metrics.detectors import centre_point, fcos, fcos_training, fitting
from replaylab.metrics.detectors.fcos import STRIDE

Trained = tuple[fcos.Fcos, Path]


def short_fit(folder: Path, steps: int = 60, seed: int = 1, resume: Path | None = None) -> fcos.Fcos:
    frames, boxes = drawn(120, 1)
    held_out, held_out_boxes = drawn(40, 2)
    return fcos_training.fit(
        frames, boxes, validation_frames=held_out, validation_boxes=held_out_boxes,
        seed=seed, steps=steps, folder=folder, data="Drawn rectangles.", batch_size=16,
        resume=resume,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("second detector")
    return short_fit(folder), folder


def test_a_short_training_finds_agents_that_an_untrained_network_does_not(trained: Trained) -> None:
    frames, boxes = drawn(40, 3)
    before = centre_point.measure(fcos.Fcos(), frames, boxes, fcos.detect)
    after = centre_point.measure(trained[0], frames, boxes, fcos.detect)
    assert before["recall"] < 0.5
    assert after["recall"] > 0.9 and after["precision"] > 0.9
    assert after["centre_error_px"] < 1.5


def test_boxes_are_in_order_of_their_scores_and_none_overlaps_a_better_one(trained: Trained) -> None:
    frames, _ = drawn(40, 4)
    for found in fcos.detect(trained[0], frames):
        assert found.dtype == np.float32 and found.shape[1] == 5
        assert (np.diff(found[:, 4]) <= 0).all() and (found[:, :2] < found[:, 2:4]).all()
        assert ((found[:, 4] >= trained[0].config.score_threshold) & (found[:, 4] <= 1)).all()


def test_loaded_weights_give_identical_boxes_and_the_card_says_how_they_are_made_again(trained: Trained) -> None:
    model, folder = trained
    frames, _ = drawn(10, 5)
    again = fcos.load(folder)
    assert again.config == model.config
    for a, b in zip(fcos.detect(model, frames), fcos.detect(again, frames), strict=True):
        np.testing.assert_array_equal(a, b)
    card = (folder / "README.md").read_text()
    for said in (
        "Second detector",
        "fcos.py",
        "Drawn rectangles.",
        "seed 1",
        "python -m replaylab pretrain second-detector",
    ):
        assert said in card


def test_the_folder_of_another_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a second detector of this version .*pretrain second-detector"):
        fcos.load(centre_point.SHIPPED)
    with pytest.raises(FileNotFoundError, match="pretrain second-detector"):
        fcos.load(tmp_path)


def test_every_agent_that_counts_has_a_cell_that_gives_its_box() -> None:
    rows = np.array([[3, 5, 11, 19, 1, 0], [-5, 6, 9, 20, 0.64, 0], [18, 8, 30, 20, 1, 0], [-9, 22, 5, 31, 0.5, 0]])
    targets = fcos_training.targets_of([rows.astype(np.float32)], SIZE // STRIDE, SIZE // STRIDE)
    boxes = targets.box[0][:, targets.agent[0, 0] == 1].T
    assert {tuple(box) for box in boxes.tolist()} == {tuple(map(float, row[:4])) for row in rows}
    assert targets.counted.min() == 1


def test_a_cell_is_most_central_in_the_middle_of_its_agent_and_never_outside() -> None:
    targets = fcos_training.targets_of([np.array([[4, 4, 24, 24, 1, 0]], np.float32)], 8, 8)
    centred = targets.centred[0, 0]
    assert centred[3, 3] == 1  # its middle is at (14, 14), as the agent's
    assert centred[2, 3] == centred[3, 2] == pytest.approx((6 / 14) ** 0.5) and centred[2, 3] > centred[2, 2] > 0
    assert centred[targets.agent[0, 0] == 0].max() == 0


def test_agents_that_do_not_count_are_neither_positive_nor_negative() -> None:
    small, hidden = [4, 4, 9, 9, 1, 0], [16, 16, 28, 28, 0.3, 0]
    targets = fcos_training.targets_of([np.array([small, hidden], np.float32)], 8, 8)
    assert targets.agent.max() == 0
    assert targets.counted[0, 0, 1, 1] == 0 and targets.counted[0, 0, 5, 5] == 0 and targets.counted[0, 0, 0, 0] == 1


def test_the_loss_is_least_for_the_answer_and_ignores_what_does_not_count() -> None:
    rows = [np.array([[4, 4, 24, 24, 1, 0], [16, 24, 31, 31, 0.3, 0]], np.float32)]
    targets = fcos_training.targets_of(rows, 8, 8)
    y, x = fcos.cell_centres(8, 8)
    sides = torch.stack([x, y, x, y])[None] * torch.tensor([1, 1, -1, -1])[None, :, None, None]
    sides = sides + targets.box * torch.tensor([-1, -1, 1, 1])[None, :, None, None]
    right = 20 * (targets.agent * 2 - 1), sides, torch.logit(targets.centred.clamp(1e-6, 1 - 1e-6))
    least = fcos_training.loss(*right, targets)
    elsewhere = right[0].clone()
    elsewhere[targets.counted == 0] *= -1
    assert fcos_training.loss(elsewhere, *right[1:], targets) == least
    assert fcos_training.loss(-right[0], *right[1:], targets) > least + 1
    assert fcos_training.loss(right[0], right[1] + 3, right[2], targets) > least + 0.1


def test_of_overlapping_boxes_the_best_stays_and_no_frames_give_no_boxes() -> None:
    rows = np.array([[0, 0, 10, 10, 0.7], [1, 0, 11, 10, 0.9], [8, 0, 18, 10, 0.8]], np.float32)
    assert fcos._best_of_overlapping(rows)[:, 4].tolist() == rows[[1, 2], 4].tolist()
    assert fcos.detect(fcos.Fcos(), np.zeros((0, 64, 64, 3), np.uint8)) == []


def test_a_training_that_was_stopped_gives_the_same_weights(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume, batch_of = tmp_path / "second-detector.safetensors", fitting.batch_of
    monkeypatch.setattr(network_training, "SAVED_EVERY", 20)

    def stops(*arguments: Any) -> Any:
        if arguments[-1] == 50:
            raise KeyboardInterrupt
        return batch_of(*arguments)

    monkeypatch.setattr(fitting, "batch_of", stops)
    with pytest.raises(KeyboardInterrupt):
        short_fit(tmp_path / "weights", resume=resume)
    assert resume.is_file() and not (tmp_path / "weights").exists()
    monkeypatch.setattr(fitting, "batch_of", batch_of)
    again = short_fit(tmp_path / "weights", resume=resume)
    assert not resume.exists() and again.config == trained[0].config
    for name, value in trained[0].state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
