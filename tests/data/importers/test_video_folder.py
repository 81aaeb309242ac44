"""Any folder of video files becomes a domain: what is shown is what was filmed, and what cannot be used is said."""

import json
import os
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replaylab.cli import main
from replaylab.data import clips
from replaylab.data.domain import open_domain
from replaylab.data.importers import conversion, sources, video_folder
from replaylab.data.importers.conversion import ConversionSettings, SplitShares
from replaylab.data.importers.sources import FITS, PIECE_FRAMES, Fit, Recipe, Unusable, left_out, pieces
from replaylab.data.video import decode, write_video

RECIPE = Recipe(32, 32, frames_per_second=4.0, frames=4)
GREY_A_FRAME = 5


def film(
    path: Path, times=range(40), unit=Fraction(1, 20), size=(48, 64), codec="libx264", turned=0, square=1, **options
):  # fmt: skip
    """A video whose picture number n is grey 5 n, its left quarter white, shown at times[n] x unit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=1 / unit)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv444p" if codec == "libx264" else "yuv420p"
        stream.codec_context.time_base = unit
        stream.sample_aspect_ratio = square
        if codec == "libx264":
            stream.options = {"crf": "4"}
        if turned:
            stream.set_display_rotation(turned)
        for number, time in enumerate(times):
            picture = np.full((*size, 3), GREY_A_FRAME * number % 200, np.uint8)
            picture[:, : size[1] // 4] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = time, unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def shown_numbers(path: Path) -> list[int]:
    """Which pictures of `film` these are."""
    frames = decode(path)
    return [round(float(frame[12:20, 16:24].mean()) / GREY_A_FRAME) for frame in frames]


def add(folder: Path, recipe: Recipe = RECIPE, scene_from: str = "file", **order) -> conversion.ConversionResult:
    return video_folder.add(folder, ConversionSettings(folder.with_name("domain"), recipe, **order), scene_from)


# ------------------------------------------------------------------------------------------------------------------ time
@given(st.lists(st.floats(0.005, 0.6), min_size=1, max_size=80), st.sampled_from([1.0, 4.0, 7.5, 10.0]), st.integers(1, 5))
def test_every_frame_is_the_nearest_picture_and_within_half_a_step(steps, rate, frames):
    times, recipe = list(np.cumsum(steps)), Recipe(frames_per_second=rate, frames=frames)
    try:
        found = pieces(times, recipe, "x")
    except Unusable as wrong:
        assert ("too short" in wrong.args[1]) or ("per second" in wrong.args[1])
        return
    every = [number for piece in found for number in piece]
    assert every == sorted(set(every))
    for piece in found:
        assert frames <= len(piece) <= max(PIECE_FRAMES, 2 * frames)
    for piece in found[:1]:
        due = times[piece[0]] + np.arange(len(piece)) / rate
        late = np.abs(np.array(times)[list(piece)] - due)
        assert (late <= 0.5 / rate + 1e-5).all()
        assert np.allclose(late, np.abs(np.array(times)[:, None] - due).min(axis=0), atol=1e-5)


def test_a_gap_is_cut_out_and_does_not_look_like_a_jerk():
    times = [*np.arange(8) / 10, *np.arange(12, 24) / 10]  # the last picture before the gap is half a step early
    assert pieces(times, Recipe(frames_per_second=5, frames=4), "x") == ((0, 2, 4, 6), (8, 10, 12, 14, 16, 18))


def test_usual_rates_are_sampled_whole():
    for its_own, ours in ((30, 16), (25, 16), (24, 16), (29.97, 4), (15, 10), (10, 4), (12, 4), (30, 30)):
        times = list(np.random.default_rng(0).uniform(-0.002, 0.002, 600) + np.arange(600) / its_own)
        found = pieces(times, Recipe(frames_per_second=ours, frames=4), "x")
        assert sum(map(len, found)) >= 600 / its_own * ours - 2, (its_own, ours)


def test_a_gap_cuts_and_long_videos_are_cut_into_equal_parts():
    times = [*np.arange(0, 3, 0.25), *np.arange(10, 12, 0.25)]
    assert [len(piece) for piece in pieces(times, Recipe(frames=4), "x")] == [12, 8]
    assert [len(piece) for piece in pieces(times, Recipe(frames=9), "x")] == [12]
    long = pieces(list(np.arange(250) / 4), Recipe(), "x")
    assert [len(piece) for piece in long] == [84, 83, 83] and [n for piece in long for n in piece] == list(range(250))


def test_a_source_that_is_slower_than_asked_is_told_its_own_rate():
    with pytest.raises(Unusable) as found:
        pieces(list(np.arange(100) / 3), Recipe(frames_per_second=4), "x")
    assert "it has 3 frames per second, and 4 per second are required" in found.value.args[1]
    assert "--frames-per-second 3 or less" in found.value.args[2]


# ----------------------------------------------------------------------------------------------------------------- shape
@given(st.integers(5, 900), st.integers(5, 900), st.sampled_from([(64, 64), (48, 96), (96, 48)]))
def test_crop_fills_and_pad_keeps_all_and_neither_stretches(height, width, size):
    for how in FITS:
        fit = Fit.of(height, width, Recipe(*size, fit=how))
        left, top, right, bottom = fit.cut
        assert min(left, top) >= 0 and right <= width and bottom <= height
        x, y = fit.scale
        if how == "crop":
            assert x == pytest.approx(y) and fit.place[2:] == size[::-1]
            assert np.allclose(fit.middle, [width / 2, height / 2])
        else:
            assert (left, top, right, bottom) == (0, 0, width, height)
            assert abs(x - y) * max(width, height) <= 1.01 * max(1, height / width, width / height)
        assert fit.picture(np.full((height, width, 3), 200, np.uint8)).max() == 200
        corners = fit.boxes(np.array([[left, top, right, bottom]]))[0]
        assert np.allclose(corners, [*fit.place[:2], fit.place[0] + fit.place[2], fit.place[1] + fit.place[3]])


def test_a_box_stays_on_what_it_bounds():
    picture = np.zeros((90, 160, 3), np.uint8)
    picture[30:60, 70:110] = 255
    for how in FITS:
        fit = Fit.of(90, 160, Recipe(64, 64, fit=how))
        x0, y0, x1, y1 = fit.boxes(np.array([[70, 30, 110, 60.0]]))[0]
        rows, columns = np.nonzero(fit.picture(picture)[..., 0] > 127)
        assert np.abs(np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) - [x0, y0, x1, y1]).max() < 1


# ----------------------------------------------------------------------------------------------------------------- files
def test_the_frames_of_a_domain_are_the_nearest_of_the_file_and_none_is_blended(tmp_path):
    film(tmp_path / "in" / "even.mp4")  # 20 a second
    film(tmp_path / "in" / "sub" / "uneven.mp4", times=[0, 3, 4, 11, 12, 13, 14, 15, 20, 26, 27, 30])
    domain = add(tmp_path / "in").domain
    by_source = {Path(row["source"]).stem: row for row in json.loads((domain.folder / "domain.json").read_text())["videos"]}
    assert shown_numbers(domain.folder / "videos" / by_source["even"]["file"]) == [0, 5, 10, 15, 20, 25, 30, 35]
    # due at 0, 5, 10, 15, 20, 25 and 30 twentieths of a second
    assert shown_numbers(domain.folder / "videos" / by_source["uneven"]["file"]) == [0, 2, 3, 7, 8, 9, 11]
    assert by_source["uneven"]["varies"] and not by_source["even"]["varies"]
    assert set(domain.videos["scene"]) == {"even.mp4", "sub/uneven.mp4"}
    assert (domain.size_px, domain.frames_per_second, domain.name) == (32, 4.0, "domain")


def test_what_cannot_be_used_is_listed_with_what_to_do_and_the_rest_goes_on(tmp_path, capsys):
    folder = tmp_path / "in"
    film(folder / "good.mp4", size=(45, 63))  # odd
    film(folder / "short.mp4", times=range(3))
    film(folder / "slow.mp4", times=range(0, 400, 10))
    whole = film(folder / "cut.mp4", movflags="faststart").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    whole = film(folder / "headless.mp4").read_bytes()
    (folder / "headless.mp4").write_bytes(whole[: len(whole) // 2])  # its table of contents was at the end
    (folder / "text.mp4").write_text("this is no video")
    (folder / "empty.mov").touch()
    film(folder / "._good.mp4")
    (folder / "notes.txt").write_text("not looked at")
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    added = add(folder)
    why = added.unusable.set_index("file")["why"]
    assert list(added.domain.videos["scene"]) == ["good.mp4"]
    assert set(why.index) == {
        "short.mp4", "slow.mp4", "cut.mp4", "headless.mp4", "text.mp4", "empty.mov", "sound.mp4"
    }  # fmt: skip
    assert "too short: 1 frames at 4 per second" in why["short.mp4"]
    assert "2 frames per second, and 4 per second are required" in why["slow.mp4"]
    assert "cut off" in why["cut.mp4"]
    assert "not a video, or damaged" in why["headless.mp4"] and "not a video, or damaged" in why["text.mp4"]
    assert why["empty.mov"] == "empty" and "only sound" in why["sound.mp4"]
    assert added.unusable["what_to_do"].str.len().min() > 10
    assert pd.read_csv(added.domain.folder / "unusable.csv").equals(added.unusable)
    assert "1 others are ignored" in capsys.readouterr().err


@pytest.mark.parametrize("turned", [90, -90, 180])
def test_a_turned_video_is_shown_as_players_show_it(turned, tmp_path):
    path = film(tmp_path / "in" / "turned.mp4", size=(48, 64), turned=turned)
    domain = add(tmp_path / "in", Recipe(64, 64, "pad", 4.0, 4)).domain
    player = cv2.VideoCapture(str(path))  # it turns, too
    there, first = player.read()
    assert there
    made = decode(domain.folder / "videos" / domain.videos["file"][0])[0]
    wanted = Fit.of(*first.shape[:2], Recipe(64, 64, "pad")).picture(np.ascontiguousarray(first[..., ::-1]))
    assert np.abs(made.astype(int) - wanted).mean() < 4
    assert np.abs(made[::-1, ::-1].astype(int) - wanted).mean() > 20


def test_pixels_that_are_no_squares_are_made_square(tmp_path):
    film(tmp_path / "in" / "wide.mp4", size=(48, 64), square=Fraction(2, 1))
    assert list(add(tmp_path / "in").listing["filmed_px"]) == ["48x128"]


def test_other_containers_are_read(tmp_path):
    film(tmp_path / "in" / "a.avi", codec="mpeg4", unit=Fraction(1, 20))
    film(tmp_path / "in" / "b.webm", range(45), codec="libvpx")
    film(tmp_path / "in" / "c.MKV", range(50))
    film(tmp_path / "in" / "d.ts", range(55))
    added = add(tmp_path / "in")
    assert added.unusable.empty and list(added.listing["frames"]) == [8, 9, 10, 11]
    for file in added.domain.videos["file"]:
        numbers = np.array(shown_numbers(added.domain.folder / "videos" / file))
        wanted = np.arange(len(numbers)) * 5 % (200 // GREY_A_FRAME)
        assert np.abs(numbers - wanted).max() <= 1


def test_damage_in_the_middle_is_found_when_it_is_decoded(tmp_path):
    film(tmp_path / "in" / "good.mp4")
    path = film(tmp_path / "in" / "bad.mp4", movflags="faststart")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) * 9 // 10] = bytes(len(content) * 9 // 10 - len(content) // 2)
    path.write_bytes(content)
    added = add(tmp_path / "in")
    assert list(added.unusable["file"]) == ["bad.mp4"] and "damaged" in added.unusable["why"][0]
    assert list(added.domain.videos["scene"]) == ["good.mp4"]


def test_a_copy_is_left_out_because_it_could_be_in_another_split(tmp_path):
    whole = film(tmp_path / "in" / "a.mp4").read_bytes()
    (tmp_path / "in" / "copy.mp4").write_bytes(whole)
    added = add(tmp_path / "in")
    assert list(added.domain.videos["scene"]) == ["a.mp4"]
    assert list(added.unusable["why"]) == ["shows the same as a.mp4"]


def test_nothing_usable_is_an_error_that_names_the_first(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match=r"no video files in or below it"):
        add(tmp_path / "in")
    (tmp_path / "in" / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match=r"nothing usable among 1 .*, see unusable.csv; the first: text.mp4: not a video"):
        add(tmp_path / "in")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        add(tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------------------------ going on
def test_what_was_converted_is_not_converted_again_and_new_files_move_no_others(tmp_path, capsys):
    folder = tmp_path / "in"
    for number in range(6):
        film(folder / f"{number}.mp4", times=range(30 + 5 * number))
    shares = SplitShares(0.3, 0.3)
    first = add(folder, shares=shares).domain
    times = {path.name: path.stat().st_mtime_ns for path in (first.folder / "videos").iterdir()}
    film(folder / "0-before.mp4", times=range(25))
    film(folder / "3.mp4", times=range(70))  # changed
    second = add(folder, shares=shares)
    assert "5 of 7 sources were already converted" in capsys.readouterr().err
    kept = first.videos[first.videos["scene"] != "3.mp4"].merge(second.domain.videos)
    assert len(kept) == 5 and len(second.listing) == 2
    for file in kept["file"]:
        assert (first.folder / "videos" / file).stat().st_mtime_ns == times[file]
    scenes = second.domain.videos.set_index("scene")["split"]
    assert scenes.drop("0-before.mp4").to_dict() == first.videos.set_index("scene")["split"].to_dict()
    before = (second.domain.folder / "domain.json").read_bytes()
    add(folder, shares=shares)
    assert (second.domain.folder / "domain.json").read_bytes() == before
    with pytest.raises(ValueError, match="was begun with height_px 32, not 64; give another --out"):
        add(folder, Recipe(64, 64, frames=4))


def test_of_two_that_begin_one_folder_by_other_recipes_one_is_refused(tmp_path, monkeypatch):
    """Both found the folder free; the one that comes to the lock later looks again."""
    film(tmp_path / "in" / "0.mp4", times=range(40))
    honest, waited = conversion.locked, []

    @contextmanager
    def after_another(path):
        if not waited:
            waited.append(path)
            add(tmp_path / "in", Recipe(64, 64, frames=4))
        with honest(path) as held:
            yield held

    monkeypatch.setattr(conversion, "locked", after_another)
    with pytest.raises(ValueError, match="was begun with height_px 64, not 32"):
        add(tmp_path / "in")
    (about,) = tmp_path.glob("*/domain.json")
    assert waited and json.loads(about.read_text())["size_px"] == 64


def test_an_interrupted_conversion_goes_on(tmp_path, monkeypatch):
    folder = tmp_path / "in"
    for number in range(3):
        film(folder / f"{number}.mp4", times=range(40 + 5 * number))
    real, calls = conversion.write_video, []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(conversion, "write_video", stopped)
    with pytest.raises(KeyboardInterrupt):
        add(folder)
    with pytest.raises(FileNotFoundError, match="was not finished"):
        open_domain(tmp_path / "domain")
    domain = add(folder).domain
    assert len(calls) == 4 and len(domain.videos) == 3


def test_a_folder_that_holds_something_else_is_not_touched(tmp_path):
    film(tmp_path / "in" / "a.mp4")
    (tmp_path / "domain").mkdir()
    (tmp_path / "domain" / "thesis.tex").touch()
    with pytest.raises(ValueError, match="was not begun by `domain add`"):
        add(tmp_path / "in")
    assert [path.name for path in (tmp_path / "domain").iterdir()] == ["thesis.tex"]


def test_a_dry_run_writes_nothing(tmp_path):
    film(tmp_path / "in" / "a.mp4")
    added = add(tmp_path / "in", dry_run=True)
    assert added.domain is None and list(added.listing["frames"]) == [8]
    assert not (tmp_path / "domain").exists()


def test_several_processes_make_the_same_domain(tmp_path):
    for number in range(3):
        film(tmp_path / "in" / f"{number}.mp4", times=range(20 + 5 * number))
    (tmp_path / "in" / "text.mp4").write_text("no video")
    one = add(tmp_path / "in").domain
    two = video_folder.add(
        tmp_path / "in", ConversionSettings(tmp_path / "other", RECIPE, name="domain", processes=2)
    ).domain
    assert list(pd.read_csv(two.folder / "unusable.csv")["file"]) == ["text.mp4"]
    assert (one.folder / "domain.json").read_bytes() == (two.folder / "domain.json").read_bytes()


# ---------------------------------------------------------------------------------------------------------------- splits
def test_splits_are_drawn_by_scenes_in_their_shares():
    shares = SplitShares(0.2, 0.1)
    drawn = pd.Series([shares.split_of(f"drive {number}") for number in range(4000)]).value_counts(normalize=True)
    assert drawn["dev"] == pytest.approx(0.2, abs=0.03) and drawn["test"] == pytest.approx(0.1, abs=0.03)
    assert {SplitShares(0, 1).split_of(str(number)) for number in range(50)} == {"test"}
    assert {SplitShares(0, 0).split_of(str(number)) for number in range(50)} == {"train"}
    with pytest.raises(ValueError, match="shares of scenes, from 0 to 1 together"):
        add(Path("nowhere"), shares=SplitShares(0.6, 0.6))


def test_files_of_a_folder_are_one_scene_if_asked_for(tmp_path):
    for number, name in enumerate(("drive/1.mp4", "drive/2.mp4", "other/1.mp4")):
        film(tmp_path / "in" / name, times=range(40 + 5 * number))
    domain = add(tmp_path / "in", scene_from="folder").domain
    assert list(domain.videos["scene"]) == ["drive", "drive", "other"]
    assert len(clips.one_per_scene(clips.clips_of(domain, domain.videos["split"][0], 4))) <= 2


# ------------------------------------------------------------------------------------------------- what real folders have
def test_what_cannot_be_listed_or_read_is_one_line_each_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    film(tmp_path / "elsewhere" / "linked.mp4")
    folder = tmp_path / "in"
    film(folder / "10:30:05.mp4", times=range(45))  # FFmpeg takes "10:" for a protocol
    (folder / "drives").symlink_to(tmp_path / "elsewhere")
    (folder / "drives" / "round").symlink_to(folder)  # without an end, if it were followed again and again
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    os.mkfifo(folder / "pipe.mp4")  # reading it would wait for ever
    film(tmp_path / "elsewhere" / "x.mp4", times=range(50)).rename(os.fsdecode(bytes(folder) + b"/caf\xe9.mp4"))
    film(folder / "secret.mp4")
    real = Path.open

    def guarded(path, *arguments, **named):
        if path.name == "secret.mp4":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", guarded)  # root may read everything
    monkeypatch.chdir(folder)
    added = video_folder.add(Path("."), ConversionSettings(tmp_path / "domain", RECIPE))
    assert list(added.domain.videos["scene"]) == ["10:30:05.mp4", "drives/linked.mp4"]
    why = added.unusable.set_index("file")["why"].to_dict()
    assert why == {
        "caf\\xe9.mp4": "its name is not UTF-8",
        "gone.mp4": "a broken link",
        "pipe.mp4": "neither a file nor a folder",
        "secret.mp4": "it cannot be read (permission denied)",
    }
    assert pd.read_csv(tmp_path / "domain" / "unusable.csv").equals(added.unusable)
    print(added.unusable.to_string())  # as the command does


def test_a_place_that_cannot_be_written_is_told_before_anything_is_read(tmp_path, monkeypatch):
    film(tmp_path / "in" / "a.mp4")
    (tmp_path / "file").touch()
    monkeypatch.setattr(video_folder, "listed", None)
    with pytest.raises(ValueError, match=r"file/domain: nothing can be written to .*file \(Not a directory\); give another"):
        video_folder.add(tmp_path / "in", ConversionSettings(tmp_path / "file" / "domain", RECIPE))


def test_how_much_is_left_out_of_each_file_and_why_is_a_column(tmp_path, capsys):
    film(tmp_path / "in" / "gap.mp4", times=[*range(30), *range(60, 100), *range(110, 114)])
    film(tmp_path / "in" / "slower.mp4", times=[*range(40), *range(40, 100, 4)])  # 20 a second, then 5
    film(tmp_path / "in" / "whole.mp4", times=range(55))
    listing = add(tmp_path / "in", Recipe(32, 32, frames_per_second=10.0, frames=8)).listing.set_index("file")
    assert listing["left_out_s"].tolist() == pytest.approx([2.2, 2.8, 0], abs=0.15)
    assert "gaps of up to 1.55 s between frames" in listing["left_out_why"]["gap.mp4"]
    assert "runs shorter than 8 frames" in listing["left_out_why"]["gap.mp4"]
    assert listing["left_out_why"]["slower.mp4"].endswith("slower than 10 frames per second")
    assert listing["left_out_why"]["whole.mp4"] == ""
    assert "partly left out (columns left_out_s, left_out_why): 2 files, e.g. gap.mp4" in capsys.readouterr().err


@pytest.mark.parametrize(("rates", "wanted"), [((24, 12), 12), ((24, 12), 8), ((12, 24), 10), ((20, 10), 10), ((10, 30), 9)])
def test_a_rate_that_changes_is_followed(rates, wanted):
    first, second = (np.arange(5 * rate) / rate for rate in rates)
    times = [*first, *(5 + second)]
    recipe = Recipe(frames_per_second=float(wanted), frames=8)
    found = pieces(times, recipe, "x")
    assert sum(map(len, found)) >= 10 * wanted - 2
    assert left_out(times, found, recipe) == (0, "")


def test_enlarging_is_told(tmp_path, capsys):
    film(tmp_path / "in" / "a.mp4")
    assert add(tmp_path / "in", Recipe(96, 96, frames=4)).listing["remarks"][0] == "enlarged 2.0 times"
    assert "enlarged: a.mp4" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- copies and places
def street(path: Path, seed: int, frames: int = 24, rate: int = 8, size=(64, 96), crf: str = "12", skipped: int = 0) -> Path:
    """A video of a texture that moves, like no other seed's; with other sizes and qualities the same content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 40, 3), np.uint8)
    texture = cv2.resize(coarse, (640, 64), interpolation=cv2.INTER_CUBIC)
    pictures = [
        cv2.resize(texture[:, 3 * (n + skipped) : 3 * (n + skipped) + 96], size[::-1], interpolation=cv2.INTER_AREA)
        for n in range(frames)
    ]
    write_video(path, np.stack(pictures), rate, {"crf": crf, "preset": "superfast"})
    return path


