"""Every measure of clips whose truth is known, all together; each alone is tested beside its own module."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from replaylab import shipped_weights
from replaylab.catalogue import CONTEXT_FRAMES, NOISE_LEVELS
from replaylab.evaluation import evaluate, evaluation_sets
from replaylab.evaluation.evaluation_sets import EvaluationSet
from replaylab.evaluation.measurement import measure, measure_boxes
from replaylab.metrics import distances, fidelity, network_files, optical_flow, video_network
from replaylab.metrics.detectors import fcos
from replaylab.models import sampling
from replaylab.models.pipelines import TinyPipeline
from replaylab.models.tiny_wan import TinyWan
from replaylab.shipped_weights import WEIGHTS, weights_digest
from replaylab.spec import EvaluationSpec, WorldSpec, torch_seed
from replaylab.store import COLUMNS, OF_DISTANCES, write_rows
from replaylab.store.row_tables import read_rows

CLIPS, FEW, CAP_PX = 20, 6, 16.0
SPEC = EvaluationSpec(
    (WorldSpec("tiny", "traffic", "target", "ordinary", (0, 2 * CLIPS, 0)),), "dev", CLIPS, CLIPS,
    at_the_end=(WorldSpec("far", "physics", "any", "bodies", (0, 2 * CLIPS, 0)),), sampler_steps=2,
)  # fmt: skip
PER_SET = {"effnet_fd", "effnet_kd", "video_fd", "video_kd"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def prepared(home) -> list[EvaluationSet]:
    return evaluation_sets.prepare_sets(SPEC, home, at_the_end=True)


@pytest.fixture(scope="module")
def road(prepared) -> EvaluationSet:
    return prepared[0]


MADE_OF = {"real": lambda frames: frames, "still": evaluate.copy_last_frame, "autoencoded": evaluate.autoencoded}


@pytest.fixture(scope="module")
def measured():
    """Rows of a set by what is measured of it, each measured once for all tests that look at them."""
    kept: dict[tuple[int, str], pd.DataFrame] = {}

    def rows_of(evaluation_set: EvaluationSet, what: str) -> pd.DataFrame:
        key = id(evaluation_set), what  # sets are fixtures of the module: they stay
        if key not in kept:
            latents = evaluation_set.latents if what == "real" else None
            kept[key] = measure(evaluation_set, MADE_OF[what](evaluation_set.frames), CAP_PX, latents).rows
        return kept[key].copy()

    return rows_of


def of(rows: pd.DataFrame, measure: str) -> pd.Series:
    return rows.loc[rows["measure"] == measure, "value"]


def test_real_clips_are_as_real_as_can_be(road, measured):
    rows = measured(road, "real")
    best_of = {"effnet_perceptual": 0, "latent_mse": 0, "ssim": 1, "sharpness_ratio": 1, "flicker_excess": 0}
    for name, best in best_of.items():
        assert np.allclose(of(rows, name), best, atol=1e-6), name
    assert of(rows, "psnr_db").empty  # a clip against itself has no finite one
    assert of(rows, "ade_px").mean() < 1 and of(rows, "recall").mean() > 0.9
    assert of(rows, "displacement_slope").item() == pytest.approx(1, abs=0.1)
    assert abs(of(rows, "pull_to_mean").item()) < 0.2


def test_what_stands_still_is_found_out(road, measured):
    still, real = measured(road, "still"), measured(road, "real")
    assert of(still, "ade_px").mean() > 3 * of(real, "ade_px").mean()
    assert of(still, "effnet_perceptual").min() > 0 and of(still, "latent_mse").min() > 0
    assert of(still, "displacement_slope").item() < 0.7


def test_every_distance_says_what_it_is_of_and_nothing_else_does(road, measured):
    rows = measured(road, "real")
    named = rows[rows["extractor"].notna()]
    assert set(named["measure"]) == PER_SET and len(named) == len(PER_SET)
    frames = CLIPS * (road.frames.shape[1] - CONTEXT_FRAMES)
    assert dict(zip(named["measure"], named["n"], strict=True)) == {
        "effnet_fd": frames, "effnet_kd": frames, "video_fd": CLIPS, "video_kd": CLIPS
    }  # fmt: skip
    assert set(named["frames"]) == {1, road.frames.shape[1] - CONTEXT_FRAMES} and set(named["size_px"]) == {64}
    assert named["extractor_digest"].str.fullmatch("[0-9a-f]{64}").all()
    assert named["extractor_digest"].nunique() == named["extractor"].nunique() == 2


def test_what_clips_add_to_a_kernel_distance_has_it_for_its_mean(road, measured):
    rows = measured(road, "autoencoded")
    for name in ("effnet_kd", "video_kd"):
        pseudo = of(rows, f"{name}_pseudo")
        error = pseudo.std() / CLIPS**0.5
        # nearly: frames of one clip are alike, which lifts the distance a little and which leaving clips out takes off
        assert len(pseudo) == CLIPS and abs(pseudo.mean() - of(rows, name).item()) < 3 * error
    assert pseudo.mean() == pytest.approx(of(rows, "video_kd").item())  # one vector a clip: exactly


def test_too_few_clips_have_no_distance_of_whole_futures(home):
    small = replace(SPEC, clips=distances.N_MIN - 1, at_the_end=())
    (evaluation_set,) = evaluation_sets.prepare_sets(small, home)
    measured = set(measure(evaluation_set, evaluation_set.frames, CAP_PX).rows["measure"])
    assert "effnet_kd" in measured and not measured & {"video_fd", "video_kd"}


def test_far_from_roads_only_pictures_are_measured(prepared, measured):
    road, far = prepared
    tables = measured(far, "autoencoded"), measure_boxes(road, road.extrapolated, CAP_PX), measured(road, "autoencoded")
    pictures, boxes, roads = (set(rows["measure"]) for rows in tables)
    of_motion = {"background_flow_error_px", "residual_agent_error_px", "ego_speed_error_m_s", "ade_tracked_px"}
    assert pictures >= PER_SET and not pictures & boxes and "ade_px" in boxes
    assert roads == (pictures - {"flow_error_px"}) | boxes | of_motion  # and no yaw rate: on these roads nobody turns
    quickly = set(measure(road, road.frames, CAP_PX, thorough=False).rows["measure"])
    assert roads - quickly == {"psnr_db", "ego_speed_error_m_s", "ade_tracked_px"}


def test_constant_velocity_is_nearer_the_truth_than_standing_still(road, measured):
    rows = measure_boxes(road, road.extrapolated, CAP_PX)
    assert of(rows, "ade_px").mean() < of(measured(road, "still"), "ade_px").mean() / 1.5


def test_the_context_of_generated_clips_is_decoded_once_and_to_the_same_bits(road):
    pipeline, drawn = road.pipeline, road.latents.clone()
    drawn[:, :, CONTEXT_FRAMES:] = drawn[:, :, CONTEXT_FRAMES:].flip(0)
    frames = road.decode(drawn, pipeline)
    assert np.array_equal(frames, pipeline.decode(drawn)) and not np.array_equal(frames, road.frames)


def test_clips_of_another_shape_are_refused(road):
    with pytest.raises(ValueError, match=r"frames: shape \(19, .*but tiny has clips of shape \(20, "):
        measure(road, road.frames[1:], CAP_PX)


@pytest.mark.parametrize("futures", [1, 2])
def test_futures_are_meaned_clip_by_clip_and_the_best_is_the_best(home, futures):
    spec = replace(SPEC, clips=FEW, futures=futures, at_the_end=())
    (few,) = evaluation_sets.prepare_sets(spec, home)
    model = TinyWan.load(WEIGHTS / "base")
    rows = evaluate.evaluate(TinyPipeline(model), spec, home)
    each = []
    for number in range(futures):
        drawn = sampling.futures(
            model, few.condition, few.latents.shape[1:], spec.sampler_steps, spec.noise_seed, number * FEW
        )
        rows_of_one = measure(few, model.decode(drawn), CAP_PX, drawn, thorough=False).rows
        each.append(of(rows_of_one, "ade_px").to_numpy())
    assert np.array_equal(of(rows, "ade_px"), np.mean(each, axis=0), equal_nan=True)
    assert np.array_equal(of(rows, "ade_best_px"), np.min(each, axis=0) if futures > 1 else [], equal_nan=True)
    assert not rows["measure"].str.startswith("denoising").any()


def test_more_futures_may_be_sampled_after_the_last_step_than_before(home):
    pipeline = TinyPipeline(TinyWan.load(WEIGHTS / "base"))
    few = replace(SPEC, clips=FEW, at_the_end=())
    every, last = replace(few, futures=2), replace(few, futures_at_the_end=2)
    ends = [evaluate.evaluate(pipeline, spec, home, at_the_end=True) for spec in (every, last)]
    pd.testing.assert_frame_equal(*ends)
    assert not evaluate.evaluate(pipeline, last, home)["measure"].eq("ade_best_px").any()
    with pytest.raises(ValueError, match="futures_at_the_end is -1"):
        replace(SPEC, futures_at_the_end=-1)


def test_at_the_end_all_domains_are_measured_and_how_well_they_can_be_denoised(home, prepared):
    model = TinyWan.load(WEIGHTS / "base")
    rows = evaluate.evaluate(TinyPipeline(model), SPEC, home, at_the_end=True)
    assert list(rows["domain"].unique()) == ["tiny", "far"]
    for evaluation_set in prepared:
        here = rows[rows["domain"] == evaluation_set.name]
        losses = [of(here, f"denoising_loss_{level:g}") for level in NOISE_LEVELS]
        assert [len(loss) for loss in losses] == [CLIPS] * len(losses)
        assert np.isfinite(losses).all()
        clips = evaluation_set.latents[:3]
        noise = torch.randn(clips.shape[1:], generator=torch.Generator().manual_seed(
            torch_seed(SPEC.noise_seed, "sampling noise", 2)))[None]  # fmt: skip
        with torch.no_grad():
            error = model.errors(clips[2:], noise, torch.tensor([NOISE_LEVELS[0]]), {"known": clips[2:, :, :CONTEXT_FRAMES]})
        assert losses[0].iloc[2] == pytest.approx(error.item(), rel=1e-4)


def test_rows_come_back_from_disk_with_four_digits_and_all_their_columns(road, measured, tmp_path):
    rows = measured(road, "real")
    rows = rows.assign(run="r", base="b", model="real", target="", replay="", replay_fraction=0.1, seed=-1, step=-1)
    write_rows(tmp_path / "rows.parquet", rows)
    back = read_rows(tmp_path)
    assert list(back.columns) == [*COLUMNS, *OF_DISTANCES]
    assert np.allclose(back["value"], rows["value"], rtol=2**-12, atol=0, equal_nan=True)
    assert set(back["replay_fraction"]) == {0.1}
    distances_of = back[back["measure"].isin(PER_SET)]
    assert (distances_of["frames"] > 0).all() and set(back.drop(distances_of.index)["extractor"]) == {""}
    write_rows(tmp_path / "rows.parquet", back)
    pd.testing.assert_frame_equal(read_rows(tmp_path), back)


def test_a_set_is_made_ready_once_a_store(prepared, measured, home, monkeypatch):
    for each in prepared:
        measured(each, "real")
    evaluation_sets.clear_cache()

    def never(*_, **__):
        raise AssertionError("computed again")

    again = evaluation_sets.prepare_sets(SPEC, home, at_the_end=True)
    for module, name in ((fidelity, "efficientnet"), (video_network, "features"), (optical_flow, "flow")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(evaluation_sets.MeanMotion, "measured", never)
    for one, other in zip(prepared, again, strict=True):
        assert np.array_equal(one.activations.features, other.activations.features)
        assert all(map(np.array_equal, one.activations.maps, other.activations.maps))
        for name in ("reference_features", "reference_videos", "flows"):
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert np.array_equal(prepared[0].mean_motion.field_px, again[0].mean_motion.field_px)


@pytest.mark.slow
def test_measured_in_half_precision_every_measure_is_within_a_tenth_of_its_standard_error(road, home):
    (half, *_) = evaluation_sets.prepare_sets(replace(SPEC, measured_in="bf16"), home)
    moved = evaluate.copy_last_frame(road.frames)
    rows, in_half = (measure(each, moved, CAP_PX, road.latents).rows for each in (road, half))
    both = rows.assign(half=in_half["value"], difference=in_half["value"] - rows["value"])
    assert (both["measure"] == in_half["measure"]).all()
    of_clips = both[both["video"] != ""].groupby("measure")
    apart, error = of_clips["difference"].mean().abs(), of_clips["value"].sem()
    assert (apart <= 0.1 * error).all(), apart[apart > 0.1 * error]
    assert apart["video_kd_pseudo"] > 0, "nothing was measured in bf16"
    of_the_set = both[both["video"] == ""].set_index("measure")
    assert np.allclose(of_the_set["half"], of_the_set["value"], rtol=0.01, atol=0.01 * abs(of_the_set["value"]).min())
    losses, losses_in_half = (
        evaluate.evaluate(road.pipeline, replace(SPEC, measured_in=precision), home, at_the_end=True)
        .query("measure.str.startswith('denoising')").groupby(["domain", "measure"])["value"].agg(["mean", "sem"])
        for precision in ("fp32", "bf16")
    )  # fmt: skip
    apart = (losses["mean"] - losses_in_half["mean"]).abs()
    assert ((apart > 0) & (apart <= 0.1 * losses["sem"])).all()


# The second edition's measures


@pytest.fixture(scope="module")
def painted_detector() -> fcos.Fcos:
    """An untrained second detector: what it finds is of no account, but the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fcos.Fcos(fcos.FcosConfig(score_threshold=0.05))


