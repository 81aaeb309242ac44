"""The detector learns from drawn rectangles, repeats itself for a seed and comes back from disk unchanged."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from drawn_rectangles import SIZE, drawn

from replaylab.metrics.blur import blurred, gaussian_blur
from replaylab.metrics.detectors import centre_point, centre_point_training, fitting

Trained = tuple[centre_point.Detector, Path]


def short_fit(folder: Path, steps: int = 40, seed: int = 0) -> centre_point.Detector:
    frames, boxes = drawn(120, 1)
    held_out, held_out_boxes = drawn(40, 2)
    return centre_point_training.fit(
        frames, boxes, validation_frames=held_out, validation_boxes=held_out_boxes,
        seed=seed, steps=steps, folder=folder, data="Drawn rectangles.", batch_size=16,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("detector") / "deep" / "weights"
    return short_fit(folder), folder


def test_a_short_training_finds_agents_that_an_untrained_network_does_not(trained: Trained) -> None:
    frames, boxes = drawn(40, 3)
    before = centre_point.measure(centre_point.Detector(), frames, boxes)
    after = centre_point.measure(trained[0], frames, boxes)
    assert before["recall"] < 0.5
    assert after["recall"] > 0.9 and after["precision"] > 0.9
    assert after["centre_error_px"] < 1.5
    assert after["n"] == sum(len(b) for b in boxes)


def test_boxes_have_the_size_of_the_agents_and_scores_in_order(trained: Trained) -> None:
    frames, boxes = drawn(40, 4)
    for truth, found in zip(boxes, centre_point.detect(trained[0], frames), strict=True):
        assert found.dtype == np.float32 and found.shape[1] == 5
        assert (np.diff(found[:, 4]) <= 0).all()
        assert ((found[:, 4] >= trained[0].config.score_threshold) & (found[:, 4] <= 1)).all()
        assert (found[:, :2] <= found[:, 2:4]).all()
        if len(found) == len(truth):
            order, known = np.argsort(found[:, 0]), np.argsort(truth[:, 0])
            assert np.abs(found[order, :4] - truth[known, :4]).mean() < 3


def test_loaded_weights_give_identical_boxes(trained: Trained) -> None:
    model, folder = trained
    frames, _ = drawn(10, 5)
    again = centre_point.load(folder)
    assert again.config == model.config
    for a, b in zip(centre_point.detect(model, frames), centre_point.detect(again, frames), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_batch_a_frame_is_in_does_not_change_what_is_found(trained: Trained) -> None:
    frames, _ = drawn(9, 6)
    whole, pairs = centre_point.detect(trained[0], frames), centre_point.detect(trained[0], frames, batch_size=2)
    for a, b in zip(whole, pairs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_the_folder_holds_weights_config_and_card(trained: Trained) -> None:
    _, folder = trained
    assert sorted(p.name for p in folder.parent.iterdir()) == [folder.name]
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    training = json.loads((folder / "config.json").read_text())["training"]
    assert (training["steps"], training["seed"], training["frames"]) == (40, 0, 120)
    card = (folder / "README.md").read_text()
    for said in ("Drawn rectangles.", "40 steps", "seed 0", "python -m replaylab pretrain detector --seed 0`"):
        assert said in card


def test_a_seed_repeats_itself_and_another_differs(tmp_path: Path) -> None:
    models = [short_fit(tmp_path / str(i), steps=3, seed=seed) for i, seed in enumerate((0, 0, 1))]
    first, same, other = (m.state_dict() for m in models)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


def test_training_again_replaces_the_folder_and_leaves_global_randomness_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    short_fit(tmp_path / "weights", steps=2)
    short_fit(tmp_path / "weights", steps=3)
    assert torch.equal(before, torch.get_rng_state())
    assert json.loads((tmp_path / "weights" / "config.json").read_text())["training"]["steps"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_agents_that_do_not_count_are_neither_positive_nor_negative() -> None:
    small, hidden = [4, 4, 9, 9, 1, 0], [16, 16, 28, 28, 0.3, 0]
    targets = centre_point_training._targets([np.array([small, hidden], dtype=np.float32)], 16, 16)
    assert targets.heat.max() == 0 and targets.box_weight.max() == 0
    assert targets.counted[0, 0, 3, 3] == 0 and targets.counted[0, 0, 11, 11] == 0
    assert targets.counted[0, 0, 0, 0] == 1 and targets.counted[0, 0, 3, 11] == 1


def test_every_agent_that_counts_has_one_cell_and_that_cell_gives_its_box() -> None:
    rows = np.array([[3, 5, 11, 19, 1, 0], [-5, 6, 9, 20, 0.64, 0], [18, 8, 30, 20, 1, 0]], dtype=np.float32)
    targets = centre_point_training._targets([rows], 16, 16)
    cells = torch.nonzero(targets.heat[0, 0] == 1)
    assert len(cells) == 3 and targets.counted.min() == 1
    for y, x in cells.tolist():
        assert targets.box[0, :, y, x].tolist() in rows[:, :4].tolist()


def test_flipping_twice_changes_nothing() -> None:
    _, boxes = drawn(1, 8)
    once = fitting.mirrored(boxes[0], SIZE)
    assert (once[:, 0] < once[:, 2]).all()
    np.testing.assert_array_equal(fitting.mirrored(once, SIZE), boxes[0])


def test_blur_keeps_the_mean_and_does_nothing_without_width() -> None:
    frames = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    flat = torch.full((1, 3, 16, 16), 0.4)
    torch.testing.assert_close(gaussian_blur(frames, np.array([0.01, 0.01])), frames)
    torch.testing.assert_close(gaussian_blur(flat, np.array([1.5])), flat)
    soft = gaussian_blur(frames, np.array([0.01, 1.5]))
    torch.testing.assert_close(soft[0], frames[0])
    assert soft[1].std() < 0.5 * frames[1].std()


class Painted(centre_point.Detector):
    """Answers with given boxes in every frame: isolates what `measure` does with them."""

    def __init__(self, boxes: list[list[float]]) -> None:
        super().__init__(centre_point.DetectorConfig(score_threshold=0.5))
        self.boxes = boxes

    def forward(self, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = w = SIZE // centre_point.STRIDE
        logits, sides = torch.full((len(frames), 1, h, w), -9.0), torch.zeros(len(frames), 4, h, w)
        for x0, y0, x1, y1 in self.boxes:
            row, column = int((y0 + y1) // 4), int((x0 + x1) // 4)
            x, y = column * 2 + 1, row * 2 + 1
            logits[:, 0, row, column] = 9.0
            sides[:, :, row, column] = torch.tensor([x - x0, y - y0, x1 - x, y1 - y], dtype=torch.float32)
        return logits, sides


def test_measure_counts_hits_misses_and_false_alarms() -> None:
    blank = np.zeros((1, SIZE, SIZE, 3), dtype=np.uint8)
    too_small = [2, 24, 6, 28, 1, 0]
    truth = [[[2, 2, 10, 12, 1, 0], [18, 2, 26, 12, 1, 1], too_small]]
    model = Painted([[3, 2, 11, 12], [2, 24, 6, 28], [20, 20, 30, 30]])
    result = centre_point.measure(model, blank, truth)
    assert (result["recall"], result["precision"], result["n"]) == (0.5, 0.5, 2)
    assert result["centre_error_px"] == pytest.approx(1)
    assert result["recall_pedestrian"] == 0


def test_measure_of_nothing_is_not_a_number() -> None:
    result = centre_point.measure(Painted([]), np.zeros((1, SIZE, SIZE, 3), dtype=np.uint8), [[]])
    assert result["n"] == 0
    assert all(math.isnan(result[name]) for name in ("recall", "precision", "centre_error_px"))


def test_two_boxes_on_one_agent_become_one() -> None:
    rows = np.array([[0, 0, 10, 10, 0.9], [0.5, 0, 10.5, 10, 0.8], [8, 0, 18, 10, 0.7]], dtype=np.float32)
    assert centre_point._without_duplicates(rows)[:, 4].tolist() == rows[[0, 2], 4].tolist()


def test_no_frames_give_no_boxes() -> None:
    assert centre_point.detect(centre_point.Detector(), np.zeros((0, 64, 64, 3), dtype=np.uint8)) == []


FRAMES, BOXES = drawn(4, 9)
GOOD: dict[str, Any] = {
    "frames": FRAMES, "boxes": BOXES, "validation_frames": FRAMES, "validation_boxes": BOXES,
    "seed": 0, "steps": 1, "data": "Drawn rectangles.",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": FRAMES.astype(float)}, "frames: float64"),
        ({"frames": FRAMES[:, :30]}, "frames: 32x30 pixels"),
        ({"boxes": BOXES[:3]}, "boxes: 3 entries for 4 frames"),
        ({"boxes": [BOXES[0][:, :4], *BOXES[1:]]}, r"boxes\[0\]: shape"),
        ({"boxes": [BOXES[0] * np.nan, *BOXES[1:]]}, r"boxes\[0\]: .*NaN"),
        ({"validation_boxes": [[]] * 4}, "validation_boxes: no agent"),
        ({"validation_frames": FRAMES[0]}, "validation_frames: uint8"),
        ({"steps": 0}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        centre_point_training.fit(**(GOOD | change), folder=tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_holds_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds no detector"):
        centre_point_training.fit(**GOOD, folder=tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_folder_without_a_detector_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json.*pretrain detector"):
        centre_point.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="not a detector"):
        centre_point.load(tmp_path)


def test_blurring_keeps_the_mean_and_spreads_a_point_by_its_sigma() -> None:
    point = np.zeros((1, 64, 64, 3), np.uint8)
    point[0, 28:36, 28:36] = 255
    assert np.array_equal(blurred(point, 0), point)
    soft = blurred(point, 2.0).astype(float)[0, :, :, 0]
    place = np.arange(64)
    variance = {name: (image.sum(0) * (place - 31.5) ** 2).sum() / image.sum()
                for name, image in (("sharp", point[0, :, :, 0].astype(float)), ("soft", soft))}  # fmt: skip
    assert soft.sum() == pytest.approx(point[0, :, :, 0].astype(float).sum(), rel=0.02)
    assert variance["soft"] - variance["sharp"] == pytest.approx(4.0, rel=0.1)
