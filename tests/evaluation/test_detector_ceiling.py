"""What a detector can see on real frames: drawn rectangles, which an exact detector finds, a coarse one, and a blind one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.ndimage

from replaylab.cli import ceiling
from replaylab.data.domain import TRACK_COLUMNS, Domain, write_domain
from replaylab.data.video import write_video
from replaylab.evaluation import detector_ceiling
from replaylab.evaluation.detector_ceiling import COPIED, REAL, SELF, TRACKED, TRUTH, CeilingVerdict
from replaylab.metrics import blur, fidelity
from replaylab.metrics.detectors import pretrained

HEIGHT, WIDTH, FRAMES, CONTEXT = 48, 80, 8, 3
STEP_PX = 3  # a frame, along the image
COPIED_PX = np.minimum(STEP_PX * np.arange(1, FRAMES - CONTEXT + 1), HEIGHT / 4).mean()  # no error is over the cap
SCENES = 9


def drawn(scene: int, moves: bool = True) -> tuple[np.ndarray, list[list[list[float]]]]:
    """A clip in which a bright rectangle goes right and one goes left, and their boxes, two a frame."""
    rng = np.random.default_rng(scene)
    ground = scipy.ndimage.zoom(rng.integers(40, 100, (HEIGHT // 4, WIDTH // 4, 3)), (4, 4, 1), order=1)
    frames, boxes = [], []
    for t in range(FRAMES):
        frame, step = ground.astype(np.uint8), STEP_PX * t * moves
        rows = [[4 + step, 8, 16 + step, 18], [60 - step, 30, 74 - step, 40]]
        for x0, y0, x1, y1 in rows:
            frame[y0:y1, x0:x1] = 240
        frames.append(frame)
        boxes.append([[float(side) for side in row] for row in rows])
    return np.stack(frames), boxes


def domain_at(folder: Path, truth: bool = True, moves: bool = True, scenes: int = SCENES) -> Domain:
    """A domain of such clips, one a scene, all in the dev split; with or without its tracks."""
    (folder / "videos").mkdir(parents=True)
    videos, tracks = [], []
    for scene in range(scenes):
        frames, boxes = drawn(scene, moves)
        write_video(folder / "videos" / f"{scene}.mp4", frames, 4)
        videos.append({"file": f"{scene}.mp4", "split": "dev", "scene": str(scene), "frames": FRAMES, "sha256": ""})
        for t, rows in enumerate(boxes):
            for agent, (x0, y0, x1, y1) in enumerate(rows):
                tracks.append({
                    **dict.fromkeys(TRACK_COLUMNS, np.nan), "video": str(scene), "frame": t, "agent": agent, "kind": "car",
                    "x0": x0, "y0": y0, "x1": x1, "y1": y1, "visible": 1.0, "eligible": True,
                })  # fmt: skip
    about = {"name": "drawn", "frames_per_second": 4, "size_px": [HEIGHT, WIDTH]}
    return write_domain(folder, about, pd.DataFrame(videos), pd.DataFrame(tracks) if truth else None)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    return domain_at(tmp_path_factory.mktemp("domains") / "known")


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Domain:
    return domain_at(tmp_path_factory.mktemp("domains") / "unknown", truth=False)


def exact(frames: np.ndarray) -> list[np.ndarray]:
    """Boxes of what is bright, at a fraction of a pixel's grey."""
    found = []
    for frame in frames:
        labels, _ = scipy.ndimage.label(frame.mean(-1) > 165)
        boxes = [
            [x.start, y.start, x.stop, y.stop, 0.9]
            for y, x in scipy.ndimage.find_objects(labels)
            if min(y.stop - y.start, x.stop - x.start) > 4
        ]
        found.append(np.array(boxes, np.float32).reshape(-1, 5))
    return found


def coarse(frames: np.ndarray) -> list[np.ndarray]:
    """Right within 4 px to each side, by what the frame looks like."""
    shifts = [np.random.default_rng(int(frame.sum())).choice([-4, 4]) for frame in frames]
    return [
        boxes + np.array([shift, 0, shift, 0, 0], np.float32) for boxes, shift in zip(exact(frames), shifts, strict=True)
    ]


def blind(frames: np.ndarray) -> list[np.ndarray]:
    """The same two boxes, whatever it is shown."""
    return [np.array([[4, 8, 16, 18, 0.9], [60, 30, 74, 40, 0.9]], np.float32)] * len(frames)


