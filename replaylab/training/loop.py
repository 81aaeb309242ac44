"""The training loop: fits a video generator to mixed batches of latents, on one CPU or many GPUs, and can be resumed.

Decision: every random number of a step is a function of (seed, step, slot of the batch), and every batch of the mixture.
A killed run therefore continues from its newest checkpoint with bit-identical results, and a batch does not depend on its
distribution over ranks. On preemption (`preemption`) the loop saves after the current step. Weights are averaged (EMA), and
the average is evaluated and kept. Refused: to resume with settings other than the initial ones.

Shapes as in `interface`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from replaylab.mixture import Mixture
from replaylab.models import lora
from replaylab.models.interface import Clip, Condition, VideoModel, stack_clips
from replaylab.spec import MachineSpec, RemedySpec, ReplaySpec, TrainingSpec, torch_seed
from replaylab.training import checkpoint, preemption, regularizers, trackers
from replaylab.training.optimizers import Optimizer
from replaylab.util import distributed, reading
from replaylab.util.distributed import Execution, Rank
from replaylab.util.files import write_text
from replaylab.util.progress import track

WARM_UP_STEPS = 20
LARGEST_GRADIENT = 1.0
Sources = Sequence[Sequence[Clip]]


class Batch(NamedTuple):
    """One rank's part of a step: latents and noise (B, C, t, h, w), noise levels (B,), the clips' condition, and the weight
    of each clip's loss (B,), or None if all are 1.
    """

    latents: Tensor
    noise: Tensor
    level: Tensor
    condition: Condition
    clip_weight: Tensor | None = None

    def split(self, count: int) -> list[Batch]:
        """The batch in `count` gradient accumulation steps."""

        def part(number: int) -> Batch:
            return self._mapped(lambda tensor: tensor.chunk(count)[number])

        return [part(number) for number in range(len(self.level.chunk(count)))]

    def to(self, device: torch.device) -> Batch:
        """The batch on a device, copied asynchronously."""
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The batch in pinned memory."""
        return self._mapped(lambda tensor: tensor.pin_memory())

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Batch:
        condition = {name: change(tensor) for name, tensor in self.condition.items()}
        weight = None if self.clip_weight is None else change(self.clip_weight)
        return Batch(change(self.latents), change(self.noise), change(self.level), condition, weight)


class Objective(torch.nn.Module):
    """The model's own loss of a batch, as one module that holds the weights; with a teacher as in `regularizers`."""

    def __init__(self, model: VideoModel, teacher: VideoModel | None = None, strength: float = 0.0) -> None:
        super().__init__()
        self.transformer = model.transformer  # so that this module has the weights
        self._models, self._strength = (model, teacher), strength

    def forward(self, batch: Batch) -> Tensor:
        """The loss, a scalar."""
        model, teacher = self._models
        return model.loss(*batch[:4], teacher, self._strength, batch.clip_weight)


def batch_of(
    model: VideoModel, sources: Sources, mixture: Mixture, seed: int, step: int, rank: Rank = Rank(),
    replay: ReplaySpec = ReplaySpec(),
) -> Batch:  # fmt: skip
    """This rank's slots of the mixture's batch, each with its own noise, at the model's noise levels; replayed clips with
    the levels and the weight in `replay`.
    """
    slots = mixture.batch(step, rank.index, rank.world_size)
    latents, condition = stack_clips([sources[slot.domain][slot.clip] for slot in slots])
    noise, normal = torch.empty_like(latents), torch.empty(len(slots))
    for i in range(len(slots)):
        number = step * mixture.batch_size + rank.index + i * rank.world_size
        random = torch.Generator().manual_seed(torch_seed(seed, "training noise", number))
        torch.randn(noise[i].shape, generator=random, out=noise[i])
        torch.randn((1,), generator=random, out=normal[i : i + 1])
    replayed = torch.tensor([slot.domain > 0 for slot in slots])
    if replay.noise_levels != "all":  # the model's own, given the side of the median
        side = normal.abs() if replay.noise_levels == "high" else -normal.abs()
        normal = torch.where(replayed, side, normal)
    weight = None if replay.loss_weight == 1 else torch.where(replayed, replay.loss_weight, 1.0)
    batch = Batch(latents, noise, model.levels(normal, latents.shape), condition, weight)
    return batch if rank.device.type == "cpu" else batch.pinned()