def of_split(split: str, start: int, shares: SplitShares) -> str:
    """A file name that is assigned to a split."""
    return next(name for n in range(start, start + 999) if shares.split_of(name := f"{n:03}.mp4") == split)


def test_copies_that_were_encoded_again_go_where_the_first_one_is(tmp_path):
    shares, recipe = SplitShares(0.2, 0.3), Recipe(32, 48, frames_per_second=4.0, frames=4)
    names = {split: of_split(split, 100, shares) for split in ("train", "test")}
    for seed, split in enumerate(names):
        street(tmp_path / "in" / names[split], seed)
    first = add(tmp_path / "in", recipe, shares=shares)
    assert first.look_alikes.empty
    # before the others by name, and by its own name it would be in the other split
    copies = {split: of_split({"train": "test", "test": "train"}[split], 0, shares) for split in names}
    for seed, split in enumerate(names):
        street(tmp_path / "in" / copies[split], seed, size=(48, 72), crf="24")
    street(tmp_path / "in" / "other.mp4", 7)
    second = add(tmp_path / "in", recipe, shares=shares)
    splits = second.domain.videos.set_index("scene")["split"]
    for split in names:
        assert splits[names[split]] == splits[copies[split]] == split
    assert splits["other.mp4"] == shares.split_of("other.mp4")
    told = second.look_alikes.set_index("scene")["looks_like"].to_dict()
    assert told == {copies[split]: names[split] for split in names}
    # with other shares all are placed anew, copies together
    third = add(tmp_path / "in", recipe, shares=SplitShares(0, 0))
    assert set(third.domain.videos["split"]) == {"train"} and len(third.look_alikes) == 2


