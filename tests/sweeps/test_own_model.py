"""A model and videos of one's own: from mp4 files and a tiny random pipeline to rows, figures and a page."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT, run
from tiny_detectors import tiny_detector
from tiny_families import FRAMES, SIDE, TINY
from tiny_videos import RATE, write_videos

from replaylab.cli.main import main
from replaylab.data.clips import clips_of
from replaylab.data.domain import open_domain
from replaylab.description import without_places
from replaylab.evaluation import evaluation_sets
from replaylab.models import families, pipelines
from replaylab.models.families import estimates
from replaylab.monitor import ForgettingMonitor, held_out
from replaylab.pages import explorer, sample_clips, your_model
from replaylab.spec import MachineSpec, RunSpec
from replaylab.store.row_tables import read_rows
from replaylab.sweeps import own_model
from replaylab.sweeps.own_settings import OPTIONS, PRESETS, Settings
from replaylab.training import fine_tuning, loop
from replaylab.util import networks

SETTINGS = Settings(
    FRAMES["wan"], 1, steps=4, batch_size=2, learning_rate=1e-3, lora_rank=2, sampler_steps=2, detector_threshold=0.05
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Wan, a tiny detector and two domains, made by the command."""
    folder = tmp_path_factory.mktemp("own")
    TINY["wan"](folder / "wan")
    tiny_detector("yolos", folder / "detector")
    for seed, name in enumerate(("driving", "kitchen")):
        write_videos(folder / f"{name}-videos", seed)
        assert (
            main([
                "domain", "add", "videos", str(folder / f"{name}-videos"), "--out", str(folder / name), "--name", name,
                "--size", str(SIDE["wan"]), "--frames-per-second", str(RATE), "--frames", str(FRAMES["wan"]),
                "--test", "0.5", "--dev", "0", "--processes", "1",
            ])
            == 0
        )  # fmt: skip
    return folder


def test_a_monitor_takes_clips_of_the_domains_to_be_kept(home: Path) -> None:
    adapter = families.load(home / "wan")
    kept = held_out(adapter, [home / "kitchen", home / "driving"], FRAMES["wan"], clips=2)
    assert {name: len(clips) for name, clips in kept.items()} == {"kitchen": 2, "driving": 2}
    found = ForgettingMonitor(kept, adapter)(0)
    assert found and set(found.loss) == {"kitchen", "driving"}
    with pytest.raises(ValueError, match="fewer than 99 frames"):
        held_out(adapter, [home / "kitchen"], 99)
    with pytest.raises(ValueError, match="two domains are named 'kitchen'"):
        held_out(adapter, [home / "kitchen", home / "kitchen"], FRAMES["wan"])


def grid(home: Path, fractions: tuple[float, ...] = (0.0, 0.5), **changes: Any) -> list[RunSpec]:
    return own_model.grid(str(home / "wan"), home / "driving", [home / "kitchen"], fractions, replace(SETTINGS, **changes))


@pytest.fixture(scope="module")
def table(home: Path) -> Any:
    return own_model.run(
        str(home / "wan"), home / "driving", [home / "kitchen"], [0, 0.5], SETTINGS,
        detector=str(home / "detector"), agents=["car=car", "person=pedestrian"], store=home / "store",
    )  # fmt: skip


def test_a_model_is_fine_tuned_with_and_without_replay_and_measured_beside_its_floors(home: Path, table: Any) -> None:
    assert list(table.runs["state"]) == ["done", "done"]
    assert list(table.runs["realised_replay_fraction"]) == [0, 0.5]
    rows = table.rows
    for model in ("real", "copy-last-frame", "autoencoder", "base", "fine-tuned"):
        of_model = rows[rows["model"] == model]
        assert set(of_model["domain"]) == {"driving", "kitchen"}
        assert {"effnet_kd", "ssim", "ade_px"} <= set(of_model["measure"])
    assert {"denoising_loss_0.25", "denoising_loss_0.75"} <= set(rows["measure"])
    assert set(rows.loc[rows["model"] == "fine-tuned", "step"]) == {1, 2, 4}
    assert rows.loc[(rows["model"] == "real") & (rows["measure"] == "ssim"), "value"].min() > 0.999
    assert not rows["measure"].str.contains("position_error|ego_|video_").any()  # no camera is known here


