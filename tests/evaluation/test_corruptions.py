"""Damages do what they say, to the pixel; the numbers made of them agree with closed forms; the page is read or refused."""

import ast
import dataclasses
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from executed_pages import papermill
from hypothesis import given
from hypothesis import strategies as some

from replaylab import catalogue
from replaylab.analysis.tables import per_run
from replaylab.catalogue import PSEUDO_SUFFIX, measure_of
from replaylab.cli.main import main
from replaylab.data.domain import TRACK_COLUMNS
from replaylab.evaluation import corruption_study, corruptions
from replaylab.evaluation.corruption_study import CorruptionStudy
from replaylab.evaluation.corruptions import Corruption
from replaylab.metrics import fidelity
from replaylab.pages import measures
from replaylab.pages import parameters as parameters_page
from replaylab.shipped_weights import WEIGHTS
from replaylab.spec import EvaluationSpec
from replaylab.sweeps import sweep
from replaylab.util import text as text_module
from replaylab.worlds.named import domain_spec
from replaylab.worlds.renderer import boxes_of, eligible, placed, visible_shares

FIRST, FRAMES, SIZE = 3, 8, 64
WORLD = domain_spec("driving-eventful", videos=(0, 3, 0))
PAGE = ROOT / "book" / "05_measures.ipynb"
FIELD = np.random.default_rng(0).normal(0, 3, (corruptions.CELLS, corruptions.CELLS, 2))
needs_networks = pytest.mark.skipif(not (WEIGHTS / "videonet").is_dir(), reason="no video network ships yet")


@pytest.fixture(scope="module", params=range(6))
def scene(request: pytest.FixtureRequest) -> Any:
    from replaylab.worlds.build import scene_of

    return scene_of(WORLD, "dev", request.param)


def centres(scene: Any, frame: int) -> np.ndarray:
    boxes, _ = boxes_of(scene, frame, SIZE)
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def future(scene: Any) -> range:
    return range(FIRST, len(scene.ego))


def same_context(scene: Any, other: Any) -> bool:
    return np.array_equal(scene.poses[:, :FIRST], other.poses[:, :FIRST])


# Agents


@pytest.mark.parametrize("px", [1.0, 2.0, 4.0, -3.0])
def test_moved_agents_are_found_that_many_pixels_further(scene: Any, px: float) -> None:
    shifts = px * np.array([1.0, -1.0] * len(scene.agents))[: len(scene.agents)]
    other = corruptions.moved(scene, FIRST, shifts, SIZE)
    assert same_context(scene, other)
    for frame in future(scene):
        there = np.isfinite(centres(scene, frame)).all(axis=1)
        got = (centres(other, frame) - centres(scene, frame))[there]
        assert got[:, 0] == pytest.approx(shifts[there], abs=0.1)
        assert got[:, 1] == pytest.approx(0, abs=1e-6)  # no nearer, no farther
        assert np.array_equal(other.poses[~there, frame], scene.poses[~there, frame])


def test_the_nearest_agent_that_counts_is_removed_and_nobody_else(scene: Any) -> None:
    other = corruptions.without_nearest(scene, FIRST, SIZE)
    boxes, depths = boxes_of(scene, FIRST, SIZE)
    counts = eligible(boxes, visible_shares(boxes, depths, SIZE), SIZE)
    nearest = np.flatnonzero(counts)[depths[counts].argmin()]
    assert same_context(scene, other)
    for frame in future(scene):
        before, after = boxes_of(scene, frame, SIZE)[0], boxes_of(other, frame, SIZE)[0]
        assert np.isnan(after[nearest]).all()
        others = np.arange(len(before)) != nearest
        assert np.array_equal(after[others], before[others], equal_nan=True)


