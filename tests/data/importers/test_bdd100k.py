"""BDD100K MOT 2020 as it is unpacked: Scalabel's JSON, and pictures at 5 a second or the film at 30."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
from domain_command import made_by_command
from PIL import Image

from replaylab.data import clips
from replaylab.data.importers import bdd100k
from replaylab.data.importers.conversion import ConversionSettings, SplitShares
from replaylab.data.importers.sources import Recipe
from replaylab.data.video import decode

HEIGHT, WIDTH, FRAMES = 90, 160, 10  # an eighth of BDD100K's
RECIPE = Recipe(64, 64, frames_per_second=5.0, frames=4)
VIDEO, OTHER = "0000f77c-6257be58", "b1c66a42-6f7d68ca"
CAR, WALKER, HALF = (60.0, 30.0, 99.0, 59.0), (100.0, 20.0, 109.0, 49.0), (25.5, 20.0, 44.5, 59.0)


def label(name: str, category: str, box: tuple, occluded=False, truncated=False, crowd=False) -> dict:
    return {
        "id": name, "category": category, "attributes": {"occluded": occluded, "truncated": truncated, "crowd": crowd},
        "box2d": dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)),
    }  # fmt: skip


def labels(video: str) -> list[dict]:
    """A frame has a car that moves, a covered walker, a rider at the edge of our picture, a crowd and a trailer."""
    frames = []
    for index in range(FRAMES):
        moved = (CAR[0] - index, CAR[1], CAR[2] - index, CAR[3])
        of_frame = [
            label("00091078", "car", moved), label("00091079", "pedestrian", WALKER, occluded=True),
            label("00091080", "pedestrian", (70.0, 60.0, 99.0, 79.0), crowd=True),
            label("00091081", "trailer", (110.0, 30.0, 120.0, 59.0)),
        ]  # fmt: skip
        if index >= 4:
            of_frame.append(label("00091082", "rider", HALF, truncated=True))
        frames.append({"name": f"{video}-{index + 1:07d}.jpg", "labels": of_frame, "videoName": video, "frameIndex": index})
    frames[-1]["labels"] = None  # nothing is there
    return frames


def write_labels(root: Path, video: str = VIDEO, split: str = "train", change=None) -> Path:
    path = root / "labels" / "box_track_20" / split / f"{video}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = labels(video)
    if change:
        change(frames)
    path.write_text(json.dumps(frames))
    return path


def write_pictures(root: Path, video: str = VIDEO, split: str = "train", without=()) -> None:
    folder = root / "images" / "track" / split / video
    folder.mkdir(parents=True)
    for index in set(range(FRAMES)) - set(without):
        picture = np.full((HEIGHT, WIDTH, 3), 12 * index + 20, np.uint8)
        Image.fromarray(picture).save(folder / f"{video}-{index + 1:07d}.jpg", quality=95)


def write_film(root: Path, video: str = VIDEO, split: str = "train") -> None:
    """At 30 pictures a second, each as bright as the labelled frame that it is nearest to."""
    folder = root / "videos" / split
    folder.mkdir(parents=True)
    with av.open(str(folder / f"{video}.mov"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(6 * (FRAMES - 1) + 1):
            grey = np.full((HEIGHT, WIDTH, 3), 2 * number + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("bdd100k") / "bdd100k"
    for video, split in ((VIDEO, "train"), (OTHER, "val")):
        write_labels(root, video, split)
    write_pictures(root)
    write_film(root, OTHER, "val")
    return root


@pytest.fixture(scope="module")
def domain(root):
    added = bdd100k.add(root, ConversionSettings(root.parent / "domain", RECIPE))
    assert added.unusable.empty
    return added.domain


def coco(box: tuple) -> tuple[float, float, float, float]:
    """As Scalabel's to_coco has it: left, top, width and height, the last pixel included."""
    x1, y1, x2, y2 = box
    return x1, y1, x2 - x1 + 1, y2 - y1 + 1


def test_pictures_and_film_give_the_same_frames_and_boxes(domain):
    assert list(domain.videos["scene"]) == [VIDEO, OTHER] and list(domain.videos["frames"]) == [FRAMES, FRAMES]
    for video in (VIDEO, OTHER):
        frames = decode(domain.folder / "videos" / f"{video}-000.mp4")
        assert np.abs(frames.mean(axis=(1, 2, 3)) - (12 * np.arange(FRAMES) + 20)).max() < 3, video
    one, other = (domain.tracks[domain.tracks["video"] == f"{video}-000"] for video in (VIDEO, OTHER))
    columns = ["frame", "agent", "kind", "x0", "y0", "x1", "y1", "visible", "eligible"]
    assert one[columns].reset_index(drop=True).equals(other[columns].reset_index(drop=True))


def test_boxes_are_cocos_in_px_of_the_cut_picture(domain):
    tracks = domain.tracks[domain.tracks["video"] == f"{VIDEO}-000"]
    car, scale = tracks[tracks["kind"] == "car"], 64 / HEIGHT
    for index, (_, row) in enumerate(car.iterrows()):
        left, top, width, height = coco((CAR[0] - index, CAR[1], CAR[2] - index, CAR[3]))
        wanted = ((left - 35) * scale, top * scale, (left + width - 35) * scale, (top + height) * scale)
        assert np.allclose(row[["x0", "y0", "x1", "y1"]].to_numpy(float), wanted)
    assert list(car["frame"]) == list(range(FRAMES - 1)) and car["agent"].nunique() == 1
    assert car["visible"].eq(1).all() and car["eligible"].all()
    assert tracks[["x_m", "y_m", "heading_rad", "road_m"]].isna().all(axis=None) and not domain.has_ego


