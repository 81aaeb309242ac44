"""The video network: features of motion as well as looks, learnt from what is known, repeatable and never half written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replaylab.cli.main import build_parser
from replaylab.data import clips
from replaylab.data.domain import write_domain
from replaylab.data.video import write_video
from replaylab.metrics import video_network, video_network_training
from replaylab.metrics.network_files import FILES
from replaylab.metrics.video_network_training import LabelledVideos, labelled_videos
from replaylab.training import autoencoders, bases, instruments
from replaylab.util.files import sha256
from replaylab.worlds.build import build_domain
from replaylab.worlds.named import domain_spec

VIDEO_FRAMES = 8
MOTION_PX = {"left, fast": -4, "left, slow": -1, "right, fast": 4, "right, slow": 1}
KINDS = tuple(MOTION_PX)  # sorted, as `fit` numbers them


def moving(n: int, seed: int) -> LabelledVideos:
    """Videos of a bright square on a random ground, going left or right at one of two speeds; the camera stands."""
    rng = np.random.default_rng(seed)
    kinds = np.array([KINDS[i % len(KINDS)] for i in range(n)])
    frames = np.empty((n, VIDEO_FRAMES, 64, 64, 3), np.uint8)
    agents = np.zeros((n, VIDEO_FRAMES, 4, 4), np.float32)
    moved = np.full((n, VIDEO_FRAMES, 2, 4, 4), np.nan, np.float32)
    for video, kind in enumerate(kinds):
        ground = rng.integers(60, 120, (8, 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        step, y = MOTION_PX[kind], rng.integers(0, 52)
        first = rng.integers(2, 20) if step > 0 else rng.integers(34, 50)
        for frame in range(VIDEO_FRAMES):
            x = int(np.clip(first + step * frame, 0, 52))
            frames[video, frame] = ground
            frames[video, frame, y : y + 12, x : x + 12] = (240, 220, 60)
            at = (video, frame, (y + 6) // 16, (x + 6) // 16)
            agents[at] = 1
            if frame:
                moved[at[0], at[1], :, at[2], at[3]] = (step, 0)
    ego = np.zeros((n, VIDEO_FRAMES, 3), np.float32)
    ego[:, 0] = np.nan
    domains = np.array([kind.split(",")[0] for kind in kinds])
    return LabelledVideos(frames, domains, kinds, agents, moved, ego)


def short_fit(folder: Path, steps: int = 3, seed: int = 0, data: str = "Drawn squares", **others: Any) -> Any:
    arguments: dict[str, Any] = {
        "videos": moving(40, 1),
        "held_out": moving(8, 2),
        "checks": {name: moving(40, seed).frames[:, :5] for name, seed in (("squares", 3), ("others", 4))},
    }
    return video_network_training.fit(**(arguments | others), seed=seed, steps=steps, folder=folder, data=data, batch_size=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("videonet") / "deep" / "weights"
    return short_fit(folder, steps=60), folder


@pytest.fixture(scope="module")
def network(trained: tuple[Any, Path]) -> Any:
    """What ships, where it is there; else the one just trained: the properties are those of both."""
    return video_network.load() if (video_network.SHIPPED / "config.json").is_file() else trained[0]


def different(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How far each vector moved, in units of what sets two clips apart."""
    return np.asarray(np.linalg.norm(a - b, axis=1) / np.linalg.norm(a - a.mean(0), axis=1).mean())


# ------------------------------------------------------------------------------------------------------------ features
def test_each_clip_has_its_own_features_wherever_it_stands(network: Any) -> None:
    some = moving(11, 4).frames[:, :5]
    made = video_network.features(some, network=network)
    assert made.shape == (11, video_network.WIDTHS[-1]) and made.dtype == np.float32 and np.isfinite(made).all()
    order = np.random.default_rng(0).permutation(len(some))
    for batch_size in (1, 4, 50):
        again = video_network.features(some[order], batch_size, network)
        np.testing.assert_allclose(again, made[order], rtol=1e-3, atol=1e-4)
    assert video_network.features(some[:0], network=network).shape == (0, video_network.WIDTHS[-1])


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), order=st.sampled_from(video_network_training.SHUFFLES.tolist()))
def test_motion_is_in_the_features(network: Any, seed: int, order: list[int]) -> None:
    some = moving(8, seed).frames[:, :5]
    as_filmed = video_network.features(some, network=network)
    frozen = np.repeat(some[:, :1], 5, axis=1)
    for other in (some[:, order], some[:, ::-1], frozen):
        assert (different(as_filmed, video_network.features(other, network=network)) > 0.01).all()


