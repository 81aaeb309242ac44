"""Any detector of transformers in place of the shipped one: tiny random models, in their own layout, on disk."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from fake_hub import OWNER, REFUSALS, refusing_hub
from safetensors.torch import load_file, save_file
from tiny_detectors import CLASSES, HEIGHT, TINY, WIDTH, fixed, some_frames, tiny_detector

from replaylab.data.boxes import SAME_BOX_IOU, pairwise_iou
from replaylab.metrics.detectors import pretrained
from replaylab.metrics.detectors.pretrained import load
from replaylab.util import downloads

LOW = 0.05  # random models are sure of nothing


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's miniature, made when it is first asked for."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tiny_detector(name, tmp_path_factory.mktemp(name))
        return folders[name]

    return folder


@pytest.fixture
def broken(made: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a detector, to damage."""
    return shutil.copytree(made("yolos"), tmp_path / "yolos")


# ------------------------------------------------------------------------------------------------------------ finding
@pytest.mark.parametrize("name", TINY)
def test_boxes_are_those_of_transformers_own_way(name: str, made: Callable[[str], Path]) -> None:
    """As its documentation has it, padding and all; each of those is kept, or is all but the same as a better one."""
    kind, _, processor_kind, _ = TINY[name]
    frames = some_frames()
    processor = getattr(transformers, f"{processor_kind}ImageProcessorPil").from_pretrained(made(name))
    model = getattr(transformers, f"{kind}ForObjectDetection").from_pretrained(made(name)).eval()
    inputs = processor(images=list(frames), return_tensors="pt")
    with torch.no_grad():
        outputs = model(pixel_values=inputs["pixel_values"])
    theirs = processor.post_process_object_detection(outputs, threshold=LOW, target_sizes=[(HEIGHT, WIDTH)] * 3)
    agents = {"car": "vehicle", "truck": "vehicle", "person": "pedestrian"}
    seen = load(made(name), agents, threshold=LOW).detect_with_kinds(frames)
    assert any(found.kinds for found in seen)
    for found, result in zip(seen, theirs, strict=True):
        assert found.boxes.dtype == np.float32 and found.boxes.shape == (len(found.kinds), 5)
        assert (np.diff(found.boxes[:, 4]) <= 0).all()
        rows = np.concatenate([result["boxes"].numpy(), result["scores"].numpy()[:, None]], axis=1)
        kinds = [agents.get(CLASSES[label]) for label in result["labels"]]
        for box, kind_found in zip(found.boxes, found.kinds, strict=True):
            alike = np.isclose(rows, box, atol=1e-3).all(1)
            assert kind_found in {kinds[at] for at in np.flatnonzero(alike)}
        for row, agent in zip(rows, kinds, strict=True):
            if agent is not None:
                near = pairwise_iou(row[:4].astype(float), found.boxes[:, :4].astype(float))
                assert (found.boxes[near > SAME_BOX_IOU - 1e-3, 4] >= row[4] - 1e-5).any()


def test_batches_change_nothing(made: Callable[[str], Path]) -> None:
    detector, frames = load(made("detr"), threshold=LOW), some_frames(4)
    whole = detector.detect(frames, batch_size=4)
    assert sum(map(len, whole)) > 0
    for one, other in zip(whole, detector.detect(frames, batch_size=3), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)
    assert detector.detect(frames[:0]) == []


@pytest.mark.parametrize(("height", "width"), [(40, 60), (64, 64), (15, 200)])
def test_boxes_are_in_pixels_of_the_frames_that_were_given(height: int, width: int) -> None:
    detector = fixed([[3.0, -9.0, -9.0]], [[0.5, 0.25, 0.2, 0.5]])
    (found,) = detector.detect(some_frames(1, height, width))
    np.testing.assert_allclose(found[0, :4], [0.4 * width, 0, 0.6 * width, 0.5 * height], atol=1e-3)
    assert found[0, 4] == pytest.approx(1 / (1 + np.exp(-3)), abs=1e-5)