def test_agents_that_are_not_pulled_stay_to_the_bit_and_all_the_way_is_the_mean(scene: Any) -> None:
    still = corruptions.pulled(scene, FIRST, 0, FIELD, SIZE, 4.0)
    assert np.array_equal(still.poses, scene.poses)
    whole, half = (corruptions.pulled(scene, FIRST, percent, FIELD, SIZE, 4.0) for percent in (100, 50))
    assert same_context(scene, whole)
    assert half.poses == pytest.approx((scene.poses + whole.poses) / 2)

    def seen(one: Any, frame: int) -> np.ndarray:
        x, y, heading = one.ego[frame]
        return placed(one.poses[:, frame, :3, 3] - [x, y, 0], np.zeros(3), -heading)[:, :2]

    column, row = corruptions.image_cells(centres(scene, FIRST - 1), SIZE).T
    for frame in future(scene):
        seconds = (frame - FIRST + 1) / 4.0
        assert seen(whole, frame) - seen(scene, FIRST - 1) == pytest.approx(FIELD[row, column] * seconds)


def test_at_half_speed_two_frames_show_what_one_did(scene: Any) -> None:
    slow, as_fast = (corruptions.slowed(scene, FIRST, percent) for percent in (50, 0))
    assert as_fast.poses == pytest.approx(scene.poses) and as_fast.ego == pytest.approx(scene.ego)
    last = FIRST - 1
    for ahead in (1, 2):
        assert slow.poses[:, last + 2 * ahead] == pytest.approx(scene.poses[:, last + ahead])
        assert slow.ego[last + 2 * ahead] == pytest.approx(scene.ego[last + ahead])
    assert slow.poses[:, : last + 1] == pytest.approx(scene.poses[:, : last + 1])


def test_the_mean_velocity_is_of_the_cell_and_where_that_is_empty_of_all() -> None:
    paths = {0: ((8, 8), (1.0, 0.0)), 1: ((40, 40), (0.0, -2.0))}  # centre in px, metres a frame
    rows = [
        {"video": "a", "agent": agent, "frame": frame, "eligible": True, "x_m": dx * frame, "y_m": dy * frame,
         "x0": x - 2, "x1": x + 2, "y0": y - 2, "y1": y + 2}
        for agent, ((x, y), (dx, dy)) in paths.items()
        for frame in range(4)
    ]  # fmt: skip
    rows.append({**rows[0], "video": "b", "frame": 7})  # seen once: no velocity
    tracks = pd.DataFrame(rows).reindex(columns=list(TRACK_COLUMNS))
    field = corruptions.velocity_field(tracks, SIZE, 4.0)
    assert field[0, 0] == pytest.approx([4, 0]) and field[2, 2] == pytest.approx([0, -8])
    assert field[3, 0] == pytest.approx([2, -4])