def fit(
    model: VideoModel, sources: Sources, mixture: Mixture, training: TrainingSpec, seed: int, folder: Path, what: str, *,
    machine: MachineSpec = MachineSpec(), rank: Rank = Rank(), replay: ReplaySpec = ReplaySpec(),
    remedy: RemedySpec = RemedySpec(), base_clips: Sequence[Clip] = (), evaluate_at: Sequence[int] = (),
    evaluate: Callable[[int], None] = lambda step: None,
) -> None:  # fmt: skip
    """Train `model` in place; afterwards it has the averaged weights.

    `replay`: defines the weight and the noise levels of replayed clips. `base_clips`: clips of the base's domains, for a
    remedy that evaluates the base on them. `evaluate(step)` is called on every rank with the averaged weights in place,
    after each step of `evaluate_at`, and again if it was interrupted. Raises FloatingPointError, with the step, its clips
    and the last good checkpoint, for a loss that is not finite, and ValueError if a checkpoint was made with other settings.
    """
    from diffusers.training_utils import EMAModel

    trackers.check(machine.tracker)
    execution = Execution.of(machine, rank)
    _check_manifest(folder, execution, rank)
    network = model.transformer.to(rank.device).train()
    trained = select_trainable(model, training, seed)
    regularizer = regularizers.REGULARIZERS[remedy.kind](remedy.strength)
    regularizer.measure_base(model, list(trained.values()), _clip_losses(model, base_clips, seed, rank))
    if execution.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    if execution.compiled:
        network.compile_repeated_blocks()
    loss_module = Objective(model, regularizer.teacher, regularizer.strength)
    objective = distributed.data_parallel(rank, network, loss_module, execution.sharded)
    trained = {name: weight for name, weight in network.named_parameters() if name in trained}  # sharded, perhaps
    weights = list(trained.values())
    regularizer.attach(weights)
    optimizer = Optimizer(trained, training, execution.sharded)
    average = EMAModel(weights, decay=training.ema_decay, foreach=not execution.sharded)
    state = State(folder / "checkpoints", trained, optimizer, average, rank)
    first = state.resume()
    about = {**training.as_dict(), "seed": seed, "replay_fraction": mixture.replay_fraction}
    log = Log(folder, first, rank, mixture, what, machine.tracker, about)

    def measure(step: int) -> None:
        average.store(weights)
        average.copy_to(weights)
        regularizer.average(weights)
        network.eval()
        # other shapes, and no gradients: it would compile again
        with torch.compiler.set_stance("force_eager"):
            evaluate(step)
        network.train()
        average.restore(weights)

    def draw(step: int) -> Batch:
        return batch_of(model, sources, mixture, seed, step, rank, replay)

    if first in evaluate_at:  # it may have been killed while measuring
        measure(first)
    if rank.world_size > 1 and not execution.sharded and first < training.steps:
        # DDP orders its sums by the first backward pass it sees: a resumed run must add in the same order
        objective(draw(first).to(rank.device)).backward()
    batches = distributed.prefetch(draw, first, training.steps)
    with preemption.deferred():
        for step, batch in zip(track(range(first, training.steps), what=what, unit="steps"), batches, strict=True):
            share = _schedule(training, step)
            optimizer.zero_grad()
            parts = batch.to(rank.device).split(training.accumulate)
            losses = []
            for number, part in enumerate(parts, start=1):
                with distributed.gradient_sync(objective, network, number == len(parts)), execution.autocast():
                    loss = objective(part) * (len(part.level) / len(batch.level))
                    loss.backward()
                losses.append(loss.detach())
            regularizer.add_gradient(weights)
            gradient = torch.nn.utils.clip_grad_norm_(weights, LARGEST_GRADIENT, foreach=True)
            optimizer.step(share)
            average.step(weights)
            done = step + 1
            loss, norm = distributed.all_reduce_mean(rank, torch.stack(losses).sum()), distributed.full_tensor(gradient)
            log.add(done, loss, norm, training.learning_rate * share)
            requested = distributed.all_reduce_max(rank, preemption.requested())
            if requested or done % machine.checkpoint_steps == 0 or done == training.steps or done in evaluate_at:
                log.flush()
                state.save(done)
                preemption.mark_saved()
            if requested == preemption.EXIT:
                preemption.exit_now()
            if done in evaluate_at:
                with preemption.immediate():
                    measure(done)
    log.close()
    average.copy_to(weights)
    regularizer.average(weights)
    network.eval()


