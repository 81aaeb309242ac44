"""What a training step costs on this machine: `make bench`. Measurements, not tests: nothing here can fail for being slow.

Five questions. (a) Samples a second of the real `train.fit`, against the loop that people write from diffusers' examples,
and whether both learn alike. (b) The share of a step that is neither forward, backward nor optimizer. (c) Model FLOP/s
over what this machine's matrix product reaches, and where the rest goes. (d) Seconds from the command to the first step.
(e) A step with pages of 2 MB against one without, in processes that take turns, because torch decides it once. All other
ways take turns in this one process, on the CPU; the first round is dropped. Figures go to stdout, progress to stderr.

Run it on a machine that does nothing else: two programs with as many threads as cores slow each other down tenfold.
`--short` only shows that everything runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import decord
import numpy as np
import torch
from accelerate import Accelerator
from diffusers import WanTransformer3DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from replaylab.catalogue import CLIP_FRAMES, CONTEXT_FRAMES
from replaylab.data import clips
from replaylab.data.clips import Clip
from replaylab.data.domain import Domain
from replaylab.mixture import Mixture
from replaylab.models import autoencoder, latent_cache
from replaylab.models.latent_cache import CachedClips
from replaylab.models.tiny_wan import SHIFT, TinyWan
from replaylab.shipped_weights import WEIGHTS
from replaylab.spec import MachineSpec, TrainingSpec, WorldSpec
from replaylab.sweeps.presets import grid
from replaylab.training import loop as loop_module
from replaylab.util import distributed
from replaylab.util.distributed import flush_denormals
from replaylab.util.processes import ask_for_large_pages
from replaylab.worlds.build import build_domain

BATCH, LEARNING_RATE = 16, 4e-4
BLOCK_STEPS = 10  # losses are averaged over so many steps before their scatter is taken
GEMM_SIZES = (1024, 2048, 4096)


@dataclass(frozen=True)
class Size:
    rounds: int
    steps: int  # of each way in a round, and of a profile
    curve_steps: int
    last_steps: int  # of the loss curve, which are compared


FULL = Size(rounds=5, steps=10, curve_steps=500, last_steps=100)
SHORT = Size(rounds=2, steps=3, curve_steps=20, last_steps=20)


@dataclass(frozen=True)
class Material:
    """What every way trains on."""

    home: Path
    domain: Domain
    chosen: list[Clip]
    cached: CachedClips


class Steps(NamedTuple):
    """Some steps of a way, in their order."""

    seconds: float  # a step
    first_seconds: float  # of the very first, with what is made or compiled in it
    losses: list[float]


Way = Callable[[int], Steps]  # trains on for so many steps


@flush_denormals()
def main() -> None:
    ask_for_large_pages()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a few steps of everything: shows that it runs")
    parser.add_argument("--compile-in", help="internal: compile with this home, and print what it cost")
    parser.add_argument("--steps-in", help="internal: train some steps with this home, and print their seconds")
    options = parser.parse_args()
    size = SHORT if options.short else FULL
    if options.steps_in:
        precision = "bf16" if has_bf16() else "fp32"
        way = ours(material(Path(options.steps_in)), precision=precision)
        print(json.dumps([way(size.steps).seconds for _ in range(2)][1]))
        return
    if options.compile_in:
        print(json.dumps(ours(material(Path(options.compile_in)), compiled=True)(size.steps)))
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; batch {BATCH}, fp32 unless said")
    print("precision auto: {}, because {}".format(*distributed.best_precision("cpu")))
    with tempfile.TemporaryDirectory() as home:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = f"{home}/compiler"
        made = material(Path(home))
        print(f"{len(made.chosen)} clips of {CLIP_FRAMES} frames, {made.domain.size_px} px, read in batches")
        compiled = distributed.can_compile("cpu")
        compile_seconds = compile_cold_and_warm(made, options.short) if compiled else []
        seconds = compare_speed(made, compiled, size)
        if compiled:
            pays_after(compile_seconds, seconds)
        compare_curves(made, compiled, size, seconds["ours, eager"])
        for name, way in our_ways(made, compiled).items():
            share_of_the_rest(name, way, size)
        share_of_the_peak(made, seconds)
        profile_ways(made, compiled, size)
        time_to_first_step(Path(home) / "store", size)
        compare_pages(made, options.short, size)


def material(home: Path) -> Material:
    """Rendered and encoded, unless that was done before."""
    spec = WorldSpec("bench", "traffic", "target", "ordinary", (96, 0, 0))
    domain = build_domain(spec, home)
    chosen = clips.clips_of(domain, "train", CLIP_FRAMES)
    model = base()
    key = autoencoder.digest(model.vae)
    return Material(home, domain, chosen, latent_cache.encode_clips(model, domain, "train", chosen, home / "latents", key))


def base() -> TinyWan:
    return TinyWan.load(WEIGHTS / "base")


def plain_base() -> TinyWan:
    """With diffusers' transformer as it comes; ours has parts of it exchanged."""
    model = base()
    model.transformer = WanTransformer3DModel.from_pretrained(WEIGHTS / "base" / "transformer")
    return model