def test_a_domain_of_before_places_were_written_down_keeps_its_splits_and_finds_copies(tmp_path):
    shares, recipe = SplitShares(0.2, 0.3), Recipe(32, 48, frames_per_second=4.0, frames=4)
    name, copy = of_split("train", 100, shares), of_split("test", 0, shares)
    street(tmp_path / "in" / name, 0)
    out = add(tmp_path / "in", recipe, shares=shares).domain.folder
    (out / "sources" / "places.json").unlink()
    (path,) = (out / "sources").glob("*.note.json")
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "hashes"}))
    path.with_name(path.name + ".sha256").unlink()  # there were none then
    street(tmp_path / "in" / copy, 0, crf="24")
    videos = add(tmp_path / "in", recipe, shares=shares).domain.videos
    assert list(videos["scene"]) == [copy, name] and set(videos["split"]) == {"train"}


def test_what_was_made_of_a_file_before_its_damage_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE_FRAMES", 8)
    street(tmp_path / "in" / "good.mp4", 0, frames=48)
    path = street(tmp_path / "in" / "bad.mp4", 1, frames=48)
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    for place, size in packets[40:]:  # in the last of three pieces
        content[place : place + size] = bytes(size)
    path.write_bytes(content)
    written = []
    real = conversion.write_video
    monkeypatch.setattr(conversion, "write_video", lambda aside, *rest: (written.append(aside), real(aside, *rest)))
    added = add(tmp_path / "in")
    assert list(added.unusable["file"]) == ["bad.mp4"] and "damaged: " in added.unusable["why"][0]
    assert len(written) == 5  # two of them of the damaged file
    assert sorted(path.name for path in (added.domain.folder / "videos").iterdir()) == list(added.domain.videos["file"])


