"""A monitor of forgetting in real loops: it leaves them as they are, says what evaluation says, and costs what it may."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import require_or_skip
from hypothesis import given, settings
from hypothesis import strategies as st
from monitored_loops import EVERY, STEPS, Held, fine_tuned, kept, loss_of, made, same, seed_all

from replaylab import monitor as monitoring
from replaylab.catalogue import NOISE_LEVELS
from replaylab.models import families, sampling
from replaylab.models.interface import stack_clips
from replaylab.monitor import Forgetting, ForgettingMonitor, ForgettingWarning, lightning_callback, transformers_callback
from replaylab.util.extras import MissingExtra

LEVELS = [f"{level:g}" for level in NOISE_LEVELS]


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Held]:
    return made("wan", tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def cogvideox(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Held]:
    return made("cogvideox", tmp_path_factory.mktemp("cogvideox"))


@pytest.fixture(params=["wan", "cogvideox"])
def tiny(request: pytest.FixtureRequest) -> tuple[Path, Held]:
    return request.getfixturevalue(request.param)


def changes(monitor: ForgettingMonitor) -> np.ndarray:
    """(measurements, domains), means over levels."""
    return np.array([[np.mean(list(levels.values())) for levels in one.change.values()] for one in monitor.history])


# ---------------------------------------------------------------------------------------------- in accelerate's loops
@pytest.mark.parametrize("lora", [False, True])
def test_a_loop_with_a_monitor_ends_in_the_same_bits(tiny: tuple[Path, Held], lora: bool) -> None:
    watched, alone = fine_tuned(*tiny, {}, lora=lora), fine_tuned(*tiny, None, lora=lora)
    assert same(watched, alone)
    assert watched.monitor and [one.step for one in watched.monitor.history] == [0, EVERY, STEPS]
    assert (changes(watched.monitor)[1:] != 0).all()


def test_it_says_what_evaluation_says_of_the_same_clips(tiny: tuple[Path, Held], tmp_path: Path) -> None:
    folder, clips = tiny
    file = tmp_path / "forgetting.jsonl"
    trained = fine_tuned(*tiny, {"file": file, "seed": 3}, lora=True)
    assert trained.monitor
    models = {0: families.load(folder), STEPS: families.load(folder, network=trained.network.eval())}
    lines = {line["step"]: line for line in map(json.loads, file.read_text().splitlines())}
    for step, model in models.items():
        for domain, held in kept(clips).items():
            for name, level in zip(LEVELS, NOISE_LEVELS, strict=True):
                (expected,) = {np.mean(sampling.denoising_losses(model, *stack_clips(held), level, 3))}
                assert lines[step]["loss"][domain][name] == pytest.approx(expected, rel=1e-6)
    last, first = lines[STEPS], lines[0]
    gains = [
        np.mean([first["loss"][domain][name] - last["loss"][domain][name] for name in LEVELS]) for domain in kept(clips)
    ]
    assert last["backward_transfer"] == pytest.approx(np.mean(gains))
    best = np.maximum(0, -changes(trained.monitor)[:-1].min(0))
    assert last["average_forgetting"] == pytest.approx(np.mean(best + changes(trained.monitor)[-1]))
    assert first["backward_transfer"] == 0 and first["change"]["kitchen"]["0.5"] == 0


def test_a_loss_of_ones_own_has_the_same_noise_every_time(wan: tuple[Path, Held]) -> None:
    two: dict[str, Any] = {"clips_at_once": 2}
    watched, alone = fine_tuned(*wan, two, own_loss=True), fine_tuned(*wan, None)
    assert same(watched, alone) and watched.monitor
    before = watched.monitor.history[0].loss
    model = families.load(wan[0])
    again = ForgettingMonitor(
        kept(wan[1]), lambda batch, level: loss_of(model, model.transformer, batch, level), model.transformer, **two
    )
    torch.rand(17)  # wherever the streams are
    first = again(0)
    assert first and first.loss == before
    assert len({value for levels in before.values() for value in levels.values()}) == 6


# ------------------------------------------------------------------------------------------ what people are told, and when
def simple(**changed: Any) -> tuple[ForgettingMonitor, torch.nn.Linear]:
    """A monitor of a number: the weight of a network, plus what is drawn."""
    network = torch.nn.Linear(1, 1)
    torch.nn.init.constant_(network.weight, 2.0)
    monitor = ForgettingMonitor(
        {"near": [0, 1, 2], "far": [3]}, lambda batch, level: network.weight.squeeze() * level, network,
        **{"every": 1, "at_most": 1.0, **changed},
    )  # fmt: skip
    return monitor, network


def test_a_margin_that_is_passed_is_a_warning_once() -> None:
    logged: list[dict[str, float]] = []
    monitor, network = simple(margin=0.1, log=lambda values, step: logged.append(values | {"step": step}))
    rises = [1.0, 1.09, 1.2, 1.3, 1.0, 1.2, 1.0, float("nan")]
    warned = []
    for step, rise in enumerate(rises):
        torch.nn.init.constant_(network.weight, 2.0 * rise)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = monitor(step)
        assert found and (found.beyond == ["near", "far"]) == (not rise <= 1.1)
        warned.append([str(one.message) for one in caught if one.category is ForgettingWarning])
    assert [len(each) for each in warned] == [0, 0, 1, 0, 0, 1, 0, 1]
    assert "after 2 steps" in warned[2][0] and "near +20.0% at level 0.25" in warned[2][0]
    assert [each["step"] for each in logged] == [*range(1, 8)]
    assert logged[1]["forgetting/far/denoising_loss_0.5"] == pytest.approx(0.2)
    assert logged[1]["forgetting/backward_transfer"] == pytest.approx(-0.2)
    assert np.isnan(logged[-1]["forgetting/backward_transfer"])


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=30)
@given(
    costs=st.lists(st.floats(0.01, 20), min_size=1, max_size=6), step_seconds=st.floats(0.05, 5),
    at_most=st.sampled_from([0.01, 0.1, 0.5]), every=st.integers(1, 7),
)  # fmt: skip
def test_measuring_keeps_within_its_share_of_the_time(
    costs: list[float], step_seconds: float, at_most: float, every: int
) -> None:
    clock = Clock()
    network, calls = torch.nn.Linear(1, 1), 0

    def loss(batch: Any, level: float) -> float:
        nonlocal calls
        clock.now += costs[calls // 2 % len(costs)] / 2  # one measurement has two levels
        calls += 1
        return 1.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitoring, "monotonic", clock)
        patch.setattr(monitoring, "report", lambda line: None)
        monitor = ForgettingMonitor({"a": [0]}, loss, network, every=every, at_most=at_most, levels=(0.3, 0.6))
        spent, expected = 0.0, costs[0]
        for step in range(120):
            found = monitor(step)
            if found:
                assert step % every == 0
                spent += costs[(len(monitor.history) - 1) % len(costs)]
                assert found.share == pytest.approx(spent / max(clock.now, 1e-9), abs=2e-5)
                if step:  # it costs what the last one did
                    planned = spent - costs[(len(monitor.history) - 1) % len(costs)] + expected
                    assert planned <= at_most * (planned + step * step_seconds) + 1e-3
                expected = costs[(len(monitor.history) - 1) % len(costs)]
            elif step % every == 0:  # nothing is put off without need
                assert spent + expected >= at_most * (spent + expected + step * step_seconds) - 1e-3
            clock.now += step_seconds


def test_a_measurement_that_is_put_off_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    monitor, _ = simple(at_most=1e-9, every=2)
    assert [bool(monitor(step)) for step in range(7)] == [True] + [False] * 6
    assert capsys.readouterr().err.count("put off") == 1
    assert monitor(7, last=True) is None  # and what allows it is said
    assert "a larger `at_most` allows it" in capsys.readouterr().err


def test_several_calls_after_one_step_measure_once() -> None:
    monitor, _ = simple(every=2)
    steps = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]  # as a loop that accumulates gradients calls it
    assert [one.step for one in map(monitor, steps) if one] == [0, 2, 4]
    assert monitor(4, last=True) is None and monitor(5, last=True) is not None


def test_a_resumed_monitor_keeps_its_values_before(tmp_path: Path) -> None:
    whole, network = simple(every=2, file=tmp_path / "whole.jsonl")
    resumed, other = simple(every=2, file=tmp_path / "resumed.jsonl")
    for step in range(7):
        for each in (network, other):
            torch.nn.init.constant_(each.weight, 2.0 + step)
        whole(step)
        if step == 3:
            state = json.loads(json.dumps(resumed.state_dict()))
            resumed, other = simple(every=2, file=tmp_path / "resumed.jsonl")
            resumed.load_state_dict(state)
            torch.nn.init.constant_(other.weight, 2.0 + step)
        resumed(step)
    written = [(tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("whole", "resumed")]
    mine, theirs = ([without_clock(line) for line in map(json.loads, lines)] for lines in written)
    assert mine == theirs and [line["step"] for line in mine] == [0, 2, 4, 6]
    for changed in ({"seed": 1}, {"levels": (0.5,)}):
        with pytest.raises(ValueError, match=next(iter(changed))):
            simple(**changed)[0].load_state_dict(resumed.state_dict())


def without_clock(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("seconds", "share")}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"every": 0}, "every is 0"), ({"at_most": 0}, "at_most"), ({"margin": -1}, "margin"),
        ({"levels": (0, 1)}, "levels"), ({"levels": ()}, "levels"), ({"clips": {}}, "clips"),
        ({"clips": {"a": []}}, "every domain"),
        ({"network": None}, "network is missing"), ({"loss": lambda batch, level: torch.ones(2)}, "2 numbers of 1 clips"),
        ({"loss": lambda batch, level: float("nan")}, "not finite"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(wrong: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {
        "clips": {"a": [0]},
        "loss": lambda batch, level: 1.0,
        "network": torch.nn.Linear(1, 1),
    } | wrong
    with pytest.raises(ValueError, match=said):
        ForgettingMonitor(**arguments)(0)


def test_an_adapter_takes_the_network_that_is_trained(wan: tuple[Path, Held]) -> None:
    network = families.load(wan[0]).transformer
    assert families.load(wan[0], network=network).transformer is network
    with pytest.raises(ValueError, match="network is a Linear"):
        families.load(wan[0], network=torch.nn.Linear(1, 1))


# ------------------------------------------------------------------------------------------------ in others' trainers
def history_of(monitor: ForgettingMonitor) -> list[tuple[int, dict[str, dict[str, float]]]]:
    return [(one.step, one.loss) for one in monitor.history]


def monitored(model: families.Family, clips: Held) -> ForgettingMonitor:
    return ForgettingMonitor(kept(clips), model, every=EVERY, at_most=1.0)


class Losses(torch.nn.Module):
    """A model as transformers' Trainer and Lightning take it: clips by number in, their loss out."""

    def __init__(self, model: families.Family, clips: Held) -> None:
        super().__init__()
        self.network, self.model, self.clips = model.transformer, model, clips["driving"]

    def forward(self, number: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": loss_of(self.model, self.network, [self.clips[int(each)] for each in number])}


def under_transformers(
    folder: Path, clips: Held, home: Path, watched: bool, resumed_at: int = 0
) -> tuple[dict[str, torch.Tensor], ForgettingMonitor, list[Any]]:
    from transformers import Trainer, TrainingArguments

    seed_all()
    model = families.load(folder)
    monitor = monitored(model, clips)
    arguments = TrainingArguments(
        output_dir=str(home), max_steps=STEPS, save_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=2,
        use_cpu=True, report_to=[], disable_tqdm=True, logging_strategy="no", remove_unused_columns=False,
    )  # fmt: skip
    data = [{"number": torch.tensor(number % 2)} for number in range(2 * STEPS)]
    trainer = Trainer(
        Losses(model, clips), arguments, train_dataset=data, callbacks=[transformers_callback(monitor)] if watched else []
    )
    trainer.train(resume_from_checkpoint=str(home / f"checkpoint-{resumed_at}") if resumed_at else None)
    return model.transformer.state_dict(), monitor, trainer.state.log_history


def test_transformers_trainer_has_it_as_a_callback(wan: tuple[Path, Held], tmp_path: Path) -> None:
    weights, monitor, logged = under_transformers(*wan, tmp_path / "whole", True)
    alone, _, _ = under_transformers(*wan, tmp_path / "alone", False)
    assert all(map(torch.equal, weights.values(), alone.values()))
    assert [one.step for one in monitor.history] == [0, EVERY, STEPS] and (changes(monitor)[1:] != 0).all()
    assert [line["step"] for line in logged if "forgetting/backward_transfer" in line] == [0, EVERY, STEPS]
    _, resumed, _ = under_transformers(*wan, tmp_path / "whole", True, resumed_at=3)
    assert history_of(resumed) == history_of(monitor)
    _, late, _ = under_transformers(*wan, tmp_path / "alone", True, resumed_at=3)  # nothing was kept in that checkpoint
    assert [one.step for one in late.history] == [3, STEPS]


def under_lightning(
    folder: Path, clips: Held, home: Path, watched: bool, resumed_at: int = 0
) -> tuple[dict[str, torch.Tensor], ForgettingMonitor]:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.losses = Losses(model, clips)

        def training_step(self, batch: torch.Tensor, number: int) -> torch.Tensor:
            return self.losses(batch)["loss"]

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 1e-3)

    seed_all()
    model = families.load(folder)
    monitor = monitored(model, clips)
    saved = ModelCheckpoint(home, "{step}", every_n_train_steps=1, save_top_k=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=STEPS, accumulate_grad_batches=2, logger=CSVLogger(home), enable_progress_bar=False,
            enable_model_summary=False, log_every_n_steps=1,
            callbacks=[*([lightning_callback(monitor)] if watched else []), saved],
        )  # fmt: skip
        loader = torch.utils.data.DataLoader([number % 2 for number in range(2 * STEPS)], batch_size=1)  # type: ignore[arg-type, var-annotated]
        trainer.fit(Module(), loader, ckpt_path=home / f"step={resumed_at}.ckpt" if resumed_at else None)
    return model.transformer.state_dict(), monitor