# ---------------------------------------------------------------------------------------------------------- the ways
def our_ways(made: Material, compiled: bool) -> dict[str, Way]:
    ways = {"ours, eager": ours(made)} | ({"ours, compiled": ours(made, compiled=True)} if compiled else {})
    return ways | ({"ours, bf16": ours(made, precision="bf16")} if has_bf16() else {})


def has_bf16() -> bool:
    return distributed.best_precision("cpu")[0] == "bf16"


def ours(made: Material, compiled: bool = False, precision: str = "fp32") -> Way:
    """`train.fit` itself. Its log is read for the times, which are taken as a step ends; no checkpoint is among them."""
    if compiled:
        torch.compiler.reset()  # or other models' code would count towards dynamo's limit of recompilations
    model = base()
    machine = MachineSpec(precision=precision, compiled=compiled, checkpoint_steps=10**9)

    def steps(count: int) -> Steps:
        training = TrainingSpec(count, BATCH, LEARNING_RATE, ema_decay=0.98)
        with tempfile.TemporaryDirectory(dir=made.home) as folder:
            loop_module.fit(
                model, [made.cached], Mixture(0.0, BATCH, [len(made.cached)], seed=0), training, 0, Path(folder),
                f"{precision}, {'compiled' if compiled else 'eager'}", machine=machine,
            )  # fmt: skip
            log = [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]
        after_first = (log[-1]["seconds"] - log[0]["seconds"]) / max(1, count - 1)
        return Steps(after_first, log[0]["seconds"], [line["loss"] for line in log])

    return steps


def plain(made: Material, cached: bool, precision: str = "fp32") -> Way:
    loop = plain_loop(made, cached, precision)

    def steps(count: int) -> Steps:
        losses, ends = [], [time.perf_counter()]
        for _ in range(count):
            losses.append(next(loop))
            ends.append(time.perf_counter())
        return Steps((ends[-1] - ends[0]) / count, ends[1] - ends[0], losses)

    return steps


def plain_loop(made: Material, cached: bool, precision: str) -> Iterator[float]:
    """What people write from diffusers' training examples, with the library's defaults; gives each step's loss.

    `precision`: fp32, or bf16 as accelerate has it; its own setting is one for the whole process.
    """
    torch.manual_seed(0)
    model = plain_base()
    dataset: Any = torch.from_numpy(np.stack([*made.cached])) if cached else DecodedClips(made)
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True)
    optimizer = torch.optim.AdamW(model.transformer.parameters(), lr=LEARNING_RATE)
    schedule = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=loop_module.WARM_UP_STEPS)
    average = EMAModel(model.transformer.parameters())
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    model.transformer, optimizer, loader, schedule = accelerator.prepare(model.transformer, optimizer, loader, schedule)
    model.transformer.train()
    while True:
        for batch in loader:
            with accelerator.accumulate(model.transformer):
                with distributed.autocast("cpu", precision):
                    loss = plain_loss(model, batch if cached else model.encode(batch.numpy()))
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.transformer.parameters(), loop_module.LARGEST_GRADIENT)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            average.step(model.transformer.parameters())
            yield loss.detach().item()