# Pictures and time


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Three real clips, as `evaluation_sets` makes them ready, without what networks see in them."""
    from replaylab.data.clips import clips_of, one_per_scene, read
    from replaylab.worlds.build import build_domain

    domain = build_domain(WORLD, tmp_path_factory.mktemp("domains"))
    chosen = one_per_scene(clips_of(domain, "dev", FRAMES))
    frames = np.stack(list(read(domain, chosen, FRAMES)))
    return SimpleNamespace(name=WORLD.name, split="dev", clips=chosen, frames=frames)


def after(clips: Any, name: str, grade: float) -> np.ndarray:
    made = corruptions.corrupt(Corruption(name, grade), clips, WORLD, FIELD)
    assert made.shape == clips.frames.shape and made.dtype == np.uint8
    assert np.array_equal(made[:, :FIRST], clips.frames[:, :FIRST])
    return made


def test_the_control_is_the_real_clip_to_the_bit(clips: Any) -> None:
    assert np.array_equal(after(clips, "re-rendered", 0), clips.frames)
    assert np.array_equal(after(clips, "pulled", 0), clips.frames)


@pytest.mark.parametrize("name", ["moved", "removed", "pulled", "slowed", "shuffled", "noise", "colour", "blur"])
def test_every_damage_changes_every_clip_and_is_the_same_again(clips: Any, name: str) -> None:
    grade = corruptions.KINDS[name].grades[-1]
    made = after(clips, name, grade)
    assert all((one != real).any() for one, real in zip(made, clips.frames, strict=True))
    assert np.array_equal(made, after(clips, name, grade))


def test_only_where_agents_are_or_were_is_anything_else_drawn(clips: Any) -> None:
    """The rest differs by the codec at most."""
    made = after(clips, "removed", 1).astype(int) - clips.frames
    changed = np.abs(made[:, FIRST:]).max(axis=-1) > 24
    assert 0 < changed.mean() < 0.25


def test_more_blur_is_less_sharp(clips: Any) -> None:
    grades = corruptions.KINDS["blur"].grades
    ratios = [fidelity.sharpness_ratio(after(clips, "blur", grade)[0, FIRST:], clips.frames[0, FIRST:]) for grade in grades]
    assert ratios[0] < 1 and np.all(np.diff(ratios) < 0)


def test_noise_and_warmth_have_the_size_they_say() -> None:
    grey = np.full((5, 64, 64, 3), 128, np.uint8)
    noise = corruptions.noisy(grey, 8, np.random.default_rng(0)).astype(float) - 128
    assert noise.std() == pytest.approx(8, rel=0.02) and noise.mean() == pytest.approx(0, abs=0.1)
    assert corruptions.warmed(grey, 10)[0, 0, 0].tolist() == [141, 128, 115]


@given(some.integers(2, 6), some.integers(0, 100))
def test_shuffling_keeps_every_frame_and_never_the_order(frames: int, seed: int) -> None:
    clip = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    found = corruptions.shuffled(clip, np.random.default_rng(seed)).ravel().tolist()
    assert sorted(found) == list(range(frames)) != found


# Numbers


def rows_of(values: dict[tuple[str, float], Any], measure: str, domain: str = corruption_study.EVENTFUL) -> pd.DataFrame:
    """Rows of one measure: by damage and grade, a value a clip, or one number for the whole set."""
    tables = []
    for (name, grade), each in values.items():
        whole = np.ndim(each) == 0
        videos = [""] if whole else [f"dev-{number:05d}" for number in range(len(each))]
        tables.append(pd.DataFrame({
            "video": videos, "start": -1 if whole else 0, "scene": videos, "measure": measure,
            "value": np.atleast_1d(np.asarray(each, float)), "n": 5, "domain": domain, "split": "dev",
            "damage": name, "grade": float(grade), "unit": corruptions.KINDS[name].unit,
        }))  # fmt: skip
    return pd.concat(tables, ignore_index=True)


def line(table: pd.DataFrame, measure: str, name: str, grade: float = 0) -> Any:
    (found,) = table[(table["measure"] == measure) & (table["damage"] == name) & (table["grade"] == grade)].itertuples()
    return found


def test_a_change_is_paired_by_clip_and_divided_by_its_error_over_clips() -> None:
    real, step = np.array([1.0, 5.0, 9.0, 2.0]), np.array([1.0, 2.0, 3.0, 2.0])
    table = corruption_study.response(
        rows_of({("real", 0): real, ("blur", 1): real + step, ("noise", 4): real - step}, "ade_px")
    )
    found = line(table, "ade_px", "blur", 1)
    error = step.std(ddof=1) / 2
    assert (found.change, found.error, found.clips) == pytest.approx((2, error, 4))
    assert found.evidence == pytest.approx(2 / error)
    assert line(table, "ade_px", "noise", 4).evidence == pytest.approx(-2 / error)
    assert line(table, "ade_px", "real").evidence == 0


def test_the_error_of_a_whole_sets_measure_is_that_of_its_pseudo_values() -> None:
    real, other = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.3, 0.8])
    rows = [
        rows_of({("real", 0): 0.2, ("blur", 1): 0.5}, "effnet_kd"),
        rows_of({("real", 0): real, ("blur", 1): other}, "effnet_kd_pseudo"),
        rows_of({("real", 0): 3.0, ("blur", 1): 4.0}, "effnet_fd"),
    ]
    table = corruption_study.response(pd.concat(rows))
    assert set(table["measure"]) == {"effnet_kd", "effnet_fd"}
    found = line(table, "effnet_kd", "blur", 1)
    error = (other - real).std(ddof=1) / 3**0.5
    assert (found.value, found.change, found.evidence) == pytest.approx((0.5, 0.3, 0.3 / error))
    unknown = line(table, "effnet_fd", "blur", 1)
    assert unknown.change == 1 and np.isnan(unknown.evidence)


def test_a_clip_without_a_value_leaves_its_pair_and_what_real_has_not_does_not_change() -> None:
    rows = [
        rows_of({("real", 0): [1.0, np.nan, 3.0], ("blur", 1): [2.0, 5.0, np.nan]}, "recall"),
        rows_of({("blur", 1): [30.0, 31.0]}, "psnr_db"),
    ]
    table = corruption_study.response(pd.concat(rows))
    assert (line(table, "recall", "blur", 1).change, line(table, "recall", "blur", 1).clips) == (1.0, 1)
    assert np.isnan(line(table, "psnr_db", "blur", 1).change)


@pytest.mark.parametrize(("measure", "value", "worse"), [
    ("ade_px", 2, 1), ("ade_px", -2, -1), ("recall", 2, -1), ("recall", -2, 1),
    ("sharpness_ratio", 2, 1), ("sharpness_ratio", -2, 1), ("a_new_one", -2, 1), ("another_error_px", -2, -1),
])  # fmt: skip
def test_worse_is_where_the_measure_says_so(measure: str, value: float, worse: int) -> None:
    real, steps = np.zeros(4), value * np.array([1, 2, 1, 2.0])
    rows = rows_of({("real", 0): real, ("moved", 4): steps}, measure)
    made = CorruptionStudy("smoke", Path(), 4, rows)
    assert np.sign(line(measures.responses(made), measure, "moved", 4).worse) == worse


def blur_rows() -> pd.DataFrame:
    at = [("real", 0), ("blur", 0.5), ("blur", 1), ("blur", 2)]
    values = {"sharpness_ratio": [1, 0.8, 0.6, 0.4], "ade_px": [1.0, 0.9, 2.0, 4.0], "recall": [0.9, 0.9, 0.8, 0.5]}
    tables = [rows_of({one: [v, v] for one, v in zip(at, each, strict=True)}, name) for name, each in values.items()]
    return pd.concat(tables)


def test_a_ceiling_lies_on_the_line_between_blurs_and_never_improves_with_blur() -> None:
    found = corruption_study.blur_ceiling(blur_rows(), 0.5)
    assert (found.ade_px, found.recall, found.beyond) == (pytest.approx(3.0), pytest.approx(0.65), "")
    assert corruption_study.blur_ceiling(blur_rows(), 0.8).ade_px == pytest.approx(1.0)  # 0.9 there was luck
    ratios = np.linspace(0.3, 1.2, 40)
    every = [corruption_study.blur_ceiling(blur_rows(), ratio) for ratio in ratios]
    assert np.all(np.diff([one.ade_px for one in every]) <= 0) and np.all(np.diff([one.recall for one in every]) >= 0)


def test_a_ceiling_is_not_carried_on_beyond_what_was_measured() -> None:
    sharper, blurred = corruption_study.blur_ceiling(blur_rows(), 1.3), corruption_study.blur_ceiling(blur_rows(), 0.2)
    assert (sharper.ade_px, sharper.recall) == (1.0, 0.9) and "sharper than real" in str(sharper)
    assert blurred.ade_px == 4.0 and "less sharp than a blur of 2 px" in str(blurred)
    with pytest.raises(ValueError, match="sharpness_ratio: 0, expected a number above 0"):
        corruption_study.blur_ceiling(blur_rows(), 0)
    with pytest.raises(ValueError, match=r"domain 'near' has no blurred frames measured; there are \['driving-eventful'\]"):
        corruption_study.blur_ceiling(blur_rows(), 0.5, "near")


def test_a_damage_is_as_bad_as_the_blur_that_changes_as_much() -> None:
    values = {("real", 0): 1.0, ("blur", 0.5): 2.0, ("blur", 1): 2.0, ("blur", 2): 4.0, ("moved", 1): 1.5, ("moved", 2): 3.0,
              ("moved", 4): 9.0, ("removed", 1): 0.5}  # fmt: skip
    found = corruption_study.as_blur(corruption_study.response(rows_of(values, "effnet_fd"))).set_index(["damage", "grade"])[
        "blur_px"
    ]
    assert found.to_dict() == {("moved", 1): 0.25, ("moved", 2): 1.5, ("moved", 4): np.inf, ("removed", 1): 0.0}
    falling = {at: -value for at, value in values.items()}
    fallen = corruption_study.as_blur(corruption_study.response(rows_of(falling, "effnet_fd")))["blur_px"]
    assert fallen.tolist() == found.tolist()


def test_what_blur_does_not_change_has_no_such_blur() -> None:
    values: dict[tuple[str, float], Any] = {("real", 0): 1.0, ("blur", 1): 1.0, ("blur", 2): 1.0, ("moved", 1): 1.5}
    assert corruption_study.as_blur(corruption_study.response(rows_of(values, "effnet_fd"))).empty


# The store


class Stopped(Exception):
    pass


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Four damages of random clips, measured by their mean: what was measured, in order."""
    from replaylab.evaluation import evaluation_sets, measurement

    random = np.random.default_rng(0)
    prepared = [
        SimpleNamespace(name=name, split="dev", clips=[SimpleNamespace(video=f"dev-{n:05d}", start=0) for n in range(3)],
                        frames=random.integers(0, 255, (3, FRAMES, 16, 16, 3), np.uint8))
        for name in corruption_study.DOMAINS
    ]  # fmt: skip
    measured: list[str] = []

    def measure(evaluation_set: Any, frames: np.ndarray, miss_cap_px: float) -> Any:
        measured.append(evaluation_set.name)
        clips = {"video": [clip.video for clip in evaluation_set.clips], "start": 0, "scene": "", "n": 5}
        rows = pd.DataFrame({**clips, "measure": "mean", "value": frames.mean((1, 2, 3, 4))})
        return SimpleNamespace(rows=rows.assign(domain=evaluation_set.name, split="dev"), boxes=[])

    chosen = (Corruption("real", 0.0), Corruption("noise", 4.0), Corruption("colour", 5.0), Corruption("shuffled", 1.0))
    worlds = tuple(domain_spec(name, videos=(0, 3, 0)) for name in corruption_study.DOMAINS)
    spec = corruption_study.CorruptionStudySpec(EvaluationSpec(worlds, "dev", 3, 3), chosen)
    monkeypatch.setattr(corruption_study, "spec_of", lambda preset: spec)
    monkeypatch.setattr(corruption_study, "mean_velocities", lambda *_: FIELD)
    monkeypatch.setattr(evaluation_sets, "prepare_sets", lambda *_: prepared)
    monkeypatch.setattr(measurement, "measure", measure)
    yield measured


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_rows(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = corruption_study.run("smoke", tmp_path / "whole")
    assert len(small) == 4 * 2 and not (whole.folder / "parts").exists()
    real_corrupt = corruptions.corrupt

    def stopping(one: Corruption, *rest: Any) -> np.ndarray:
        if one.name == "colour":
            raise Stopped
        return real_corrupt(one, *rest)

    monkeypatch.setattr(corruption_study, "corrupt", stopping)
    with pytest.raises(Stopped):
        corruption_study.run("smoke", tmp_path / "parts")
    monkeypatch.setattr(corruption_study, "corrupt", real_corrupt)
    small.clear()
    found = corruption_study.run("smoke", tmp_path / "parts")
    assert len(small) == 2 * 2  # of the other two damages
    pd.testing.assert_frame_equal(found.rows, whole.rows)
    assert found.examples() == whole.examples() and len(whole.examples()) == 2  # of the strongest
    small.clear()
    corruption_study.run("smoke", tmp_path / "parts")
    assert not small, "measured again"


def test_parts_of_the_clips_add_their_own_mean_to_a_mean_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from replaylab.evaluation import measurement

    def mean_of(_: Any, boxes: np.ndarray, errors: list[Any], clips: np.ndarray) -> dict[str, tuple[float, int]]:
        return {"precision": (boxes[clips].mean(), len(clips))}

    monkeypatch.setattr(measurement, "agent_errors", lambda *_: [])
    monkeypatch.setattr(measurement, "pooled_measures", mean_of)
    clips = np.arange(2 * corruption_study.PARTS)
    values = np.random.default_rng(0).normal(size=len(clips))
    evaluation_set: Any = SimpleNamespace(name="driving", split="dev")
    found = corruption_study._pseudo_values(evaluation_set, values, 16)  # type: ignore[arg-type]
    assert set(found["measure"]) == {"precision_pseudo"} and found["video"].nunique() == corruption_study.PARTS
    assert found["value"].to_numpy() == pytest.approx(values.reshape(-1, 2).mean(axis=1))


def test_what_does_not_exist_is_refused_with_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="preset 'huge' is none of published, quick, smoke"):
        corruption_study.run("huge", tmp_path)
    assert main(["damage", "--preset", "huge"]) == 2
    with pytest.raises(ValueError, match="damage 'rust' is none of real, re-rendered, "):
        corruptions.corrupt(Corruption("rust", 1), SimpleNamespace(frames=np.zeros(1)), WORLD, FIELD)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="domain 'near' is none of driving-eventful"):
        measures.responses(CorruptionStudy("smoke", tmp_path, 2, blur_rows()), "near")