def of(domain: Domain, find: Callable[..., Any], **more: Any) -> tuple[pd.DataFrame, CeilingVerdict]:
    table, verdict = detector_ceiling.of_domain(domain, find, frames=FRAMES, context_frames=CONTEXT, **more)
    return table.set_index("frames"), verdict


# ------------------------------------------------------------------------------------------------------------- verdict
def test_against_the_truth_a_still_clip_has_the_error_of_what_moved(known: Domain) -> None:
    table, verdict = of(known, exact)
    future = np.arange(1, FRAMES - CONTEXT + 1)
    assert table.loc[COPIED, "ade_px"] == pytest.approx(COPIED_PX, abs=0.3)
    assert table.loc[REAL, "ade_px"] < 0.3
    assert table.loc[REAL, ["recall", "false_positives", "average_precision_iou50"]].tolist() == [1.0, 0.0, 1.0]
    assert (table["against"] == TRUTH).all() and (table["n"] == 2 * len(future) * SCENES).all()
    assert verdict.usable and verdict.clips == SCENES and str(verdict).startswith("May be used")


def test_a_coarse_detector_is_not_to_be_used(known: Domain) -> None:
    table, verdict = of(known, coarse)
    assert table.loc[REAL, "ade_px"] == pytest.approx(4, abs=0.5)
    assert verdict.usable is False and str(verdict).startswith("Not to be used")


def test_without_truth_it_is_called_self_consistency(unknown: Domain) -> None:
    table, verdict = of(unknown, exact)
    assert REAL not in table.index and (table["against"] == SELF).all()
    harmless = table[table["harmless"]]
    assert len(harmless) == 2 and verdict.error_px == harmless["ade_px"].max() < 0.8
    assert verdict.copied_px == pytest.approx(COPIED_PX, abs=0.5)
    assert table.loc[TRACKED, "ade_px"] < 1.5  # another's eyes, of the same pixels
    assert verdict.usable and "self-consistency" in str(verdict) and "never finds" in str(verdict)


def test_a_detector_that_only_agrees_with_itself_is_not_to_be_used(unknown: Domain) -> None:
    """It errs by half a pixel where all is shifted, and not at all where nothing moves."""
    table, verdict = of(unknown, blind)
    assert table.loc[COPIED, "ade_px"] == 0 and verdict.error_px == pytest.approx(0.5**0.5)
    assert verdict.usable is False
    assert table.loc[TRACKED, "ade_px"] > 3  # what is followed by its pixels goes elsewhere


def test_clips_in_which_nothing_moves_are_no_ground_for_a_verdict(tmp_path: Path) -> None:
    _, verdict = of(domain_at(tmp_path / "still", moves=False), exact)
    assert verdict.usable is False and "in which more moves" in str(verdict)


def test_few_clips_get_no_verdict(known: Domain) -> None:
    _, verdict = of(known, exact, clips=detector_ceiling.LEAST_CLIPS - 1)
    assert verdict.usable is None and str(verdict).startswith("No verdict")


@pytest.mark.parametrize(("error_px", "copied_px", "usable"), [(1, 5, True), (1, 4.99, False), (0, 1, True), (0, 0, False)])
def test_five_times_is_enough(error_px: float, copied_px: float, usable: bool) -> None:
    assert CeilingVerdict(TRUTH, error_px, copied_px, detector_ceiling.LEAST_CLIPS).usable is usable


def test_what_nobody_counts_is_refused(known: Domain, unknown: Domain) -> None:
    def nothing(frames: np.ndarray) -> list[np.ndarray]:
        return [np.zeros((0, 5), np.float32)] * len(frames)

    with pytest.raises(ValueError, match="the detector follows none"):
        of(unknown, nothing)
    table, verdict = of(known, nothing)  # there the truth counts, and all of it was missed
    assert table.loc[REAL, "ade_px"] == HEIGHT / 4 and verdict.usable is False
    with pytest.raises(ValueError, match="context_frames 8 of 8"):
        detector_ceiling.of_domain(known, exact, frames=8, context_frames=8)
    with pytest.raises(ValueError, match=r"sharpness: 1\.5"):
        of(known, exact, sharpness=[0.8, 1.5])


