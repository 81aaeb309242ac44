"""Forgetting during training with any loop: the denoising loss of held-out clips against its value before fine-tuning.

    adapter = families.load("folder/of/a/model", network=transformer)
    kept = held_out(adapter, ["domains/kitchen", "domains/street"], frames=49)
    monitor = ForgettingMonitor(kept, adapter, every=500, margin=0.05)
    for step in range(steps):
        monitor(step)  # the number of steps done: the first call measures the values before fine-tuning

Decision: clips and noise are the same every time, so a change is due to the weights alone; the loss is that of evaluation,
at its noise levels (`sampling.denoising_losses`). Measuring restores modes, random states, gradients and shards, so that a
run with a monitor has bit-identical weights to one without. The ranks share the clips and obtain the same values, with whole
(DDP) or sharded weights (FSDP2), and with full or low-rank training (LoRA). A measurement that would take more than
`at_most` of the elapsed time is postponed; rank 0 decides, and training does not depend on it.

Refused: ranks that share one batch (tensor and context parallelism), FSDP1, and a state with other clips or noise.
"""

from __future__ import annotations

import json
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from replaylab.analysis.statistics import average_forgetting, backward_transfer
from replaylab.catalogue import DENOISING, NOISE_LEVELS
from replaylab.description import check_numbers
from replaylab.models.interface import VideoModel, stack_clips
from replaylab.models.sampling import denoising_losses
from replaylab.spec import torch_seed
from replaylab.util import distributed
from replaylab.util.distributed import Rank
from replaylab.util.extras import MissingExtra
from replaylab.util.files import write_text
from replaylab.util.progress import report
from replaylab.util.reading import expanded

if TYPE_CHECKING:
    from replaylab.models.families import Family

Loss = Callable[[Sequence[Any], float], Tensor | float]
"""The loss of a batch of clips at a noise level: their mean, or the loss of each clip (B,). The level is given as the share
of the training's noise levels below it (0 to 1). Random numbers from torch, numpy and Python are the same every time."""
ByLevel = dict[str, float]
"""A number for each noise level, by its name: "0.25"."""


class ForgettingWarning(UserWarning):
    """The denoising loss of a domain has risen by more than the margin."""


@dataclass(frozen=True)
class Forgetting:
    """A measurement after some steps. Losses and changes (after − before) by domain and noise level."""

    step: int
    loss: dict[str, ByLevel]
    change: dict[str, ByLevel]
    backward_transfer: float  # of the loss, mean over levels: below 0 where domains were forgotten (`statistics`)
    average_forgetting: float
    beyond: list[str]  # domains that have lost more than the margin at some level
    seconds: float  # that measuring took
    share: float  # of all time since the first measurement that went into measuring

    def values(self) -> dict[str, float]:
        """The changes and both means, each under one name, for a tracker."""
        named = {
            f"forgetting/{domain}/{DENOISING}_{level}": change
            for domain, levels in self.change.items()
            for level, change in levels.items()
        }
        means = {"backward_transfer": self.backward_transfer, "average_forgetting": self.average_forgetting}
        return named | {f"forgetting/{name}": value for name, value in means.items()}

    def __str__(self) -> str:
        changes = ", ".join(f"{domain} {_mean(levels):+.4g}" for domain, levels in self.change.items())
        return (
            f"forgetting after {self.step} steps: denoising loss {changes}; backward transfer "
            f"{self.backward_transfer:+.4g}; measured in {self.seconds:.2g} s, {self.share:.1%} of the time so far"
        )