def plain_loss(model: TinyWan, clean: Tensor) -> Tensor:
    """`train.Objective`, with noise from the global stream."""
    noise, sigma = torch.randn_like(clean), torch.randn(len(clean)).sigmoid()
    sigma = SHIFT * sigma / (1 + (SHIFT - 1) * sigma)
    level = sigma.view(-1, 1, 1, 1, 1)
    context = clean[:, :, :CONTEXT_FRAMES]
    noisy = torch.cat([context, ((1 - level) * clean + level * noise)[:, :, CONTEXT_FRAMES:]], dim=2)
    velocity = model.predict(noisy, sigma, {"known": context})
    return (level * (velocity - (noise - clean)))[:, :, CONTEXT_FRAMES:].square().mean()


class DecodedClips(Dataset[np.ndarray]):
    def __init__(self, made: Material) -> None:
        self.folder, self.chosen = made.domain.folder / "videos", made.chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> np.ndarray:
        clip = self.chosen[number]
        reader = decord.VideoReader(str(self.folder / f"{clip.video}.mp4"))
        return reader.get_batch(range(clip.start, clip.start + CLIP_FRAMES)).asnumpy()


# ------------------------------------------------------------------------------------------------- (a) speed and loss
def compare_speed(made: Material, compiled: bool, size: Size) -> dict[str, float]:
    """Median seconds a step of each way, printed with ratios taken round by round."""
    ways = {
        "plain loop, decodes and encodes": plain(made, cached=False),
        "plain loop, cached latents": plain(made, cached=True),
        **({"plain loop, cached latents, bf16": plain(made, cached=True, precision="bf16")} if has_bf16() else {}),
        **our_ways(made, compiled),
    }
    rounds = [{name: way(size.steps).seconds for name, way in ways.items()} for _ in range(size.rounds + 1)]
    rounds = rounds[1:]
    print(f"\n(a) speed: medians of {size.rounds} rounds of {size.steps} steps; ratios with their range over rounds")
    for name in ways:
        seconds = np.array([each[name] for each in rounds])
        print(f"{name}: {BATCH / np.median(seconds):.1f} samples/s, {1000 * np.median(seconds):.0f} ms a step")
        for other in ways:
            if other.startswith("plain") and not name.startswith("plain"):
                ratios = np.array([each[other] for each in rounds]) / seconds
                print(f"  {np.median(ratios):.2f} x ({ratios.min():.2f} to {ratios.max():.2f}) the samples/s of the {other}")
    return {name: float(np.median([each[name] for each in rounds])) for name in ways}


def compile_cold_and_warm(made: Material, short: bool) -> list[float]:
    """Seconds of compiling, in a process of its own: with nothing cached, then with the compiler's files on disk."""
    command = [sys.executable, __file__, "--compile-in", str(made.home), *(["--short"] if short else [])]
    found = []
    for _ in range(2):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        seconds, first_seconds, _ = json.loads(done.stdout.splitlines()[-1])
        found.append(first_seconds - seconds)
    return found


def compare_pages(made: Material, short: bool, size: Size) -> None:
    """Seconds of a step with small pages over those with large ones, pair by pair."""
    command = [sys.executable, __file__, "--steps-in", str(made.home), *(["--short"] if short else [])]
    pairs = []
    for _ in range(size.rounds):
        pair = [
            json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout)
            for environment in ({**os.environ, "THP_MEM_ALLOC_ENABLE": asked} for asked in "01")
        ]
        pairs.append(pair[0] / pair[1])
    print(f"\n(e) a step without large pages: {np.median(pairs):.2f} x the seconds ({min(pairs):.2f} to {max(pairs):.2f})")


def pays_after(compile_seconds: Sequence[float], seconds: dict[str, float]) -> None:
    saved = seconds["ours, eager"] - seconds["ours, compiled"]
    for cache, cost in zip(("nothing cached", "its cache on disk warm"), compile_seconds, strict=True):
        pays = f"after {cost / saved:.0f} steps" if saved > 0 else "never, it is no faster"
        print(f"compiling, {cache}: {cost:.1f} s within the first step; pays {pays}")