def test_one_agent_that_is_called_two_things_is_one_agent() -> None:
    box, beside = [0.3, 0.5, 0.2, 0.4], [0.7, 0.5, 0.2, 0.4]
    nothing = [[-9.0] * 3] * 3  # RT-DETR gives out as many boxes as it has queries
    detector = fixed([[1.0, 2.0, 9.0], [-9.0, 0.5, -9.0], [-9.0, -9.0, 9.0], *nothing], [box, beside, box] + [beside] * 3)
    (found,) = detector.detect_with_kinds(some_frames(1))  # what is no agent hides none
    assert found.kinds == ["truck", "truck"]
    assert found.boxes[:, 0] == pytest.approx([0.2 * WIDTH, 0.6 * WIDTH], abs=1e-3)


@pytest.mark.parametrize("frames", [np.zeros((2, 8, 8, 3)), np.zeros((8, 8, 3), np.uint8), np.zeros((2, 0, 8, 3), np.uint8)])
def test_other_frames_are_refused(frames: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"frames: .*expected uint8 \(N, H, W, 3\)"):
        fixed([[0.0] * 3], [[0.5] * 4]).detect(frames)


# ------------------------------------------------------------------------------------------------------------- classes
def test_without_a_map_cocos_classes_on_roads_count(made: Callable[[str], Path], tmp_path: Path) -> None:
    assert load(made("yolos")).kinds == {0: "car", 1: "pedestrian", 3: "truck"}
    other = tiny_detector("yolos", tmp_path, ("N/A", "motorbike", "bicycle", "N/A"))
    assert load(other).kinds == {1: "motorcycle", 2: "cyclist"}


def test_a_class_may_have_several_numbers(tmp_path: Path) -> None:
    folder = tiny_detector("yolos", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "car", "1": "N/A", "2": "car", "3": "N/A"}
    (folder / "config.json").write_text(json.dumps(config))
    assert load(folder, {"car": "vehicle"}).kinds == {0: "vehicle", 2: "vehicle"}


def test_weights_classes_and_threshold_make_the_digest(made: Callable[[str], Path]) -> None:
    same = [load(made("yolos")).digest, load(made("yolos")).digest]
    others = [
        load(made("yolos"), threshold=0.4).digest,
        load(made("yolos"), {"car": "car"}).digest,
        load(made("detr")).digest,
    ]
    assert same[0] == same[1] and len({*same, *others}) == 4


def test_an_unknown_class_lists_the_nearest(made: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"knows no class 'Cars'; the nearest are 'car'"):
        load(made("yolos"), {"Cars": "car"})
    with pytest.raises(ValueError, match=r"knows no class 'zebra'; it knows 'car', 'dog'"):
        load(made("yolos"), {"zebra": "animal"})
    with pytest.raises(ValueError, match="no class at all"):
        load(made("yolos"), {})
    other = tiny_detector("yolos", tmp_path, ("Car", "Pedestrian"))
    with pytest.raises(ValueError, match=r"none of car, truck.*it knows 'Car', 'Pedestrian'"):
        load(other)
    assert load(other, {"Pedestrian": "pedestrian"}).kinds == {1: "pedestrian"}


# ------------------------------------------------------------------------------------------------------------ refusals
def refuses(folder: Path | str, kind: type[Exception], *words: str) -> None:
    with pytest.raises(kind) as caught:
        load(folder)
    for word in words:
        assert word in str(caught.value)


def test_another_model_is_refused(broken: Path, tmp_path: Path) -> None:
    path = broken / "config.json"
    for model_type in ("vit", "grounding-dino", None):
        path.write_text(json.dumps({"model_type": model_type}))
        refuses(broken, ValueError, str(path), repr(model_type), "no object detector", "rt_detr", "yolos")
    path.write_text("{")
    refuses(broken, ValueError, str(path), "no JSON")
    path.write_text("[]")
    refuses(broken, ValueError, str(path), "no JSON object")
    path.unlink()
    refuses(broken, FileNotFoundError, str(broken), path.name, "transformers' layout")


def test_a_configuration_of_wrong_types_is_refused(broken: Path) -> None:
    path = broken / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_detection_tokens": "many"}))
    refuses(broken, ValueError, str(path))


