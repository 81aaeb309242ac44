"""Every family's pipeline in miniature: random weights, the real classes, saved in the family's own folder layout.

`TINY[name](folder)` writes it; `FRAMES`, `SIDE` and `CONTEXT` say what clips it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import transformers

WORDS = ("<pad>", "</s>", "<unk>", "▁a", "▁car", "▁drives", "▁on", "▁the", "▁road", "▁turns", "▁left")
LETTERS = "▁abcdefghijklmnopqrstuvwxyz"
WIDTH = 16  # of the text and image encoders
FRAMES = {"wan": 9, "wan-in-place": 9, "cogvideox": 9, "cogvideox-1.5": 9, "ltx": 17, "svd": 5}
SIDE = {"wan": 32, "wan-in-place": 64, "cogvideox": 32, "cogvideox-1.5": 32, "ltx": 64, "svd": 32}  # px
CONTEXT = {"wan": 3, "wan-in-place": 5, "cogvideox": 5, "cogvideox-1.5": 5, "ltx": 9, "svd": 1}  # the most that is tested


def reproducible(make: Callable[..., None]) -> Callable[..., None]:
    """The same weights every time, and torch's global stream where it was."""

    @wraps(make)
    def made(*given: Any, **changed: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            make(*given, **changed)

    return made


def tokenizer(**settings: Any) -> Any:
    """T5's, of a few words and the letters."""
    vocabulary = [(word, -1.0 * (word[0] != "<")) for word in WORDS] + [(letter, -5.0) for letter in LETTERS]
    return transformers.T5TokenizerFast(vocab=vocabulary, extra_ids=0, **settings)


def text_encoder(family: str) -> Any:
    sizes = {
        "vocab_size": len(WORDS) + len(LETTERS), "d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2,
    }  # fmt: skip
    if family == "umt5":
        return transformers.UMT5EncoderModel(transformers.UMT5Config(**sizes)).eval()
    return transformers.T5EncoderModel(transformers.T5Config(**sizes)).eval()


def image_encoder(kind: Any, side_px: int, patch_px: int) -> Any:
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=32, projection_dim=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        image_size=side_px, patch_size=patch_px,
    )  # fmt: skip
    return kind(config).eval()


def image_processor(side_px: int) -> Any:
    # CLIPImageProcessor itself wants torchvision, and without it falls back to this one with a warning
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": side_px}, crop_size={"height": side_px, "width": side_px}
    )


@reproducible
def wan(folder: Path, **changed: Any) -> None:
    """Wan 2.1 image-to-video."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel

    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.0, 0.3], latents_std=[1.5, 0.8, 1.1, 0.6],
    )  # fmt: skip
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=12, out_channels=4, text_dim=WIDTH,
        freq_dim=16, ffn_dim=32, num_layers=2, image_dim=WIDTH, added_kv_proj_dim=24, rope_max_seq_len=32,
    )  # fmt: skip
    parts = {
        "vae": vae, "transformer": transformer,
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        "tokenizer": tokenizer(), "text_encoder": text_encoder("umt5"),
        "image_encoder": image_encoder(transformers.CLIPVisionModel, 32, 16), "image_processor": image_processor(32),
    }  # fmt: skip
    WanImageToVideoPipeline(**parts | changed).save_pretrained(folder)


@reproducible
def wan_in_place(folder: Path, **changed: Any) -> None:
    """Wan 2.2 TI2V; the hub's goes by the name of the text-to-video pipeline."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel

    vae = AutoencoderKLWan(
        base_dim=4, decoder_base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, in_channels=12, out_channels=12,
        temperal_downsample=[False, True, True], latents_mean=[0.1, -0.2, 0.0, 0.3], latents_std=[1.5, 0.8, 1.1, 0.6],
        is_residual=True, patch_size=2, scale_factor_spatial=16,
    )  # fmt: skip
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=WIDTH,
        freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip
    parts = {
        "vae": vae, "transformer": transformer, "tokenizer": tokenizer(), "text_encoder": text_encoder("umt5"),
        "scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
    }  # fmt: skip
    WanPipeline(**parts | changed, expand_timesteps=True).save_pretrained(folder)