@pytest.fixture(scope="module")
def road_again(home, road, painted_detector) -> EvaluationSet:
    """The road as the second edition measures it."""
    again = partial(evaluation_sets._in_clips, partial(fcos.detect, painted_detector))
    return replace(road, edition=3, detect_again=again)


def test_the_second_edition_adds_rows_and_changes_none(road, road_again, measured):
    before, after = (measured(each, "real") for each in (road, road_again))
    new = {"motion_share", "motion_share_pseudo", "ade_second_detector_px", "recall_second_detector"}
    assert set(after["measure"]) - set(before["measure"]) == new
    kept = after[~after["measure"].isin(new)].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, before[kept.columns])


def test_real_clips_move_as_far_as_they_should_and_still_ones_hardly(road_again, measured):
    real, still = measured(road_again, "real"), measured(road_again, "still")
    assert of(real, "motion_share").item() == pytest.approx(1, abs=0.1)
    assert abs(of(still, "motion_share").item()) < 0.25
    for rows in (real, still):
        assert of(rows, "motion_share_pseudo").mean() == pytest.approx(of(rows, "motion_share").item(), abs=0.05)
        assert len(of(rows, "motion_share_pseudo")) == CLIPS


def test_the_second_detector_is_measured_by_the_rules_of_the_first(road, road_again, measured):
    same = replace(road, detect_again=road.detect)
    rows = measure(same, road.frames, CAP_PX).rows
    np.testing.assert_array_equal(of(rows, "ade_second_detector_px"), of(rows, "ade_px"))
    np.testing.assert_array_equal(of(rows, "recall_second_detector"), of(rows, "recall"))
    boxes = measure_boxes(same, same.extrapolated, CAP_PX, same.extrapolated_again)
    np.testing.assert_array_equal(of(boxes, "ade_second_detector_px"), of(boxes, "ade_px"))
    assert of(measured(road_again, "real"), "ade_second_detector_px").mean() > of(rows, "ade_px").mean()


def test_detectors_are_shipped_ones_named_by_their_digest(monkeypatch, tmp_path, painted_detector):
    folder = tmp_path / "detector-again"
    network_files.write(
        folder, network_files.weights_bytes(painted_detector), json.dumps({"detector": asdict(painted_detector.config)}), ""
    )
    digest = weights_digest(folder)
    shipped = weights_digest(WEIGHTS / "detector")
    assert evaluation_sets.detector_for(digest=shipped) is not None
    monkeypatch.setattr(shipped_weights, "WEIGHTS", tmp_path)
    evaluation_sets.second_detector_for.cache_clear()
    assert evaluation_sets.second_detector_for("") is None
    assert evaluation_sets.second_detector_for(digest) is not None
    evaluation_sets.detector_for.cache_clear()
    for detector_for in (evaluation_sets.second_detector_for, lambda digest: evaluation_sets.detector_for(digest=digest)):
        with pytest.raises(ValueError, match=rf"wants the detector {shipped}, but .* holds {digest} \(detector-again\)"):
            detector_for(shipped)
    evaluation_sets.second_detector_for.cache_clear()
