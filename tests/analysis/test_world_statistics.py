"""The statistics of motion agree with closed forms, and the survey is read where it is there and refused where not."""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import special, stats

from replaylab import catalogue
from replaylab.analysis import sample_videos, world_statistics, world_survey
from replaylab.analysis.sample_videos import AGENTS, DARK, GAP_PX, TILE_PX
from replaylab.analysis.world_survey import Survey, run
from replaylab.data.domain import EGO_COLUMNS, TRACK_COLUMNS, Domain
from replaylab.description import digest
from replaylab.pages import worlds
from replaylab.store.packed import medium
from replaylab.worlds.named import ALL_DOMAINS, BASE_DOMAINS, DOMAINS, DOSE_DOMAINS, SURVEYS, domain_spec


def effective_number(counts: Iterable[int], windows: int | None = None) -> float:
    """How many equally frequent patterns would be as diverse (Hill 1973), of all windows or as expected of some."""
    numbers = np.array(list(counts), dtype=int)
    return float(np.exp(world_statistics.entropy_at(numbers, int(numbers.sum()) if windows is None else windows)[0]))


RATE = 4.0
FRAMES = 12
PUBLISHED = ROOT / "book" / "results" / "worlds"


def tracks_of(paths: list[tuple[str, np.ndarray]], road_m: list[float] | None = None, size: float = 8.0) -> pd.DataFrame:
    """Truth of agents that go along `paths`: (video, centres in px, a row a frame); all are eligible throughout."""
    tables = []
    for agent, (video, centres) in enumerate(paths):
        (x, y), half = centres.T, size / 2
        known = {"video": video, "frame": range(len(x)), "agent": agent, "kind": "car", "visible": 1.0, "eligible": True}
        boxes = {"x0": x - half, "y0": y - half, "x1": x + half, "y1": y + half}
        tables.append(pd.DataFrame({**known, **boxes, "road_m": np.nan if road_m is None else road_m}))
    return pd.concat(tables, ignore_index=True).reindex(columns=list(TRACK_COLUMNS))


def line(start: Sequence[float], px_s: Sequence[float]) -> np.ndarray:
    """Centres in px, a row a frame, from `start` at a constant velocity."""
    times = np.arange(FRAMES)[:, None] / RATE
    return np.asarray(start) + times * np.asarray(px_s)


def ego_of(headings: dict[str, np.ndarray]) -> pd.DataFrame:
    tables = [
        pd.DataFrame({"video": video, "frame": range(len(path)), "heading_rad": path}) for video, path in headings.items()
    ]
    return pd.concat(tables, ignore_index=True).reindex(columns=list(EGO_COLUMNS))


def domain_of(tracks: pd.DataFrame, videos: list[str], ego: pd.DataFrame | None = None) -> Domain:
    """A domain in memory, all of it in the dev split."""
    listed = pd.DataFrame({"file": [f"{v}.mp4" for v in videos], "split": "dev", "scene": videos, "frames": FRAMES})
    domain = Domain(Path("nowhere"), "test", RATE, 64, 64, listed.assign(sha256=""), {})
    domain.__dict__["tracks"] = tracks
    domain.__dict__["ego"] = ego_of({v: np.zeros(FRAMES) for v in videos}) if ego is None else ego
    return domain


def statistics_of(domain: Domain) -> pd.DataFrame:
    table, _, _ = world_statistics.measure_domains({"test": domain})
    return table.set_index("statistic")


# Motion patterns


@given(some.integers(1, 40), some.integers(1, 20))
def test_k_equally_frequent_patterns_count_as_k(patterns: int, each: int) -> None:
    assert effective_number([each] * patterns) == pytest.approx(patterns)


counts = some.lists(some.integers(1, 30), min_size=1, max_size=12)


@given(counts)
def test_the_effective_number_lies_between_one_and_the_patterns_there_are(numbers: list[int]) -> None:
    found = effective_number(numbers)
    assert 1 - 1e-9 <= found <= len(numbers) + 1e-9
    assert found == pytest.approx(effective_number([*reversed(numbers), 0, 0]))


