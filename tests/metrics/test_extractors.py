"""The field's extractors on tiny networks in the same formats: parity with direct calls, and what is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from replaylab.metrics import extractors
from replaylab.util.files import sha256

SIZE_PX, FRAMES = 32, 4
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


class Inception(torch.nn.Module):
    """Called like NVIDIA's file; its features tell the channels' means apart, so a wrong order or scale shows."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert x.dtype == torch.uint8 and x.shape[1] == 3 and return_features
        return torch.cat([x.float().mean([2, 3]), torch.zeros(x.shape[0], 2045, device=x.device)], 1)


class I3D(torch.nn.Module):
    """Called like StyleGAN-V's file; its features are the frames' means of the red channel."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        assert x.dtype == torch.uint8 and x.shape[1] == 3 and rescale and resize and return_features
        means = (2 * x.float() / 255 - 1).mean([3, 4])[:, 0]
        return torch.cat([means, torch.zeros(x.shape[0], 400 - x.shape[2], device=x.device)], 1)


def scripted(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(path))
    return path


def noise(n: int, frames: int, height: int = SIZE_PX, width: int = SIZE_PX) -> np.ndarray:
    shape = (n, frames, height // 4, width // 4, 3)
    coarse = np.random.default_rng(n).integers(0, 256, shape, dtype=np.uint8)
    return coarse.repeat(4, 2).repeat(4, 3)


@pytest.fixture(scope="module")
def videomae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

    folder = tmp_path_factory.mktemp("models") / "tiny-videomae"
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=SIZE_PX, patch_size=8, num_frames=FRAMES, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, intermediate_size=32, num_labels=5, initializer_range=0.3,
    )  # fmt: skip
    model = VideoMAEForVideoClassification(config)
    torch.nn.init.normal_(model.fc_norm.bias)
    model.save_pretrained(folder)
    VideoMAEImageProcessorPil(
        size={"height": SIZE_PX, "width": SIZE_PX}, resample=Image.Resampling.BICUBIC, do_center_crop=False,
        image_mean=MEAN, image_std=STD,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def vjepa2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import VJEPA2Config, VJEPA2Model

    folder = tmp_path_factory.mktemp("models") / "tiny-vjepa2"
    torch.manual_seed(1)
    config = VJEPA2Config(
        crop_size=SIZE_PX, patch_size=8, frames_per_clip=8, hidden_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_pooler_layers=1, pred_hidden_size=24, pred_num_attention_heads=2,
        pred_num_hidden_layers=1, initializer_range=0.3,
    )  # fmt: skip
    VJEPA2Model(config).save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps({"image_mean": MEAN, "image_std": STD}))
    return folder


def test_inception_sees_every_frame_as_nvidias_code_calls_it(tmp_path: Path) -> None:
    path = scripted(Inception(), tmp_path / "inception-2015-12-05.pt")
    network, clips = extractors.inception(path, allow_unknown=True), noise(30, 3)
    features = network.features(clips)
    assert features.shape == (30, 3, 2048) and features.dtype == np.float32
    np.testing.assert_allclose(features[..., :3], clips.mean((2, 3)), rtol=1e-5)
    seen = network.extractor
    assert (seen.frames, seen.frame_size_px, seen.dimensions) == (1, 299, 2048)
    assert seen.weights_sha256 == sha256(path)


def test_i3d_sees_clips_as_styleganv_calls_it(tmp_path: Path) -> None:
    network = extractors.i3d(scripted(I3D(), tmp_path / "i3d_torchscript.pt"), frames=12, allow_unknown=True)
    clips = noise(9, 12)
    features = network.features(clips)
    assert features.shape == (9, 400) and network.extractor.frames == 12
    np.testing.assert_allclose(features[:, :12], clips[..., 0].mean((2, 3)) / 127.5 - 1, atol=1e-5)


def by_pillow(clips: np.ndarray) -> torch.Tensor:
    """Each frame's bands resized in Pillow's own floats and cut to 0..255, then scaled: (N, T, 3, size, size)."""
    frames = clips.reshape(-1, *clips.shape[2:]).astype(np.float32)
    squares = [
        [Image.fromarray(band).resize((SIZE_PX, SIZE_PX), Image.Resampling.BICUBIC) for band in np.moveaxis(frame, 2, 0)]
        for frame in frames
    ]
    pixels = np.clip(np.array([[np.asarray(band) for band in frame] for frame in squares]), 0, 255) / 255
    scaled = (pixels - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    return torch.from_numpy(scaled.astype(np.float32)).unflatten(0, clips.shape[:2])


@pytest.mark.parametrize(("height", "width"), [(SIZE_PX, SIZE_PX), (48, 80), (16, 24)])
def test_videomae_is_what_the_models_own_classifier_reads(videomae_folder: Path, height: int, width: int) -> None:
    from transformers import VideoMAEForVideoClassification

    clips = noise(9, FRAMES, height, width)  # 9: more than one batch
    network = extractors.videomae(videomae_folder)
    features = torch.from_numpy(network.features(clips))
    model = VideoMAEForVideoClassification.from_pretrained(videomae_folder).eval()
    with torch.inference_mode():
        expected = model(by_pillow(clips)).logits
        torch.testing.assert_close(model.classifier(features), expected, atol=2e-4, rtol=1e-3)
    assert features.std(0).min() > 0.01  # parity of constants would show nothing
    seen = network.extractor
    assert (seen.frames, seen.frame_size_px, seen.dimensions) == (FRAMES, SIZE_PX, 24)
    assert seen.weights_sha256 == sha256(videomae_folder / "model.safetensors")
    assert seen.resize == extractors.RESIZE and "fc_norm" in seen.layer and "tiny-videomae" in seen.name


def test_videomae_agrees_with_its_image_processor_up_to_rounding(videomae_folder: Path) -> None:
    from transformers import VideoMAEForVideoClassification
    from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil

    processor = VideoMAEImageProcessorPil.from_pretrained(videomae_folder)
    model = VideoMAEForVideoClassification.from_pretrained(videomae_folder).eval()
    for height, width, tolerance in ((SIZE_PX, SIZE_PX, 1e-3), (48, 80, 0.1)):  # resized: Pillow rounds twice
        clips = noise(3, FRAMES, height, width)
        pixels = processor([list(clip) for clip in clips], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            expected = model.fc_norm(model.videomae(pixels).last_hidden_state.mean(1))
        features = extractors.videomae(videomae_folder).features(clips)
        np.testing.assert_allclose(features, expected, atol=tolerance)


def test_a_videomae_without_classifier_gives_the_mean_of_its_tokens(videomae_folder: Path, tmp_path: Path) -> None:
    from transformers import VideoMAEModel

    folder = tmp_path / "bare"
    model = VideoMAEModel.from_pretrained(videomae_folder).eval()
    model.save_pretrained(folder)
    shutil.copy(videomae_folder / "preprocessor_config.json", folder)
    clips = noise(2, FRAMES)
    with torch.inference_mode():
        expected = model(by_pillow(clips)).last_hidden_state.mean(1)
    network = extractors.videomae(folder)
    np.testing.assert_allclose(network.features(clips), expected, atol=1e-4)
    assert "fc_norm" not in network.extractor.layer


@pytest.mark.parametrize("frames", [2, 6])
def test_vjepa2_is_the_mean_of_its_encoders_tokens(vjepa2_folder: Path, frames: int) -> None:
    from transformers import VJEPA2Model

    clips = noise(3, frames, 40, 64)
    network = extractors.vjepa2(vjepa2_folder, frames)
    model = VJEPA2Model.from_pretrained(vjepa2_folder).eval()
    with torch.inference_mode():
        expected = model(by_pillow(clips), skip_predictor=True).last_hidden_state.mean(1)
    np.testing.assert_allclose(network.features(clips), expected, atol=2e-4, rtol=1e-3)
    assert network.extractor.frames == frames and expected.std(0).min() > 0.01


def test_vjepa2_needs_its_encoder_and_not_its_predictor(vjepa2_folder: Path, tmp_path: Path) -> None:
    folder, clips = tmp_path / "part", noise(2, 2)
    shutil.copytree(vjepa2_folder, folder)
    weights = folder / "model.safetensors"
    tensors = load(weights.read_bytes())
    for part, is_needed in (("predictor", False), ("encoder.layer.0.", True)):
        kept = {name: value for name, value in tensors.items() if not name.startswith(part)}
        assert len(kept) < len(tensors)
        weights.unlink()  # it is mapped into memory
        weights.write_bytes(save(kept, {"format": "pt"}))
        if is_needed:
            with pytest.raises(ValueError, match=r"tensors of a VJEPA2Model are missing, 'encoder"):
                extractors.vjepa2(folder, 2)
        else:
            whole = extractors.vjepa2(vjepa2_folder, 2).features(clips)
            np.testing.assert_array_equal(extractors.vjepa2(folder, 2).features(clips), whole)


def test_features_do_not_depend_on_the_batch(videomae_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, clips = extractors.videomae(videomae_folder), noise(5, FRAMES)
    together = network.features(clips)
    monkeypatch.setattr(extractors, "CLIPS_AT_A_TIME", 2)
    np.testing.assert_allclose(network.features(clips), together, atol=1e-5)
    assert network.features(clips[:0]).shape == (0, 24)


def test_clips_of_another_kind_or_length_are_refused(videomae_folder: Path) -> None:
    network = extractors.videomae(videomae_folder)
    for frames in (FRAMES - 1, FRAMES + 1):
        with pytest.raises(ValueError, match=f"{frames} frames, VideoMAE .* was opened for 4; .*never repeated"):
            network.features(noise(2, frames))
    with pytest.raises(ValueError, match=r"clips: float64 .*expected uint8 \(N, T, H, W, 3\)"):
        network.features(noise(2, FRAMES) / 255)
    with pytest.raises(ValueError, match=r"clips: uint8 \(4, 32, 32, 3\)"):
        network.features(noise(2, FRAMES)[0])


def test_numbers_of_frames_that_a_network_cannot_see_are_refused(vjepa2_folder: Path) -> None:
    with pytest.raises(ValueError, match=r"i3d: 9 frames, at least 10 .*never repeated"):
        extractors.i3d("anything.pt", frames=9)
    with pytest.raises(ValueError, match="5 frames, but the model takes a multiple of 2"):
        extractors.vjepa2(vjepa2_folder, frames=5)


@pytest.mark.parametrize("load", [extractors.inception, extractors.i3d])
def test_torchscript_files_that_are_not_the_network_are_refused(load: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    known, load = load, partial(load, allow_unknown=True)
    with pytest.raises(FileNotFoundError, match=r"weights.pt is missing; .*nothing is downloaded"):
        load(path)
    whole = scripted({extractors.inception: Inception(), extractors.i3d: I3D()}[known], path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"weights.pt is no TorchScript file, or not all of it"):
        load(path)
    torch.save({"weights": torch.zeros(3)}, path)  # a pickle
    with pytest.raises(ValueError, match=r"weights.pt is no TorchScript file"):
        load(path)
    scripted({extractors.inception: I3D(), extractors.i3d: Inception()}[known], path)  # each other's
    with pytest.raises(ValueError, match=r"weights.pt: another network than (I3D|Inception)"):
        load(path)

    class Short(torch.nn.Module):
        def forward(
            self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True
        ) -> torch.Tensor:
            return torch.zeros(1, 7)

    scripted(Short(), path)
    with pytest.raises(ValueError, match=r"another network than .* \(gave \(1, 7\), not"):
        load(path)


def test_a_program_of_unknown_origin_is_run_only_where_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = scripted(Inception(), tmp_path / "inception.pt")
    with pytest.raises(ValueError, match=r"inception\.pt is not the published Inception v3 \(FID\).*allow-unknown-programs"):
        extractors.inception(path)
    extractors.inception(path, allow_unknown=True)
    assert "warning" in capsys.readouterr().err
    monkeypatch.setitem(extractors.PUBLISHED, "Inception v3 (FID)", sha256(path))
    extractors.inception(path)
    assert "warning" not in capsys.readouterr().err


def test_folders_that_are_not_the_model_are_refused(videomae_folder: Path, vjepa2_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"facebook/vjepa2-vitl-fpc64-256 is no folder here.*hf download"):
        extractors.vjepa2("facebook/vjepa2-vitl-fpc64-256")
    with pytest.raises(ValueError, match="VideoMAEForVideoClassification of type 'videomae', expected VJEPA2Model"):
        extractors.vjepa2(videomae_folder)
    with pytest.raises(ValueError, match=r"VJEPA2Model of type 'vjepa2', expected VideoMAEForVideoClass.* or "):
        extractors.videomae(vjepa2_folder)

    folder = tmp_path / "broken"
    shutil.copytree(videomae_folder, folder)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    tensors = load(whole)
    weights.write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match=r"broken.*is no whole safetensors file"):
        extractors.videomae(folder)
    for left_out, message in (("fc_norm", "2 tensors .*'fc_norm.bias'"), ("videomae", r"\d\d tensors")):
        kept = {name: value for name, value in tensors.items() if not name.startswith(left_out)}
        weights.write_bytes(save(kept, {"format": "pt"}))
        with pytest.raises(ValueError, match=message):
            extractors.videomae(folder)
    weights.write_bytes(whole)
    (folder / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="no image_mean"):
        extractors.videomae(folder)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no preprocessor_config.json or video_preprocessor"):
        extractors.videomae(folder)
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pickled"):
        extractors.videomae(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is no JSON object"):
        extractors.videomae(folder)


def test_a_sharded_models_digest_follows_every_file(vjepa2_folder: Path, tmp_path: Path) -> None:
    from transformers import VJEPA2Model

    folder = tmp_path / "sharded"
    model = VJEPA2Model.from_pretrained(vjepa2_folder)
    model.save_pretrained(folder, max_shard_size="20KB")
    shutil.copy(vjepa2_folder / "video_preprocessor_config.json", folder)
    shards = sorted(folder.glob("*.safetensors"))
    first = extractors.vjepa2(folder, 2)
    one = extractors.vjepa2(vjepa2_folder, 2)
    np.testing.assert_allclose(first.features(noise(2, 2)), one.features(noise(2, 2)), atol=1e-5)
    assert len(shards) > 1 and first.extractor.weights_sha256 != one.extractor.weights_sha256
    changed = {name: value + 1 for name, value in load(shards[-1].read_bytes()).items()}
    shards[-1].unlink()  # it is mapped into memory
    shards[-1].write_bytes(save(changed, {"format": "pt"}))
    assert extractors.vjepa2(folder, 2).extractor.weights_sha256 != first.extractor.weights_sha256