def select_trainable(model: VideoModel, training: TrainingSpec, seed: int) -> dict[str, Any]:
    """The trained weights, by name; the others are frozen. Adds the adapters of LoRA."""
    network = model.transformer
    if training.trained == "lora":
        lora.add_lora(network, model.ADAPTED, training.lora_rank, seed)
    elif training.trained == "temporal":
        for name, weight in network.named_parameters():
            weight.requires_grad_(any(layer in name.split(".") for layer in model.TEMPORAL))
    return {name: weight for name, weight in network.named_parameters() if weight.requires_grad}


def full_state_dict(model: VideoModel) -> dict[str, Tensor]:
    """Every weight by name, unsharded and on the CPU; a collective: every rank must call it."""
    return {name: distributed.full_tensor(weight).cpu() for name, weight in model.transformer.state_dict().items()}


def _clip_losses(model: VideoModel, clips: Sequence[Clip], seed: int, rank: Rank) -> Iterator[Tensor]:
    """The loss of each single clip, in random order."""
    for number in range(len(clips)):
        mixture = Mixture(0.0, 1, [len(clips)], seed)
        batch = batch_of(model, [clips], mixture, torch_seed(seed, "fisher"), number)
        yield model.loss(*batch.to(rank.device)[:4])


def _schedule(training: TrainingSpec, step: int) -> float:
    left = 1.0
    if training.decay:  # linearly, from the end of the stable phase
        left = min(1.0, (1 - step / training.steps) / (1 - training.stable_share))
    return min(1.0, (step + 1) / WARM_UP_STEPS) * left


def _check_manifest(folder: Path, execution: Execution, rank: Rank) -> None:
    """Write the execution settings; raise ValueError, with the differences, if the checkpoints were made with others."""
    path = folder / "manifest.json"
    begun = any((folder / "checkpoints").glob("step-*")) and path.exists()
    distributed.barrier(rank)
    if not begun:
        if rank.is_main:
            write_text(path, json.dumps(asdict(execution), indent=1))
        return
    written = reading.json_object(path, f"remove {folder / 'checkpoints'} to begin again")
    changed = {name: value for name, value in asdict(execution).items() if written.get(name) != value}
    differing = [f"{name} {written.get(name)!r} then, {value!r} now" for name, value in changed.items()]
    if differing:
        raise ValueError(
            f"{folder} was begun with other settings, and would not end in the same bits: {'; '.join(differing)}. Go on "
            f"with the same (threads: OMP_NUM_THREADS), or remove {folder / 'checkpoints'} to begin again"
        )


class State:
    """All state that a step changes, saved to and read from checkpoints: unsharded tensors under the weights' names."""

    def __init__(self, folder: Path, trained: dict[str, Any], optimizer: Optimizer, average: Any, rank: Rank) -> None:
        self.folder, self.trained, self.rank = folder, trained, rank
        self.optimizer, self.average = optimizer, average

    def save(self, step: int) -> None:
        """A checkpoint after `step` steps; a collective: every rank must call it."""
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for (name, weight), shadow in zip(self.trained.items(), self.average.shadow_params, strict=True):
            for group, tensor in {"weights": weight, "average": shadow, **self.optimizer.state(weight)}.items():
                groups[group][name] = distributed.full_tensor(tensor).cpu()
        if self.rank.is_main:
            checkpoint.save(self.folder, step, groups, {"average_steps": self.average.optimization_step})

    def resume(self) -> int:
        """Restore the newest checkpoint's state; returns its number of steps."""
        newest = checkpoint.newest(self.folder)
        step = 0 if newest is None else int(newest[1]["step"])
        if distributed.broadcast_number(self.rank, step) != step:
            raise ValueError(f"{self.folder}: rank {self.rank.index} finds step {step} and rank 0 another: not one folder")
        if newest is None:
            return 0
        groups, about = newest
        with torch.no_grad():
            for (name, weight), shadow in zip(self.trained.items(), self.average.shadow_params, strict=True):
                weight.copy_(distributed.shard_like(groups["weights"][name], weight))
                shadow.copy_(distributed.shard_like(groups["average"][name], shadow))
                kinds = [kind for kind in groups if kind not in ("weights", "average") and name in groups[kind]]
                self.optimizer.restore(weight, {
                    kind: groups[kind][name].to(weight.device) if kind == "step"
                    else distributed.shard_like(groups[kind][name], weight) for kind in kinds
                })  # fmt: skip
        self.average.optimization_step = about["average_steps"]
        return step