@given(counts)
def test_splitting_every_pattern_in_two_equal_halves_doubles_the_number(numbers: list[int]) -> None:
    """The replication principle (Jost 2006), which entropy itself does not have."""
    doubled = [2 * number for number in numbers]
    assert effective_number(numbers * 2) == pytest.approx(2 * effective_number(doubled))


def test_it_is_the_exponential_of_the_entropy() -> None:
    numbers = [5, 3, 1, 1]
    assert effective_number(numbers) == pytest.approx(np.exp(stats.entropy(numbers)))


@given(some.lists(some.integers(1, 3), min_size=1, max_size=3), some.data())
def test_rarefaction_is_the_mean_over_all_subsamples(numbers: list[int], data: some.DataObject) -> None:
    windows = data.draw(some.integers(1, sum(numbers)))
    each = np.repeat(np.arange(len(numbers)), numbers)
    subsamples = combinations(each, windows)
    shares = np.stack([np.bincount(one, minlength=len(numbers)) for one in subsamples]) / windows
    expected = special.entr(shares).sum(axis=1).mean()
    assert world_statistics.entropy_at(np.array([numbers]), windows) == pytest.approx([expected])


@given(counts)
def test_fewer_windows_never_show_more_patterns(numbers: list[int]) -> None:
    few = sorted({1, 2, 3, 5, 10, 30, 100, sum(numbers)} & set(range(sum(numbers) + 1)))
    shown = [effective_number(numbers, windows) for windows in few]
    assert shown[0] == pytest.approx(1)
    assert np.all(np.diff(shown) >= -1e-9)
    assert np.isnan(effective_number(numbers, sum(numbers) + 1))


def test_a_pattern_is_where_an_agent_starts_and_how_far_it_gets_in_a_second() -> None:
    tracks = tracks_of([("a", line((20, 40), (16, -8))), ("b", line((60, 2), (0, 0)))])
    found = world_statistics.motion_patterns(tracks, RATE, 64)
    assert found[["column", "row", "right", "down"]].to_numpy().tolist() == [[1, 2, 2, -1], [3, 0, 0, 0]]


def test_only_agents_that_count_at_both_ends_of_the_second_have_a_pattern() -> None:
    tracks = tracks_of([("a", line((20, 40), (0, 0))), ("b", line((20, 40), (0, 0)))])
    tracks.loc[(tracks["video"] == "a") & (tracks["frame"] == 6), "eligible"] = False
    assert world_statistics.motion_patterns(tracks, RATE, 64)["video"].tolist() == ["b"]


@settings(max_examples=10)
@given(some.integers(0, 2**31))
def test_agents_that_differ_by_noise_alone_are_one_pattern(seed: int) -> None:
    rng = np.random.default_rng(seed)
    paths = [(f"v{n}", line(rng.uniform(22, 26, 2).tolist(), rng.uniform(-2, 2, 2).tolist())) for n in range(40)]
    videos = [video for video, _ in paths]
    assert statistics_of(domain_of(tracks_of(paths), videos)).loc["patterns", "value"] == pytest.approx(1)


def test_half_of_the_videos_going_another_way_make_two_patterns() -> None:
    paths = [(f"v{n}", line((24, 24), (20 if n % 2 else -20, 0))) for n in range(40)]
    tracks, videos = tracks_of(paths), [video for video, _ in paths]
    assert effective_number(world_statistics.motion_patterns(tracks, RATE, 64).value_counts("right")) == pytest.approx(2)
    found = statistics_of(domain_of(tracks, videos)).loc["patterns"]
    assert 1.9 < found["value"] <= 2  # a little less: what 39 of 40 windows are expected to show
    assert found["low"] <= found["value"] <= found["high"]