def test_looks_are_in_the_features(network: Any) -> None:
    some = moving(8, 5).frames[:, :5]
    darker = (some // 2).astype(np.uint8)
    assert (different(*(video_network.features(each, network=network) for each in (some, darker))) > 0.01).all()


def test_it_tells_fast_from_slow_and_right_from_left(trained: tuple[Any, Path]) -> None:
    quality = video_network_training.measure(trained[0], moving(40, 6), KINDS)
    assert np.mean([each["kind"] for each in quality.values()]) > 0.75  # chance is 1/4
    assert np.mean([each["agents_f1"] for each in quality.values()]) > 0.5
    assert all(each["ahead_r2"] is None for each in quality.values())  # the camera stands still


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((2, 5, 64, 64, 3), np.float32), "clips: float32"),
        (np.zeros((2, 8, 64, 64, 3), np.uint8), r"clips: uint8 \(2, 8, .*the 5 frames after the context"),
        (np.zeros((2, 5, 32, 64, 3), np.uint8), r"\(2, 5, 32, 64, 3\)"),
        (np.zeros((5, 64, 64, 3), np.uint8), r"expected uint8 \(N, 5, 64, 64, 3\)"),
    ],
)
def test_other_clips_are_refused(network: Any, bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        video_network.features(bad, network=network)


# ------------------------------------------------------------------------------------------------------ what is taught
def of_all_orders(videos: LabelledVideos) -> Any:
    """The same window of one video, in each of ORDERS."""
    n = len(video_network_training.ORDERS)
    return video_network_training._batch(
        videos, KINDS, np.zeros(n, int), np.full(n, 1), np.arange(n), np.random.default_rng(0)
    )  # fmt: skip


def test_frames_come_in_the_order_that_the_label_says() -> None:
    videos = moving(1, 7)
    batch = of_all_orders(videos)
    window = videos.frames[0, 1:6]
    filmed, frozen, shuffled, reverse = batch.clips
    assert (filmed == window).all() and (reverse == window[::-1]).all()
    assert (frozen == frozen[:1]).all() and any((frozen[0] == frame).all() for frame in window)
    assert sorted(frame.tobytes() for frame in shuffled) == sorted(frame.tobytes() for frame in window)
    assert not (shuffled == window).all() and not (shuffled == window[::-1]).all()
    assert batch.orders.tolist() == [0, 1, 2, 3]


def test_labels_are_those_of_the_frames_shown_and_unknown_where_nothing_is_known() -> None:
    videos = moving(1, 7)
    videos.ego[:, 1:] = (1.0, 2.0, 3.0)
    batch = of_all_orders(videos)
    assert batch.kinds.tolist() == [KINDS.index(videos.kinds[0])] + [video_network_training.NO_KIND] * 3
    np.testing.assert_array_equal(batch.agents[0], videos.agents[0, 1:6])
    np.testing.assert_array_equal(batch.agents[3], videos.agents[0, 5:0:-1])
    assert np.isnan(batch.moved_px[:, 0]).all()  # nobody saw the frame before the first
    assert np.nansum(np.abs(batch.moved_px[0])) == 4 * abs(MOTION_PX[videos.kinds[0]])
    assert np.nansum(np.abs(batch.moved_px[1])) == 0 and np.isnan(batch.moved_px[2:]).all()
    np.testing.assert_array_equal(batch.ego, [[1, 2, 3], [0, 0, 0], [np.nan] * 3, [-1, -2, -3]])


def domain_on_disk(folder: Path) -> Any:
    """One video of a camera that drives in a circle, and two agents in one cell, the nearer of which counts."""
    frames, speed, yaw = 6, 2.0, 0.3
    heading = yaw * np.arange(frames) / 4
    x = np.concatenate([[0], np.cumsum(-np.sin(heading[:-1]) * speed / 4)])
    y = np.concatenate([[0], np.cumsum(np.cos(heading[:-1]) * speed / 4)])
    ego = pd.DataFrame({"video": "train-00000", "frame": range(frames), "x_m": x, "y_m": y, "heading_rad": heading,
                        "field_of_view_deg": 50.0, "camera_height_m": 1.0, "camera_pitch_rad": 0.0,
                        "event": "turning"})  # fmt: skip
    near = [{"agent": 0, "frame": f, "x0": 20 + 2.0 * f, "y0": 30 + f, "x1": 24 + 2.0 * f, "y1": 40 + f, "eligible": True}
            for f in range(3)]  # fmt: skip
    far = [{**row, "agent": 1, "x0": 18.0, "x1": 22.0, "y0": 33, "y1": 36} for row in near]
    gone = [{**near[0], "agent": 2, "frame": 5, "x0": 50, "x1": 60, "eligible": False}]
    others = {
        "video": "train-00000",
        "kind": "car",
        "x_m": 0.0,
        "y_m": 5.0,
        "heading_rad": 0.0,
        "road_m": 0.0,
        "visible": 1.0,
    }
    tracks = pd.DataFrame([others | row for row in near + far + gone])
    path = folder / "videos" / "train-00000.mp4"
    path.parent.mkdir(parents=True)
    write_video(path, moving(1, 8).frames[0, :frames], 4)
    videos = pd.DataFrame([{"file": path.name, "split": "train", "scene": "a", "frames": frames, "sha256": sha256(path)}])
    about = {"name": "circle", "frames_per_second": 4.0, "size_px": 64, "licence": "CC0-1.0", "made_by": "a test"}
    return write_domain(folder, about, videos, tracks, ego)


def test_what_is_known_comes_from_the_domains_truth(tmp_path: Path) -> None:
    known = labelled_videos(domain_on_disk(tmp_path / "circle"), "train", 10)
    assert (known.domains[0], known.kinds[0]) == ("circle", "circle, turning")
    assert known.frames.shape == (1, 6, 64, 64, 3)
    assert np.isnan(known.ego[0, 0]).all()
    np.testing.assert_allclose(known.ego[0, 1:], np.tile([0.0, 2.0, 0.3], (5, 1)), atol=1e-6)
    assert known.agents.sum() == 3 and known.agents[0, :3, 2, 1].all()
    assert np.isnan(known.moved_px[0, 0]).all()
    np.testing.assert_allclose(known.moved_px[0, 1:3, :, 2, 1], [[2, 1], [2, 1]])


def test_videos_of_several_domains_stand_one_after_the_other() -> None:
    parts = [moving(3, 1), moving(2, 2)]
    both = LabelledVideos.concatenated(parts)
    for field in dataclasses.fields(LabelledVideos):
        np.testing.assert_array_equal(getattr(both, field.name)[3:], getattr(parts[1], field.name))


# ------------------------------------------------------------------------------------------------------ files, repeating
def test_a_seed_repeats_itself_to_the_bit_and_another_differs(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    fits = (short_fit(tmp_path / str(i), seed=seed, checks={}) for i, seed in enumerate((0, 0, 1)))
    first, same, other = (network.state_dict() for network in fits)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["clip.weight"], other["clip.weight"])
    assert sha256(tmp_path / "0" / "model.safetensors") == sha256(tmp_path / "1" / "model.safetensors")
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_loaded_is_what_was_written(trained: tuple[Any, Path]) -> None:
    network, folder = trained
    some = moving(5, 9).frames[:, :5]
    again = video_network.load(folder)
    np.testing.assert_array_equal(video_network.features(some, network=network), video_network.features(some, network=again))
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    config = json.loads((folder / "config.json").read_text())
    described = video_network.extractor(folder)
    assert described.weights_sha256 == config["weights_sha256"] == sha256(folder / "model.safetensors")
    assert (described.frames, described.dimensions) == (5, video_network.features(some, network=network).shape[1])


def test_the_card_says_what_it_is_and_a_command_that_exists(trained: tuple[Any, Path]) -> None:
    card = (trained[1] / "README.md").read_text()
    for said in (
        "Drawn squares",
        "60 steps",
        "seed 0",
        "not FVD",
        "| squares | standing still |",
        "| others | real, but of squares |",
        "| left | 4 |",
    ):
        assert said in card
    (command,) = (line.split("`")[1] for line in card.splitlines() if line.startswith("- Made again by"))
    options = build_parser().parse_args(command.split()[3:])
    assert command.startswith("python -m replaylab ")
    assert instruments.COMMANDS[options.part] is instruments.train_video_network


def test_training_again_replaces_the_folder_but_nothing_else_is_replaced(tmp_path: Path) -> None:
    short_fit(tmp_path / "weights", steps=1, checks={})
    short_fit(tmp_path / "weights", steps=2, checks={})
    assert json.loads((tmp_path / "weights" / "config.json").read_text())["training"]["steps"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds no video network"):
        short_fit(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_what_cannot_be_learnt_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    strange = dataclasses.replace(moving(4, 2), kinds=np.array(["up, slow"] * 4))
    with pytest.raises(ValueError, match=r"held_out: 'up, slow' is not among the kinds .*left, fast"):
        short_fit(tmp_path / "weights", held_out=strange)
    with pytest.raises(ValueError, match=r"checks\['squares'\]: uint8"):
        short_fit(tmp_path / "weights", checks={"squares": moving(40, 3).frames})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_missing_weights_are_named_with_the_remedy(trained: tuple[Any, Path], tmp_path: Path, missing: str) -> None:
    for name in FILES - {missing}:
        (tmp_path / name).write_bytes((trained[1] / name).read_bytes())
    for use in (video_network.load, video_network.extractor):
        with pytest.raises(FileNotFoundError, match=rf"{tmp_path}: no {missing}.*python -m replaylab pretrain videonet"):
            use(tmp_path)


def test_truncated_or_exchanged_weights_are_refused(trained: tuple[Any, Path], tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes((trained[1] / name).read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{tmp_path}: not a video network .*sha256.*pretrain videonet"):
        video_network.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"weights_sha256": sha256(weights), "kinds": ["a"]}))
    with pytest.raises(ValueError, match="not a video network of this version"):
        video_network.load(tmp_path)


def test_weights_without_their_checksum_are_refused(trained: tuple[Any, Path], tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_bytes((trained[1] / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    del config["weights_sha256"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"not a video network .*weights_sha256"):
        video_network.load(tmp_path)


# ---------------------------------------------------------------------------------------------- what ships, and its making
@pytest.mark.slow
def test_the_command_runs_through_in_small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    near = domain_spec("near", videos=(6, 2, 0), seed=100)  # that is all kinds that the two show
    driving = domain_spec("driving", videos=(0, 40, 0))
    monkeypatch.setattr(bases, "BASE_DOMAINS", (near,))
    monkeypatch.setattr(autoencoders, "TARGET_LOOKS", ())
    monkeypatch.setattr(instruments, "VIDEONET_CHECKS", (driving,))
    instruments.train_video_network(tmp_path / "home", tmp_path / "weights", steps=2)
    card = (tmp_path / "weights" / "README.md").read_text()
    for said in ("near (6 videos", "| near | 2 |", "| driving | real, other scenes |"):
        assert said in card
    domain = build_domain(driving, tmp_path / "home" / "domains")
    some = np.stack(list(clips.read(domain, clips.clips_of(domain, "dev", 5)[:3], 5)))
    assert np.isfinite(video_network.features(some, network=video_network.load(tmp_path / "weights"))).all()


@pytest.mark.skipif(not video_network.SHIPPED.is_dir(), reason="the video network is not shipped yet")
def test_what_ships_is_whole_small_and_carded() -> None:
    video_network.load()  # compares the weights with their recorded digest
    assert (video_network.SHIPPED / "model.safetensors").stat().st_size < 2e6
    card = (video_network.SHIPPED / "README.md").read_text()
    assert video_network.extractor().weights_sha256 in card and "python -m replaylab pretrain videonet" in card
    for spec in (*bases.BASE_DOMAINS, *autoencoders.TARGET_LOOKS):
        assert f"| {spec.name} |" in card


@pytest.mark.skipif(not video_network.SHIPPED.is_dir(), reason="the video network is not shipped yet")
def test_what_ships_orders_known_damage() -> None:
    told = json.loads((video_network.SHIPPED / "config.json").read_text())["training"]["responses"]
    for sets in told.values():
        kernel = {what: values["kernel"] for what, values in sets.items()}
        real = kernel.pop("real, other scenes")
        assert all(value > real for value in kernel.values())
        assert kernel["blurred by 0.5 px"] < kernel["blurred by 1 px"] < kernel["blurred by 2 px"]
