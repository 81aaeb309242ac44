"""Latents: each clip encoded once, keyed by content, shared by processes, and the same bits after a kill."""

import dataclasses
import importlib.util
import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LIMIT_SECONDS, require_or_skip

from replaylab.catalogue import CLIP_FRAMES
from replaylab.data import clips
from replaylab.data.clips import Clip
from replaylab.data.domain import Domain, open_domain
from replaylab.data.video import READER_VARIABLE, UndecodableVideo
from replaylab.models import latent_cache
from replaylab.models.autoencoder import FOLD, LATENT_CHANNELS, fold, new_autoencoder
from replaylab.models.tiny_wan import TinyWan
from replaylab.spec import WorldSpec
from replaylab.util import files
from replaylab.worlds.build import build_domain

VIDEOS, AT_ONCE = 10, 3  # four chunks, the last of one video


class Noted:
    """A small autoencoder which notes in a file, shared with other processes, what it encodes, and takes its time.

    It never ends with the chunk number `hangs_at`, from 1.
    """

    def __init__(self, notes: Path, seconds: float = 0.0, hangs_at: int = -1) -> None:
        torch.manual_seed(0)
        self.net = torch.nn.Conv2d(3 * FOLD**2, LATENT_CHANNELS, 3, padding=1)
        self.notes, self.seconds, self.hangs_at = notes, seconds, hangs_at

    @torch.no_grad()
    def encode(self, frames: np.ndarray) -> torch.Tensor:
        with self.notes.open("a") as file:
            file.write(f"{os.getpid()} {frames.astype(np.int64).sum()}\n")
        time.sleep(1000 if len(self.encoded) == self.hangs_at else self.seconds)
        flat = self.net(fold(frames.reshape(-1, *frames.shape[2:])))
        return flat.unflatten(0, frames.shape[:2]).transpose(1, 2)

    @property
    def encoded(self) -> list[list[str]]:
        """(process, what) of every chunk that was encoded."""
        return [line.split() for line in self.notes.read_text().splitlines()] if self.notes.exists() else []


@pytest.fixture(scope="module")
def domain(tmp_path_factory):
    spec = WorldSpec("near", "traffic", "diverse", "free", (VIDEOS, 0, 0))
    return build_domain(spec, tmp_path_factory.mktemp("latents"))


@pytest.fixture
def model(tmp_path):
    return Noted(tmp_path / "notes")


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(latent_cache, "VIDEOS_AT_ONCE", AT_ONCE)


def read_all(model, domain: Domain, home: Path, key: str = "key") -> np.ndarray:
    """Every clip of the split (clips, C, T, h, w)."""
    chosen = clips.clips_of(domain, "train", CLIP_FRAMES)
    return np.stack(list(latent_cache.encode_clips(model, domain, "train", chosen, home, key)))