@reproducible
def cogvideox(folder: Path, version: str = "1.0", cells: tuple[int, int] = (4, 4), **changed: Any) -> None:
    """CogVideoX image-to-video, for frames of `cells` (height, width) of 8 px."""
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXImageToVideoPipeline,
        CogVideoXTransformer3DModel,
    )

    newer = version == "1.5"
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4, scaling_factor=0.7, invert_scale_latents=newer, sample_height=64, sample_width=64,
    )  # fmt: skip
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=8, out_channels=4, time_embed_dim=8,
        text_embed_dim=WIDTH, num_layers=2, sample_width=cells[1], sample_height=cells[0], sample_frames=9, patch_size=2,
        patch_size_t=2 if newer else None, ofs_embed_dim=8 if newer else None, patch_bias=not newer,
        max_text_seq_length=16, use_rotary_positional_embeddings=True, use_learned_positional_embeddings=not newer,
    )  # fmt: skip
    scheduler = CogVideoXDDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, snr_shift_scale=1.0,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, set_alpha_to_one=True, timestep_spacing="trailing",
    )  # fmt: skip
    parts = {
        "vae": vae, "transformer": transformer, "scheduler": scheduler, "tokenizer": tokenizer(),
        "text_encoder": text_encoder("t5"),
    }  # fmt: skip
    CogVideoXImageToVideoPipeline(**parts | changed).save_pretrained(folder)


def cogvideox_newer(folder: Path, **changed: Any) -> None:
    """CogVideoX 1.5 image-to-video."""
    cogvideox(folder, "1.5", **changed)


@reproducible
def ltx(folder: Path, **changed: Any) -> None:
    """LTX-Video; the hub's goes by the name of the text-to-video pipeline."""
    from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel

    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1), decoder_layers_per_block=(1, 1, 1, 1, 1),
    )  # fmt: skip
    vae.latents_mean.copy_(torch.linspace(-0.5, 0.5, 8))
    vae.latents_std.copy_(torch.linspace(0.5, 1.5, 8))
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=12, cross_attention_dim=24, num_layers=2,
        caption_channels=WIDTH,
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, max_image_seq_len=4096,
        shift_terminal=0.1,
    )  # fmt: skip
    parts = {
        "vae": vae, "transformer": transformer, "scheduler": scheduler, "tokenizer": tokenizer(model_max_length=128),
        "text_encoder": text_encoder("t5"),
    }  # fmt: skip
    LTXPipeline(**parts | changed).save_pretrained(folder)


@reproducible
def svd(folder: Path, **changed: Any) -> None:
    """Stable Video Diffusion."""
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )

    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 2, block_out_channels=(32, 32), latent_channels=4
    )
    unet = UNetSpatioTemporalConditionModel(
        in_channels=8, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, num_attention_heads=2,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"), cross_attention_dim=WIDTH,
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24, num_frames=FRAMES["svd"], sample_size=16,
    )  # fmt: skip
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", interpolation_type="linear",
        prediction_type="v_prediction", timestep_spacing="leading", steps_offset=1, timestep_type="continuous",
        use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0,
    )  # fmt: skip
    parts = {
        "vae": vae, "unet": unet, "scheduler": scheduler, "feature_extractor": image_processor(224),
        "image_encoder": image_encoder(transformers.CLIPVisionModelWithProjection, 224, 56),
    }  # fmt: skip
    StableVideoDiffusionPipeline(**parts | changed).save_pretrained(folder)


TINY: dict[str, Callable[..., None]] = {
    "wan": wan, "wan-in-place": wan_in_place, "cogvideox": cogvideox, "cogvideox-1.5": cogvideox_newer, "ltx": ltx,
    "svd": svd,
}  # fmt: skip