def test_what_shows_scenes_of_two_splits_is_left_out(tmp_path):
    shares, recipe = SplitShares(0.2, 0.3), Recipe(32, 48, frames_per_second=4.0, frames=4)
    names = [of_split("train", 100, shares), of_split("test", 100, shares)]
    for start, name in zip((0, 24), names, strict=True):
        street(tmp_path / "in" / name, 0, skipped=start)
    add(tmp_path / "in", recipe, shares=shares)
    street(tmp_path / "in" / "all.mp4", 0, frames=48, crf="14")
    added = add(tmp_path / "in", recipe, shares=shares)
    assert sorted(added.domain.videos["scene"]) == sorted(names)
    assert list(added.unusable["file"]) == ["all.mp4"]
    assert f"shows nearly the same as {names[1]} (test) and {names[0]} (train)" in added.unusable["why"][0]


def test_a_copy_that_comes_later_moves_nothing_and_leaves_no_video(tmp_path, capsys):
    folder = tmp_path / "in"
    whole = film(folder / "b.mp4").read_bytes()
    before = add(folder).domain.videos
    (folder / "a.mp4").write_bytes(whole)  # before the other by its name
    added = add(folder)
    assert added.domain.videos.equals(before)
    assert added.unusable[["file", "why"]].to_numpy().tolist() == [["a.mp4", "shows the same as b.mp4"]]
    videos = added.domain.folder / "videos"
    assert sorted(path.name for path in videos.iterdir()) == list(before["file"])
    again = add(folder)
    assert again.listing.empty and list(again.unusable["file"]) == ["a.mp4"]  # not converted again, and told again
    (folder / "b.mp4").unlink()  # then the copy is all there is
    assert list(add(folder).domain.videos["scene"]) == ["a.mp4"]