@needs_networks
def test_where_nothing_is_published_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("03_replay_sweep.ipynb", "_toc.yml"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"summary\.json is missing: these damages are not published there"):
        corruption_study.run()


def test_presets_have_their_videos() -> None:
    for clips, reference_clips, videos in corruption_study.PRESETS.values():
        assert clips + reference_clips <= videos


# Words, figures and the page


MEASURED = ["effnet_perceptual", "ssim", "sharpness_ratio", "ade_px", "recall", "ade_px_frame_1", "second_tracker_ade_px"]
OF_SETS = ["effnet_kd", "effnet_fd", "video_kd"]


def made_up() -> pd.DataFrame:
    """Rows of every damage: pictures change fidelity, agents accuracy, and the control nothing."""
    random = np.random.default_rng(1)
    tables = []
    for domain in corruption_study.DOMAINS:
        real = {name: random.uniform(0.7, 0.9, 8) for name in MEASURED}
        for one in corruptions.every_corruption():
            group, strong = (
                corruptions.KINDS[one.name].group,
                one.grade / corruptions.KINDS[one.name].grades[-1] if one.grade else 0,
            )
            for name in MEASURED:
                kind = catalogue.measure_of(name)
                ours = {catalogue.OF_FRAMES: corruptions.PICTURES, catalogue.OF_AGENTS: corruptions.AGENTS}[kind.group]
                step = 0.5 * strong if ours == group else 0.1 * strong if one.name == "blur" else 0.0
                noise = random.uniform(0, 0.02, 8) if step else 0.0
                sign = 1 if kind.better == "low" else -1
                tables.append(rows_of({(one.name, one.grade): real[name] + sign * (step + noise)}, name, domain))
            for name in OF_SETS:
                value = {corruptions.PICTURES: 2.0, corruptions.AGENTS: 0.01}.get(group, 0.0) * strong
                tables.append(rows_of({(one.name, one.grade): 1 + value}, name, domain))
                if name == "effnet_kd":
                    pseudo = 1 + value + (random.normal(0, 0.05, 8) if value else np.zeros(8))
                    tables.append(rows_of({(one.name, one.grade): pseudo}, f"{name}{PSEUDO_SUFFIX}", domain))
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> CorruptionStudy:
    """A store of made-up rows, under the name that the smoke preset looks for where the networks are there."""
    from PIL import Image

    name = corruption_study.spec_of("smoke").run_id if (WEIGHTS / "videonet").is_dir() else "damage-made-up"
    folder = tmp_path_factory.mktemp("store") / name
    (folder / "examples").mkdir(parents=True)
    made_up().to_parquet(folder / "rows.parquet", index=False)
    (folder / "summary.json").write_text("{}")
    for one in corruptions.every_corruption()[:7]:
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "examples" / f"{one.key}.png")
    return CorruptionStudy("smoke", folder, 8, made_up())