def test_called_again_it_reads(home: Path, table: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "fit", None)
    again = own_model.run(
        str(home / "wan"), home / "driving", [home / "kitchen"], [0, 0.5], SETTINGS,
        detector=str(home / "detector"), agents=["car=car", "person=pedestrian"], store=home / "store",
    )  # fmt: skip
    assert not again.runs["trained_now"].any() and len(again.rows) == len(table.rows)


def test_the_adapters_that_are_kept_give_the_rows_again(home: Path, table: Any) -> None:
    spec = table.specs[1]
    folder = table.store / spec.run_id
    assert (folder / "pytorch_lora_weights.safetensors").is_file() and not (folder / "transformer").exists()
    again, rows = fine_tuning.evaluate_again(folder, table.store), read_rows(folder)
    rows = rows[rows["step"] == spec.training.steps]
    assert np.allclose(again["value"], rows["value"], rtol=2**-10, atol=1e-2, equal_nan=True)


def test_figures_clips_and_words_come_from_the_rows(table: Any) -> None:
    assert your_model.domains(table) == ("driving", "kitchen")
    assert len(your_model.tradeoff(table).axes) == 2 and len(your_model.over_steps(table).axes) == 4
    html = your_model.measures_table(table).to_html()
    assert "replay 50 %" in html and "copy last frame" in html and "kitchen" in html
    assert your_model.summary(table).count("replay 50 %") == 2
    shown = sample_clips.main_sample_clips(table, "driving")
    assert {one.configuration for one in shown} == {"truth", "base", "replay 0 %", "replay 50 %"}
    assert all(one.context_frames == 1 and one.frames_per_second == RATE for one in shown)
    assert explorer.player(shown).data.count("<figure") == len(shown)


def test_a_large_clip_is_made_small_enough_for_a_page_and_its_error_stays(table: Any) -> None:
    small = sample_clips.main_sample_clips(table, "driving")[0]
    frames, scale = sample_clips._small(np.zeros((49, 480, 832, 3), np.uint8))
    assert frames.shape[1] <= 128 and frames.shape[0] * frames.shape[2] <= 16000 and scale == 3.75
    boxes = [[[2.0, 2.0, 6.0, 8.0]]] * len(small.frames)
    moved = [[[4.0, 2.0, 8.0, 8.0]]] * len(small.frames)
    one = replace(small, true_boxes=boxes, detected_boxes=moved, scale=3.75)
    assert sample_clips.ade_px(one) == pytest.approx(2 * 3.75)


def test_a_killed_run_ends_with_the_same_bits(home: Path, tmp_path: Path) -> None:
    """Low-rank adapters of a family are resumed as all weights are."""
    spec = grid(home)[1]

    def fitted(folder: Path, killed: bool) -> dict[str, torch.Tensor]:
        pipeline = pipelines.load(spec, home / "store")
        sources, mixture = fine_tuning.mixed_sources(pipeline, spec, home / "store")

        def stop(step: int) -> None:
            if killed:
                raise KeyboardInterrupt

        loop.fit(
            pipeline.model, sources, mixture, spec.training, 0, folder, "own", machine=MachineSpec(checkpoint_steps=1),
            evaluate_at=(2,), evaluate=stop,
        )  # fmt: skip
        return loop.full_state_dict(pipeline.model)

    whole = fitted(tmp_path / "whole", False)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "killed", True)
    resumed = fitted(tmp_path / "killed", False)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_is_named_by_what_it_is_and_not_by_where_that_lies(home: Path, tmp_path: Path) -> None:
    for name in ("wan", "driving", "kitchen"):
        shutil.copytree(home / name, tmp_path / name)
    here, there = grid(home), grid(tmp_path)
    assert [spec.run_id for spec in here] == [spec.run_id for spec in there]
    assert here[1].as_dict() != there[1].as_dict()
    assert without_places(here[1].as_dict()) == without_places(there[1].as_dict())
    assert RunSpec.from_dict(json.loads(json.dumps(here[1].as_dict()))) == here[1]
    (tmp_path / "kitchen" / "domain.json").write_text((tmp_path / "kitchen" / "domain.json").read_text() + "\n")
    assert grid(tmp_path)[1].run_id != here[1].run_id and grid(tmp_path)[0].run_id != here[0].run_id
    with pytest.raises(ValueError, match=r"domain\.json is not the one that the run was described with"):
        evaluation_sets.prepare_sets(there[0].evaluation, tmp_path, pipeline=pipelines.load(there[0], tmp_path))