# ------------------------------------------------------------------------------------------------------------ long drives
def test_a_long_drive_is_cut_into_scenes_with_a_clip_between_them(tmp_path):
    film(tmp_path / "in" / "drive.mp4", times=range(400))  # 20 s
    shares = SplitShares(0.3, 0.3)
    added = video_folder.add(
        tmp_path / "in", ConversionSettings(tmp_path / "domain", RECIPE, shares), scene_seconds=5.0
    )  # fmt: skip
    videos = added.domain.videos
    assert list(videos["scene"]) == [f"drive.mp4 from {start} s" for start in ("0.00", "5.00", "10.00", "15.00")]
    assert list(videos["frames"]) == [16, 16, 16, 20]  # of 20: a clip has 4
    assert added.listing["left_out_s"][0] == pytest.approx(3) and "between scenes" in added.listing["left_out_why"][0]
    with pytest.raises(ValueError, match=r"scene_seconds: 1\.5; a clip has 1 s, and a scene needs at least two of them"):
        video_folder.add(tmp_path / "in", ConversionSettings(tmp_path / "other", RECIPE), scene_seconds=1.5)
    with pytest.raises(ValueError, match="was begun with origin 'videos, scene from file, 5 s each'"):
        add(tmp_path / "in")


def test_a_film_is_cut_into_scenes_where_it_changes(tmp_path):
    for seed in range(3):
        street(tmp_path / f"{seed}.mp4", seed)
    frames = np.concatenate([decode(tmp_path / f"{seed}.mp4") for seed in range(3)])
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "film.mp4", frames, 8)
    domain = add(tmp_path / "in", scene_from="cuts").domain
    assert list(domain.videos["scene"]) == [f"film.mp4 from {start} s" for start in ("0.00", "3.00", "6.00")]
    assert list(domain.videos["frames"]) == [12, 12, 12]