# ------------------------------------------------------------------------------------------------------------- changes
def test_blurred_frames_have_the_sharpness_that_was_asked_for(known: Domain) -> None:
    table, _ = of(known, exact, sharpness=[1, 0.8, 0.5], clips=2)
    ratios = [table.loc[f"real, blurred to {ratio:g}", "sharpness_ratio"] for ratio in (1, 0.8, 0.5)]
    assert ratios == pytest.approx([1, 0.8, 0.5], abs=0.01)
    assert table.loc["real, blurred to 1", "ade_px"] == table.loc[REAL, "ade_px"]


def test_blur_is_the_detectors_own_and_takes_any_size() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    for blur_px in (0, 0.35, 1, 2):
        ours, theirs = detector_ceiling.blurred(frames, blur_px), blur.blurred(frames, blur_px)
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    odd = frames[:, :37, :51]
    assert fidelity.sharpness_ratio(
        detector_ceiling.blurred(odd, detector_ceiling.blur_px_for(odd, 0.3)), odd
    ) == pytest.approx(0.3, abs=0.01)
    with pytest.raises(ValueError, match=r"0\.001 is not reached"):
        detector_ceiling.blur_px_for(odd, 0.001)


def test_a_shift_moves_everything_by_half_a_pixel() -> None:
    x = np.arange(40.0)
    ramp = np.broadcast_to((5 * x)[None, None, :, None], (2, 30, 40, 3)).astype(np.uint8)
    inner = detector_ceiling.shifted(ramp, 0.5)[:, 5:-5, 5:-5].astype(float)
    assert np.abs(inner - (ramp[:, 5:-5, 5:-5] - 2.5)).max() <= 1
    assert (detector_ceiling.shifted(ramp, 1.0)[:, 5:-5, 6:-5] == ramp[:, 5:-5, 5:-6]).all()


def test_frames_that_are_coded_again_keep_their_shape_and_look() -> None:
    frames = drawn(0)[0][:, :37, :51]
    again = detector_ceiling.coded_again(frames)
    assert again.shape == frames.shape and fidelity.psnr_db(again, frames) > 30


# ------------------------------------------------------------------------------------------------------------- command
def said(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    ceiling.add_parser(parser.add_subparsers())
    return parser.parse_args(["ceiling", *arguments])


def test_the_command_prints_a_table_and_a_verdict_and_keeps_the_table(
    unknown: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    def load(*about: Any) -> Any:
        asked.append(about)
        return SimpleNamespace(detect=exact)

    monkeypatch.setattr(pretrained, "load", load)
    csv = tmp_path / "kept.csv"
    options = said(
        str(unknown.folder), "--detector", "somebody/some-detr", "--agents", "car=car", "person=pedestrian",
        "--threshold", "0.3", "--sharpness", "0.8", "--csv", str(csv),
    )  # fmt: skip
    options.run(options)
    assert asked == [("somebody/some-detr", {"car": "car", "person": "pedestrian"}, 0.3)]
    printed = capsys.readouterr().out
    assert "real, shifted by 0.5 px" in printed and "May be used, as far as self-consistency" in printed
    kept = pd.read_csv(csv)
    assert set(kept["detector"]) == {"somebody/some-detr"} and set(kept["against"]) == {SELF}
    assert kept["frames"].tolist()[-2:] == [COPIED, TRACKED]


def test_bad_options_are_named(unknown: Domain) -> None:
    for words, arguments in {
        "CLASS=AGENT": ["--detector", "x", "--agents", "car"],
        "the shipped detector has no classes": ["--agents", "car=car"],
    }.items():
        options = said(str(unknown.folder), *arguments)
        with pytest.raises(ValueError, match=words):
            options.run(options)


def test_an_autoencoder_is_one_of_the_harmless_changes(unknown: Domain) -> None:
    table, _ = of(unknown, exact, clips=1, autoencoder=lambda clip: clip)
    assert table.loc["real, autoencoder", ["ade_px", "sharpness_ratio"]].tolist() == [0.0, 1.0]


@pytest.mark.slow
def test_the_autoencoder_of_a_video_model_takes_clips_that_fit_it(tmp_path: Path) -> None:
    from tiny_families import TINY

    TINY["wan"](tmp_path)
    through = ceiling._round_trip(str(tmp_path), context_frames=1)
    clip = np.random.default_rng(0).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    assert through(clip).shape == clip.shape and through(clip).dtype == np.uint8
    with pytest.raises(ValueError, match="n x 4"):
        through(clip[:8])
