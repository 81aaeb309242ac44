"""This process's rank and device, and the collectives of the training loop, for one CPU or many GPUs.

Decision: processes are started externally (torchrun, or submitit's tasks) and read their rank from the environment; the
backend is gloo on CPUs, NCCL on GPUs. Data parallelism is torch's own: DistributedDataParallel, or FSDP2 for sharded
weights. Every tensor on disk is unsharded, so a checkpoint is valid for any sharding.

Nothing here has been run by us on GPUs; `make gpu-check` runs it on yours.
"""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
class Rank:
    """This process among `world_size`; rank 0 is the main one, which alone writes files."""

    index: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes files."""
        return self.index == 0


@cache
def this_rank() -> Rank:
    """This process's rank; joins the others if there are any. torch raises an error if the environment is invalid."""
    _export_submitit_environment()
    ranks, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local % torch.cuda.device_count())
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # TF32
    if ranks == 1:
        return Rank(device=device)
    distributed.init_process_group("gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl", timeout=PATIENCE)
    atexit.register(distributed.destroy_process_group)
    return Rank(distributed.get_rank(), ranks, device)


def joined_rank(device: torch.device) -> Rank:
    """This process's rank in an existing process group; a single rank without one."""
    if distributed.is_available() and distributed.is_initialized():
        return Rank(distributed.get_rank(), distributed.get_world_size(), device)
    return Rank(device=device)


def _export_submitit_environment() -> None:
    """Translate the rank that submitit gives each task of a job into the variables that torch reads."""
    if "WORLD_SIZE" in os.environ or "SUBMITIT_EXECUTOR" not in os.environ:
        return
    import submitit

    if submitit.JobEnvironment().num_tasks > 1:
        submitit.helpers.TorchDistributedEnvironment().export(set_cuda_visible_devices=False)


def barrier(rank: Rank) -> None:
    """Wait until every rank has arrived."""
    if rank.world_size > 1:
        distributed.barrier()


def broadcast_number(rank: Rank, number: int) -> int:
    """The main rank's number, on every rank."""
    return int(broadcast(rank, 0, torch.tensor(number)))


def broadcast(rank: Rank, source: int, tensor: Tensor) -> Tensor:
    """The source rank's tensor, on every rank: the others pass one of the same shape, which is overwritten."""
    if rank.world_size > 1:
        distributed.broadcast(tensor, source)
    return tensor


def all_reduce_max(rank: Rank, number: int) -> int:
    """The maximum over ranks."""
    tensor = torch.tensor(number)
    if rank.world_size > 1:
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return int(tensor)


def all_reduce_sum(rank: Rank, tensor: Tensor) -> Tensor:
    """The sum over ranks, in place of this rank's tensor."""
    if rank.world_size > 1:
        distributed.all_reduce(tensor)
    return tensor


def all_reduce_mean(rank: Rank, number: Tensor) -> Tensor:
    """The mean over ranks, of a number without gradient."""
    if rank.world_size > 1:
        distributed.all_reduce(number)
    return number / rank.world_size


# ---------------------------------------------------------------------------------------------------- data parallel
def data_parallel(rank: Rank, network: Any, objective: torch.nn.Module, sharded: bool) -> torch.nn.Module:
    """The objective to be called on every rank, such that gradients of `network` in it are means over ranks."""
    if rank.world_size == 1:
        return objective
    if not sharded:
        return torch.nn.parallel.DistributedDataParallel(objective, gradient_as_bucket_view=True)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(rank.device.type, (rank.world_size,))
    for module in network.modules():
        if type(module).__name__ in (network._no_split_modules or ()):
            fully_shard(module, mesh=mesh)
    # True for the outermost too: what stays gathered after a forward pass would miss weights that are put in between
    fully_shard(network, mesh=mesh, reshard_after_forward=True)
    return objective