class ForgettingMonitor:
    """Call it with the number of steps done, before the first step and after each: on every rank, between two steps.

    `clips`: held-out clips of each domain to be retained, {domain: clips}. `loss`: a model of this library, with
    clips as returned by `examples` or `held_out`, or a function (`Loss`), which receives `clips_at_once` of them and needs
    the `network` that is trained. `every`: steps between measurements, more where they would take over `at_most` of the
    elapsed time. `margin`: the relative rise of a loss that is allowed without a warning. `file`: JSON lines of all
    measurements. `log(values, step)`: a function such as `accelerator.log`, called by rank 0 alone.
    """

    def __init__(
        self, clips: Mapping[str, Sequence[Any]], loss: VideoModel | Loss, network: torch.nn.Module | None = None, *,
        every: int = 500, at_most: float = 0.02, margin: float | None = None, levels: Sequence[float] = NOISE_LEVELS,
        seed: int = 0, clips_at_once: int = 1, file: str | Path = "", log: Callable[..., Any] | None = None,
    ) -> None:  # fmt: skip
        self.every, self.at_most, self.margin, self.seed, self.clips_at_once = every, at_most, margin, seed, clips_at_once
        check_numbers(self, "every", "clips_at_once", least=1)
        check_numbers(self, "seed", least=0)
        check_numbers(self, "at_most", *["margin"] * (margin is not None), above=0)
        if not clips or not all(len(each) for each in clips.values()):
            raise ValueError(f"clips: {dict.fromkeys(clips, 0) or 'none'}; every domain to be kept needs held-out clips")
        if not levels or not all(0 < level < 1 for level in levels):
            raise ValueError(f"levels is {list(levels)}; noise levels are above 0 (no noise) and below 1 (noise alone)")
        if isinstance(loss, VideoModel):
            network, loss = loss.transformer, loss.with_network(distributed.unwrapped(loss.transformer))
            self.clips_at_once = loss.CLIPS_AT_ONCE
        elif network is None:
            raise ValueError("network is missing: a loss function needs the network that is trained beside it")
        self.clips, self.levels = {name: list(each) for name, each in clips.items()}, [f"{level:g}" for level in levels]
        self.history: list[Forgetting] = []
        self._loss, self._network, self._log = loss, distributed.unwrapped(network), log
        self._file = expanded(file) if str(file) else None
        self._next = 0  # step from which a measurement is due
        self._put_off = False
        self._seconds = {"training": 0.0, "measuring": 0.0}
        self._since: float | None = None  # when the training went on

    def __call__(self, step: int, last: bool = False) -> Forgetting | None:
        """The measurement at this step, or None if none is due; `last`: the last step, measured at any interval."""
        if self._since is None:
            self._since = monotonic()
        if self.history and (step == self.history[-1].step or not (last or step >= self._next)):
            return None
        rank = distributed.joined_rank(next(self._network.parameters()).device)
        self._next = (step // self.every + 1) * self.every
        if not self._is_allowed(step, rank, last):
            return None
        return self._measured(step, rank)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON, the same on every rank: the measurements and the time they took."""
        return {
            "levels": self.levels, "seed": self.seed, "clips": {name: len(each) for name, each in self.clips.items()},
            "next": self._next, "seconds": self._seconds | {"training": self._trained()},
            "history": [asdict(each) for each in self.history],
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, before the first call; ValueError if its clips, levels or noise differ."""
        mine = self.state_dict()
        for name in ("levels", "seed", "clips"):
            if state.get(name) != mine[name]:
                raise ValueError(
                    f"the state to load has {name} {state.get(name)}, and this monitor {mine[name]}: its values before "
                    "fine-tuning are of other clips or noise; make the monitor as it was made then"
                )
        self.history = [Forgetting(**each) for each in state["history"]]
        self._next, self._seconds, self._since = state["next"], dict(state["seconds"]), None

    # --------------------------------------------------------------------------------------------------- measurements
    def _measured(self, step: int, rank: Rank) -> Forgetting:
        self._seconds["training"] = self._trained()
        if rank.device.type == "cuda":
            torch.cuda.synchronize(rank.device)
        start = monotonic()
        table = self._table(rank)
        seconds = float(distributed.broadcast(rank, 0, table.new_tensor(monotonic() - start)))
        training = float(distributed.broadcast(rank, 0, table.new_tensor(self._seconds["training"])))
        self._seconds = {"training": training, "measuring": self._seconds["measuring"] + seconds}
        made = self._compared(step, table.cpu().numpy(), seconds)
        if rank.is_main:
            self._tell(made)
        self.history.append(made)
        if rank.is_main and self._file:
            write_text(self._file, "".join(json.dumps(asdict(each)) + "\n" for each in self.history))
        self._since = monotonic()
        return made

    def _table(self, rank: Rank) -> Tensor:
        """The loss of each clip of all domains at each level (levels, clips), on every rank."""
        size = self.clips_at_once
        batches = [(name, first) for name, clips in self.clips.items() for first in range(0, len(clips), size)]
        begins = dict(zip(self.clips, np.cumsum([0, *map(len, self.clips.values())]), strict=False))
        whole = sum(map(len, self.clips.values()))
        table = torch.zeros(len(self.levels), whole, dtype=torch.float64)
        with _left_as_it_is(self._network):
            for turn in range(0, len(batches), rank.world_size):
                # where batches run out a rank repeats the last one: sharded weights need every rank
                name, first = batches[min(turn + rank.index, len(batches) - 1)]
                batch = self.clips[name][first : first + size]
                losses = torch.stack([self._losses(batch, first, float(level)) for level in self.levels])
                if turn + rank.index < len(batches):
                    begin = int(begins[name]) + first
                    table[:, begin : begin + len(batch)] = losses
        return distributed.all_reduce_sum(rank, table.to(rank.device))

    def _losses(self, batch: Sequence[Any], first: int, level: float) -> Tensor:
        """The loss of each clip of a batch (B,); `first` is the number of its first clip in the domain."""
        if isinstance(self._loss, VideoModel):
            losses: Any = denoising_losses(self._loss, *stack_clips(batch), level, self.seed, first)
        else:
            seed = torch_seed(self.seed, "sampling noise", first)
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002  # others' functions may draw from it
            random.seed(seed)
            losses = self._loss(batch, level)
        found = torch.as_tensor(losses, dtype=torch.float64).detach().flatten().cpu()
        if len(found) not in (1, len(batch)):
            raise ValueError(f"loss gave {len(found)} numbers of {len(batch)} clips; a mean is needed, or one for each")
        return found.expand(len(batch))

    def _compared(self, step: int, table: np.ndarray, seconds: float) -> Forgetting:
        """A table of losses (levels, clips) compared with the first one."""
        ends = np.cumsum([len(clips) for clips in self.clips.values()])[:-1]
        means = [part.mean(1) for part in np.split(table, ends, axis=1)]
        by_level = [dict(zip(self.levels, mean.tolist(), strict=True)) for mean in means]
        loss = dict(zip(self.clips, by_level, strict=True))
        before = self.history[0].loss if self.history else loss
        if not self.history and not np.isfinite(table).all():
            raise ValueError(f"the loss before fine-tuning is not finite, and nothing can be compared with it: {loss}")
        change = {name: {level: loss[name][level] - was[level] for level in was} for name, was in before.items()}
        changes = [[_mean(levels) for levels in each.values()] for each in (*(one.change for one in self.history), change)]
        is_finite = bool(np.isfinite(changes).all())
        within = {
            name: self.margin is None or all(change[name][level] <= self.margin * was[level] for level in was)
            for name, was in before.items()
        }
        measuring = self._seconds["measuring"]
        return Forgetting(
            step, loss, change, backward_transfer(changes) + 0.0 if is_finite else float("nan"),  # + 0.0: no -0
            average_forgetting(changes) if is_finite else float("nan"), [name for name in within if not within[name]],
            round(seconds, 3), round(measuring / max(measuring + self._seconds["training"], 1e-9), 5),
        )  # fmt: skip

    def _tell(self, made: Forgetting) -> None:
        if not self.history:
            loss = ", ".join(f"{name} {_mean(levels):.4g}" for name, levels in made.loss.items())
            report(f"denoising loss after {made.step} steps, to be kept: {loss}; measured in {made.seconds:.2g} s")
            return
        report(str(made))
        if newly := [name for name in made.beyond if name not in self.history[-1].beyond]:
            warnings.warn(
                f"after {made.step} steps the denoising loss has risen by more than {self.margin:.3g} of its value before "
                f"fine-tuning: {'; '.join(self._beyond(name, made) for name in newly)}",
                ForgettingWarning, stacklevel=4,
            )  # fmt: skip
        if self._log:
            self._log(made.values(), step=made.step)

    def _beyond(self, name: str, made: Forgetting) -> str:
        before, change = self.history[0].loss[name], made.change[name]
        return f"{name} " + ", ".join(f"{change[level] / before[level]:+.1%} at level {level}" for level in before)

    # ---------------------------------------------------------------------------------------------------- what it takes
    def _trained(self) -> float:
        """Seconds since the first measurement, without measuring."""
        now = monotonic() - self._since if self._since is not None and self.history else 0.0
        return self._seconds["training"] + now

    def _is_allowed(self, step: int, rank: Rank, last: bool) -> bool:
        """Whether another measurement like the last one stays within `at_most` of the elapsed time; rank 0 decides."""
        if not self.history:
            return True
        after = self._seconds["measuring"] + self.history[-1].seconds
        mine = torch.tensor(after <= self.at_most * (after + self._trained()), device=rank.device, dtype=torch.int64)
        allowed = bool(distributed.broadcast(rank, 0, mine))
        if rank.is_main and not allowed and (last or not self._put_off):
            then = "a larger `at_most` allows it, or fewer clips" if last else "it is put off until it is not"
            report(
                f"forgetting is not measured after {step} steps: it takes {self.history[-1].seconds:.2g} s, which would be "
                f"more than {self.at_most:.1%} of the time so far; {then}"
            )
        self._put_off = not allowed
        return allowed


@contextmanager
def _left_as_it_is(network: torch.nn.Module) -> Iterator[None]:
    """In this context the network is in evaluation mode and has no gradients; afterwards its modes and shards, and all
    random states, are restored.
    """
    # neither is imported for this, which takes seconds: what has not been imported is not in use
    fsdp, has_compiled = sys.modules.get("torch.distributed.fsdp"), "torch._dynamo" in sys.modules
    sharded = getattr(fsdp, "FSDPModule", ())
    modes = [(module, module.training) for module in network.modules()]
    devices = {weight.device for weight in network.parameters() if weight.device.type == "cuda"}
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    network.eval()
    try:
        # no compilation for other shapes
        eager = torch.compiler.set_stance("force_eager") if has_compiled else nullcontext()
        with torch.random.fork_rng(devices), torch.no_grad(), eager:
            yield
    finally:
        torch.clear_autocast_cache()  # weights cast in here have no graph
        for module, training in modes:
            module.training = training
            if isinstance(module, sharded):  # the outermost stays gathered: an optimizer made now would miss its shards
                module.reshard()
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


def _mean(levels: ByLevel) -> float:
    return sum(levels.values()) / len(levels)


def held_out(
    adapter: Family, domains: Sequence[str | Path], frames: int, *, context_frames: int = 1, clips: int = 16,
    split: str = "test", prompt: str = "",
) -> dict[str, Sequence[Any]]:  # fmt: skip
    """Clips of `frames` frames for a monitor: one from each of the first `clips` scenes of a split of each domain folder.

    `prompt` applies to domains without a prompt of their own. ValueError if a split has no such clip, a family does not
    accept it, or two domains have the same name.
    """
    from replaylab.data.clips import clips_of, one_per_scene
    from replaylab.data.domain import open_domain
    from replaylab.models.pipelines import PretrainedPipeline
    from replaylab.spec import ModelSpec

    found: dict[str, Sequence[Any]] = {}
    for domain in (open_domain(expanded(folder)) for folder in domains):
        if domain.name in found:
            raise ValueError(f"two domains are named {domain.name!r}: give one another --name")
        chosen = one_per_scene(clips_of(domain, split, frames))[:clips]
        about = ModelSpec(str(adapter.folder), "", frames, context_frames, domain.frames_per_second, prompt)
        found[domain.name] = PretrainedPipeline(about, adapter).encode_clips(domain, split, chosen, domain.folder)
    return found


# ------------------------------------------------------------------------------------------------------- other loops
def lightning_callback(monitor: ForgettingMonitor) -> Any:
    """A Lightning callback that measures at the beginning, after optimizer steps and at the end; its state is saved in
    checkpoints, and its values are sent to the trainer's loggers.
    """
    Callback = _lightning().Callback

    class ForgettingCallback(Callback):  # type: ignore[misc, valid-type]
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self._measure(trainer)

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self._measure(trainer)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._measure(trainer, last=True)

        def _measure(self, trainer: Any, last: bool = False) -> None:
            if made := monitor(trainer.global_step, last):
                for logger in trainer.loggers:
                    logger.log_metrics(made.values(), step=made.step)

        def state_dict(self) -> dict[str, Any]:
            return monitor.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            monitor.load_state_dict(state_dict)

    return ForgettingCallback()


def _lightning() -> Any:
    """The one of Lightning's two packages that is in use, or installed; raises MissingExtra if neither is."""
    from importlib import import_module

    names = ("lightning.pytorch", "pytorch_lightning")
    for name in (*(name for name in names if name in sys.modules), *names):
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    raise MissingExtra("lightning")


def transformers_callback(monitor: ForgettingMonitor) -> Any:
    """A callback of transformers' Trainer that measures at the beginning, after optimizer steps and at the end; its state is
    saved in checkpoints, and its values in the trainer's `log_history`.
    """
    from transformers.trainer_callback import ExportableState, TrainerCallback

    class ForgettingCallback(TrainerCallback, ExportableState):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())  # none in others' checkpoints
            if isinstance(kept, list):
                raise ValueError("a Trainer takes one monitor of forgetting: give it the domains of both")
            if state.global_step and kept["attributes"]["kept"]["history"]:
                monitor.load_state_dict(kept["attributes"]["kept"])
            self._measure(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._measure(state)

        def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self._measure(state, last=True)

        def _measure(self, state: Any, last: bool = False) -> None:
            if made := monitor(state.global_step, last):
                state.log_history.append(made.values() | {"step": made.step})

        def state(self) -> dict[str, Any]:
            return {"args": {}, "attributes": {"kept": monitor.state_dict()}}

    return ForgettingCallback()
