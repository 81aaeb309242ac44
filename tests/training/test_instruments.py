"""The trainings of the detectors run through in small, and their cards say what was measured."""

import dataclasses
from functools import partial

import pytest

from replaylab.training import instruments

SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("train", "seed"),
    [
        (partial(instruments.train_detector, seed=0), 0),
        pytest.param(partial(instruments.train_detector, seed=2), 2, marks=SLOW),
        pytest.param(instruments.train_second_detector, 2, marks=SLOW),
    ],
)
def test_a_detectors_card_tells_every_look_real_autoencoded_and_blurred(train, seed, monkeypatch, tmp_path):
    specs = tuple(dataclasses.replace(spec, videos=(3, 4, 0)) for spec in instruments.detector_domains(seed)[-3:])
    monkeypatch.setattr(instruments, "detector_domains", lambda seed: specs)
    train(tmp_path / "home", tmp_path / "detector", steps=2)
    card = (tmp_path / "detector" / "README.md").read_text()
    for spec in specs:
        for how in ("real", "autoencoded", *(f"blurred by {blur:g} px" for blur in instruments.BLURS_PX[1:])):
            assert f"| {spec.name}, {how} |" in card


def test_a_detector_without_a_recipe_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no detector has the seed 1: there are 0 and 2"):
        instruments.train_detector(tmp_path, seed=1)
    assert {spec.world for spec in instruments.detector_domains(0)} == {"traffic", "country"}
    assert {spec.world for spec in instruments.detector_domains(2)} == {"traffic", "country", "sumo"}
