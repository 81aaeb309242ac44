"""One reader gives every picture as a player shows it, and says what it cannot read."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.context import Flags

from replaylab.data.importers import colour
from replaylab.data.importers.recording import Recording, probe, scene_changes
from replaylab.data.importers.sources import Unusable

SIZE = (48, 64)
GREY_A_FRAME = 5
Shown = Callable[[int], np.ndarray]


def numbered(number: int) -> np.ndarray:
    """A picture that is no mirror or turn of itself, whose grey in the middle tells its number."""
    picture = np.full((*SIZE, 3), GREY_A_FRAME * number % 200, np.uint8)
    picture[:, :16] = 255
    picture[:12] = 0
    return picture


def film(
    path: Path, times: Iterable[int] = range(40), draw: Shown = numbered, codec: str = "libx264", pix_fmt: str = "yuv420p",
    gop: int = 10, rate: int = 20, change: Callable[[Any], object] = lambda stream: None, **options: str,
) -> Path:  # fmt: skip
    """A video of pictures `draw(n)` shown at times[n] / rate; `change` is called with the stream before it is written."""
    with av.open(str(path), "w", options=options) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *SIZE, pix_fmt
        stream.codec_context.time_base = Fraction(1, rate)
        stream.codec_context.gop_size = gop
        if codec == "libx264":
            stream.options = {"crf": "4"}
        change(stream)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24" if draw(number).dtype == np.uint8 else "rgb48le")
            frame.pts, frame.time_base = time, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def numbers(recording: Recording, wanted: Iterable[int] | None = None) -> list[int]:
    """Which pictures of `numbered` are read."""
    chosen = list(range(len(recording.stamps)) if wanted is None else wanted)
    return [round(float(picture[30:36, 40:48].mean()) / GREY_A_FRAME) for picture in recording.pictures(chosen)]


def remuxed(path: Path, onto: Path, change: Callable[[Any], object], **options: str) -> Path:
    """The same packets in another file, `change`d."""
    with av.open(str(path)) as source, av.open(str(onto), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                change(packet)
                packet.stream = stream
                target.mux(packet)
    return onto


# ----------------------------------------------------------------------------------------------------------------- shape
@pytest.mark.parametrize("hflip", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
def test_all_eight_ways_to_turn_and_mirror_are_undone(degrees: int, hflip: bool, tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(2), change=lambda stream: stream.set_display_rotation(degrees, hflip=hflip))
    wanted = np.rot90(numbered(0), degrees // 90)  # to the left, then mirrored
    wanted = wanted[:, ::-1] if hflip else wanted
    known = probe(path, "a")
    (first,) = known.pictures([0])
    assert first.shape == wanted.shape == (known.height_px, known.width_px, 3)
    assert np.abs(first.astype(int) - wanted).mean() < 4
    assert known.looks.mirrored == hflip


def test_a_slanted_picture_is_refused(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(2), change=lambda stream: stream.set_display_rotation(30))
    with pytest.raises(Unusable, match="rotated by 30 degrees, or sheared"):
        probe(path, "a")


def test_pixels_become_square_before_they_are_turned(tmp_path: Path) -> None:
    def change(stream: Any) -> None:
        stream.sample_aspect_ratio = 2
        stream.set_display_rotation(90)

    known = probe(film(tmp_path / "a.mp4", range(2), change=change), "a")
    assert (known.height_px, known.width_px) == (128, 48) == next(known.pictures([1])).shape[:2]


def test_both_fields_of_an_interlaced_video_become_one_picture(tmp_path: Path) -> None:
    def fields(number: int) -> np.ndarray:  # a bar that moves by 3 pixels from field to field
        picture = np.zeros((*SIZE, 3), np.uint8)
        picture[0::2, 6 + 6 * number : 14 + 6 * number] = 255
        picture[1::2, 9 + 6 * number : 17 + 6 * number] = 255
        return picture

    def interlaced(stream: Any) -> None:
        stream.options = {"crf": "4", "x264-params": "tff=1"}
        stream.codec_context.flags |= Flags.interlaced_dct.value | Flags.interlaced_me.value

    path = film(tmp_path / "a.mp4", range(8), fields, change=interlaced)
    known = probe(path, "a")
    assert known.looks.interlaced
    shown = np.stack(list(known.pictures(range(8)))).astype(int)
    raw = np.stack([fields(number) for number in range(8)]).astype(int)
    assert len(shown) == 8
    combs = [np.abs(2 * one[3:-1:2] - one[2:-2:2] - one[4::2]).mean() for one in (shown[4], raw[4])]
    assert combs[0] < combs[1] / 4
    # one of both fields stays as it is, at its time
    assert min(np.abs(shown[4, field::2] - raw[4, field::2]).mean() for field in (0, 1)) < 4
    assert len(list(known.pictures([2, 5]))) == 2


# --------------------------------------------------------------------------------------------------------------- colours
def tagged(transfer: int, primaries: int, matrix: int) -> Callable[[Any], None]:
    def change(stream: Any) -> None:
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, primaries, matrix

    return change


def hdr(path: Path, signal: Iterable[float], transfer: int, primaries: int = 9) -> np.ndarray:
    """One colour, of the given signal, as `probe` shows it."""
    picture = np.full((*SIZE, 3), np.round(65535 * np.array(list(signal))), np.uint16)
    film(path, range(2), lambda number: picture, "ffv1", "gbrp10le", change=tagged(transfer, primaries, 0))
    shown = np.stack(list(probe(path, "a").pictures([0, 1])))
    assert np.ptp(shown, axis=(0, 1, 2)).max() == 0
    return shown[0, 0, 0].astype(int)


def pq(cd_m2: float) -> float:
    return float(colour._to_pq(np.array(cd_m2)))


def test_light_that_bt709_can_show_keeps_its_brightness_by_either_curve(tmp_path: Path) -> None:
    wanted = 255 * (20 / 203) ** (1 / 2.4)  # of 20 cd/m2, with white at 203
    assert hdr(tmp_path / "pq.mkv", (pq(20),) * 3, colour.PQ) == pytest.approx([wanted] * 3, abs=1)
    # BT.2100: the scene's light, to the power of 1.2, times 1000, is the display's
    signal = (3 * (20 / 1000) ** (1 / 1.2)) ** 0.5
    assert hdr(tmp_path / "hlg.mkv", (signal,) * 3, colour.HLG) == pytest.approx([wanted] * 3, abs=1)


def test_paper_is_the_same_by_both_curves_and_brighter_light_stays_brighter(tmp_path: Path) -> None:
    # BT.2408: 203 cd/m2 is 58 % of PQ and 75 % of HLG
    paper = hdr(tmp_path / "pq.mkv", (0.58,) * 3, colour.PQ)
    assert hdr(tmp_path / "hlg.mkv", (0.75,) * 3, colour.HLG) == pytest.approx(paper, abs=2)
    sky, peak = hdr(tmp_path / "sky.mkv", (pq(500),) * 3, colour.PQ), hdr(tmp_path / "peak.mkv", (pq(1000),) * 3, colour.PQ)
    assert 200 < paper[0] < sky[0] < peak[0] == 255


def test_a_colour_of_bt709_comes_out_as_itself(tmp_path: Path) -> None:
    red = np.linalg.solve(colour._to_bt709(9).astype(float), [60.0, 0, 0])  # cd/m2
    shown = hdr(tmp_path / "red.mkv", map(pq, red), colour.PQ)
    assert shown == pytest.approx([255 * (60 / 203) ** (1 / 2.4), 0, 0], abs=8)
    # BT.2087: BT.709's red in BT.2020
    assert red / 60 == pytest.approx([0.6274, 0.0691, 0.0164], abs=2e-4)


def test_what_phones_record_is_converted_and_ordinary_video_is_not_touched(tmp_path: Path) -> None:
    picture = np.full((*SIZE, 3), round(65535 * 0.5), np.uint16)  # HLG of half: 1/12 of the scene's light
    path = film(tmp_path / "a.mp4", range(2), lambda number: picture, pix_fmt="yuv420p10le", change=tagged(colour.HLG, 9, 9))
    known = probe(path, "a")
    assert known.looks.colours == "HLG"
    wanted = 255 * (1000 * (1 / 12) ** 1.2 / 203) ** (1 / 2.4)
    assert next(known.pictures([0]))[20, 20] == pytest.approx([wanted] * 3, abs=3)
    plain = probe(film(tmp_path / "b.mp4", range(2), change=tagged(1, 1, 1)), "b")
    with av.open(str(plain.path)) as container:
        frame = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert plain.looks.colours == "" and np.array_equal(next(plain.pictures([0])), frame)


def test_colours_that_are_not_understood_are_refused(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mkv", range(2), codec="ffv1", change=tagged(8, 1, 1))
    with pytest.raises(Unusable, match=r"its curve \(linear\) is not supported"):
        probe(path, "a")
    assert colour.unknown(1, 14) == "its colour matrix (number 14 of H.273)"


# ----------------------------------------------------------------------------------------------------------------- times
def test_an_edit_list_that_hides_whole_groups_is_no_cut(tmp_path: Path) -> None:
    whole = film(tmp_path / "a.mp4", range(39))

    def earlier(packet: Any) -> None:
        packet.pts -= round(Fraction(23, 20) / packet.time_base)
        packet.dts -= round(Fraction(23, 20) / packet.time_base)

    path = remuxed(whole, tmp_path / "b.mp4", earlier, avoid_negative_ts="disabled")
    with av.open(str(path)) as container:  # as it is filed: more frames than can be read
        assert container.streams.video[0].frames == 39 > sum(packet.size > 0 for packet in container.demux(video=0))
    assert numbers(probe(path, "b")) == list(range(23, 39))


def test_repeated_pictures_of_an_avi_are_no_cut(tmp_path: Path) -> None:
    times = [n for n in range(60) if n % 7 not in (3, 4)]
    path = film(tmp_path / "a.avi", times, codec="mpeg4")
    known = probe(path, "a")
    assert np.round(np.array(known.times_s) * 20).astype(int).tolist() == times
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 3 // 4])  # its index was at the end
    with pytest.raises(Unusable, match="cut off"):
        probe(path, "a")


def test_a_clock_that_starts_again_is_another_take(tmp_path: Path) -> None:
    one = film(tmp_path / "a.ts", range(15))
    two = film(tmp_path / "b.ts", range(15), lambda n: numbered(n + 15))
    (tmp_path / "c.ts").write_bytes(one.read_bytes() + two.read_bytes())
    known = probe(tmp_path / "c.ts", "c")
    there = [*range(13), *range(14, 30)]  # FFmpeg takes the last packet but one before the seam for damaged
    assert known.clock_starts == [0, 14] and numbers(known) == there
    assert numbers(known, [3, 13, 14, 20]) == [3, 14, 15, 21]
    assert (np.diff(known.times_s) > 0).all() and known.times_s[-1] - known.times_s[0] == pytest.approx(29 / 20)


def test_what_comes_before_the_first_key_frame_is_not_there(tmp_path: Path) -> None:
    whole = film(tmp_path / "a.ts", range(35))
    with av.open(str(whole)) as container:
        packets = [(packet.pos, packet.is_keyframe) for packet in container.demux(video=0) if packet.size]
    (tmp_path / "b.ts").write_bytes(whole.read_bytes()[packets[4][0] :])
    first = next(number for number, (_, key) in enumerate(packets) if key and number > 4)
    assert numbers(probe(tmp_path / "b.ts", "b")) == list(range(first, 35))


def test_a_codec_that_is_not_known_is_said(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(3))
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    with pytest.raises(Unusable, match="its codec is not supported"):
        probe(path, "a")


@pytest.mark.parametrize("ending", ["mjpeg", "h264"])
def test_a_raw_stream_has_no_rate_and_gets_none(ending: str, tmp_path: Path) -> None:
    path = film(tmp_path / f"a.{ending}", codec={"mjpeg": "mjpeg"}.get(ending, "libx264"),
                pix_fmt="yuvj420p" if ending == "mjpeg" else "yuv420p")  # fmt: skip
    with pytest.raises(Unusable, match="no times: a raw stream, whose rate is not in the file"):
        probe(path, "a")


def test_images_one_after_the_other_have_no_rate_either(tmp_path: Path) -> None:
    image = av.VideoFrame.from_ndarray(numbered(0), format="rgb24").to_image()
    for name, kind in (("a.mjpeg", "JPEG"), ("a.png", "PNG")):
        whole = io.BytesIO()
        for _ in range(12):
            image.save(whole, kind)
        (tmp_path / name).write_bytes(whole.getvalue())
        with pytest.raises(Unusable, match="no times: a raw stream"):
            probe(tmp_path / name, name)


@pytest.mark.parametrize(("ending", "codec"), [("y4m", "rawvideo"), ("mxf", "mpeg2video"), ("mkv", "libx264")])
def test_reading_may_begin_anywhere_and_gives_the_same_pictures(ending: str, codec: str, tmp_path: Path) -> None:
    known = probe(film(tmp_path / f"a.{ending}", codec=codec, rate=25), "a")
    whole = list(known.pictures(range(40)))
    assert numbers(known) == list(range(40))
    for wanted in ([0], [9, 10], [11, 30], [37, 39]):
        for number, picture in zip(wanted, known.pictures(wanted), strict=True):
            assert np.array_equal(picture, whole[number])


def test_a_file_without_whole_key_frames_is_read_from_its_beginning(tmp_path: Path) -> None:
    def refreshed(stream: Any) -> None:
        stream.options = {"crf": "4", "x264-params": "intra-refresh=1:bframes=0"}

    known = probe(film(tmp_path / "a.mp4", change=refreshed), "a")
    assert numbers(known, [13, 27, 39]) == [13, 27, 39]


# --------------------------------------------------------------------------------------------------------------- streams
def test_the_stream_that_players_show_is_taken_or_the_one_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("ffv1", rate=20) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
            stream.disposition = av.stream.Disposition.default if number == 1 else av.stream.Disposition.dub
        for time in range(4):
            for number, stream in enumerate(streams):
                frame = av.VideoFrame.from_ndarray(numbered(10 * number + time), format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 20)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    known = probe(path, "a")
    assert (known.stream, known.other_streams, numbers(known)) == (1, 1, [10, 11, 12, 13])
    assert numbers(probe(path, "a", stream=0)) == [0, 1, 2, 3]
    with pytest.raises(Unusable, match="has no video stream 2, its last is 1"):
        probe(path, "a", stream=2)


def test_a_scene_changes_where_a_film_is_cut_and_not_where_it_moves(tmp_path: Path) -> None:
    textures = np.random.default_rng(0).integers(0, 255, (3, 12, 24, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    path = film(tmp_path / "a.mp4", range(30), lambda n: np.ascontiguousarray(textures[n // 10, :48, n : n + 64]))
    assert scene_changes(probe(path, "a")) == [10, 20]
