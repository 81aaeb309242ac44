"""References are measured once, whoever else wants them."""

import threading
import time
from dataclasses import replace

import pandas as pd
import pytest

from replaylab.evaluation import evaluate, measurement
from replaylab.models import pipelines
from replaylab.shipped_weights import base_folder, weights_digest
from replaylab.spec import EvaluationSpec
from replaylab.store import ReferenceSpec, Store, claim
from replaylab.util.files import locked


def test_references_that_two_want_at_once_are_measured_once(tmp_path, monkeypatch):
    measured = []

    def measure(spec, store, folder, base):
        measured.append(spec)
        time.sleep(0.3)
        (folder / "summary.json").write_text("{}")

    monkeypatch.setattr(evaluate, "_measure_references", measure)
    monkeypatch.setattr(evaluate.pipelines, "load", lambda spec, store: None)
    spec = ReferenceSpec("a base", EvaluationSpec((), "dev", 2, 2))
    both = [threading.Thread(target=evaluate.references, args=(spec, tmp_path)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    assert Store(tmp_path).is_done(spec)
    assert measured == [spec]
    assert not list(tmp_path.glob(".*"))


def test_a_run_need_not_wait_for_references_and_keeps_the_same_clips(swept, tmp_path, monkeypatch):
    spec = ReferenceSpec.of(swept.specs[0])
    there = Store(swept.store).gallery_clips(spec.run_id)
    base = pipelines.load(spec, swept.store)
    for shared in ("domains", "latents"):
        (tmp_path / shared).symlink_to(swept.store / shared)
    with locked(claim(spec, tmp_path)):
        evaluate.references(spec, tmp_path, wait=False)  # another process has the lock
        assert not Store(tmp_path).is_done(spec)
        assert evaluate.gallery_of(spec, tmp_path, base) == there
    monkeypatch.setattr(measurement, "measure", lambda *_, **__: pytest.fail("copy-last-frame is measured twice"))
    assert evaluate.gallery_of(spec, tmp_path, base) == there


def test_what_no_base_has_a_part_in_is_measured_once_for_all_bases(swept, monkeypatch):
    """The first edition's bases share their autoencoder."""
    first = ReferenceSpec.of(swept.specs[0])
    other = replace(first, base=weights_digest(base_folder(1)))
    measured = []

    def measure(*args, **options):
        measured.append(1)
        return measuring(*args, **options)

    measuring = measurement.measure
    monkeypatch.setattr(measurement, "measure", measure)
    evaluate.references(other, swept.store)
    domains = len(first.evaluation.domains) + len(first.evaluation.at_the_end)
    assert len(measured) == 2 * domains  # real clips, and the base's
    before, after = (Store(swept.store).rows([spec.run_id]).set_index("model") for spec in (first, other))
    for model in ("copy-last-frame", "autoencoder", "constant-velocity", "real"):
        one, two = (rows.loc[model].drop(columns=["run", "base"]).reset_index(drop=True) for rows in (before, after))
        pd.testing.assert_frame_equal(one, two)
    assert not before.loc["base", "value"].equals(after.loc["base", "value"])
    assert Store(swept.store).gallery_clips(first.run_id) == Store(swept.store).gallery_clips(other.run_id)


def test_clips_are_kept_of_what_is_measured_after_the_last_step_only_too(swept):
    evaluation = swept.specs[0].evaluation
    one, two, *_ = evaluation.domains
    spec = replace(ReferenceSpec.of(swept.specs[0]), evaluation=replace(evaluation, domains=(one,), at_the_end=(two,)))
    evaluate.references(spec, swept.store)
    gallery = Store(swept.store).gallery_clips(spec.run_id)
    assert {name: len(clips) for name, clips in gallery.items()} == {
        world.name: evaluation.kept_clips for world in (one, two)
    }
    kept = Store(swept.store).samples([spec.run_id])
    assert {*zip(kept["domain"], kept["model"], strict=True)} == {
        (world.name, model) for world in (one, two) for model in ("real", "base")
    }
