"""Which process of how many, on which device? What the one training loop needs to know to run anywhere.

Decision: processes are started by others (torchrun, or submitit's tasks) and found by their environment; gloo joins
them on CPUs, NCCL on GPUs. Data parallel is torch's own: DistributedDataParallel, or FSDP2 where weights are sharded.
Every tensor that is written to disk or read from it is whole, so one checkpoint fits any way of sharding.

On GPUs nothing here has been run by us; `make gpu-check` runs it on yours.
"""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from replaylab.spec import MachineSpec
from replaylab.util.progress import report

PATIENCE = timedelta(hours=6)  # ranks wait for one that renders, encodes or measures

Made = TypeVar("Made")


@dataclass(frozen=True)
class Place:
    """This process among `ranks`; rank 0 leads: it alone writes."""

    rank: int = 0
    ranks: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes files."""
        return self.rank == 0


@cache
def place() -> Place:
    """Where this process is; joins the others if there are any. The environment's mistakes are torch's errors."""
    _take_submitits_tasks()
    ranks, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32
    if ranks == 1:
        return Place(device=device)
    distributed.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
    atexit.register(distributed.destroy_process_group)
    return Place(distributed.get_rank(), ranks, device)


def _take_submitits_tasks() -> None:
    """A submitit job of several tasks tells each its rank in submitit's words; torch wants its own."""
    if "WORLD_SIZE" in os.environ or "SUBMITIT_EXECUTOR" not in os.environ:
        return
    import submitit

    if submitit.JobEnvironment().num_tasks > 1:
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


def wait(place: Place) -> None:
    """Until every rank is here."""
    if place.ranks > 1:
        distributed.barrier()


def agreed(place: Place, number: int) -> int:
    """The leading rank's number, for all."""
    return int(from_rank(place, 0, torch.tensor(number)))


def from_rank(place: Place, rank: int, tensor: Tensor) -> Tensor:
    """That rank's tensor, for all: the others give one of the same shape, which is overwritten."""
    if place.ranks > 1:
        distributed.broadcast(tensor, rank)
    return tensor


def largest(place: Place, number: int) -> int:
    """The largest of all ranks' numbers."""
    tensor = torch.tensor(number)
    if place.ranks > 1:
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return int(tensor)


def mean(place: Place, number: Tensor) -> Tensor:
    """The mean over ranks of a number without gradient."""
    if place.ranks > 1:
        distributed.all_reduce(number)
    return number / place.ranks


# ---------------------------------------------------------------------------------------------------- data parallel
def spread(place: Place, network: Any, objective: torch.nn.Module, sharded: bool) -> torch.nn.Module:
    """The objective to call on every rank, so that the gradients of `network` inside it come out as means over ranks."""
    if place.ranks == 1:
        return objective
    if not sharded:
        return torch.nn.parallel.DistributedDataParallel(objective, gradient_as_bucket_view=True)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(place.device.type, (place.ranks,))
    for module in network.modules():
        if type(module).__name__ in (network._no_split_modules or ()):
            fully_shard(module, mesh=mesh)
    # True for the outermost too: what stays gathered after a forward pass would miss weights that are put in between
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    return objective


def together(spread_objective: Any, network: Any, last: bool) -> AbstractContextManager[None]:
    """Around one part of an accumulated step: ranks exchange gradients with the last part only."""
    if hasattr(network, "set_requires_gradient_sync"):  # sharded
        network.set_requires_gradient_sync(last)
    elif hasattr(spread_objective, "no_sync") and not last:
        return spread_objective.no_sync()
    return nullcontext()


def gathered(tensor: Tensor) -> Tensor:
    """The tensor without its graph, and whole where it is sharded (then all ranks must ask)."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def part_for(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device, and in the sharding, of `like`."""
    mesh = getattr(like, "device_mesh", None)
    if mesh is None:
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), mesh, like.placements)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------- the machine
@dataclass(frozen=True)
class Execution:
    """A machine's settings with every choice made: what must be equal for a resumed run to end in the same bits."""

    ranks: int
    threads: int
    device: str
    precision: str
    compiled: bool
    sharded: bool
    gradient_checkpointing: bool

    @classmethod
    def of(cls, machine: MachineSpec, place: Place) -> Execution:
        """What was asked for, as it is possible here; says so where nothing can be compiled."""
        precision = machine.precision
        if precision == "auto":
            bf16 = place.device.type == "cuda" and torch.cuda.is_bf16_supported()
            precision = "bf16" if bf16 else "fp32"
        compiled = machine.compiled and can_compile(place.device.type)
        if machine.compiled and not compiled and place.leads:
            report("note: no compiler here (torch.compile needs a C++ compiler, on GPUs Triton too): not compiled")
        return cls(place.ranks, torch.get_num_threads(), place.device.type, precision, compiled,
                   machine.sharded and place.ranks > 1, machine.gradient_checkpointing)  # fmt: skip

    def autocast(self) -> torch.autocast:
        """bf16 where it is asked for; the weights, their average and the optimizer's state stay fp32."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")


def can_compile(device: str) -> bool:
    """Whether torch.compile finds what it needs: a C++ compiler, and on GPUs Triton."""
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    return any(map(shutil.which, compilers)) and (device == "cpu" or find_spec("triton") is not None)


def ahead(make: Callable[[int], Made], first: int, stop: int) -> Iterator[Made]:
    """`make(first)`, ..., `make(stop - 1)`, each made in a thread while the one before it is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(make, first) if first < stop else None
        for number in range(first, stop):
            assert coming is not None
            made = coming.result()
            coming = pool.submit(make, number + 1) if number + 1 < stop else None
            yield made
