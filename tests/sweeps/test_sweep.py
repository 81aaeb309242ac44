"""The whole path in small: a real sweep of the smoke preset, once, and what may go wrong with a store."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import light_runs
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import without_estimates

from replaylab.catalogue import PUBLISHED
from replaylab.cli import training
from replaylab.cli.main import build_parser, main
from replaylab.pages import verdicts
from replaylab.spec import MachineSpec
from replaylab.store import ReferenceSpec, Store, check_store, claim, packing, store_of
from replaylab.sweeps import sweep
from replaylab.sweeps.cluster import ClusterSpec
from replaylab.sweeps.presets import PRESETS, grid
from replaylab.training import fine_tuning
from replaylab.util.files import sha256


def test_every_run_is_done_with_the_replay_that_was_asked_for(swept):
    assert (swept.runs["state"] == "done").all() and swept.runs["trained_now"].all()
    assert swept.runs["realised_replay_fraction"].tolist() == swept.runs["replay_fraction"].tolist() == [0.0, 0.5]


def test_floors_stand_beside_every_measure(swept):
    boxes_alone = set(swept.rows.loc[swept.rows["model"] == "constant-velocity", "measure"])
    assert {"ade_px", "recall", "displacement_slope"} <= boxes_alone
    for (domain, measure), rows in swept.rows.groupby(["domain", "measure"]):
        wanted = {"base", "fine-tuned"}
        if not measure.startswith("denoising_loss"):  # which only models have
            wanted |= {"autoencoder", "copy-last-frame"} | ({"real"} if measure != "psnr_db" else set())
        wanted |= {"constant-velocity"} if measure in boxes_alone else set()
        assert set(rows["model"]) == wanted, (domain, measure)
    assert set(swept.rows["domain"]) == {"driving", "driving-eventful", "near"}
    assert set(swept.rows["split"]) == {"dev"}


def test_rows_are_one_a_clip_measure_and_step(swept):
    clips = swept.rows[swept.rows["video"] != ""]
    assert not clips.duplicated(["run", "model", "step", "domain", "video", "start", "measure"]).any()
    counts = clips.groupby(["run", "model", "step", "domain", "measure"]).size()
    assert set(counts) == {8}
    assert set(swept.rows.loc[swept.rows["model"] == "fine-tuned", "step"]) == {2, 4}


def test_nothing_is_evaluated_on_a_scene_of_the_reference_set_or_of_training(swept):
    from replaylab.data import clips as clips_module
    from replaylab.worlds.build import build_domain

    spec = swept.specs[0]
    trained = build_domain(spec.target, swept.store / "domains")
    domain = build_domain(spec.evaluation.domains[0], swept.store / "domains")
    scenes = clips_module.one_per_scene(clips_module.clips_of(domain, "dev", 8))
    evaluated = set(swept.rows.loc[(swept.rows["domain"] == "driving") & (swept.rows["scene"] != ""), "scene"])
    assert evaluated == {clip.scene for clip in scenes[: spec.evaluation.clips]}
    assert not evaluated & set(trained.split("train")["scene"])


def test_capped_errors_never_exceed_the_cap(swept):
    errors = swept.rows.loc[swept.rows["measure"].isin(["ade_px", "fde_px"]), "value"].dropna()
    assert errors.between(0, swept.specs[0].evaluation.miss_cap_px).all()


def test_trained_runs_are_compared_with_the_published_weights(swept, tmp_path, capsys):
    run, other = (spec.run_id for spec in swept.specs[:2])
    packing.publish(swept.store, tmp_path / "published", {})
    published, weights = Store(tmp_path / "published"), "transformer/diffusion_pytorch_model.safetensors"
    assert published.weights_sha256(run) == sha256(swept.store / run / weights) != published.weights_sha256(other)
    for name, words in ((run, "1 of 1 published run ended in the same weights, to the bit\n"), (other, f"; not {other}: ")):
        shutil.copytree(swept.store / run, tmp_path / "runs" / name)
        sweep._compare_weights([name, "not published"], Store(tmp_path / "runs"), published)
        assert words in capsys.readouterr().err
    (tmp_path / "published" / "runs.parquet").write_bytes(b"no table")
    sweep._compare_weights([run], Store(tmp_path / "runs"), published)
    assert "not compared" in (said := capsys.readouterr().err) and "runs.parquet" in said


def test_the_summary_says_where_the_numbers_came_from(swept):
    summary = Store(swept.store).summary(swept.specs[1].run_id)
    assert summary["realised_samples"] == {"driving": 8, "near": 8}
    assert {"git_commit", "packages", "machine", "seconds", "execution"} <= set(summary)


def test_run_again_trains_nothing_and_says_so(swept, capsys, monkeypatch):
    from replaylab.training import fine_tuning

    monkeypatch.setattr(fine_tuning, "train_one", lambda *_: pytest.fail("trained again"))
    again = sweep.run("smoke", store=swept.store)
    assert "trained nothing" in capsys.readouterr().err
    assert not again.runs["trained_now"].any()
    pd.testing.assert_frame_equal(again.rows, swept.rows)


def test_a_table_of_some_measures_holds_the_same_rows_of_them_and_all_runs(swept):
    few = sweep.run("smoke", store=swept.store, measures=verdicts.SHOWN)
    kept = swept.rows["measure"].isin(verdicts.SHOWN)
    assert 0 < kept.mean() < 0.7
    pd.testing.assert_frame_equal(few.rows, swept.rows[kept].reset_index(drop=True))
    pd.testing.assert_frame_equal(few.runs.drop(columns="trained_now"), swept.runs.drop(columns="trained_now"))


@pytest.mark.slow
def test_the_same_spec_gives_the_same_rows(swept, tmp_path):
    references = ReferenceSpec.of(swept.specs[1]).run_id  # of no model that was trained
    (tmp_path / references).symlink_to(swept.store / references)
    with without_estimates():
        again = sweep.run("smoke", [0.5], store=tmp_path)
    key = ["model", "step", "domain", "video", "measure"]
    one, other = (table.rows[table.rows["run"] == swept.specs[1].run_id].sort_values(key) for table in (swept, again))
    assert np.array_equal(one["value"].to_numpy(), other["value"].to_numpy(), equal_nan=True)


def test_a_run_folder_with_another_spec_is_refused(swept, tmp_path):
    spec = swept.specs[0]
    folder = claim(spec, tmp_path)
    path = folder / "spec.json"
    path.write_text(json.dumps({**spec.as_dict(), "seed": 8}))
    (folder / "summary.json").write_text("{}")
    with pytest.raises(ValueError, match=r"spec\.json is not the spec.*seed.*8 there, 0 wanted"):
        sweep.run("smoke", store=tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"spec\.json cannot be read"):
        sweep.run("smoke", store=tmp_path)


def test_a_store_can_be_looked_at_by_several_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(check_store, tmp_path) for _ in range(200)]:
            done.result()
    assert not list(tmp_path.iterdir())


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="file/store cannot be written"):
        sweep.run("smoke", store=tmp_path / "file" / "store")


def test_a_failed_run_is_a_row_with_its_reason_and_the_others_go_on(swept, tmp_path, monkeypatch):
    from replaylab.training import fine_tuning

    honest = fine_tuning.train_one

    def failing(plain, store, machine):
        if plain["replay"]["fraction"] == 0:
            raise FloatingPointError("the loss of step 3 is nan")
        return honest(plain, swept.store, machine)

    monkeypatch.setattr(fine_tuning, "train_one", failing)
    with without_estimates():
        table = sweep.run("smoke", store=tmp_path)
    assert table.runs["state"].tolist() == ["failed", "missing"]
    assert table.runs["reason"][0] == "FloatingPointError: the loss of step 3 is nan"
    assert "Traceback" in (tmp_path / table.runs["run"][0] / "failed.txt").read_text()


def test_no_clips_in_a_split_is_one_clear_error(swept):
    from replaylab.evaluation import evaluation_sets

    evaluation = swept.specs[0].evaluation
    with pytest.raises(ValueError, match=r"driving.*no clips in split 'test'"):
        evaluation_sets.prepare_sets(replace(evaluation, split="test"), swept.store)
    with pytest.raises(ValueError, match=r"has 16 scenes, but 9 clips .* 8 reference clips"):
        evaluation_sets.prepare_sets(replace(evaluation, clips=9), swept.store)


def test_unknown_clusters_are_refused():
    with pytest.raises(ValueError, match="inline, local, slurm"):
        sweep.run("smoke", cluster="cloud")


def test_the_published_store_is_only_read(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "_toc.yml").write_text("")
    (tmp_path / "book" / "03_replay_sweep.ipynb").write_text("")
    table = sweep.run("published")
    assert (table.runs["state"] == "missing").all()
    assert "name a store of your own" in capsys.readouterr().err
    assert not (tmp_path / "book" / "results").exists()


@pytest.mark.slow
def test_submitit_trains_the_same_bits_in_other_processes(light, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "grid", light_runs.grid)
    mine = sweep.read("smoke", store=light)
    for shared in ("domains", ReferenceSpec.of(mine.specs[0]).run_id):
        os.symlink(light / shared, tmp_path / shared)
    theirs = sweep.run("smoke", cluster="local", store=tmp_path)
    assert (theirs.runs["state"] == "done").all(), theirs.runs["reason"].tolist()
    fine_tuned = [t.rows[t.rows["model"] == "fine-tuned"].reset_index(drop=True) for t in (mine, theirs)]
    assert len(fine_tuned[0])
    pd.testing.assert_frame_equal(*fine_tuned)


@pytest.mark.slow
def test_with_the_budget_of_driving_samples_more_replay_trains_for_longer(light, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "grid", light_runs.grid)
    assert main(["sweep", "--preset", "smoke", "--store", str(light), "--budget", "driving-samples"]) == 0
    assert "replay 50 %" in capsys.readouterr().out
    table = sweep.run("smoke", store=light, budget="driving-samples")
    assert [spec.training.steps for spec in table.specs] == [4, 8]
    driving = [Store(light).summary(run)["realised_samples"]["driving"] for run in table.runs["run"]]
    assert driving == [16, 16]


def test_references_are_shared_by_the_whole_grid():
    assert len({ReferenceSpec.of(spec).run_id for spec in grid("quick")}) == 1


def run_cli(*arguments):
    return subprocess.run([sys.executable, "-m", "replaylab", *arguments], capture_output=True, text=True)


def test_the_command_line_lists_its_verbs_and_shows_the_sweep(swept, capsys):
    shown = run_cli("--help").stdout
    assert all(verb in shown for verb in ("worlds", "pretrain", "train", "evaluate", "sweep"))
    done = run_cli("sweep", "--preset", "smoke", "--store", str(swept.store))
    assert done.returncode == 0 and "ade_px" in done.stdout and swept.specs[0].run_id in done.stdout
    assert main(["sweep", "--preset", "smoke", "--store", str(swept.store), "--headline"]) == 0
    assert len(capsys.readouterr().out.strip().splitlines()) == 1


def test_the_command_line_says_what_is_wrong_in_a_sentence(tmp_path):
    done = run_cli("train", "--preset", "smoke", "--replay-fraction", "1.5", "--store", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("replaylab: replay_fraction is 1.5")


def test_pretraining_refuses_what_it_would_not_heed(tmp_path, capsys):
    for option in (["--large"], ["--family", "cogvideox"], ["--precision", "bf16"]):
        assert main(["pretrain", "detector", "--home", str(tmp_path), *option]) == 2
        assert "detector does not take" in capsys.readouterr().err


def test_a_finished_run_is_measured_again_with_the_same_result(swept):
    from replaylab.training import fine_tuning

    spec = swept.specs[1]
    again = fine_tuning.evaluate_again(swept.store / spec.run_id, swept.store)
    rows = swept.rows[(swept.rows["run"] == spec.run_id) & (swept.rows["step"] == spec.training.steps)]
    # on disk are twelve binary digits
    assert np.allclose(again["value"], rows["value"], rtol=2**-12, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(("load", "told"), [(0.4, False), (8.0, True)])
def test_an_estimate_says_that_the_machine_was_busy(load, told, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "estimate_seconds", lambda *_: 90.0)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    said = sweep.estimate(grid("smoke"), tmp_path, grid("smoke"), "inline", ClusterSpec())
    assert "Estimated: 2 min, timed on this machine" in said
    assert (f"other work (load {load:.1f} on 2 cores)" in said) == told


def test_runs_side_by_side_are_estimated_in_rounds(tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tuning, "estimate_seconds", lambda *_: 900.0)
    specs, machine = grid("quick"), MachineSpec(threads=1)
    for at_once, minutes in ((1, 15), (2, 10), (3, 5), (8, 5)):
        said = sweep.estimate(specs, tmp_path, specs, "local", ClusterSpec(runs_at_once=at_once), machine)
        assert said.startswith(f"Estimated: {minutes} min, {min(at_once, 3)} at once, timed on this machine")
        assert said.endswith("; 0.2 core hours")
    said = sweep.estimate(specs, tmp_path, specs, "local", ClusterSpec(cpus_per_task=2, runs_at_once=1), machine)
    assert said.endswith("; 0.5 core hours")


def test_a_run_is_estimated_from_finished_ones_of_its_preset_with_other_seeds_and_fractions(swept, capsys, monkeypatch):
    monkeypatch.setattr(fine_tuning, "estimate_seconds", lambda *_: pytest.fail("a step is timed, though runs are done"))
    sweep.run("smoke", [0.25], [3], store=swept.store, dry_run=True)
    assert f"from the {len(swept.specs)} that are done (1 runs, 4 steps)" in capsys.readouterr().err


def test_a_wrong_cluster_is_refused_where_nothing_would_be_trained_too():
    with pytest.raises(ValueError, match="cluster 'cloud' is none of inline, local, slurm"):
        sweep.run("published", cluster="cloud")


def test_presets_of_published_runs_are_executed_as_those_were():
    runs = pd.read_parquet(store_of("published", "") / "runs.parquet", columns=["preset", "summary"])
    for name, summary in runs[runs["preset"].isin(PUBLISHED)].itertuples(index=False):
        execution = json.loads(summary)["execution"]
        own = PRESETS[name].execution
        assert (own.precision, own.threads) == (execution["precision"], execution["threads"]), name


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], ("bf16", 1)),
        (["--precision", "fp32"], ("fp32", 1)),
        (["--threads", "2"], ("bf16", 2)),
        (["--precision", "auto", "--threads", "0"], ("auto", 0)),
    ],
)
def test_the_plain_command_executes_as_its_preset_and_options_go_over_it(words, wanted):
    options = build_parser().parse_args(["sweep", "--preset", "dose", *words])
    machine = training.machine_of(options)
    assert (machine.precision, machine.threads) == wanted


def test_a_run_has_the_threads_of_its_machine_and_leaves_others_theirs(tmp_path, monkeypatch):
    before, seen = torch.get_num_threads(), []
    monkeypatch.setattr(fine_tuning, "_train_one", lambda *_: seen.append(torch.get_num_threads()))
    for threads in (before + 1, 0):
        fine_tuning.train_one(grid("smoke")[0].as_dict(), tmp_path, MachineSpec(threads=threads).as_dict())
    assert [*seen, torch.get_num_threads()] == [before + 1, before, before]