def test_domains_are_compared_at_the_same_number_of_windows() -> None:
    def of(number: int, ways: int) -> Domain:
        paths = [(f"v{n}", line((24, 24), (8 * (n % ways), 0))) for n in range(number)]
        return domain_of(tracks_of(paths), [video for video, _ in paths])

    table, _, windows = world_statistics.measure_domains({"small": of(12, 6), "large": of(60, 6)})
    assert windows == 11  # so many are left in the small one without a scene
    found = table[table["statistic"] == "patterns"].set_index("domain")
    assert found["n"].to_dict() == {"small": 12, "large": 60}
    whole = {name: effective_number([count] * 6, windows) for name, count in (("small", 2), ("large", 10))}
    assert found["value"].to_dict() == pytest.approx(whole)


def test_a_domain_in_which_nobody_counts_has_no_numbers_and_spoils_nobodys() -> None:
    tracks, videos = (tracks_of([(f"v{n}", line((24, 24), (8, 0))) for n in range(5)]), [f"v{n}" for n in range(5)])
    empty = domain_of(tracks.assign(eligible=False), videos)
    table, speeds, windows = world_statistics.measure_domains({"full": domain_of(tracks, videos), "empty": empty})
    found = table.set_index(["domain", "statistic"])
    assert windows == 4 and set(speeds["domain"]) == {"full"}
    assert found.loc[("full", "patterns"), "value"] == pytest.approx(1)
    without = found.loc["empty"].drop("ego_yaw_deg_s")
    assert without["value"].isna().all() and (without["n"] == 0).all()
    shown = Survey("quick", Path("nowhere"), "dev", 5, windows, table, speeds)
    assert worlds.statistics_table(shown).data.loc["Empty", worlds.COLUMNS["patterns"]] == "–"
    assert worlds.patterns_figure(shown) and worlds.velocity_clouds(shown)
    assert worlds.summary(shown) == "Too few domains to compare."


# The other statistics


@settings(max_examples=20)
@given(some.floats(-60, 60), some.floats(-60, 60))
def test_a_constant_velocity_is_found_and_has_no_spread(right: float, down: float) -> None:
    tracks = tracks_of([("a", line((30, 30), (right, down))), ("b", line((10, 50), (right, down)))])
    found = world_statistics.velocities(tracks, RATE)
    assert len(found) == 2 * (FRAMES - 1)
    assert found["vx_px_s"].to_numpy() == pytest.approx(right, abs=1e-9)
    assert found["vy_px_s"].to_numpy() == pytest.approx(down, abs=1e-9)
    table = statistics_of(domain_of(tracks, ["a", "b"]))
    assert table.loc["velocity_spread_px_s", "value"] == pytest.approx(0, abs=1e-5)


@settings(max_examples=20)
@given(some.floats(-60, 60), some.floats(-60, 60))
def test_moved_is_the_error_of_repeating_the_last_given_frame(right: float, down: float) -> None:
    tracks = tracks_of([("a", line((30, 30), (right, down)))])
    expected = np.mean([np.hypot(right, down) * ahead / RATE for ahead in range(1, 6)])
    assert world_statistics.displacements(tracks)["moved_px"].mean() == pytest.approx(expected, abs=1e-9)


def test_the_spread_is_what_numpy_finds() -> None:
    rng = np.random.default_rng(3)
    videos = [f"v{n}" for n in range(9)]
    tracks = tracks_of([(video, rng.uniform(0, 64, (FRAMES, 2))) for video in videos])
    found = statistics_of(domain_of(tracks, videos)).loc["velocity_spread_px_s"]
    speeds = world_statistics.velocities(tracks, RATE)[["vx_px_s", "vy_px_s"]].to_numpy()
    assert found["value"] == pytest.approx(np.sqrt(np.trace(np.cov(speeds.T))))
    assert found["low"] < found["value"] < found["high"]