def test_lightning_has_it_as_a_callback(cogvideox: tuple[Path, Held], tmp_path: Path) -> None:
    require_or_skip(importlib.util.find_spec("lightning") is not None, "lightning (the extra `dev`)")
    weights, monitor = under_lightning(*cogvideox, tmp_path / "whole", True)
    alone, _ = under_lightning(*cogvideox, tmp_path / "alone", False)
    assert all(map(torch.equal, weights.values(), alone.values()))
    assert [one.step for one in monitor.history] == [0, EVERY, STEPS] and (changes(monitor)[1:] != 0).all()
    (logged,) = tmp_path.glob("whole/**/metrics.csv")
    assert "forgetting/backward_transfer" in logged.read_text()
    _, resumed = under_lightning(*cogvideox, tmp_path / "whole", True, resumed_at=3)
    assert history_of(resumed)[:2] == history_of(monitor)[:2] and resumed.history[-1].step == STEPS


def test_without_lightning_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra, match="pip install lightning"):
        lightning_callback(simple()[0])


def test_its_values_are_plain_json() -> None:
    monitor, _ = simple()
    found = monitor(0)
    assert isinstance(found, Forgetting) and set(found.values()) > {"forgetting/backward_transfer"}
    state = monitor.state_dict()
    assert json.loads(json.dumps(state)) == state