def chunks_in(home: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and time of every chunk."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in home.glob("*.npy")}


def elsewhere(folder: Path, home: Path, notes: Path, seconds: float, hangs_at: int = -1):
    """A started process that reads all latents and saves them beside the notes, under its number."""
    arguments = (folder, home, notes, seconds, hangs_at, torch.get_num_threads())
    process = multiprocessing.get_context("spawn").Process(target=_read_and_save, args=arguments)
    process.start()
    return process


def _read_and_save(folder: Path, home: Path, notes: Path, seconds: float, hangs_at: int, threads: int) -> None:
    latent_cache.VIDEOS_AT_ONCE = AT_ONCE
    torch.set_num_threads(threads)
    model = Noted(notes, seconds, hangs_at)
    (notes.parent / f"ready-{os.getpid()}").touch()
    wait_until((notes.parent / "go").exists)
    np.save(notes.parent / f"{os.getpid()}.npy", read_all(model, open_domain(folder), home))


def wait_until(happens) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_clips_latents_are_those_of_its_frames(domain, tmp_path):
    torch.manual_seed(0)
    model = TinyWan.new(new_autoencoder().eval())
    chosen = clips.clips_of(domain, "train", CLIP_FRAMES)[1::3]
    coded = latent_cache.encode_clips(model, domain, "train", chosen, tmp_path, "key")
    frames = np.stack(list(clips.read(domain, chosen, CLIP_FRAMES)))
    assert len(coded) == len(chosen) == VIDEOS
    assert {(type(clip), clip.shape, clip.dtype) for clip in coded} == {
        (np.ndarray, (LATENT_CHANNELS, CLIP_FRAMES, 16, 16), np.dtype(np.float32))
    }
    assert np.allclose(np.stack(list(coded)), model.encode(frames).numpy(), atol=1e-4)


def test_they_are_read_the_second_time_and_made_anew_for_another_autoencoder_or_window(
    model, domain, tmp_path, monkeypatch, capsys
):
    home = tmp_path / "home"
    first = read_all(model, domain, home)
    assert len(model.encoded) == len(chunks_in(home)) == 4
    assert "encoding near: 4 chunks in" in capsys.readouterr().err
    assert np.array_equal(read_all(model, domain, home), first)
    assert len(model.encoded) == 4 and not capsys.readouterr().err
    read_all(model, domain, home, "another")
    assert len(model.encoded) == len(chunks_in(home)) == 8
    monkeypatch.setattr(latent_cache, "WINDOW_FRAMES", 4)
    read_all(model, domain, home)
    assert len(model.encoded) == len(chunks_in(home)) == 12
    assert not list(home.glob(".*"))


def test_another_reader_of_videos_has_chunks_of_its_own(model, domain, tmp_path, monkeypatch):
    require_or_skip(importlib.util.find_spec("decord") is not None, "decord")
    home = tmp_path / "home"
    first = read_all(model, domain, home)
    kept = chunks_in(home)
    monkeypatch.setenv(READER_VARIABLE, "decord")
    assert np.array_equal(read_all(model, domain, home), first)
    assert len(chunks_in(home)) == 2 * len(kept)
    monkeypatch.setenv(READER_VARIABLE, "pyav")
    read_all(model, domain, home)
    assert kept.items() <= chunks_in(home).items() and len(chunks_in(home)) == 2 * len(kept)


def test_only_chunks_that_are_asked_for_are_made_and_other_choices_and_names_share_them(model, domain, tmp_path):
    home = tmp_path / "home"
    chosen = clips.one_per_scene(clips.clips_of(domain, "train", CLIP_FRAMES))
    for wanted, chunks in (([0, 2], 1), ([1], 1), ([2, 9], 2), ([4, 5, 0], 3), (range(VIDEOS), 4)):
        some = [chosen[number] for number in wanted]
        coded = latent_cache.encode_clips(model, domain, "train", some, home, "key")
        assert len(model.encoded) == chunks
        assert np.array_equal(
            np.stack(list(coded)), read_all(Noted(tmp_path / "other"), domain, tmp_path / "o")[::3][wanted]
        )
    copy = tmp_path / "copy"
    shutil.copytree(domain.folder, copy)
    read_all(model, dataclasses.replace(open_domain(copy), name="far"), home)
    assert len(model.encoded) == 4


def test_appended_videos_keep_the_chunks_that_are_there(model, domain, tmp_path):
    home = tmp_path / "home"
    shorter = dataclasses.replace(domain, videos=domain.videos[:8])  # the third chunk has two of three videos
    before = read_all(model, shorter, home)
    kept = chunks_in(home)
    after = read_all(model, domain, home)
    assert len(kept) == 3 and len(model.encoded) == 3 + 2
    assert kept.items() <= chunks_in(home).items()
    assert np.array_equal(after[: 6 * 3], before[: 6 * 3])
    assert np.allclose(after[: len(before)], before, atol=1e-4)


@pytest.mark.parametrize("harm", ["cut short", "empty", "another header", "no header", "other frames", "other numbers"])
def test_a_damaged_chunk_is_made_again_with_a_word(harm, model, domain, tmp_path, capsys):
    home = tmp_path / "home"
    whole = read_all(model, domain, home)
    contents = {path: content for path, (content, _) in chunks_in(home).items()}
    path, other = sorted(contents)[:2]
    bad = contents[path]
    array = np.load(path)
    if harm == "other frames":
        np.save(path, array[:-1])
    elif harm == "other numbers":
        np.save(path, array.astype(np.float64))
    else:
        path.write_bytes({"cut short": bad[:-1], "empty": b"", "another header": bad[:10] + b"{'(" + bad[13:],
                          "no header": bytes(len(bad))}[harm])  # fmt: skip
    capsys.readouterr()
    assert np.array_equal(read_all(model, domain, home), whole)
    assert len(model.encoded) == 4 + 1 and path.read_bytes() == bad and other.read_bytes() == contents[other]
    assert capsys.readouterr().err.count(f"{path} is damaged and is made again\n") == 1


def test_a_video_of_another_length_than_its_domain_says_is_named_and_nothing_is_kept(model, domain, tmp_path):
    videos = domain.videos.copy()
    videos.loc[1, "frames"] = 13
    wrong = dataclasses.replace(domain, videos=videos)
    with pytest.raises(UndecodableVideo, match=r"videos/train-00001\.mp4: 12 frames .* domain\.json says 13"):
        read_all(model, wrong, tmp_path / "home")
    assert not any((tmp_path / "home").iterdir())


def test_a_video_that_was_exchanged_is_named_and_not_encoded_under_the_old_name(model, domain, tmp_path):
    videos = domain.videos.copy()
    videos.loc[1, "sha256"] = videos["sha256"][0]
    with pytest.raises(ValueError, match=r"videos/train-00001\.mp4 is another video"):
        read_all(model, dataclasses.replace(domain, videos=videos), tmp_path / "home")
    assert not any((tmp_path / "home").iterdir())


def test_a_clip_that_would_go_on_in_the_next_video_is_refused(model, domain, tmp_path):
    with pytest.raises(ValueError, match="no 8 frames from frame 6 of train-00000 on: it has 12"):
        latent_cache.encode_clips(model, domain, "train", [Clip("train-00000", "", 6)], tmp_path, "key")


def test_two_processes_that_want_the_same_share_the_work(model, domain, tmp_path):
    folder, home = tmp_path / "both", tmp_path / "home"
    folder.mkdir()
    both = [elsewhere(domain.folder, home, folder / "notes", 0.4) for _ in range(2)]
    wait_until(lambda: len(list(folder.glob("ready-*"))) == 2)
    (folder / "go").touch()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    shares = Noted(folder / "notes").encoded
    assert len({what for _, what in shares}) == len(shares) == 4
    assert {int(process) for process, _ in shares} == {process.pid for process in both}
    first, second = (np.load(folder / f"{process.pid}.npy") for process in both)
    assert np.array_equal(first, second)
    assert np.allclose(first, read_all(model, domain, tmp_path / "alone"), atol=1e-4)
    assert not list(home.glob(".*"))


def test_nobody_waits_for_a_chunk_while_there_are_others_to_make_and_a_dead_process_chunk_is_taken_over(
    model, domain, tmp_path, monkeypatch
):
    folder, home, said = tmp_path / "stuck", tmp_path / "home", []
    monkeypatch.setattr(files, "report", said.append)
    folder.mkdir()
    (folder / "go").touch()
    process = elsewhere(domain.folder, home, folder / "notes", 0.0, hangs_at=1)
    stuck_at_first = Noted(folder / "notes")
    wait_until(lambda: len(stuck_at_first.encoded) == 1)

    def kill_when_it_is_waited_for() -> None:
        wait_until(lambda: said)
        process.kill()

    killer = threading.Thread(target=kill_when_it_is_waited_for)
    killer.start()
    try:
        read_all(model, domain, home)
    finally:
        process.kill()
        killer.join()
        process.join()
    assert [what for _, what in stuck_at_first.encoded] == [model.encoded[-1][1]]
    assert len(model.encoded) == len(chunks_in(home)) == 4
    (line,) = said
    assert line.startswith("waiting for another process")
    assert not list(home.glob(".*"))


def test_what_was_not_written_to_its_end_is_no_chunk(model, domain, tmp_path, monkeypatch):
    def half(path: Path, frames: np.ndarray) -> None:
        path.write_bytes(bytes(100))
        raise OSError("disk full")

    monkeypatch.setattr(latent_cache, "write", half)
    with pytest.raises(OSError, match="disk full"):
        read_all(model, domain, tmp_path / "home")
    assert not any((tmp_path / "home").iterdir())


def test_a_process_killed_while_it_encodes_leaves_whole_chunks_and_the_rest_ends_in_the_same_bits(model, domain, tmp_path):
    folder, home = tmp_path / "killed", tmp_path / "home"
    folder.mkdir()
    (folder / "go").touch()
    process = elsewhere(domain.folder, home, folder / "notes", 0.0, hangs_at=3)
    wait_until(lambda: len(Noted(folder / "notes").encoded) == 3)
    process.kill()
    process.join()
    left = chunks_in(home)
    whole = read_all(model, domain, tmp_path / "uninterrupted")
    uninterrupted = {path.name: content for path, (content, _) in chunks_in(tmp_path / "uninterrupted").items()}
    assert len(left) == 2
    assert {path.name: content for path, (content, _) in left.items()}.items() <= uninterrupted.items()
    went_on = Noted(tmp_path / "went on")
    assert np.array_equal(read_all(went_on, domain, home), whole)
    assert len(went_on.encoded) == 2 and left.items() <= chunks_in(home).items()
    assert {path.name: content for path, (content, _) in chunks_in(home).items()} == uninterrupted
