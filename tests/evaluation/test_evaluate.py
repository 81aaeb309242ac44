"""References are measured once, whoever else wants them."""

import threading
import time

from replaylab.evaluation import evaluate
from replaylab.spec import EvaluationSpec
from replaylab.store import ReferenceSpec, Store


def test_references_that_two_want_at_once_are_measured_once(tmp_path, monkeypatch):
    measured = []

    def measure(spec, store, folder, base):
        measured.append(spec)
        time.sleep(0.3)
        (folder / "summary.json").write_text("{}")

    monkeypatch.setattr(evaluate, "_measure_references", measure)
    monkeypatch.setattr(evaluate.pipelines, "load", lambda spec, store: None)
    spec = ReferenceSpec("a base", EvaluationSpec((), "dev", 2, 2))
    found = []
    both = [threading.Thread(target=lambda: found.append(evaluate.references(spec, tmp_path))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(60)
    assert found == [{}, {}] and Store(tmp_path).is_done(spec)
    assert measured == [spec]
    assert not list(tmp_path.glob(".*"))
