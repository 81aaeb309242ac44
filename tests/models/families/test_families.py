"""Each family against its own: the published loss on the same tensors, its pipeline's samples from the same noise."""

from __future__ import annotations

import copy
import importlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from fake_hub import OWNER, REFUSALS, refusing_hub
from huggingface_hub.utils import filter_repo_objects
from peft import get_peft_model_state_dict
from tiny_families import CONTEXT, FRAMES, SIDE, TINY
from torch import Tensor

from replaylab.mixture import Mixture
from replaylab.models import families, lora
from replaylab.models.families import tensors
from replaylab.models.interface import VideoModel
from replaylab.util import networks

NAMES = tuple(TINY)
PROMPT = "a car drives on the  road"
FPS = 8.0
STEPS, GUIDANCE = 4, 3.0


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's miniature, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            TINY[name](made[name])
        return made[name]

    return folder


def a_clip(name: str, number: int = 0) -> np.ndarray:
    """Random frames, smooth enough that clips differ in what they show."""
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (FRAMES[name], 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(SIDE[name] // 4, 1).repeat(SIDE[name] // 4, 2)


def prompt_for(name: str) -> str:
    return "" if name == "svd" else PROMPT


def an_example(model: Any, name: str, context_frames: int = 1, number: int = 0) -> dict[str, Tensor]:
    return model.example(a_clip(name, number), prompt_for(name), context_frames, FPS)


def draws(latents: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Noise, and a standard normal number a clip."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(latents.shape, generator=random), torch.randn(len(latents), generator=random)


def two_examples(model: Any, name: str) -> dict[str, Tensor]:
    both = [an_example(model, name, CONTEXT[name], number) for number in (0, 1)]
    return {key: torch.cat([each[key] for each in both]) for key in both[0]}


# ------------------------------------------------------------------------------------- the published training formulas
def wan_formula(model: Any, x: Tensor, noise: Tensor, level: Tensor, given: dict[str, Tensor]) -> Tensor:
    """Wan team 2025, arXiv 2503.20314, eq. 1 to 3: x_t = t x1 + (1 - t) x0 of noise x0, v = x1 - x0, E |u - v|^2. Time
    there runs from noise to clip, and diffusers' network gives the opposite velocity."""
    t = (1 - level)[:, None, None, None, None]
    x_t = t * x + (1 - t) * noise
    u = -model.transformer(torch.cat([x_t, given["channels"]], dim=1), 1000 * level, given["text"], given["image"]).sample
    return ((u - (x - noise)) ** 2).mean()


def wan_in_place_formula(model: Any, x: Tensor, noise: Tensor, level: Tensor, given: dict[str, Tensor]) -> Tensor:
    """DiffSynth-Studio's FlowMatchSFTLoss without its weight: the first latents put in place, left out of the error; a
    timestep for every token, as in Wan 2.2's own textimage2video.py."""
    k = given["known"].shape[2]
    s = level[:, None, None, None, None]
    latents = (1 - s) * x + s * noise
    latents[:, :, :k] = given["known"]
    mask = torch.ones(x.shape[2:])
    mask[:k] = 0
    per_token = torch.stack([(mask[:, ::2, ::2] * 1000 * each).flatten() for each in level])
    predicted = model.transformer(latents, per_token, given["text"]).sample
    return torch.nn.functional.mse_loss(predicted[:, :, k:], (noise - x)[:, :, k:])


def cogvideox_formula(model: Any, x: Tensor, noise: Tensor, level: Tensor, given: dict[str, Tensor]) -> Tensor:
    """diffusers, examples/cogvideo/train_cogvideox_image_to_video_lora.py: the clean clip from v, weighted by
    1 / (1 - alpha)."""
    scheduler, frames_first = model.pipe.scheduler, x.transpose(1, 2)
    noisy = scheduler.add_noise(frames_first, noise.transpose(1, 2), level)
    config = model.transformer.config
    rotary = model.pipe._prepare_rotary_positional_embeddings(32, 32, noisy.shape[1], noisy.device)
    output = model.transformer(
        hidden_states=torch.cat([noisy, given["channels"].transpose(1, 2)], dim=2),
        encoder_hidden_states=given["text"], timestep=level, image_rotary_emb=rotary,
        ofs=torch.full((1,), 2.0) if config.ofs_embed_dim else None,
    ).sample  # fmt: skip
    predicted = scheduler.get_velocity(output, noisy, level)
    weights = (1 / (1 - scheduler.alphas_cumprod[level]))[:, None, None, None, None]
    return (weights * (predicted - frames_first) ** 2).flatten(1).mean(1).mean()


def ltx_formula(model: Any, x: Tensor, noise: Tensor, level: Tensor, given: dict[str, Tensor]) -> Tensor:
    """Lightricks' LTX-Video-Trainer: in tokens, conditioning ones clean at timestep 0, and the mean over the others by
    error x mask / mean of mask."""
    b, c, t, h, w = x.shape
    tokens, noises = (each.permute(0, 2, 3, 4, 1).reshape(b, t * h * w, c) for each in (x, noise))
    conditioning = torch.zeros(b, t * h * w, dtype=torch.bool)
    conditioning[:, : given["known"].shape[2] * h * w] = True
    known = torch.nn.functional.pad(given["known"], (0, 0, 0, 0, 0, t - given["known"].shape[2]))
    clean = torch.where(conditioning[..., None], known.permute(0, 2, 3, 4, 1).reshape(b, t * h * w, c), tokens)
    s = level[:, None, None]
    noisy = torch.where(conditioning[..., None], clean, (1 - s) * tokens + s * noises)
    timesteps = torch.where(conditioning, 0.0, 1000 * level[:, None])
    predicted = model.transformer(
        noisy, given["text"], timesteps, given["is_word"], t, h, w, rope_interpolation_scale=(8 / FPS, 32, 32)
    ).sample
    mask = (~conditioning)[..., None].float()
    return ((predicted - (noises - tokens)).pow(2) * mask).div(mask.mean()).mean()


def svd_formula(model: Any, x: Tensor, noise: Tensor, level: Tensor, given: dict[str, Tensor]) -> Tensor:
    """Karras et al. 2022, arXiv 2206.00364, eq. 7 and table 1 with sigma_data = 1, as SVD_Xtend's train_svd.py has it."""
    clean, s = x.transpose(1, 2), level[:, None, None, None, None]
    noisy = clean + s * noise.transpose(1, 2)
    image = given["channels"][:, None].repeat(1, clean.shape[1], 1, 1, 1)
    output = model.transformer(
        torch.cat([noisy / (s**2 + 1) ** 0.5, image], dim=2), 0.25 * level.log(), given["image"], given["numbers"]
    ).sample
    denoised = output * (-s / (s**2 + 1) ** 0.5) + noisy / (s**2 + 1)
    weight = (1 + s**2) * s**-2.0
    return (weight * (denoised - clean) ** 2).flatten(1).mean(1).mean()


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "wan": wan_formula, "wan-in-place": wan_in_place_formula, "cogvideox": cogvideox_formula,
    "cogvideox-1.5": cogvideox_formula, "ltx": ltx_formula, "svd": svd_formula,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_published_one(name: str, tiny: Callable[[str], Path]) -> None:
    model = families.load(tiny(name))
    examples = two_examples(model, name)
    latents = examples["latents"]
    noise, normal = draws(latents)
    level = model.levels(normal, latents.shape)
    with torch.no_grad():
        ours = model.loss(latents, noise, level, examples)
        published = FORMULAS[name](model, latents, noise, level, examples)
    assert ours.item() == pytest.approx(published.item(), rel=2e-5)
    assert ours > 0.01


def test_levels_are_distributed_as_published(tiny: Callable[[str], Path]) -> None:
    normal, size = torch.randn(20000, generator=torch.Generator().manual_seed(0)), (1, 4, 13, 8, 8)
    logit = families.load(tiny("wan")).levels(normal, size).logit()
    assert torch.allclose(logit, normal + np.log(3.0), atol=1e-3)  # shift 3
    log = families.load(tiny("svd")).levels(normal, size).log()
    assert log.mean().item() == pytest.approx(0.7, abs=0.05)
    assert log.std().item() == pytest.approx(1.6, abs=0.05)
    steps = families.load(tiny("cogvideox")).levels(normal, size)
    assert steps.min() == 0 and steps.max() == 999
    assert steps.float().mean().item() == pytest.approx(499.5, abs=10)
    ltx = families.load(tiny("ltx"))
    # 1024 tokens: shift 0.95; 4096: 2.05
    assert ltx.levels(normal, (1, 8, 4, 16, 16)).logit().mean().item() == pytest.approx(0.95, abs=0.03)
    assert ltx.levels(normal, (1, 8, 16, 16, 16)).logit().mean().item() == pytest.approx(2.05, abs=0.03)


# ------------------------------------------------------------------------------------------- the family's own pipeline
def pipeline(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import diffusers

    kind = families.load(folder).PIPELINE
    module = importlib.import_module(getattr(diffusers, kind).__module__)
    if name.startswith("wan"):  # its pipeline cleans prompts by ftfy, which well-formed ones do not need
        monkeypatch.setattr(module, "ftfy", SimpleNamespace(fix_text=lambda text: text), raising=False)
    made = getattr(diffusers, kind).from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def sampled(name: str, pipe: Any, noise: Tensor, guidance: float, output_type: str) -> Any:
    """What the pipeline makes of the first frame and this noise."""
    from PIL import Image

    image = Image.fromarray(a_clip(name)[0])
    random = tensors.generator_of(a_clip(name)[:1])  # where the adapter draws what it needs to encode the image
    common = {
        "image": image, "height": SIDE[name], "width": SIDE[name], "num_frames": FRAMES[name], "generator": random,
        "num_inference_steps": STEPS, "output_type": output_type,
    }  # fmt: skip
    words = {"prompt": PROMPT, "negative_prompt": "", "guidance_scale": guidance}
    if name == "svd":
        return pipe(**common, latents=noise.transpose(1, 2), fps=int(FPS), max_guidance_scale=guidance).frames
    if name == "ltx":
        # its own draw of the image's latents first, then ours instead of its noise
        module = importlib.import_module(type(pipe).__module__)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(module, "randn_tensor", lambda *_, **__: noise)
            return pipe(**common, **words, frame_rate=FPS).frames
    if name.startswith("cogvideox"):
        limit = pipe.transformer.config.max_text_seq_length
        return pipe(**common, **words, latents=noise.transpose(1, 2), max_sequence_length=limit).frames
    return pipe(**common, **words, latents=noise, max_sequence_length=512).frames


def as_ours(name: str, latents: Tensor, like: Tensor) -> Tensor:
    """The pipeline's latents as (B, C, t, h, w)."""
    if name == "ltx":
        b, c, t, h, w = like.shape
        return latents.reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3)
    return latents if name.startswith("wan") else latents.transpose(1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_the_loss_clip_by_clip_at_a_share_of_the_levels(name: str, tiny: Callable[[str], Path]) -> None:
    model = families.load(tiny(name))
    examples = two_examples(model, name)
    noise, _ = draws(examples["latents"])
    level = model.level_at(0.5, noise.shape)
    levels = model.levels(torch.linspace(-3, 3, 1001), noise.shape).sort().values
    assert (level - levels[500]).abs().item() <= (1 if level.dtype == torch.int64 else 1e-3 * level.item())
    given = examples["latents"], noise, level.expand(2), examples
    with torch.no_grad():
        assert model.errors(*given).mean().item() == pytest.approx(model.loss(*given).item(), rel=1e-4)


@pytest.mark.parametrize("guidance", [1.0, GUIDANCE])
@pytest.mark.parametrize("name", NAMES)
def test_samples_are_those_of_the_familys_pipeline(
    name: str, guidance: float, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.load(tiny(name))
    example = an_example(model, name)
    noise, _ = draws(example["latents"])
    model.guidance = guidance
    ours = model.sample(noise, example, STEPS)
    theirs = sampled(name, pipeline(name, tiny(name), monkeypatch), noise.clone(), guidance, "latent")
    theirs = as_ours(name, theirs, ours)
    assert (ours - theirs).abs().max() <= 2e-5 * theirs.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_decoded_frames_are_those_of_the_familys_pipeline(
    name: str, tiny: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.load(tiny(name))
    example = an_example(model, name)
    noise, _ = draws(example["latents"])
    ours = model.decode(model.sample(noise, example, STEPS))
    theirs = sampled(name, pipeline(name, tiny(name), monkeypatch), noise.clone(), 1.0, "np")
    assert ours.shape == (1, *a_clip(name).shape)
    assert np.abs(ours / 255 - theirs).max() <= 0.51 / 255 + 1e-4


def test_cogvideox_samples_by_ddim_whatever_solver_is_named(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    from diffusers import CogVideoXDPMScheduler

    model = families.load(tiny("cogvideox"))
    TINY["cogvideox"](tmp_path, scheduler=CogVideoXDPMScheduler.from_config(model.pipe.scheduler.config))
    other = families.load(tmp_path)
    example = an_example(model, "cogvideox")
    noise, _ = draws(example["latents"])
    assert torch.equal(model.sample(noise, example, STEPS), other.sample(noise, example, STEPS))


# ---------------------------------------------------------------------------------------------------- context frames
def test_wans_mask_says_which_frames_are_known(tiny: Callable[[str], Path]) -> None:
    model = families.load(tiny("wan"))
    for known in (1, 3, 5, 8):
        mask = an_example(model, "wan", known)["channels"][0, :4, :, 0, 0]
        by_frame = mask.T.flatten()  # of the first frame, four times, then of each frame
        assert by_frame.tolist() == [1.0] * (known + 3) + [0.0] * (9 - known)


@pytest.mark.parametrize("name", ["wan-in-place", "ltx"])
def test_known_latents_are_those_of_the_whole_clip_and_stay(name: str, tiny: Callable[[str], Path]) -> None:
    model = families.load(tiny(name))
    example = an_example(model, name, CONTEXT[name])
    known = example["known"]
    if name == "wan-in-place":  # LTX-Video's are a draw around them
        assert torch.allclose(known, example["latents"][:, :, :2], atol=1e-5)
    noise, _ = draws(example["latents"])
    assert torch.equal(model.sample(noise, example, STEPS)[:, :, :2], known)


@pytest.mark.parametrize("name", ["wan-in-place", "ltx"])
def test_the_loss_does_not_look_at_what_is_known(name: str, tiny: Callable[[str], Path]) -> None:
    model = families.load(tiny(name))
    example = an_example(model, name, CONTEXT[name])
    latents = example["latents"]
    noise, normal = draws(latents)
    level = model.levels(normal, latents.shape)
    other = latents.clone()
    other[:, :, :2] += 1
    assert torch.equal(model.loss(latents, noise, level, example), model.loss(other, noise, level, example))


# -------------------------------------------------------------------------------------------------------- fine-tuning
@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("wan", 2 * (4 + 4 + 2)),  # blocks x (both attentions' q, k, v, out and the two of the feed-forward)
        ("wan-in-place", 2 * (4 + 4 + 2)),
        ("cogvideox", 2 * 4),
        ("ltx", 2 * (4 + 4)),
        ("svd", 4 * 2 * (4 + 4)),  # places x (space, time) x both attentions
    ],
)
def test_adapters_are_on_the_layers_of_the_family(name: str, layers: int, tiny: Callable[[str], Path]) -> None:
    model: VideoModel = families.load(tiny(name))
    lora.add_lora(model.transformer, model.ADAPTED, rank=2, seed=0)
    assert len(get_peft_model_state_dict(model.transformer)) == 2 * layers
    for layer in model.TEMPORAL:
        assert any(layer in key.split(".") for key, _ in model.transformer.named_parameters())


# SVD, whose smallest network is large, takes ten times as long as the others
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "svd")) for name in NAMES])
def test_a_fine_tune_with_replay_lowers_the_loss_on_both(name: str, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    model = families.load(tiny(name))
    sources = [[an_example(model, name, number=number) for number in numbers] for numbers in ((0, 1), (2, 3))]
    before = {key: weight.clone() for key, weight in model.transformer.state_dict().items()}
    lora.add_lora(model.transformer, model.ADAPTED, rank=4, seed=0)
    trained = {key: weight for key, weight in model.transformer.named_parameters() if weight.requires_grad}
    assert trained and all("lora" in key for key in trained)
    model.transformer.enable_gradient_checkpointing()

    def loss_of(example: dict[str, Tensor], number: int) -> Tensor:
        noise, normal = draws(example["latents"], number)
        return model.loss(example["latents"], noise, model.levels(normal, noise.shape), example)

    def losses() -> list[float]:
        with torch.no_grad():
            return [
                float(np.mean([loss_of(example, number).item() for example in source for number in range(8)]))
                for source in sources
            ]

    at_first, optimizer = losses(), torch.optim.AdamW(trained.values(), lr=2e-2)
    mixture = Mixture(0.5, 2, [2, 2], seed=0)
    model.transformer.train()
    for step in range(30):
        optimizer.zero_grad()
        for slot in mixture.batch(step):
            loss_of(sources[slot.domain][slot.clip], step % 8).backward()
        optimizer.step()
    model.transformer.eval()
    at_last = losses()
    assert all(last < 0.97 * first for first, last in zip(at_first, at_last, strict=True)), (at_first, at_last)

    with_adapters = loss_of(sources[0][0], 0).item()
    lora.write_lora(model.transformer, tmp_path, model.NETWORK[0])
    lora.merge_lora(model.transformer)
    assert set(model.transformer.state_dict()) == set(before)
    assert loss_of(sources[0][0], 0).item() == pytest.approx(with_adapters, rel=1e-4)
    model.save_network(tmp_path)
    again = families.load(tiny(name))
    again = again.with_network(networks.load(type(model.transformer), tmp_path / model.NETWORK[0]))
    example = sources[0][0]
    noise, normal = draws(example["latents"])
    saved = again.loss(example["latents"], noise, again.levels(normal, noise.shape), example).item()
    assert saved == pytest.approx(with_adapters, rel=1e-4)


def test_written_adapters_are_what_diffusers_loads(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = families.load(tiny("ltx"))
    example = an_example(model, "ltx")
    noise, normal = draws(example["latents"])
    level = model.levels(normal, noise.shape)
    lora.add_lora(model.transformer, model.ADAPTED, rank=2, seed=0)
    with torch.no_grad():
        for key, weight in model.transformer.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
        ours = model.predict(noise, level, example)
        lora.write_lora(model.transformer, tmp_path, model.NETWORK[0])
        pipe = pipeline("ltx", tiny("ltx"), monkeypatch)
        pipe.load_lora_weights(tmp_path)
        plain = families.load(tiny("ltx"))
        unadapted = plain.predict(noise, level, example)
        plain = plain.with_network(pipe.transformer)
        assert torch.allclose(plain.predict(noise, level, example), ours, atol=1e-5)
    assert not torch.allclose(unadapted, ours, atol=1e-3)


def test_a_teacher_pulls_towards_its_own_predictions(tiny: Callable[[str], Path]) -> None:
    model = families.load(tiny("wan-in-place"))
    example = an_example(model, "wan-in-place")
    noise, normal = draws(example["latents"])
    given = example["latents"], noise, model.levels(normal, noise.shape), example
    teacher = model.with_network(copy.deepcopy(model.transformer))
    with torch.no_grad():
        plain = model.loss(*given)
        assert torch.equal(model.loss(*given, teacher, 2.0), plain)  # nothing was learnt yet
        model.transformer.proj_out.bias += 0.5  # of every latent alike
        shifted = model.loss(*given)
        assert model.loss(*given, teacher, 2.0).item() == pytest.approx(shifted.item() + 2 * 0.25, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_checkpointing_changes_no_gradient(name: str, tiny: Callable[[str], Path]) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = families.load(tiny(name))
        example = an_example(model, name)
        noise, normal = draws(example["latents"])
        if checkpointed:
            model.transformer.enable_gradient_checkpointing()
        model.transformer.train()
        model.loss(example["latents"], noise, model.levels(normal, noise.shape), example).backward()
        gradients.append(torch.cat([w.grad.flatten() for w in model.transformer.parameters() if w.grad is not None]))
    plain, sparing = gradients
    assert torch.allclose(plain, sparing, atol=1e-6)
    assert plain.abs().max() > 0


# ----------------------------------------------------------------------------------------------------- cache and memory
@pytest.mark.parametrize("name", NAMES)
def test_conditions_are_encoded_once_and_no_encoder_is_loaded_again(
    name: str, tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny(name)
    first = families.load(folder, cache=tmp_path)
    encoders = (*first.TEXT_ENCODERS, *first.IMAGE_ENCODERS)
    assert all(getattr(first.pipe, encoder) is None for encoder in encoders)
    made = an_example(first, name)
    assert all(getattr(first.pipe, encoder) is not None for encoder in encoders)
    first.unload_encoders()
    assert all(getattr(first.pipe, encoder) is None for encoder in encoders)

    again = families.load(folder, cache=tmp_path)
    monkeypatch.setattr(again, "encode_prompt", lambda prompt: pytest.fail("the prompt was read again"))
    monkeypatch.setattr(again, "encode_context", lambda *_: pytest.fail("the context was encoded again"))
    monkeypatch.setattr(again, "encode", lambda frames: pytest.fail("the clip was encoded again"))
    found = an_example(again, name)
    assert set(found) == set(made)
    assert all(torch.equal(found[key], made[key]) for key in made)
    uncached = an_example(families.load(folder), name)
    assert all(torch.equal(uncached[key], made[key]) for key in made)


def test_another_prompt_context_or_model_is_another_condition(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    model = families.load(tiny("wan"), cache=tmp_path)
    clips = np.stack([a_clip("wan", 0)[:1], a_clip("wan", 1)[:1]])
    both = model.condition(clips, ["a car", "a road"], 9, FPS)
    assert not torch.equal(both["text"][0], both["text"][1])
    assert not torch.equal(both["channels"][0], both["channels"][1])
    files = len(list(tmp_path.glob("*.safetensors")))
    model.condition(clips, ["a car", "a road"], 9, FPS)
    assert len(list(tmp_path.glob("*.safetensors"))) == files == 4
    changed = tmp_path / "changed"
    shutil.copytree(tiny("wan"), changed)
    weights = changed / "text_encoder" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    families.load(changed, cache=tmp_path).condition(clips[:1], ["a car"], 9, FPS)
    assert len(list(tmp_path.glob("text-*.safetensors"))) == 3  # another reader of the prompt
    assert len(list(tmp_path.glob("context-*.safetensors"))) == 2  # the same eyes


def test_examples_leave_no_encoder_behind(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    model = families.load(tiny("wan"), cache=tmp_path)
    clips = [a_clip("wan", number) for number in range(3)]
    examples = model.examples(clips, [PROMPT] * 3, 1, FPS)
    assert model.pipe.text_encoder is None and model.pipe.image_encoder is None
    assert len(list(tmp_path.glob("text-*.safetensors"))) == 1  # read once for all three
    alone = families.load(tiny("wan")).example(clips[2], PROMPT, 1, FPS)
    assert all(torch.equal(examples[2][key], alone[key]) for key in alone)


def test_a_damaged_cache_file_is_made_again(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    model = families.load(tiny("ltx"), cache=tmp_path)
    made = {key: tensor.clone() for key, tensor in an_example(model, "ltx").items()}  # they are mapped
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:20])
    found = an_example(model, "ltx")
    assert all(torch.equal(found[key], made[key]) for key in made)


@pytest.mark.parametrize("name", NAMES)
def test_sparing_memory_keeps_the_autoencoder(name: str, tiny: Callable[[str], Path]) -> None:
    model = families.load(tiny(name))
    clips = np.stack([a_clip(name, 0), a_clip(name, 1)])
    latents = model.encode(clips)
    frames = model.decode(latents)
    model.reduce_memory()
    if name != "svd":  # its autoencoder has neither
        assert model.vae.use_slicing and model.vae.use_tiling
    assert torch.allclose(model.encode(clips), latents, atol=1e-4)
    assert np.abs(model.decode(latents).astype(int) - frames).max() <= 1


def test_in_half_precision_the_network_is_and_the_autoencoder_is_not(tiny: Callable[[str], Path]) -> None:
    for name in NAMES:
        model = families.load(tiny(name), dtype=torch.bfloat16)
        example = an_example(model, name)
        noise, normal = draws(example["latents"])
        loss = model.loss(example["latents"], noise, model.levels(normal, noise.shape), example)
        exact = families.load(tiny(name))
        expected = exact.loss(example["latents"], noise, exact.levels(normal, noise.shape), an_example(exact, name))
        assert model.vae.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.item(), rel=0.03)


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.fixture
def broken(tiny: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny Wan to break."""
    return Path(shutil.copytree(tiny("wan"), tmp_path / "broken"))


def refuses(folder: Path, kind: type[Exception], *words: str) -> None:
    with pytest.raises(kind) as caught:
        families.load(folder)
    for word in words:
        assert word in str(caught.value)


def test_what_is_missing_is_named(broken: Path) -> None:
    (broken / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    refuses(broken, FileNotFoundError, str(broken / "transformer"), "no weights")
    (broken / "transformer" / "diffusion_pytorch_model.bin").touch()
    refuses(broken, FileNotFoundError, "pickled")
    shutil.rmtree(broken / "transformer")
    refuses(broken, FileNotFoundError, str(broken / "transformer"))
    (broken / "model_index.json").unlink()
    refuses(broken, FileNotFoundError, "model_index.json", "diffusers' layout")


def test_a_missing_shard_is_named(broken: Path) -> None:
    index = {"weight_map": {"proj_out.weight": "part-2.safetensors"}}
    (broken / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    refuses(broken, FileNotFoundError, "part-2.safetensors", "copy or download")


def test_truncated_weights_are_refused(broken: Path) -> None:
    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-100], whole[:5], b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"):
        path.write_bytes(content)
        refuses(broken, ValueError, str(path), "copy or download it again")


def test_a_truncated_encoder_is_refused_when_it_is_needed(broken: Path) -> None:
    path = broken / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    model = families.load(broken)
    with pytest.raises(ValueError, match="cut short"):
        model.condition(a_clip("wan")[None, :1], ["a car"], 9, FPS)


def test_weights_that_lack_a_tensor_are_refused(broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    for part in ("transformer", "vae"):
        path = broken / part / "diffusion_pytorch_model.safetensors"
        weights = load_file(path)
        lost = sorted(weights)[0]
        save_file({key: value for key, value in weights.items() if key != lost}, path)
        refuses(broken, ValueError, str(broken / part), lost)
        save_file(weights, path)


def change_index(folder: Path, **changed: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_another_family_is_refused(broken: Path, tiny: Callable[[str], Path], tmp_path: Path) -> None:
    change_index(broken, _class_name="HunyuanVideoPipeline")
    refuses(broken, ValueError, "'HunyuanVideoPipeline'", "CogVideoXImageToVideoPipeline")
    change_index(broken, _class_name="WanPipeline")
    refuses(broken, ValueError, "text-to-video")
    change_index(broken, _class_name="LTXPipeline")
    refuses(broken, ValueError, "WanTransformer3DModel", "LTXVideoTransformer3DModel")
    change_index(broken, _class_name="WanImageToVideoPipeline", transformer_2=["diffusers", "WanTransformer3DModel"])
    refuses(broken, ValueError, "two networks")
    (broken / "model_index.json").write_text("{")
    refuses(broken, ValueError, "no JSON")
    (broken / "model_index.json").write_text("{}")
    refuses(broken, ValueError, "_class_name")


def test_a_text_to_video_network_in_an_image_to_video_folder_is_refused(tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 8, "num_layers": 1, "text_dim": 16}
    TINY["wan"](tmp_path, transformer=WanTransformer3DModel(**sizes, in_channels=4, out_channels=4))
    refuses(tmp_path, ValueError, "takes 4 channels", "takes 12")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refuses(tmp_path / "nothing", FileNotFoundError, "no folder here")
    with pytest.raises(FileNotFoundError, match="no name on the Hugging Face hub"):
        families.load("wan")


@pytest.mark.parametrize(("model", "words"), REFUSALS.items())
def test_a_hub_that_refuses_says_what_to_do(model: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import hf_api

    name = f"{OWNER}/{model}"
    with refusing_hub() as address:
        monkeypatch.setattr(hf_api.api, "endpoint", address)
        with pytest.raises(ConnectionError) as caught:
            families.load(name)
    assert words in str(caught.value)
    assert f"hf download {name} --local-dir {model}" in str(caught.value)


def test_what_a_model_of_the_hub_takes_is_known_without_its_weights(
    tiny: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        folder = tiny(name.partition("/")[2])
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        for file in filter_repo_objects(files, allow_patterns=allow_patterns):
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / file, tmp_path / name / file)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "model_info", lambda name, timeout: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    for name in ("cogvideox", "svd"):
        with pytest.raises(ValueError, match="takes frames"):
            families.outline(f"{OWNER}/{name}").check_clips(1, FRAMES[name], SIDE[name] + 1, SIDE[name])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_an_unreachable_hub_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, hf_api

    monkeypatch.setattr(hf_api.api, "endpoint", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits, to try again"))
    with pytest.raises(ConnectionError, match=r"cannot be reached.*hf download replaylab-tests/not-there"):
        families.load("replaylab-tests/not-there")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        families.load("replaylab-tests/not-there")


@pytest.mark.parametrize(
    ("name", "frames", "context", "side", "words"),
    [
        ("wan", 8, 1, 32, "n x 4 \\+ 1"),
        ("wan", 9, 9, 32, "1 to 8 context frames"),
        ("wan", 9, 1, 40, "multiples of 16 px"),
        ("wan-in-place", 9, 3, 64, "context of n x 4 \\+ 1"),
        ("cogvideox-1.5", 13, 1, 32, "n x 8 \\+ 1"),
        ("cogvideox", 5, 1, 32, "n x 8 \\+ 1 frames, not of 5: take 9"),
        ("cogvideox", 9, 2, 32, "context of n x 4 \\+ 1"),
        ("ltx", 17, 3, 64, "context of n x 8 \\+ 1"),
        ("ltx", 17, 1, 48, "multiples of 32 px"),
        ("svd", 5, 3, 32, "one context frame"),
    ],
)
def test_clips_that_do_not_fit_are_refused(
    name: str, frames: int, context: int, side: int, words: str, tiny: Callable[[str], Path]
) -> None:
    model = families.load(tiny(name))
    clip = np.zeros((1, context, side, side, 3), np.uint8)
    with pytest.raises(ValueError, match=words):
        model.condition(clip, [prompt_for(name)], frames, FPS)


def test_svd_refuses_what_it_does_not_take(tiny: Callable[[str], Path]) -> None:
    model = families.load(tiny("svd"))
    with pytest.raises(ValueError, match="takes no text"):
        model.condition(a_clip("svd")[None, :1], ["a car"], 5, FPS)
