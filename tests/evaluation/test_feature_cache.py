"""Is what was computed from real clips computed once, and never read for anything else?"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from replaylab.data.clips import Clip
from replaylab.data.domain import Domain
from replaylab.evaluation.feature_cache import FeatureCache
from replaylab.spec import EvaluationSpec

CLIPS = [Clip("a", "scene a", 0), Clip("b", "scene b", 2)]


def domain(**checksums: str) -> Domain:
    videos = pd.DataFrame([{"file": f"{name}.mp4", "sha256": checksum} for name, checksum in checksums.items()])
    return Domain(None, "made up", 4.0, 64, 64, videos, {})  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path):
    return FeatureCache.of(tmp_path, domain(a="0" * 64, b="1" * 64), CLIPS, 8)


def never():
    raise AssertionError("computed again")


def test_arrays_come_back_as_they_were_in_whatever_order_they_lie_in_memory(cache):
    made = {"plain": np.arange(6.0), "turned": np.arange(24, dtype=np.float16).reshape(2, 3, 4).transpose(2, 0, 1)}
    first, second = cache.arrays("some", lambda: made), cache.arrays("some", never)
    for name, array in made.items():
        for kept in (first[name], second[name]):
            assert kept.dtype == array.dtype and np.array_equal(kept, array), name


def test_tables_come_back_as_they_were(cache):
    table = pd.DataFrame({"clip": [0, 1], "kind": ["car", "ball"], "eligible": [True, False]}, index=[3, 3])
    cache.table("tracks", lambda: table)
    pd.testing.assert_frame_equal(cache.table("tracks", never), table)


def test_another_video_start_length_or_computation_is_not_read(cache, tmp_path):
    cache.arrays("some", lambda: {"features": np.zeros(1)})
    others = [
        FeatureCache.of(tmp_path, domain(a="0" * 64, b="2" * 64), CLIPS, 8),
        FeatureCache.of(tmp_path, domain(a="0" * 64, b="1" * 64), [CLIPS[0], replace(CLIPS[1], start=4)], 8),
        FeatureCache.of(tmp_path, domain(a="0" * 64, b="1" * 64), CLIPS[::-1], 8),
        FeatureCache.of(tmp_path, domain(a="0" * 64, b="1" * 64), CLIPS, 9),
    ]
    for number, (other, what) in enumerate([*((other, "some") for other in others), (cache, "others")], 1):
        made = other.arrays(what, lambda number=number: {"features": np.full(1, number)})
        assert made["features"] == number


def test_an_edition_of_other_measures_does_not_read_those_of_this_one(cache, tmp_path, monkeypatch):
    cache.arrays("some", lambda: {"features": np.zeros(1)})
    monkeypatch.setattr(EvaluationSpec, "edition", EvaluationSpec.edition + 1)
    later = FeatureCache.of(tmp_path, domain(a="0" * 64, b="1" * 64), CLIPS, 8)
    assert later.arrays("some", lambda: {"features": np.ones(1)})["features"] == 1


@pytest.mark.parametrize("left", [0, 5, 60])
def test_a_file_that_was_cut_short_is_computed_again(cache, tmp_path, left, capsys):
    made = {"features": np.arange(10.0)}
    cache.arrays("some", lambda: made)
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:left])
    assert np.array_equal(cache.arrays("some", lambda: made)["features"], made["features"])
    assert capsys.readouterr().err.count(f"{path} is damaged") == 1
    assert np.array_equal(cache.arrays("some", never)["features"], made["features"])


def test_what_cannot_be_computed_leaves_nothing(cache, tmp_path):
    with pytest.raises(AssertionError):
        cache.arrays("some", never)
    assert not list(tmp_path.glob("*.safetensors"))