class Log:
    """JSON lines, one per step, also sent to a tracker if there is one; written by the main rank.

    On a GPU a step's loss is read while the next step runs, and always before a checkpoint is saved.
    """

    def __init__(
        self, folder: Path, first: int, rank: Rank, mixture: Mixture, what: str, tracker: str, about: dict[str, Any]
    ) -> None:
        self._folder, self._what, self._mixture = folder, what, mixture
        self._delay = 1 if rank.device.type == "cuda" else 0
        self._pending: list[tuple[int, Tensor, Tensor, float, float]] = []
        self._tracker = trackers.started(tracker, folder, what, first, about) if tracker and rank.is_main else None
        self._file = _open_log(folder, first) if rank.is_main else None
        self._since = time.monotonic()

    def add(self, step: int, loss: Tensor, gradient: Tensor, rate: float) -> None:
        """One step: written now, or on a GPU while the next one runs."""
        self._pending.append((step, loss, gradient, rate, time.monotonic() - self._since))
        self._write(keep=self._delay)

    def flush(self) -> None:
        """Write pending lines, and ensure that they are on disk."""
        self._write(keep=0)
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write pending lines and close the log."""
        self.flush()
        if self._file:
            self._put_back(self._file)
            self._file.close()
        if self._tracker:
            self._tracker.finish()

    def _write(self, keep: int) -> None:
        while len(self._pending) > keep:
            step, loss, gradient, rate, seconds = self._pending.pop(0)
            values = {"loss": loss.item(), "gradient_norm": gradient.item(), "learning_rate": rate}
            if not math.isfinite(values["loss"]):
                self._stop(step, values["loss"])
            if self._file:
                with reading.named(self._folder / "log.jsonl", "log", "make room, and call the same again"):
                    self._file.write(json.dumps({"step": step, **values, "seconds": round(seconds, 3)}) + "\n")
            if self._tracker:
                self._tracker.log(values, step=step)

    def _put_back(self, file: Any) -> None:
        """Restore the log: without locks, another process may have begun the same run and replaced the log by its own."""
        path = self._folder / "log.jsonl"
        if (self._folder / "summary.json").exists() or (
            path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))
        ):
            return
        file.seek(0)
        write_text(path, file.read())

    def _stop(self, step: int, loss: float) -> None:
        kept = checkpoint.steps(self._folder / "checkpoints")
        last = f"{kept[-1]} is the last good checkpoint" if kept else "no checkpoint was made before it"
        raise FloatingPointError(
            f"{self._what}: the loss of step {step} is {loss}; its clips (domain, clip): "
            f"{[(slot.domain, slot.clip) for slot in self._mixture.batch(step - 1)]}; {last}. Look at these clips, or "
            "lower the learning rate, and run again"
        )


def seconds_logged(folder: Path) -> float:
    """Duration of a run's steps, with evaluations and interruptions; the clock restarts when the run resumes."""
    with reading.named(folder / "log.jsonl", "whole log"):
        clocks = [line["seconds"] for line in reading.json_lines(folder / "log.jsonl")]
    ends = [before for before, after in zip(clocks, [*clocks[1:], 0.0], strict=True) if after < before]
    return sum(ends)


def _open_log(folder: Path, steps: int) -> Any:
    """The log, cut to the steps of the checkpoint."""
    path = folder / "log.jsonl"
    lines = reading.text(path).splitlines(keepends=True)[:steps] if path.is_file() else []
    write_text(path, "".join(lines))
    return path.open("a+", buffering=1)  # a line as soon as it is whole: it may be monitored