def test_parts_of_a_long_file_are_read_side_by_side_and_give_the_same_domain(tmp_path, monkeypatch, capsys):
    film(tmp_path / "in" / "a.mp4", times=range(600))
    whole = add(tmp_path / "in", Recipe(32, 32, frames_per_second=10.0, frames=4)).domain
    monkeypatch.setattr(video_folder, "PART_S", 10.0)
    order = ConversionSettings(tmp_path / "other", Recipe(32, 32, frames_per_second=10.0, frames=4), name="domain")
    parts = video_folder.add(tmp_path / "in", order).domain
    assert "converting: 3 parts of sources" in capsys.readouterr().err
    assert (parts.folder / "domain.json").read_bytes() == (whole.folder / "domain.json").read_bytes()


def test_an_empty_split_is_told_with_the_remedy_before_anything_is_converted(tmp_path, capsys):
    film(tmp_path / "in" / "a.mp4")
    add(tmp_path / "in", dry_run=True)
    assert "the only scene is assigned to" in (said := capsys.readouterr().err) and "--scene-seconds 60" in said
    shares = SplitShares(0, 0.001)
    for number in range(3):
        film(tmp_path / "in" / f"{number}.mp4", times=range(30 + 5 * number))
    add(tmp_path / "in", dry_run=True, shares=shares)
    said = capsys.readouterr().err
    assert "none of 4 scenes is assigned to test (--test 0.001)" in said
    enough = float(said.rpartition("give --test ")[2].split(",")[0])
    splits = [SplitShares(0, enough).split_of(name) for name in ("a.mp4", "0.mp4", "1.mp4", "2.mp4")]
    assert splits.count("test") == 1