def test_sentences_say_what_the_rows_say(made: CorruptionStudy) -> None:
    said = measures.summary(made)
    assert "The control, rendered again without corruption, has the values of real frames in 9 of 9 measures" in said
    assert "*Agents moved 4 px*: 0 of 4 measures of fidelity respond, and 3 of 3 of agents." in said
    assert "EffNet-KD as one of 0.0100 px" in said and "video-KD as one" in said
    assert "No measure counts a corruption as an improvement" in said
    assert "The detector's ceiling on real frames" in said
    assert "8 clips each of ordinary driving and eventful driving" in measures.status_line(made)


def test_a_control_that_is_not_the_real_clip_is_said_to_be_none(made: CorruptionStudy) -> None:
    rows = made.rows.copy()
    wrong = (rows["damage"] == "re-rendered") & (rows["measure"] == "ade_px")
    rows.loc[wrong, "value"] += np.linspace(0.5, 0.6, wrong.sum())
    assert "changes 1 of 9 measures, most of all ADE (px)" in measures.summary(dataclasses.replace(made, rows=rows))


def test_a_measure_nobody_listed_is_shown_under_its_own_name(made: CorruptionStudy) -> None:
    assert catalogue.measure_of("second_tracker_ade_px").name == "second tracker ade (px)"
    assert catalogue.measure_of("background_stillness_px").group == catalogue.OF_BACKGROUND
    assert "second tracker ade (px)" in measures.values_table(made).data.columns
    labels = [text.get_text() for text in measures.response_map(made, corruptions.AGENTS).axes[0].get_yticklabels()]
    assert "second tracker ade" in labels and not any("frame 1" in label for label in labels)