def compare_curves(made: Material, compiled: bool, size: Size, eager_seconds: float) -> None:
    """Whether all ways learn alike, from the same base on the same clips."""
    slower = ours(made, precision="bf16")(3).seconds / eager_seconds
    bf16_steps = size.curve_steps
    if slower > 2:  # then no longer than two of the others together
        bf16_steps = max(1, round(2 * bf16_steps / slower / BLOCK_STEPS)) * BLOCK_STEPS
    curves = {"plain loop, cached latents": plain(made, cached=True)(size.curve_steps).losses}
    others = {name: way for name, way in our_ways(made, compiled).items() if name != "ours, bf16"}
    curves |= {name: way(size.curve_steps).losses for name, way in others.items()}
    curves["ours, bf16"] = ours(made, precision="bf16")(bf16_steps).losses
    print(f"\n(a) loss curves, {size.curve_steps} steps from the same base: means of every {size.last_steps} steps")
    print(f"ours, bf16: {slower:.1f} x the seconds a step of fp32, followed for {bf16_steps} steps")
    for name, losses in curves.items():
        parts = [losses[at : at + size.last_steps] for at in range(0, len(losses), size.last_steps)]
        print(f"{name}: {', '.join(f'{np.mean(part):.4f}' for part in parts)}")
    compare_last(curves, size)
    compare_paired(curves, size)


def compare_last(curves: dict[str, list[float]], size: Size) -> None:
    """Against the plain loop, which draws other noise and another order."""
    (_, plain_losses), *others = curves.items()
    plain_mean, plain_error = mean_and_error(plain_losses[-size.last_steps :])
    print(f"the last {size.last_steps} steps: plain loop {plain_mean:.5f} ± {plain_error:.5f}")
    for name, losses in others:
        if len(losses) == size.curve_steps:
            mean, error = mean_and_error(losses[-size.last_steps :])
            apart = (mean - plain_mean) / math.hypot(error, plain_error)
            print(f"{name}: {mean:.5f} ± {error:.5f}, {apart:+.1f} standard errors from the plain loop")


def compare_paired(curves: dict[str, list[float]], size: Size) -> None:
    """Against ours in eager fp32, with the same clips and noise in every step."""
    for name in ("ours, compiled", "ours, bf16"):
        if name in curves:
            losses = np.array(curves[name])
            eager = np.array(curves["ours, eager"][: len(losses)])
            mean, error = mean_and_error((losses - eager)[-size.last_steps :])
            percent = 100 / eager[-size.last_steps :].mean()
            print(
                f"{name} less ours, eager, the same clips and noise, steps {max(0, len(losses) - size.last_steps) + 1} to "
                f"{len(losses)}: {mean:+.6f} ± {error:.6f}, {percent * mean:+.3f} ± {percent * error:.3f} %"
            )