def test_what_is_covered_cut_off_or_not_evaluated_counts_less(domain):
    tracks = domain.tracks[domain.tracks["video"] == f"{VIDEO}-000"]
    assert np.allclose(tracks.loc[tracks["kind"] == "pedestrian", "visible"], bdd100k.OCCLUDED)
    rider = tracks[tracks["kind"] == "rider"]
    left, _, width, _ = coco(HALF)
    assert np.allclose(rider["visible"], (left + width - 35) / width * bdd100k.TRUNCATED)
    assert list(rider["frame"]) == list(range(4, FRAMES - 1)) and not rider["eligible"].any()
    for kind in ("crowd", "trailer"):
        assert len(tracks[tracks["kind"] == kind]) == FRAMES - 1 and not tracks.loc[tracks["kind"] == kind, "eligible"].any()


def of_label(**fields):
    def change(frames: list) -> None:
        frames[1]["labels"][0] |= fields

    return change


def of_frame(**fields):
    return lambda frames: frames[2].update(fields)


BROKEN = {
    "box": (of_label(box2d={"x1": 1, "y1": 2, "x2": 3}), r"frame 1, label 0: 'box2d' is .* with numbers x1, y1, x2, y2"),
    "side": (of_label(box2d={"x1": 9, "y1": 2, "x2": 3, "y2": 4}), r"frame 1, label 0: 'box2d' .* x1 <= x2"),
    "nan": (of_label(box2d={"x1": float("nan"), "y1": 2, "x2": 3, "y2": 4}), r"frame 1, label 0: 'box2d' is .*nan"),
    "id": (of_label(id=None), r"frame 1, label 0: 'id' is None, and should be a text"),
    "twice": (of_label(id="00091079"), r"frame 1: 'id' of two labels is '00091079'"),
    "category": (of_label(category=7), r"frame 1, label 0: 'category' is 7"),
    "attributes": (of_label(attributes=["occluded"]), r"frame 1, label 0: 'attributes' is \['occluded'\]"),
    "index": (of_frame(frameIndex=1), r"frame 2: 'frameIndex' is 1, and should be a number from 0, another one"),
    "no-index": (lambda frames: frames[2].pop("frameIndex"), r"frame 2: 'frameIndex' is None"),
    "labels": (of_frame(labels={"id": "1"}), r"frame 2: 'labels' is .* and should be a list"),
    "frame": (lambda frames: frames.insert(0, "frame"), r"frame 0 is 'frame', and should be an object"),
    "later": (lambda frames: [frame.update(frameIndex=frame["frameIndex"] + 100) for frame in frames],
              r"none of its frames has an image"),
}  # fmt: skip


def test_wrong_labels_and_missing_pictures_are_a_line_each_and_the_rest_goes_on(root, tmp_path):
    for name, (change, _) in BROKEN.items():
        write_labels(tmp_path, name, change=change)
    cut = write_labels(tmp_path, "z-cut")
    cut.write_text(cut.read_text()[:400])
    pictures = tmp_path / "images" / "track" / "train"
    for name in (*BROKEN, "z-cut", "z-picture"):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / name).symlink_to(root / "images" / "track" / "train" / VIDEO)
    write_labels(tmp_path, "z-alone")
    write_labels(tmp_path, "z-gap")
    write_pictures(tmp_path, "z-gap", without=[5])
    write_labels(tmp_path, "z-broken")
    write_pictures(tmp_path, "z-broken")
    (pictures / "z-broken" / "z-broken-0000003.jpg").write_bytes(b"\xff\xd8")
    added = bdd100k.add(tmp_path, ConversionSettings(tmp_path / "domain", RECIPE, SplitShares(0, 0)))
    why = added.unusable.set_index("file")["why"]
    said = {name: message for name, (_, message) in BROKEN.items()} | {
        "z-cut": r"z-cut\.json is no JSON list", "z-alone": r"neither images in .*z-alone nor a video .*z-alone\.mov",
        "z-broken": r"z-broken-0000003\.jpg cannot be read",
    }  # fmt: skip
    assert set(why.index) == set(said)
    for name, message in said.items():
        assert re.search(message, why[name]), (name, why[name])
    assert list(added.domain.videos["file"]) == ["z-gap-000.mp4", "z-gap-001.mp4"]
    assert list(added.domain.videos["frames"]) == [5, 4]
    with pytest.raises(FileNotFoundError, match=r"labels/box_track_20 has no \*/\*\.json: give the folder"):
        bdd100k.add(tmp_path / "labels", ConversionSettings(tmp_path / "other", RECIPE))


def test_the_command_makes_a_domain_that_feeds_clips(root, tmp_path, capsys):
    domain = made_by_command("bdd100k", root, tmp_path / "domain", capsys)
    chosen = clips.clips_of(domain, "train", 8)
    assert all(len(table) for table in clips.truth_of(domain, chosen, 8)[0])
    assert "BDD100K" in domain.about["licence"]