def test_code_that_comes_with_a_model_is_not_run(broken: Path, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    (broken / "own.py").write_text(f"open({str(witness)!r}, 'w')\nclass Own: ...\n")
    path = broken / "config.json"
    config = json.loads(path.read_text())
    theirs = {"AutoConfig": "own.Own", "AutoModelForObjectDetection": "own.Own", "AutoImageProcessor": "own.Own"}
    path.write_text(json.dumps(config | {"auto_map": theirs}))
    preprocessor = broken / "preprocessor_config.json"
    preprocessor.write_text(json.dumps(json.loads(preprocessor.read_text()) | {"auto_map": theirs}))
    load(broken)  # by transformers' own classes
    path.write_text(json.dumps(config | {"auto_map": theirs, "model_type": "own"}))
    refuses(broken, ValueError, "'own'", "not run")
    assert not witness.exists()


def test_weights_that_are_not_whole_are_refused(broken: Path) -> None:
    path = broken / "model.safetensors"
    # clones: what is read stays mapped to the file, which is cut short here
    whole, weights = path.read_bytes(), {name: value.clone() for name, value in load_file(path).items()}
    for content in (whole[:-100], whole[:5], b"version https://git-lfs.github.com/spec/v1\n"):
        path.write_bytes(content)
        refuses(broken, ValueError, str(path), "copy or download it again")
    lost = sorted(weights)[0]
    save_file({name: value for name, value in weights.items() if name != lost}, path, {"format": "pt"})
    refuses(broken, ValueError, "1 tensors", lost)
    path.rename(broken / "pytorch_model.bin")
    refuses(broken, FileNotFoundError, str(broken), "pickled")


def test_what_else_is_missing_is_named(broken: Path) -> None:
    path = broken / "preprocessor_config.json"
    path.write_text(json.dumps({"image_processor_type": "NoSuchProcessor"}))
    refuses(broken, ValueError, str(path), "no image processor")
    path.unlink()
    refuses(broken, FileNotFoundError, str(broken), path.name, "copy it too")
    with pytest.raises(ValueError, match=r"threshold: 1\.0"):
        load(broken, threshold=1.0)


def test_a_backbone_of_timm_is_refused_with_what_to_take_instead(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    old = {"model_type": "detr", "backbone": "resnet50", "backbone_config": None, "use_timm_backbone": True,
           "use_pretrained_backbone": True, "id2label": {"0": "car"}}  # fmt: skip
    (broken / "config.json").write_text(json.dumps(old))
    refuses(broken, ValueError, "timm", "torchvision", "--revision no_timm")


# ----------------------------------------------------------------------------------------------------------------- hub
def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    refuses(tmp_path / "nothing", FileNotFoundError, "no folder here")
    refuses("rtdetr", FileNotFoundError, "no name on the Hugging Face hub")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Puts the hub at another address, and the cache at an empty one."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return lambda address: monkeypatch.setattr(constants, "ENDPOINT", address)


@pytest.mark.parametrize(("model", "words"), REFUSALS.items())
def test_a_hub_that_refuses_says_what_to_do(model: str, words: str, hub: Callable[[str], None]) -> None:
    name = f"{OWNER}/{model}"
    with refusing_hub() as address:
        hub(address)
        refuses(name, ConnectionError, words, f"hf download {name} --local-dir {model}")


def test_a_hub_out_of_reach_says_so_at_once(hub: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    name = f"{OWNER}/not-there"
    hub("http://127.0.0.1:9")  # nobody listens there
    refuses(name, ConnectionError, "cannot be reached", f"hf download {name}")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the question, and never answers
        hub(f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(downloads, "PATIENCE_S", 0.2)
        refuses(name, ConnectionError, "cannot be reached", f"hf download {name}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    refuses(name, ConnectionError, "HF_HUB_OFFLINE", f"hf download {name}")


def test_without_the_hub_the_local_cache_is_read(
    hub: Callable[[str], None], made: Callable[[str], Path], tmp_path: Path
) -> None:
    hub("http://127.0.0.1:9")
    cached, revision = tmp_path / "cache" / "models--replaylab-tests--yolos", "0" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(revision)
    shutil.copytree(made("yolos"), cached / "snapshots" / revision)
    assert load("replaylab-tests/yolos").digest == load(made("yolos")).digest