def mean_and_error(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The mean, and its standard error from means of BLOCK_STEPS, because neighbouring steps are not independent."""
    whole = np.asarray(values)[: len(values) // BLOCK_STEPS * BLOCK_STEPS]
    means = whole.reshape(-1, BLOCK_STEPS).mean(1)
    error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return float(np.mean(values)), float(error)


# ----------------------------------------------------------------------------------------------- (b) what is not model
MODEL = {
    "forward": (loop_module.Objective, "forward"),
    "backward": (Tensor, "backward"),
    "optimizer": (torch.optim.AdamW, "step"),
}
REST = {
    "waiting for the batch": (Future, "result"),
    "clipping": (torch.nn.utils, "clip_grad_norm_"),
    "average": (EMAModel, "step"),
    "log": (loop_module.Log, "add"),
}
BESIDE = {"making a batch": (loop_module, "batch_of")}


def share_of_the_rest(name: str, way: Way, size: Size) -> None:
    """Times the parts of the real loop from outside; the first step, which warms up, is left out."""
    way(2)
    with stopwatches(MODEL | REST | BESIDE) as spent:
        step = way(size.steps + 1).seconds
    each = {part: sum(seconds[1:]) / size.steps for part, seconds in spent.items()}
    rest = step - sum(each[part] for part in MODEL)
    shares = {part: 100 * seconds / step for part, seconds in each.items()}
    print(f"\n(b) {name}: a step of {1000 * step:.0f} ms, {100 * rest / step:.1f} % of it not the model's")
    print("  " + ", ".join(f"{part} {shares[part]:.1f} %" for part in MODEL))
    unnamed = 100 * rest / step - sum(shares[part] for part in REST)
    print("  " + ", ".join(f"{part} {shares[part]:.2f} %" for part in REST) + f", all else {unnamed:.2f} %")
    print(f"  making a batch takes {1000 * each['making a batch']:.1f} ms, in a thread beside the step before it")


@contextmanager
def stopwatches(parts: dict[str, tuple[Any, str]]) -> Iterator[dict[str, list[float]]]:
    """Seconds of every call of the named attributes, in here."""
    spent: dict[str, list[float]] = {part: [] for part in parts}
    with ExitStack() as stack:
        for part, (owner, name) in parts.items():
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), spent[part])))
        yield spent


def timed(work: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    @wraps(work)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        made = work(*arguments, **named)
        seconds.append(time.perf_counter() - started)
        return made

    return wrapped


# --------------------------------------------------------------------------------------------- (c) how near to the peak
def share_of_the_peak(made: Material, seconds: dict[str, float]) -> None:
    print("\n(c) floating-point operations (FLOP) of a step, forward and backward, as each way computes it")
    done = {"plain": flops_of_a_step(plain_base(), made), "ours": flops_of_a_step(base(), made)}
    for way, (products, attention) in done.items():
        print(f"{way}: matrix products {products / 1e9:.1f} GFLOP, attention {attention / 1e9:.1f} GFLOP")
    rates = {size: gemm_rate(size, size, size) for size in GEMM_SIZES}
    peak = max(rates.values())
    for size, rate in rates.items():
        print(f"matrix product {size} x {size} x {size}: {rate / 1e9:.0f} GFLOP/s")
    peak_bf16 = max(gemm_rate(size, size, size, torch.bfloat16) for size in GEMM_SIZES) if has_bf16() else peak
    if has_bf16():
        print(f"the best of these sizes in bf16: {peak_bf16 / 1e9:.0f} GFLOP/s")
    for what, rate in rates_of_the_models_shapes(made).items():
        print(f"{what}: {rate / 1e9:.0f} GFLOP/s, {100 * rate / peak:.0f} % of the best of these")
    for name, step in seconds.items():
        rate = sum(done["ours" if name.startswith("ours") else "plain"]) / step
        best, of = (peak_bf16, " in bf16") if "bf16" in name else (peak, "")
        print(f"{name}: {rate / 1e9:.1f} GFLOP/s, {100 * rate / best:.0f} % of the best matrix product{of}")


def flops_of_a_step(model: TinyWan, made: Material) -> tuple[int, int]:
    """Of matrix products and convolutions, and of attention.

    torch counts no attention on CPUs: its two products are added here, and twice as much for backward, where what is
    computed again does not count.
    """
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    formulas = {
        forward: lambda query, key, value, *_, **__: sdpa_flop_count(query, key, value),
        backward: lambda _, query, key, value, *__, **___: 2 * sdpa_flop_count(query, key, value),
    }
    clean = torch.from_numpy(np.stack([made.cached[number] for number in range(BATCH)]))
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        plain_loss(model, clean).backward()
    counts = counter.get_flop_counts()["Global"]
    attention = counts.get(forward, 0) + counts.get(backward, 0)
    if not attention:
        print("attention ran as another operation than is counted here: its FLOP are missing")
    return counter.get_total_flops() - attention, attention


def rates_of_the_models_shapes(made: Material) -> dict[str, float]:
    """FLOP/s of the products and the attention that a block of the model is made of, each alone."""
    config = base().transformer.config
    heads, head = config["num_attention_heads"], config["attention_head_dim"]
    width, inner = heads * head, config["ffn_dim"]
    cells = made.cached[0].shape[-1] // config["patch_size"][-1]
    tokens = (CLIP_FRAMES - CONTEXT_FRAMES) // config["patch_size"][0] * cells**2
    rows = BATCH * tokens
    found = {
        f"matrix product {rows} x {width} x {out}, {what}": gemm_rate(rows, width, out)
        for what, out in (("a projection", width), ("into the feed-forward layer", inner))
    }
    found[f"matrix product {width} x {rows} x {inner}, a weight's gradient"] = gemm_rate(width, rows, inner)
    query = torch.randn(BATCH, heads, tokens, head)
    flops = sdpa_flop_count(query.shape, query.shape, query.shape)
    found[f"attention, {heads} heads of {head}, {tokens} tokens, forward"] = flops / least_seconds(
        lambda: scaled_dot_product_attention(query, query, query)
    )
    return found


def gemm_rate(rows: int, inner: int, columns: int, dtype: torch.dtype = torch.float32) -> float:
    left, right = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
    return 2 * rows * inner * columns / least_seconds(lambda: left @ right)


def least_seconds(work: Callable[[], object], calls: int = 10) -> float:
    return min(seconds_of(work) for _ in range(calls))


def seconds_of(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


GROUPS = {  # the first whose words are in an operation's name
    "attention": ("scaled_dot_product",),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "convolution"),
    "norms": ("layer_norm", "rms_norm"),
    "optimizer, clipping, average": ("adamw", "_foreach_"),
    "fused by the compiler (elementwise, norms)": ("CompiledFxGraph",),
    "elementwise, sums, copies": ("aten::",),
    "dispatch and autograd": ("",),
}


def profile_ways(made: Material, compiled: bool, size: Size) -> None:
    """Where a step's time goes: each operation's own time on the main thread, and what no operation took (Python)."""
    ways = {"plain loop, cached latents": plain(made, cached=True), **our_ways(made, compiled)}
    print("\nwhere the time of a step goes (torch.profiler, which slows it down a little)")
    for name, way in ways.items():
        way(2)
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            started = time.perf_counter()
            first_and_later = way(size.steps)
            whole = time.perf_counter() - started
        groups = dict.fromkeys(GROUPS, 0.0)
        for event in profiled.key_averages():
            group = next(group for group, words in GROUPS.items() if any(word in event.key for word in words))
            groups[group] += event.self_cpu_time_total / 1e6
        groups["Python"] = whole - sum(groups.values())
        print(f"{name}: {1000 * first_and_later.seconds:.0f} ms a step; " + ", ".join(
            f"{group} {100 * seconds / whole:.0f} %" for group, seconds in groups.items() if seconds > 0.001 * whole
        ))  # fmt: skip


# ---------------------------------------------------------------------------------------- (d) from command to first step
def time_to_first_step(store: Path, size: Size) -> None:
    """`python -m replaylab train`, until the first line of the log can be read: a checkpoint is written before that."""
    command = [sys.executable, "-m", "replaylab", "train", "--preset", "smoke", "--store", str(store)]
    subprocess.run([*command, "--replay-fraction", "0.5"], check=True, stdout=subprocess.DEVNULL)
    imports = [seconds_of(lambda: run("-c", "import replaylab.training.fine_tuning")) for _ in range(size.rounds)]
    found = np.array([first_step_seconds(command, store, seed) for seed in range(size.rounds)])
    whole, claimed, step = found.T
    print(f"\n(d) from command to first step, caches warm: {middle(whole)} (range over {size.rounds} runs)")
    print(f"  of which until the run's folder is there, imports and the estimate of its time: {middle(claimed)}")
    print(f"  of which the first step itself, the wait for its batch included: {middle(step)}")
    print(f"imports alone, python -c 'import replaylab.training.fine_tuning': {middle(np.array(imports))}")


def middle(seconds: np.ndarray) -> str:
    return f"{np.median(seconds):.1f} s ({seconds.min():.1f} to {seconds.max():.1f})"


def first_step_seconds(command: list[str], store: Path, seed: int) -> tuple[float, float, float]:
    """Seconds from the command to its first step, to its folder, and of the step."""
    (spec,) = grid("smoke", [0.0], [seed])
    folder = store / spec.run_id
    log = folder / "log.jsonl"
    started = time.time()  # as files are dated
    process = subprocess.Popen(
        [*command, "--replay-fraction", "0", "--seed", str(seed), "--checkpoint-steps", "1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (log.is_file() and log.stat().st_size):
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode} before its first step")
        time.sleep(0.005)
    seconds = time.time() - started
    process.terminate()
    process.wait()
    step = json.loads(log.read_text().splitlines()[0])["seconds"]
    return seconds, (folder / "spec.json").stat().st_mtime - started, step


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True)


if __name__ == "__main__":
    main()