def unwrapped(network: Any) -> Any:
    """The network inside the wrappers of DDP, torch.compile and peft, with peft's layers; FSDP2 does not wrap."""
    while True:
        if isinstance(network, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)):
            network = network.module
        elif hasattr(network, "_orig_mod"):
            network = network._orig_mod
        elif hasattr(network, "get_base_model"):
            network = network.get_base_model()
        else:
            return network


def gradient_sync(parallel_objective: Any, network: Any, last: bool) -> AbstractContextManager[None]:
    """Context of one gradient accumulation step: ranks exchange gradients in the last one only."""
    if hasattr(network, "set_requires_gradient_sync"):  # sharded
        network.set_requires_gradient_sync(last)
    elif hasattr(parallel_objective, "no_sync") and not last:
        return parallel_objective.no_sync()
    return nullcontext()


def full_tensor(tensor: Tensor) -> Tensor:
    """The tensor without its graph, and unsharded (a collective: every rank must call it)."""
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor on the device, and in the sharding, of `like`."""
    mesh = getattr(like, "device_mesh", None)
    if mesh is None:
        return tensor.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), mesh, like.placements)  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------------- the machine
@dataclass(frozen=True)
class Execution:
    """A machine's settings with all choices resolved: a resumed run is bit-identical only if they are equal."""

    ranks: int
    threads: int
    device: str
    precision: str
    compiled: bool
    sharded: bool
    gradient_checkpointing: bool

    @classmethod
    def of(cls, machine: MachineSpec, rank: Rank) -> Execution:
        """The requested settings as far as they are possible here; prints a note if compiling is not possible."""
        precision = machine.precision
        if precision == "auto":
            precision, why = best_precision(rank.device.type)
            if rank.is_main:
                _report_once(f"note: {precision}, because {why}")
        compiled = machine.compiled and can_compile(rank.device.type)
        if machine.compiled and not compiled and rank.is_main:
            report("note: no compiler here (torch.compile needs a C++ compiler, on GPUs Triton too): not compiled")
        return cls(rank.world_size, torch.get_num_threads(), rank.device.type, precision, compiled,
                   machine.sharded and rank.world_size > 1, machine.gradient_checkpointing)  # fmt: skip

    def autocast(self) -> torch.autocast:
        """bf16 if requested; the weights, their average and the optimizer's state stay fp32."""
        return autocast(self.device, self.precision)


def autocast(device: str, precision: str) -> torch.autocast:
    """Context in which matrix products are computed in bf16 if that is the precision; the weights are unchanged."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")


def best_precision(device: str) -> tuple[str, str]:
    """bf16 or fp32, whichever trains a transformer faster on this device, and why; losses are equal (`make bench`)."""
    if device == "cuda":
        has_bf16, part = torch.cuda.is_bf16_supported(), "GPU"
    else:
        has_bf16, part = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(), "processor"
    return ("bf16", f"this {part} multiplies it faster") if has_bf16 else ("fp32", f"this {part} has no bf16")


@cache
def _report_once(line: str) -> None:
    report(line)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Context with this number of torch threads in this process; 0 leaves it unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def can_compile(device: str) -> bool:
    """Whether the requirements of torch.compile are installed: a C++ compiler, and on GPUs Triton."""
    compilers = (os.environ.get("CXX", "g++"), "clang++")
    return any(map(shutil.which, compilers)) and (device == "cpu" or find_spec("triton") is not None)


def prefetch(make: Callable[[int], Made], first: int, stop: int) -> Iterator[Made]:
    """`make(first)`, ..., `make(stop - 1)`, each computed in a thread while the previous one is in use."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(make, first) if first < stop else None
        for number in range(first, stop):
            assert pending is not None
            made = pending.result()
            pending = pool.submit(make, number + 1) if number + 1 < stop else None
            yield made


@contextmanager
def flush_denormals() -> Iterator[None]:
    """Context in which numbers below 1e-38 are zero: they are a hundred times as slow on a CPU, and occur in training."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
