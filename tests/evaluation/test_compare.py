"""Two folders of real videos compared: values against direct computation, and every bad input by set and file."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest
import torch

from replaylab.cli.main import main
from replaylab.data.video import decode, write_video
from replaylab.evaluation import compare
from replaylab.metrics import distances, fidelity, video_network

N, FRAMES, CONTEXT, SIZE_PX, RATE = 40, 12, 2, 32, 4
PLENTY = [f"clip-{number:02}.mp4" for number in range(N)]


def video(path: Path, seed: int, frames: int = FRAMES, size_px: int = SIZE_PX, rate: float = RATE) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (frames, 4, 4, 3), dtype=np.uint8)
    write_video(path, coarse.repeat(size_px // 4, 1).repeat(size_px // 4, 2), rate)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of N videos with the same names, all different."""
    home = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(PLENTY):
        for folder, seed in (("made", number), ("real", 1000 + number)):
            (home / folder).mkdir(exist_ok=True)
            video(home / folder / name, seed)
    return home


@pytest.fixture
def home(kept: Path, tmp_path: Path) -> Path:
    """The first 20 of each, to be spoilt."""
    for folder in ("made", "real"):
        (tmp_path / folder).mkdir()
        for name in PLENTY[: distances.N_MIN]:
            (tmp_path / folder / name).symlink_to(kept / folder / name)
    return tmp_path


def decoded(folder: Path) -> np.ndarray:
    return np.stack([decode(path)[CONTEXT:] for path in sorted(folder.glob("*.mp4"))])


class I3D(torch.nn.Module):
    """400 features of a clip: its frames' means and spreads."""

    def forward(
        self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False
    ) -> torch.Tensor:
        flat = x.float().flatten(3)
        seen = torch.cat([flat.mean(3).flatten(1), flat.std(3).flatten(1)], 1)
        return torch.cat([seen, torch.zeros(x.shape[0], 400 - seen.shape[1], device=x.device)], 1)


class Inception(torch.nn.Module):
    """NaN for whole clips that are dark."""

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return x.float().mean([1, 2, 3])[:, None].log().expand(x.shape[0], 2048) * 0


def scripted(module: torch.nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(path))
    return path


def test_a_row_has_the_distance_of_the_frames_after_the_context(home: Path) -> None:
    rows = compare.table(home / "made", home / "real", context_frames=CONTEXT).set_index("name")
    a, b = (
        fidelity.efficientnet_features(frames.reshape(-1, SIZE_PX, SIZE_PX, 3))
        for frames in (decoded(home / "made"), decoded(home / "real"))
    )
    assert rows.loc["EffNet-FD", "value"] == pytest.approx(distances.frechet_distance(a, b), rel=1e-3)
    assert rows.loc["EffNet-KD", "value"] == pytest.approx(distances.kernel_distance(a, b), rel=1e-2, abs=1e-3)
    for row in rows.to_dict("records"):
        assert (row["n"], row["clips"], row["frames"]) == (20 * (FRAMES - CONTEXT), 20, 1)
        assert (row["size_px"], row["resize"], row["video"]) == (SIZE_PX, "none", "32x32, 4/s")
        assert row["extractor_digest"] == fidelity.EXTRACTOR.weights_sha256
        assert np.isnan(row["at_infinite_n"])  # 20 clips cannot be halved


def test_a_video_network_sees_each_clip_once_and_the_frechet_distance_is_extrapolated(kept: Path, tmp_path: Path) -> None:
    weights = scripted(I3D(), tmp_path / "i3d.pt")
    rows = compare.table(kept / "made", kept / "real", [f"i3d={weights}"], CONTEXT, allow_unknown=True).set_index("name")
    flat = [np.moveaxis(decoded(kept / folder), 4, 1).reshape(N, 30, -1) for folder in ("made", "real")]
    a, b = (np.concatenate([x.mean(2), x.std(2, ddof=1)], 1) for x in flat)
    assert rows.loc["FVD", "value"] == pytest.approx(distances.frechet_distance(a, b), rel=1e-4)
    assert (rows["n"] == N).all() and (rows["clips"] == N).all() and (rows["frames"] == FRAMES - CONTEXT).all()
    # the sets are of one distribution: without the bias of few clips, less is left
    assert rows.loc["FVD", "at_infinite_n"] < rows.loc["FVD", "value"]
    assert np.isnan(rows.loc["KVD", "at_infinite_n"])