def test_a_domains_own_prompt_is_heard(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "driving", tmp_path / "driving")
    about = json.loads((tmp_path / "driving" / "domain.json").read_text())
    (tmp_path / "driving" / "domain.json").write_text(json.dumps({**about, "prompt": "a car"}))
    own_prompt, none = (
        own_model.grid(str(home / "wan"), folder / "driving", [], [0.0], SETTINGS)[0] for folder in (tmp_path, home)
    )
    texts = []
    for spec in (own_prompt, none):
        pipeline = pipelines.load(spec, tmp_path)
        ready = fine_tuning._training_clips(pipeline, spec.target, tmp_path)
        texts.append(ready[0]["text"])  # type: ignore[call-overload]
    assert not torch.equal(*texts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda home: {"driving": home / "nowhere"}, "domain.json is missing"),
        (lambda home: {"driving": ""}, "driving is empty: name a domain's folder"),
        (lambda home: {"replay": [""]}, "replay is empty: name a domain's folder"),
        (lambda home: {"replay": []}, "name at least one domain to replay"),
        (lambda home: {"replay": [home / "driving"]}, "two domains are named 'driving'"),
        (lambda home: {"model": str(home / "driving")}, "model_index.json|no weights|missing"),
        (lambda home: {"settings": replace(SETTINGS, context_frames=7)}, "scenes with 9 frames; at least 20"),
    ],
)
def test_what_cannot_be_used_is_said_with_its_folder(
    home: Path, change: Callable[[Path], dict[str, Any]], words: str
) -> None:
    given = {
        "model": str(home / "wan"), "driving": home / "driving", "replay": [home / "kitchen"], "replay_fractions": [0, 0.5],
        "settings": SETTINGS,
    }  # fmt: skip
    with pytest.raises((ValueError, OSError), match=words):
        own_model.grid(**{**given, **change(home)})


def test_domains_of_another_size_or_rate_are_refused(home: Path, tmp_path: Path) -> None:
    assert (
        main([
            "domain", "add", "videos", str(home / "kitchen-videos"), "--out", str(tmp_path / "large"), "--size", "34x40",
            "--frames-per-second", str(RATE), "--frames", str(FRAMES["wan"]), "--test", "0.5", "--processes", "1",
        ])
        == 0
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"large: height_px is 34, but 32 in .*driving; make both"):
        own_model.grid(str(home / "wan"), home / "driving", [tmp_path / "large"], [0.5], SETTINGS)


def test_clips_that_the_family_does_not_take_are_refused(home: Path) -> None:
    with pytest.raises(ValueError, match=r"driving, 10 frames: Wan takes clips of n x 4 \+ 1 frames, not of 10"):
        grid(home, frames=10)
    spec = grid(home)[0]
    assert spec.model is not None
    spec = replace(spec, model=replace(spec.model, frames=10))
    with pytest.raises(ValueError, match=r"n x 4 \+ 1 frames, not of 10"):
        fine_tuning._training_clips(pipelines.load(spec, home), spec.target, home)