def test_a_gap_is_not_bridged() -> None:
    tracks = tracks_of([("a", line((30, 30), (8, 0)))])
    tracks.loc[tracks["frame"] == 5, "eligible"] = False
    assert world_statistics.velocities(tracks, RATE)["frame"].tolist() == [0, 1, 2, 3, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(("drift", "share"), [(0.0, 1.0), (0.49, 1.0), (0.51, 0.0), (-3.3, 0.0)])
def test_who_stays_within_half_a_metre_keeps_the_lane(drift: float, share: float) -> None:
    tracks = tracks_of([("a", line((30, 30), (0, 0)))], road_m=list(3.3 + np.linspace(0, drift, FRAMES)))
    assert statistics_of(domain_of(tracks, ["a", "b"])).loc["lane_keepers", "value"] == share


def test_lanes_are_asked_only_of_agents_that_count_for_a_second_on_a_road() -> None:
    tracks = tracks_of([("a", line((30, 30), (0, 0)))], road_m=list(np.linspace(0, 3, FRAMES)))
    short = tracks.assign(eligible=tracks["frame"] < 4)
    assert world_statistics.lane_keepers(short, RATE).empty
    assert world_statistics.lane_keepers(tracks.assign(road_m=np.nan), RATE).empty
    found = statistics_of(domain_of(tracks.assign(road_m=np.nan), ["a", "b"])).loc["lane_keepers"]
    assert np.isnan(found["value"]) and found["n"] == 0


@given(some.floats(-90, 90), some.floats(-10, 10))
def test_a_yawing_ego_turns_as_fast_as_it_does(deg_s: float, start_rad: float) -> None:
    headings = start_rad + np.deg2rad(deg_s) * np.arange(FRAMES) / RATE
    wrapped = (headings + np.pi) % (2 * np.pi) - np.pi  # as an arctangent would give them
    found = world_statistics.yaw_rates(ego_of({"a": wrapped, "b": np.zeros(FRAMES)}), RATE)
    assert len(found) == 2 * (FRAMES - 1)
    by_video = found.groupby("video")["yaw_deg_s"]
    assert by_video.mean().to_dict() == pytest.approx({"a": abs(deg_s), "b": 0}, abs=1e-6)


# Intervals


@given(some.lists(some.floats(-100, 100), min_size=2, max_size=30))
def test_the_jackknife_of_a_mean_is_the_t_interval(values: list[float]) -> None:
    sums = np.stack([values, np.ones(len(values))], axis=1)
    value, low, high = world_statistics.jackknife(sums, world_statistics._mean)
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    assert [value, low, high] == pytest.approx([np.mean(values), np.mean(values) - half, np.mean(values) + half], abs=1e-6)


def test_agents_of_one_scene_do_not_narrow_the_interval() -> None:
    """Ten copies of every agent are ten times the agents and no more scenes."""
    rng = np.random.default_rng(5)
    videos = [f"v{n}" for n in range(12)]
    paths = [(video, line((30, 30), tuple(rng.uniform(-20, 20, 2)))) for video in videos]
    one, ten = (statistics_of(domain_of(tracks_of(paths * copies), videos)) for copies in (1, 10))
    for statistic in ("moved_px", "ego_yaw_deg_s"):
        columns = ["value", "low", "high"]
        assert ten.loc[statistic, columns].tolist() == pytest.approx(one.loc[statistic, columns].tolist())


def test_one_scene_has_no_interval() -> None:
    found = statistics_of(domain_of(tracks_of([("a", line((30, 30), (8, 0)))]), ["a"]))
    assert found.loc["moved_px", "value"] > 0
    assert found[["low", "high"]].isna().all(axis=None)


def test_intervals_of_the_effective_number_hold_the_truth_as_often_as_they_say() -> None:
    """Of 300 samples from a known domain about 95 % do; resampling with replacement would hold it in far fewer."""
    rng = np.random.default_rng(11)
    shares = rng.dirichlet(np.ones(30))
    windows, scenes = 40, 80
    samples = rng.multinomial(2, shares, size=(300, scenes))  # two agents a scene
    expected = np.mean([stats.entropy(rng.multinomial(windows, shares)) for _ in range(4000)])
    held = [
        low <= expected <= high
        for _, low, high in (
            world_statistics.jackknife(one, lambda c: world_statistics.entropy_at(c, windows)) for one in samples
        )
    ]
    assert 0.9 <= np.mean(held) <= 0.99


# Sample videos


def test_truth_is_drawn_where_it_is_and_clips_do_not_touch() -> None:
    tracks = tracks_of([("a", line((32, 32), (0, 0)))], size=16)
    by_frame = [tracks[tracks["frame"] == frame] for frame in range(FRAMES)]
    clips = np.full((4, FRAMES, 64, 64, 3), 100, np.uint8)
    tiled = sample_videos.tile_clips(clips, [by_frame, by_frame, by_frame, [tracks.iloc[:0]] * FRAMES])
    assert tiled.shape[0] == FRAMES and tiled.shape[1] % 2 == tiled.shape[2] % 2 == 0
    scale = TILE_PX // 64
    assert tuple(tiled[0, 32 * scale, 24 * scale]) == AGENTS[0]  # the left edge of its box
    assert tuple(tiled[0, 32 * scale, 32 * scale]) == (100, 100, 100)  # no past yet
    assert tuple(tiled[3, 32 * scale, 32 * scale]) == AGENTS[0]  # where it was before
    pitch = TILE_PX + GAP_PX
    assert (tiled[:, pitch:, :TILE_PX] == 100).all()  # no agent in the fourth
    assert (tiled[:, :, TILE_PX:pitch] == DARK).all()


def test_every_domain_has_words() -> None:
    assert set(catalogue.DOMAINS) == set(ALL_DOMAINS) - set(DOSE_DOMAINS) - set(BASE_DOMAINS)


# The survey


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    return run("smoke", ["driving", "diverse-driving", "physics"], tmp_path_factory.mktemp("survey"))


def test_it_holds_every_statistic_of_every_domain_and_a_video(made: Survey) -> None:
    assert made.domains == ["driving", "diverse-driving", "physics"]
    found = made.statistics.groupby("domain")["statistic"].apply(set)
    assert all(found[name] == set(world_statistics.STATISTICS) for name in made.domains)
    assert set(made.statistics["scenes"]) == {SURVEYS["smoke"]}
    from replaylab.data.video import decode

    for name in made.domains:
        assert decode(made.folder / f"{name}.mp4").shape[0] == FRAMES
        assert (made.velocities["domain"] == name).sum() <= world_statistics.VELOCITIES
    assert not made.missing and not made.outdated


def test_what_is_there_is_read_and_some_of_it_too(made: Survey, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(world_survey, "_make", never)
    again = run("smoke", ["driving", "diverse-driving", "physics"], made.folder.parent)
    pd.testing.assert_frame_equal(again.statistics, made.statistics)
    part = run("smoke", ["physics"], made.folder.parent)
    assert part.domains == ["physics"] and part.windows == made.windows


def test_another_size_is_another_survey(made: Survey, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(world_survey, "_make", asked)
    with pytest.raises(InterruptedError):
        run("quick", ["physics"], made.folder.parent)


def published_copy(made: Survey, book: Path, change: Callable[[dict], None]) -> None:
    """A book whose published survey is `made`, after a change of its survey.json."""
    folder = book / "results" / "worlds"
    folder.mkdir(parents=True)
    for file in made.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    about = json.loads((folder / "survey.json").read_text())
    specs = {name: domain_spec(name, videos=(0, SURVEYS["published"], 0)) for name in made.domains}
    about["domains"] = {name: digest(spec) for name, spec in specs.items()}
    change(about)
    (folder / "survey.json").write_text(json.dumps(about))
    (folder / "SHA256SUMS").unlink()
    for name in ("03_replay_sweep.ipynb", "_toc.yml"):
        (book / name).write_text("")


def test_the_published_survey_is_only_read_and_says_what_is_not_in_it(
    made: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_copy(made, tmp_path / "book", lambda about: about["domains"].update({"driving": "before"}))
    monkeypatch.chdir(tmp_path)
    found = run()
    assert found.outdated == ("driving",)
    assert set(found.missing) == set(DOMAINS) - set(made.domains)
    said = worlds.status_line(found)
    assert "earlier description of:** driving" in said and "near" in said
    with pytest.raises(ValueError, match=r"holds none of near; it holds driving, diverse-driving, physics"):
        run(domains=["near"])
    assert sorted(path.name for path in (tmp_path / "book").iterdir()) == [
        "03_replay_sweep.ipynb", "_toc.yml", "results"
    ]  # fmt: skip


def test_where_nothing_is_published_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("03_replay_sweep.ipynb", "_toc.yml"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"survey\.json is missing"):
        run()


def test_unknown_names_are_refused_with_a_list(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="domain 'highway' is none of driving, "):
        run("smoke", ["highway"], tmp_path)
    with pytest.raises(ValueError, match="preset 'huge' is none of published, natural, quick, smoke"):
        run("huge")


def test_a_store_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionError, match="cannot be written"):
        run("smoke", ["driving"], tmp_path / "file")


# Words


def test_sentences_say_what_the_numbers_say(made: Survey) -> None:
    table = made.statistics.set_index(["domain", "statistic"])

    def with_patterns(driving: float, diverse: float, half: float) -> str:
        changed = table.copy()
        for name, value in (("driving", driving), ("diverse-driving", diverse)):
            changed.loc[(name, "patterns"), ["value", "low", "high"]] = [value, value - half, value + half]
        changed.loc[("physics", "patterns"), "value"] = 7.0
        return worlds.summary(Survey("quick", made.folder, "dev", 4, 50, changed.reset_index(), made.velocities))

    expected = with_patterns(4, 20, 1)
    assert "**4.00** (95 % interval 3.00 to 5.00)" in expected and "n = 50 windows" in expected
    assert "5.00 times as many" in expected and "do not overlap" in expected
    assert "*ordinary driving* (4.00) is the most repetitive and *diverse driving* (20.0) the least" in expected
    unexpected = with_patterns(20, 10, 8)
    assert "0.500 times as many" in unexpected and "intervals overlap" in unexpected
    assert "*rigid bodies* (7.00) is the most repetitive" in unexpected


def test_a_world_without_roads_has_a_dash_in_the_table(made: Survey) -> None:
    shown = worlds.statistics_table(made).data
    keeps = shown[worlds.COLUMNS["lane_keepers"]]
    assert keeps["Rigid bodies"] == "–"
    assert "%" in keeps["Ordinary driving"]


def test_videos_play_by_themselves_without_sound_and_have_words(made: Survey) -> None:
    page = worlds.videos(made, catalogue.TARGET).data
    assert page.count("<video ") == page.count("aria-label=") == page.count("<figcaption>") == 2
    for word in ("controls", "loop", "muted", "autoplay", "playsinline", "data:video/mp4;base64,"):
        assert page.count(word) >= 2
    assert "prefers-reduced-motion" in page and "http" not in page


# What is published


def test_the_published_survey_is_whole_small_and_of_the_worlds_as_they_are() -> None:
    about = json.loads((PUBLISHED / "survey.json").read_text())
    videos = SURVEYS["published"]
    assert about["domains"] == {name: digest(domain_spec(name, videos=(0, videos, 0))) for name in DOMAINS}, (
        "made from other descriptions: worlds survey --preset published --store FOLDER, then publish FOLDER"
    )
    statistics = pd.read_parquet(PUBLISHED / "statistics.parquet")
    found = statistics.set_index(["domain", "statistic"])[["value", "low", "high"]]
    assert set(found.index) == {(name, statistic) for name in DOMAINS for statistic in world_statistics.STATISTICS}
    assert set(found[found.isna().any(axis=1)].index.get_level_values("statistic")) <= {"lane_keepers"}
    assert set(statistics["scenes"]) == {videos}
    videos_shown = {name: medium(PUBLISHED, f"{name}.mp4") or b"" for name in DOMAINS}
    assert all(0 < len(video) < 150_000 for video in videos_shown.values())
    assert sum(path.stat().st_size for path in PUBLISHED.iterdir()) < 2_000_000