def test_a_map_shows_every_measure_under_every_damage(made: CorruptionStudy) -> None:
    for group, names in measures.COLUMNS.items():
        (axes,) = measures.response_map(made, group).axes
        cells = [text.get_text() for text in axes.texts if text.get_text() not in catalogue.GROUPS]
        columns = sum(3 if name == "blur" else len(corruptions.KINDS[name].grades) for name in names)
        assert len([text for text in cells if text]) >= 9 * columns
        if group == corruptions.TIME:
            assert cells.count("=") >= 9


def test_without_distances_of_videos_or_any_other_the_figures_are_drawn(made: CorruptionStudy) -> None:
    rows = made.rows[(made.rows["video"] != "") & ~made.rows["measure"].str.endswith(PSEUDO_SUFFIX)]
    fewer = dataclasses.replace(made, rows=rows)
    assert measures.as_blur_figure(fewer).axes
    assert "Do distances" not in measures.summary(fewer)


def test_labels_of_known_measures_are_short_enough_for_a_phone() -> None:
    assert max(len(one.label) for one in catalogue.MEASURES.values()) <= 20


def code_cells(page: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in page.cells if cell.cell_type == "code"]


def test_the_page_is_thin_and_its_figures_are_described() -> None:
    page = nbformat.read(PAGE, as_version=4)
    nbformat.validate(page)
    (parameters,) = [cell for cell in page.cells if "parameters" in cell.metadata.get("tags", [])]
    names: dict[str, object] = {}
    exec(parameters.source, {}, names)
    assert names == asdict(parameters_page.MeasuresParameters())
    for cell in code_cells(page):
        assert len(cell.source.splitlines()) <= 8 and not cell.outputs
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.Lambda, ast.For, ast.While, ast.Try}
    drawn = [cell for cell in code_cells(page) if cell.id.endswith(("-figure", "-map"))]
    assert len(drawn) == 6
    for cell in drawn:
        assert len(cell.metadata.mystnb.image.alt) > 80 and len(cell.metadata.mystnb.figure.caption) > 40