def test_a_network_of_fixed_length_sees_the_first_frames_after_the_context(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = replace(fidelity.EXTRACTOR, name="five frames", frames=5, dimensions=15, frame_size_px=64)
    monkeypatch.setattr(video_network, "extractor", lambda: seen)
    monkeypatch.setattr(video_network, "features", lambda batch: batch.mean((2, 3)).reshape(len(batch), 15))
    monkeypatch.setattr(compare, "BYTES_AT_A_TIME", 1)  # clips one by one
    rows = compare.table(home / "made", home / "real", ["videonet", "efficientnet"], CONTEXT).set_index("name")
    a, b = (decoded(home / name)[:, :5].mean((2, 3)).reshape(-1, 15) for name in ("made", "real"))
    assert rows.loc["video-FD", "value"] == pytest.approx(distances.frechet_distance(a, b))
    assert rows.loc["video-KD", "frames"] == 5 and rows.loc["video-KD", "n"] == 20
    assert rows.loc["EffNet-KD", "n"] == 20 * (FRAMES - CONTEXT)
    with pytest.raises(ValueError, match=r"videonet: sees 5 frames, but 4 after the context are to be compared"):
        compare.table(home / "made", home / "real", ["videonet"], CONTEXT, frames=4)


def test_pairs_are_files_of_one_name(home: Path) -> None:
    shutil.copy(home / "real" / PLENTY[0], home / "real" / "another.mp4")
    (home / "real" / PLENTY[0]).unlink()
    with pytest.raises(ValueError, match=r"MADE .*clip-00.mp4 has no partner of that name in REAL"):
        compare.table(home / "made", home / "real", context_frames=CONTEXT, paired=True)
    (home / "real" / "another.mp4").rename(home / "real" / PLENTY[0])
    rows = compare.table(home / "made", home / "real", context_frames=CONTEXT, paired=True).set_index("name")
    pairs = zip(decoded(home / "made"), decoded(home / "real"), strict=True)
    expected = pd.DataFrame([fidelity.clip_fidelity(*pair) for pair in pairs]).mean()
    pd.testing.assert_series_equal(rows.loc[expected.index, "value"], expected, check_names=False)
    assert rows.loc["ssim", "frames"] == FRAMES - CONTEXT and rows.loc["ssim", "n"] == 20


def test_of_a_domain_one_split_is_taken(home: Path) -> None:
    folder = home / "domain"
    shutil.copytree(home / "real", folder / "videos")
    video(folder / "videos" / "trained-on.mp4", 5000, size_px=64)  # would be refused if it were looked at
    videos = [
        {"file": path.name, "split": "train" if path.stem == "trained-on" else "test", "scene": path.stem,
         "frames": FRAMES, "sha256": ""}
        for path in sorted((folder / "videos").iterdir())
    ]  # fmt: skip
    about = {"name": "mine", "frames_per_second": RATE, "size_px": SIZE_PX, "videos": videos}
    (folder / "domain.json").write_text(json.dumps(about))
    pd.testing.assert_frame_equal(compare.table(home / "made", folder), compare.table(home / "made", home / "real"))
    with pytest.raises(ValueError, match="no clips in split 'dev'"):
        compare.table(home / "made", folder, split="dev")


def test_the_verb_prints_the_table_and_keeps_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["compare", str(home / "made"), str(home / "real"), "--csv", str(home / "out.csv")]
    assert main([*arguments, "--context-frames", "2", "--frames", "3"]) == 0
    shown, kept = capsys.readouterr(), pd.read_csv(home / "out.csv").set_index("name")
    assert "EffNet-KD" in shown.out and "EfficientNet-Lite0" in shown.out
    assert "comparing MADE" in shown.err and "20 clips" in shown.err
    assert kept.loc["EffNet-FD", "n"] == 60 and len(kept.loc["EffNet-FD", "extractor_digest"]) == 64
    assert main(["compare", str(home / "made"), str(home / "nowhere")]) == 2
    assert "REAL" in capsys.readouterr().err


def cut_off(path: Path, bytes_too_few: int) -> None:
    """The index first, as for the web, then six pictures, the last with bytes too few."""
    whole = path.with_name("whole.mov")
    with (
        av.open(str(path.resolve())) as source,
        av.open(str(whole), "w", format="mp4", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with av.open(str(whole)) as container:
        ends = [(packet.pos or 0) + packet.size for packet in container.demux(video=0) if packet.size]
    replaced(path, whole.read_bytes()[: sorted(ends)[5] - bytes_too_few])


def replaced(path: Path, content: bytes) -> None:
    path.unlink()  # a link to what other tests use
    path.write_bytes(content)


def again(path: Path, **changes: int) -> None:
    path.unlink()
    video(path, 9999, **changes)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "no video": (lambda path: replaced(path, b"not a video"), "is no video, or not all of one"),
    "nothing": (lambda path: replaced(path, b""), "is no video, or not all of one"),
    "no index": (lambda path: replaced(path, path.read_bytes()[:-300]), "is no video, or not all of one"),
    "cut off": (lambda path: cut_off(path, 50), "cannot be decoded|cut off"),
    "cut off after a picture": (lambda path: cut_off(path, 0), "cut off: 6 of 12 frames came out"),
    "larger": (lambda path: again(path, size_px=64), "64x64 pixels, .* has 32x32"),
    "faster": (lambda path: again(path, rate=8), "8 frames per second, .* has 4"),
    "shorter": (lambda path: again(path, frames=6), "6 frames, but 2 of context and 10 to compare"),
    "repeated": (lambda path: replaced(path, (path.parent / PLENTY[1]).read_bytes()), "has the frames of .*clip-01"),
    "in both": (
        lambda path: replaced(path, (path.parents[1] / "made" / PLENTY[4]).read_bytes()),
        "has the frames of MADE .*clip-04",
    ),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_bad_video_is_refused_by_its_set_and_file(home: Path, spoil: str) -> None:
    change, message = SPOILT[spoil]
    change(home / "real" / PLENTY[7])
    with pytest.raises(ValueError, match=rf"^REAL [^ ]*real: .*clip-07\.mp4.*({message})"):
        compare.table(home / "made", home / "real", context_frames=CONTEXT, frames=FRAMES - CONTEXT)


def test_too_few_videos_are_refused_however_many_frames_they_have(home: Path) -> None:
    for name in PLENTY[: distances.N_MIN - 1]:
        (home / "made" / name).unlink()
        left = len(list((home / "made").iterdir()))
        if left in (19, 1):
            with pytest.raises(ValueError, match=f"^MADE .*made: {left} videos .*, at least 20 are needed"):
                compare.table(home / "made", home / "real")
    for folder in ("empty", "missing"):
        if folder == "empty":
            (home / folder).mkdir()
        with pytest.raises(ValueError, match=f"^REAL .*{folder}: 0 videos"):
            compare.table(home / "real", home / folder)


def test_context_that_leaves_nothing_is_refused(home: Path) -> None:
    with pytest.raises(ValueError, match=r"clip-00.mp4: 12 frames, but 12 of context and 1 to compare are needed"):
        compare.table(home / "made", home / "real", context_frames=FRAMES)
    with pytest.raises(ValueError, match="context_frames -1, frames 0: neither may be below 0"):
        compare.table(home / "made", home / "real", context_frames=-1)
    with pytest.raises(ValueError, match=r"i3d: 9 frames, at least 10 are needed"):
        compare.table(home / "made", home / "real", ["i3d=any.pt"], context_frames=3)


def test_features_that_are_no_numbers_are_refused_by_the_video(home: Path) -> None:
    path = home / "real" / PLENTY[7]
    path.unlink()
    write_video(path, np.zeros((FRAMES, SIZE_PX, SIZE_PX, 3), np.uint8), RATE)
    weights = scripted(Inception(), home / "inception.pt")
    with pytest.raises(ValueError, match=r"^REAL .*clip-07.mp4: Inception v3 \(FID\) gives NaN or infinity"):
        compare.table(home / "made", home / "real", [f"inception={weights}"], allow_unknown=True)


@pytest.mark.parametrize("text", ["fid", "i3d", "i3d=", "efficientnet=weights", ""])
def test_unknown_extractors_are_refused_with_those_there_are(home: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"extractor: .* is none of efficientnet, videonet, inception=FILE"):
        compare.table(home / "made", home / "real", [text])


def test_what_a_network_refuses_names_the_video(home: Path) -> None:
    for folder in ("made", "real"):
        for number, path in enumerate(sorted((home / folder).iterdir())):
            path.unlink()
            video(path, number + 100 * (folder == "real"), size_px=40)
    with pytest.raises(ValueError, match=r"^MADE .*clip-00.mp4: .*64"):
        compare.table(home / "made", home / "real", ["videonet"], CONTEXT, frames=video_network.FRAMES)
    rows = compare.table(home / "made", home / "real")
    assert set(rows["resize"]) == {"none; mirrored at the border to 64x64"} and set(rows["size_px"]) == {40}


def test_both_sets_are_read_as_a_player_shows_them(home: Path) -> None:
    """Turned and mirrored copies of the same pictures, in folders of folders, with other endings."""
    pictures = np.random.default_rng(0).integers(0, 256, (20, 3, 4, 8, 3), dtype=np.uint8).repeat(8, 2).repeat(8, 3)
    for number, frames in enumerate(pictures):
        for folder, stored, turn in (("upright", frames, 0), ("turned", np.rot90(frames, 1, (1, 2)), -90)):
            path = home / folder / f"drive {number % 2}" / f"{number}.{'MKV' if folder == 'upright' else 'MP4'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(path), "w", format="mp4") as container:
                stream: Any = container.add_stream("libx264", rate=RATE, options={"crf": "0"})
                stream.height, stream.width, stream.pix_fmt = stored.shape[1], stored.shape[2], "yuv444p"
                stream.set_display_rotation(turn)
                for picture in stored:
                    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
    for path in sorted((home / "turned").rglob("*.MP4")):
        path.rename(path.with_suffix(".MKV"))  # those of a pair have one name
    with pytest.raises(ValueError, match=r"REAL .* has the frames of MADE .*upright/drive 0/0.MKV; no clip may count twice"):
        compare.table(home / "upright", home / "turned", paired=True)


def test_too_few_videos_name_what_is_there(home: Path) -> None:
    (home / "pictures").mkdir()
    (home / "pictures" / "a.png").touch()
    with pytest.raises(
        ValueError, match=r"REAL .*: 0 videos in and below it \(by their endings; 1 others: a.png\), at least"
    ):
        compare.table(home / "made", home / "pictures")
    with pytest.raises(ValueError, match=r"REAL .*nowhere: 0 videos: there is no such folder"):
        compare.table(home / "made", home / "nowhere")