def test_all_that_can_be_known_is_refused_before_weights_are_read(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_weights(*given: Any, **settings: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(networks, "load", no_weights)
    monkeypatch.setattr(networks, "digest", no_weights)
    with pytest.raises(ValueError, match=r"wan is a WanByChannels, whose preset is 'wan' and not 'ltx'"):
        own_model.grid(str(home / "wan"), home / "driving", [], [0.0], SETTINGS, preset="ltx")
    TINY["cogvideox"](tmp_path / "cogvideox", cells=(60, 90))
    with pytest.raises(ValueError, match=r"driving, 9 frames: this CogVideoX .* make the domain with --size 480x720"):
        own_model.grid(str(tmp_path / "cogvideox"), home / "driving", [], [0.0], SETTINGS)
    TINY["svd"](tmp_path / "svd")
    with pytest.raises(ValueError, match=r"StableVideoDiffusion takes no text: leave out the prompt 'a car'"):
        own_model.grid(str(tmp_path / "svd"), home / "driving", [], [0.0], replace(SETTINGS, prompt="a car"))
    shutil.copytree(home / "driving", tmp_path / "driving")
    about = json.loads((tmp_path / "driving" / "domain.json").read_text())
    (tmp_path / "driving" / "domain.json").write_text(json.dumps({**about, "prompt": "a car"}))
    monkeypatch.undo()
    (spec,) = own_model.grid(str(tmp_path / "svd"), tmp_path / "driving", [], [0.0], SETTINGS, preset="svd")
    assert "its prompt is not used, since StableVideoDiffusion takes no text" in capsys.readouterr().err
    assert len(fine_tuning._training_clips(pipelines.load(spec, tmp_path), spec.target, tmp_path)) > 0


def test_the_estimate_counts_encoding_loading_and_both_predictions_of_guidance(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = grid(home)
    worlds = len({"driving", "kitchen"})
    measured = worlds * runs[0].evaluation.clips
    train = sum(len(clips_of(open_domain(home / name), "train", FRAMES["wan"])) for name in ("driving", "kitchen"))
    times = iter([99.0, 12.0, 12.0 + 2 * (fine_tuning.CLIPS_TO_TIME - 1)])  # 10 to load the encoders, and 2 a clip
    monkeypatch.setattr(fine_tuning, "_seconds", lambda work: next(times, 1.0))
    pipeline = pipelines.load(runs[0], tmp_path)
    assert fine_tuning._seconds_to_encode(pipeline, runs, tmp_path) == 2 * (train + measured) + 10 * 2 * worlds
    monkeypatch.setattr(fine_tuning, "_seconds_to_encode", lambda *_: 500.0)
    monkeypatch.setattr(fine_tuning, "_timed", lambda work: 1.0)
    monkeypatch.setattr(pipelines, "load", lambda *_: pipeline)
    plain = fine_tuning.estimate_seconds(runs, tmp_path)
    assert plain > 500
    guided = fine_tuning.estimate_seconds(grid(home, guidance=3.0), tmp_path)
    sampled = 3 / 3 / SETTINGS.batch_size * SETTINGS.sampler_steps * measured  # seconds, once
    times_sampled = sum(len(run.evaluate_at) for run in runs) + 1  # and the base
    assert guided - plain == pytest.approx(sampled * times_sampled, abs=1)


def test_other_weights_than_described_are_refused(home: Path, tmp_path: Path) -> None:
    spec = grid(home)[0]
    assert spec.model is not None
    with pytest.raises(ValueError, match="holds other weights"):
        pipelines.load(replace(spec, model=replace(spec.model, digest="0" * 16)), tmp_path)


def test_every_setting_is_an_option() -> None:
    assert [one.name for one in fields(Settings)] == list(OPTIONS)
    for name, (kind, _) in OPTIONS.items():
        assert kind(getattr(Settings.of("wan"), name)) == getattr(Settings.of("wan"), name)


def test_settings_are_a_presets_but_for_what_is_said() -> None:
    plain = Settings.of("wan")
    assert Settings.parse("wan", ["steps=7", "prompt=a car = fast"]) == replace(plain, steps=7, prompt="a car = fast")
    with pytest.raises(ValueError, match=r"'pace=3' is no NAME=VALUE .* learning_rate"):
        Settings.parse("wan", ["pace=3"])
    with pytest.raises(ValueError, match="none of wan"):
        Settings.of("sora")


def test_without_videos_the_command_says_what_each_preset_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimates, "estimate", None)  # nothing is counted, which takes half a minute
    assert main(["own", "--dry-run"]) == 0
    captured = capsys.readouterr()
    said = captured.out
    assert not captured.err
    assert all(f"{name}: " in said for name in PRESETS) and said.count("not run here") == len(PRESETS)
    assert main(["own"]) == 2


@pytest.mark.slow
def test_the_page_runs_under_papermill_with_a_model_and_videos_of_ones_own(home: Path, table: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.ipynb"
    changes = json.dumps([f"{name}={getattr(SETTINGS, name)}" for name in OPTIONS if name != "prompt"])
    command = [
        sys.executable, "-m", "papermill", "book/your_model.ipynb", str(out), "-p", "model", str(home / "wan"),
        "-p", "driving", str(home / "driving"), "-y", f"replay: ['{home / 'kitchen'}']", "-y", "replay_fractions: [0, 0.5]",
        "-y", f"settings: {changes}", "-p", "detector", str(home / "detector"),
        "-y", "agents: [car=car, person=pedestrian]", "-p", "store", str(home / "store"),
    ]  # fmt: skip
    run(command, ROOT)
    said = json.dumps(nbformat.read(out, as_version=4))
    assert "trained nothing" in said and "rl-player" in said and said.count('"image/svg+xml":') == 2