def shown(out: Path, *words: str) -> dict[str, list[str]]:
    """The kinds of output of each cell that shows something."""
    papermill(str(PAGE), str(out), *words)
    kinds = ("image/svg+xml", "text/markdown", "text/html")
    return {
        cell.id: [next(kind for kind in kinds if kind in output.data) for output in cell.outputs if "data" in output]
        for cell in code_cells(nbformat.read(out, as_version=4))
        if any("data" in output for output in cell.outputs)
    }


SHOWN = {
    "run": ["text/markdown"], "examples-figure": ["image/svg+xml"],
    "pictures-map": ["image/svg+xml"], "pictures-values": ["text/html"],
    "agents-map": ["image/svg+xml"], "agents-values": ["text/html"],
    "time-map": ["image/svg+xml"], "time-values": ["text/html"],
    "as-blur-figure": ["image/svg+xml"], "as-blur-values": ["text/html"],
    "ceiling-figure": ["image/svg+xml"], "ceiling-values": ["text/html"],
    "values-table": ["text/html"], "found-text": ["text/markdown"],
}  # fmt: skip


@needs_networks
def test_the_page_shows_what_a_store_holds(made: CorruptionStudy, tmp_path: Path) -> None:
    store = ["-p", "preset", "smoke", "-p", "store", str(made.folder.parent)]
    assert shown(tmp_path / "out.ipynb", *store) == SHOWN
    assert shown(tmp_path / "out.ipynb", *store, "-p", "domain", "driving") == SHOWN