# --------------------------------------------------------------------------------------------------------------- command
def test_the_command_makes_a_rectangle_and_reports(tmp_path, capsys):
    film(tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "b.mp4").write_text("no video")
    out = tmp_path / "mine"
    command = ["domain", "add", "videos", str(tmp_path / "in"), "--out", str(out), "--size", "32x48", "--dev", "0",
               "--test", "0", "--licence", "my own", "--prompt", "a street", "--processes", "1"]  # fmt: skip
    assert main.main([*command, "--dry-run"]) == 0
    assert "was not touched" in capsys.readouterr().out and not out.exists()
    assert main.main(command) == 0
    said = capsys.readouterr()
    assert "b.mp4" in said.out and "not a video, or damaged" in said.out and "agents are not known" in said.out
    assert "no scene is assigned to test" in said.out
    assert "1 sources to convert: 8 frames, 2.0 s of video in 1 files; at least" in said.err
    domain = open_domain(out)
    assert (domain.height_px, domain.width_px, domain.about["licence"]) == (32, 48, "my own")
    assert domain.about["prompt"] == "a street"
    chosen = clips.clips_of(domain, "train", 8)
    assert next(clips.read(domain, chosen, 8)).shape == (8, 32, 48, 3)
    assert main.main([*command[:-4], "--size", "big"]) == 2
    assert "size: 'big'; give one side of a square (64), or height x width" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"height_px": 33}, "33 px; height and width must be even"),
        ({"fit": "stretch"}, "'stretch' is none of crop, pad"),
        ({"frames_per_second": 0}, "must be above 0"),
        ({"frames": 0}, "at least one"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**wrong)
