"""The doctor says what is there and what to do about what is not, and changes nothing."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from replaylab.cli.main import main
from replaylab.models.families import estimates, presets
from replaylab.sweeps import doctor


def test_it_goes_from_the_interpreter_to_the_next_step_in_one_screen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--not-timed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Python ") and lines[-1].startswith("next ")
    shown = {line.split()[0] for line in lines}
    assert shown >= {"packages", "extras", "processor", "memory", "disk", "GPU", "video", "compiler", "SLURM", "own"}
    assert len(lines) <= 24 and max(map(len, lines)) <= 160


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--folder", "/no/such/folder"]) == 2
    assert "--folder /no/such/folder" in capsys.readouterr().err


def test_what_an_extra_lacks_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    there = doctor.version
    monkeypatch.setattr(doctor, "version", lambda name: None if name in ("hypothesis", "pytest") else there(name))
    whole, *partly = doctor.extras()
    (dev,) = [line for line in partly if line.name == "  dev"]
    assert "pytest, hypothesis" in dev.found and "pip install 'replaylab[dev]'" in dev.advice and "dev" not in whole.found


@pytest.mark.parametrize(("free_gb", "enough"), [(4.0, False), (6.0, True)])
def test_a_disk_that_is_nearly_full_is_told(free_gb: float, enough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(100e9, 0, free_gb * doctor.GB))
    assert (doctor.disk().advice == "") == enough and f"{free_gb:.0f} GB free" in doctor.disk().found


@pytest.mark.parametrize(
    ("script", "found", "advice"),
    [
        ("echo long; echo short; echo long", "partitions long, short (--cluster slurm)", ""),
        ("echo no controller >&2; exit 1", "sbatch is there, but no controller answers", "sinfo: no controller"),
    ],
)
def test_slurm_is_asked_for_its_partitions(
    script: str, found: str, advice: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("sbatch", "sinfo"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert (doctor.cluster().found, doctor.cluster().advice) == (found, advice)
    monkeypatch.setenv("PATH", "")
    assert doctor.cluster().found.startswith("none")


@pytest.mark.parametrize(("gpu_gb", "verdict"), [(10, "does not fit this GPU"), (30, "fits")])
def test_an_own_model_fits_a_gpu_that_has_its_memory(gpu_gb: int, verdict: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    card = namedtuple("card", "total_memory")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card(gpu_gb * doctor.GB))
    monkeypatch.setattr(estimates, "estimate", None)  # they were counted once, and that takes seconds
    verdicts = {line.name: line.found.rpartition(": ")[2] for line in doctor.own_models()}
    assert verdicts.keys() == {f"own {name}" for name in presets.PRESETS} and verdicts["own ltx"] == verdict