@needs_networks
@pytest.mark.slow
def test_the_smoke_preset_measures_everything_and_the_control_measures_as_real(tmp_path: Path) -> None:
    assert shown(tmp_path / "out.ipynb", "-p", "preset", "smoke", "-p", "store", str(tmp_path)) == SHOWN
    found = corruption_study.run("smoke", tmp_path)
    assert set(zip(found.rows["damage"], found.rows["grade"], strict=True)) == {
        (one.name, one.grade) for one in corruptions.every_corruption()
    }
    again = corruption_study.response(found.rows)
    again = again[(again["damage"] == "re-rendered") & again["change"].notna()]
    assert (again["change"] == 0).all() and set(again["measure"]) > {"ade_px", "effnet_kd", "ssim"}
    assert json.loads((found.folder / "spec.json").read_text()) == corruption_study.spec_of("smoke").as_dict()


def test_the_ceiling_is_told_for_the_least_and_the_sharpest_model() -> None:
    values = per_run(sweep.read("pilot").rows)
    here = values[
        (values["measure"] == "sharpness_ratio") & (values["domain"] == "driving-eventful") & (values["step"].isin([0, 300]))
    ]
    means = (
        here[here["model"].isin(["base", "fine-tuned"])].groupby(["model", "replay_fraction"], dropna=False)["value"].mean()
    )
    least = text_module.number(means.min(), measure_of("sharpness_ratio").digits)
    said = measures.ceilings(values)
    assert f"{least} times as sharp" in said and said.count("ADE") == 2
