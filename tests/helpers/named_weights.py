"""Weights of the second edition that are nothing but their names, so that its presets are offered without its bases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from replaylab import shipped_weights
from replaylab.shipped_weights import base_folder
from replaylab.sweeps import presets
from replaylab.sweeps.presets import CONFIRMATORY, DETECTORS, EXPLORATORY, SECOND_BASES
from replaylab.worlds.named import domain_spec


def install(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Bases and the detectors in `folder`, and all presets; every domain has the settings of `driving`."""
    for module in (presets, shipped_weights):
        monkeypatch.setattr(module, "WEIGHTS", folder)
    bases = [base_folder(seed).name for seed in (0, 1, *SECOND_BASES)]
    bases += [base_folder(seed, "wan", part).name for seed in EXPLORATORY["scale"].bases for part in (1, 2, 4, 8)]
    for name in (*bases, *DETECTORS["second"], "detector", "videonet"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(f'"{name}"')
    for name, preset in (CONFIRMATORY | EXPLORATORY).items():
        monkeypatch.setitem(presets.PRESETS, name, preset)
    monkeypatch.setattr(
        presets, "domain_spec", lambda name, **changes: replace(domain_spec("driving"), name=name, **changes)
    )
