"""Every kept clip is on the page, agents are joined as the measures join them, and clips play in step in a browser."""

import base64
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as some
from in_browser import SIZES, complaints
from kept_clips import FRAMES, GIVEN, SIDE, clip, keep
from PIL import Image

from replaylab.metrics import dynamics
from replaylab.pages import explorer, sample_clips
from replaylab.pages.sample_clips import BASE, TRUTH, SampleClip
from replaylab.pages.style import styled
from replaylab.spec import EvaluationSpec, ReplaySpec, RunSpec, TrainingSpec
from replaylab.store import ReferenceSpec, claim, samples_folder
from replaylab.sweeps import sweep
from replaylab.sweeps.sweep import Table
from replaylab.worlds.named import domain_spec

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

STEPS = (10, 300)
CONFIGURATIONS = ("replay 0 %", "near replay 50 %")
EVENTFUL = "driving-eventful"


def everything(domains: Sequence[str] = ("driving", EVENTFUL)) -> list[SampleClip]:
    shown = []
    for domain in domains:
        for percentile in ("5", "95"):
            shown += [clip(domain, percentile), clip(domain, percentile, BASE, brightness=1)]
            shown += [
                clip(domain, percentile, configuration, step, brightness=2 + 2 * number + place)
                for number, configuration in enumerate(CONFIGURATIONS)
                for place, step in enumerate(STEPS)
            ]
    return shown


def data_of(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def later_clips(page: str) -> dict[str, Any]:
    """By domain, the clips that are shown when it is selected."""
    elements = re.findall(r'<script [^>]*class="rl-later" data-domain="([^"]*)">(.*?)</script>', page, re.DOTALL)
    return {domain: json.loads(text) for domain, text in elements}


# Paths and errors


@given(some.integers(0, 4), some.randoms(use_true_random=False))
def test_agents_that_keep_apart_are_followed_in_whatever_order_they_are_listed(n: int, random: Any) -> None:
    places = np.array([[10 + 3 * frame, 40 * agent] for frame in range(FRAMES) for agent in range(n)])
    places = places.reshape(FRAMES, n, 2)
    orders = [random.sample(range(n), n) for _ in range(FRAMES)]
    boxes = [[[*place, *(place + 8)] for place in places[frame][order]] for frame, order in enumerate(orders)]
    paths = sample_clips.true_paths(boxes)
    assert len(paths) == n
    assert {tuple(path) for path in paths} == {tuple(order.index(agent) for order in orders) for agent in range(n)}


def test_a_leap_and_a_return_are_new_agents() -> None:
    here, far = [[0.0, 0.0, 4.0, 4.0]], [[sample_clips.MISS_CAP_PX, 0.0, 4.0 + sample_clips.MISS_CAP_PX, 4.0]]
    assert sample_clips.true_paths([here, far, [], far]) == [
        [0, None, None, None],
        [None, 0, None, None],
        [None, None, None, 0],
    ]


@given(some.lists(some.lists(some.tuples(some.floats(0, 60), some.floats(0, 60)), max_size=4), max_size=6))
def test_every_box_is_on_one_path(places: list[list[tuple[float, float]]]) -> None:
    boxes = [[[x, y, x + 5, y + 5] for x, y in frame] for frame in places]
    paths = sample_clips.true_paths(boxes)
    assert all(len(path) == len(boxes) for path in paths)
    for frame, now in enumerate(boxes):
        on_paths = [path[frame] for path in paths if path[frame] is not None]
        assert sorted(on_paths) == list(range(len(now)))  # type: ignore[type-var]


BOXES = some.lists(some.tuples(some.floats(0, 60), some.floats(0, 60)), max_size=4)


@given(some.lists(some.tuples(BOXES, BOXES), min_size=FRAMES, max_size=FRAMES))
def test_the_error_on_a_picture_is_that_of_its_paths_and_of_the_measure(frames: list[tuple[list[Any], list[Any]]]) -> None:
    true, detected = ([[[x, y, x + 5, y + 5] for x, y in frame[side]] for frame in frames] for side in range(2))
    one = replace(clip(), true_boxes=true, detected_boxes=detected)
    future = range(GIVEN, FRAMES)
    taken = sample_clips.detected_rows(one)
    errors = [
        np.hypot(*np.subtract(true[frame][row][:2], detected[frame][taken[frame][row]][:2]))
        if row in taken[frame]
        else sample_clips.MISS_CAP_PX
        for frame in future
        for row in range(len(true[frame]))
    ]
    np.testing.assert_allclose(sample_clips.ade_px(one), np.mean(errors) if errors else np.nan)
    errors_px = dynamics.agent_errors(
        [true[frame] for frame in future], [np.arange(len(true[frame])) for frame in future],
        [np.ones(len(true[frame]), bool) for frame in future], [detected[frame] for frame in future],
        miss_cap_px=EvaluationSpec((), "dev", 1, 1).miss_cap_px,
    )  # fmt: skip
    np.testing.assert_allclose(sample_clips.ade_px(one), dynamics.accuracy(errors_px).ade_px.value)


# The HTML


def test_the_explorer_offers_every_choice_and_holds_every_clip() -> None:
    shown = everything()
    page = explorer.explorer(shown).data
    selects = dict(re.findall(r'<select data-choice="(\w+)">(.*?)</select>', page))
    offered = {name: re.findall(r'value="([^"]+)"', options) for name, options in selects.items()}
    assert offered == {
        "domain": ["driving", EVENTFUL],
        "percentile": ["5", "95"],
        "configuration": list(CONFIGURATIONS),
        "step": ["10", "300"],
    }
    assert all(options.count(" selected") == 1 for options in selects.values())
    assert [one["domain"] for one in data_of(page)["clips"]] == [EVENTFUL] * 2  # it opens with them
    held = [
        (one["domain"], one["percentile"], version["configuration"], version["step"])
        for one in [*later_clips(page)["driving"], *data_of(page)["clips"]]
        for version in one["versions"]
    ]
    assert held == [(one.domain, one.percentile, one.configuration, one.step) for one in shown]


def test_a_sheet_is_the_frames_side_by_side_and_the_given_ones_stand_there_once() -> None:
    one = data_of(explorer.explorer(everything()).data)["clips"][0]
    sheets = [(one["given"], range(GIVEN)), *((version["sheet"], range(GIVEN, FRAMES)) for version in one["versions"])]
    for text, frames in sheets:
        sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
        assert sheet.shape == (SIDE, len(frames) * SIDE, 3)
        greys = sheet.reshape(SIDE, len(frames), SIDE, 3).mean((0, 2, 3))
        np.testing.assert_allclose(greys - greys[0], 25 * np.arange(len(frames)), atol=2)
        assert abs(greys[0] - 25 * frames[0]) < 8  # of this frame, with the version's own brightness


def test_paths_lead_from_frame_to_frame_and_the_found_ones_begin_with_the_future() -> None:
    (one,) = data_of(explorer.player([clip(configuration=BASE, brightness=2)]).data)["clips"]
    assert one["paths"] == [[[9 + 5 * at, 25] for at in range(FRAMES)]]
    assert one["versions"][0]["paths"] == [
        [None] * GIVEN + [[9 + 5 * at, 27] for at in range(GIVEN, FRAMES)]
    ]  # the detection that is no agent's has a box and no path
    assert [len(boxes) for boxes in one["versions"][0]["boxes"]] == [0] * GIVEN + [2] * (FRAMES - GIVEN)


@pytest.mark.parametrize("make", [explorer.player, explorer.explorer])
def test_nothing_comes_from_another_host_and_text_cannot_become_markup(make: Any) -> None:
    trick = '</script><script>alert("x")</script><!--'
    page = make([clip(), clip(configuration=BASE), clip(configuration=trick, step=10)]).data
    assert trick not in page and trick[:9] + "<script>alert" not in page
    assert data_of(page)["clips"][0]["versions"][2]["configuration"] == trick
    script = explorer._asset("explorer.js")
    assert not re.findall(r"(?:https?:)?//[\w.]+\.\w+[^\s\"')]*", page.replace(script, ""))
    # The name of a language, which nobody fetches.
    assert re.findall(r"https?://[^\"]+", script) == ["http://www.w3.org/2000/svg"]
    for picture in re.findall(r"<img [^>]+>", page):
        assert picture.count('alt="') == 1 and "data:image/webp;base64," in picture


def test_a_page_stays_light() -> None:
    noise = np.random.default_rng(0)
    street = np.cumsum(noise.normal(0, 4, (FRAMES, SIDE, SIDE, 3)), axis=2) + 120  # rougher than any street here
    shown = [replace(one, frames=street.clip(0, 255).astype(np.uint8)) for one in everything()]
    alone, more = (len(explorer.explorer(shown[: 6 * clips]).data) for clips in (1, 4))
    assert (more - alone) / 18 < 10_000  # bytes a clip
    assert len(explorer.player([clip()]).data) < 40_000  # script, style and one clip


@pytest.mark.parametrize("make", [explorer.player, explorer.explorer])
def test_without_clips_a_sentence_says_what_to_do(make: Any) -> None:
    assert "run the sweep" in make([]).data
    assert "run the sweep" in explorer.explorer([clip(), clip(configuration=BASE)]).data


def test_a_page_with_too_many_clips_shows_the_last_step_and_then_the_main_comparison(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = [*everything(), clip(configuration="near replay 25 %", step=300)]
    of_driving = sum(one.domain == "driving" for one in shown)
    for most, expected in ((of_driving, len(shown)), (of_driving - 1, len(shown) - 8), (4, 4 * 3 + 1)):
        monkeypatch.setattr(explorer, "MOST_SHEETS", most)
        kept = explorer._that_fit(shown)
        assert len(kept) == expected and {one.configuration for one in kept} >= {TRUTH, BASE, "near replay 25 %"}


def test_the_grid_has_every_clip_once_from_the_largest_change_to_the_least() -> None:
    said = {("driving", "5"): sample_clips.Rank(2.0, 1, 9), ("driving", "95"): sample_clips.Rank(-1.0, 9, 9)}
    assert str(said["driving", "95"]) == "ADE \N{MINUS SIGN}1.00 px, rank 9 of 9"
    page = explorer.grid(everything(["driving"]), said).data
    titles = re.findall(r'<p class="rl-title">(.*?)</p>', page)
    assert titles == [f"5th percentile: {said['driving', '5']}", f"95th percentile: {said['driving', '95']}"]
    assert page.count("<figure>") == 2 * 4 and page.count('alt="') == 8 and "<details>" in page
    offered = explorer.explorer(everything(["driving"]), said).data
    assert f">95th percentile: {said['driving', '95']}</option>" in offered
    assert [one["choice"] for one in data_of(offered)["clips"]] == titles


def test_a_rank_is_of_the_change_that_the_clip_itself_shows() -> None:
    table = sweep.read("published", [0.0], [0], measures=["ade_px"])
    said = sample_clips.ranks(table)
    clips = sample_clips.by_clip(sample_clips.main_sample_clips(table))
    assert clips and {key[1] for key in said if key[0] == EVENTFUL} == {"5", "50", "95"}
    for key, versions in clips.items():
        errors = {one.configuration: sample_clips.ade_px(one) for one in versions}
        found = re.fullmatch(r"ADE (.*) px, rank (\d+) of (\d+)", str(said[key]))
        assert found is not None and 1 <= int(found[2]) <= int(found[3])
        change = float(found[1].replace("\N{MINUS SIGN}", "-"))
        assert change == pytest.approx(errors["replay 0 %"] - errors[BASE], abs=0.06)  # boxes are kept to 0.1 px


# From a store


def specs_of(seed: int) -> list[RunSpec]:
    target, near, far = (domain_spec(name, videos=(8, 0, 0)) for name in ("driving", "near", "orbit"))
    training = TrainingSpec(steps=4, batch_size=4, learning_rate=1e-4, ema_decay=0.9)
    evaluation = EvaluationSpec((domain_spec("driving"), domain_spec(EVENTFUL)), "dev", 2, 2)
    replays = [
        ReplaySpec(),
        ReplaySpec((near,), 0.25),
        ReplaySpec((far,), 0.25),
        ReplaySpec((near,), 0.5),
        ReplaySpec((near,), 1.0),
    ]
    return [RunSpec("base", target, seed, training, (2, 4), evaluation, replay) for replay in replays]


def finish(folder: Path) -> None:
    (folder / "summary.json").write_text("{}")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """A sweep of two seeds, of which one run is not finished; every finished run has kept its clips."""
    store, specs = tmp_path_factory.mktemp("store"), [*specs_of(0), *specs_of(1)]
    references = claim(ReferenceSpec.of(specs[0]), store)
    clips = {domain: {"5": 0, "95": 1} for domain in ("driving", EVENTFUL)}
    (references / "gallery.json").write_text(json.dumps(clips))
    for domain in clips:
        for percentile in clips[domain]:
            keep(references / "samples" / "real", clip(domain, percentile))
            keep(references / "samples" / "base", clip(domain, percentile, brightness=1))
            for place, spec in enumerate(specs):
                for step in spec.evaluate_at:
                    folder = samples_folder(store / spec.run_id, step)
                    keep(folder, clip(domain, percentile, brightness=2 + place + step))
    for spec in specs[:3] + specs[4:]:
        finish(claim(spec, store))
    return Table("made", "dev", store, pd.DataFrame(), pd.DataFrame(), tuple(specs))


def kinds(shown: list[SampleClip]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((one.configuration, one.step) for one in shown))


def test_every_finished_run_of_one_seed_is_read_at_every_step(table: Table) -> None:
    shown = sample_clips.sample_clips(table)
    names = ["replay 0 %", "near replay 25 %", "near replay 100 %", "orbit replay 25 %"]
    assert kinds(shown) == [(TRUTH, 0), (BASE, 0), *((name, step) for name in names for step in (2, 4))]
    assert len(shown) == 2 * 2 * (2 + 2 * len(names))
    assert {one.domain for one in sample_clips.sample_clips(table, [EVENTFUL])} == {EVENTFUL}
    for one in shown:
        assert one.frames.shape == (FRAMES, SIDE, SIDE, 3)
        assert [len(boxes) for boxes in one.detected_boxes] == [0] * GIVEN + [2] * (FRAMES - GIVEN)


def test_the_main_clips_are_no_replay_and_the_most_of_each_kind_at_their_last_step(table: Table) -> None:
    shown = sample_clips.main_sample_clips(table)
    assert kinds(shown) == [
        (TRUTH, 0), (BASE, 0), ("replay 0 %", 4), ("near replay 25 %", 4), ("orbit replay 25 %", 4),
    ]  # fmt: skip
    assert {one.domain for one in shown} == {EVENTFUL}


@given(some.permutations(specs_of(0)))
def test_the_main_runs_are_the_same_in_whatever_order_they_are_listed(specs: list[RunSpec]) -> None:
    chosen = sample_clips.main_runs({spec.run_id: spec for spec in specs})
    shares = {(spec.replay.name, spec.replay.fraction) for spec in chosen.values()}
    assert shares == {("", 0.0), ("near", 0.25), ("orbit", 0.25)} and all(chosen[run].run_id == run for run in chosen)
    fewer = sample_clips.main_runs({spec.run_id: spec for spec in specs if spec.replay.fraction != 0.25})
    assert {spec.replay.fraction for spec in fewer.values()} == {0.0, 0.5}


def test_runs_of_one_seed_are_those_of_the_first_finished_one_with_one_base(table: Table) -> None:
    first, second = table.specs[:5], table.specs[5:]
    for asked, found in (
        ((*first, *second), [*first[:3], first[4]]),
        ((*second, *first), second),
        ((first[3], *second), second),
        ((replace(first[0], base="another"), *first), [*first[:3], first[4]]),
        (first[3:4], []),
    ):
        named = ((spec.run_id, spec) for spec in asked)
        assert sample_clips.of_one_seed(table.store, named) == {spec.run_id: spec for spec in found}
    (table.store / "other").mkdir()
    other = replace(second[0], base="another")
    finish(claim(other, table.store / "other"))
    finish(claim(second[1], table.store / "other"))
    assert sample_clips.of_one_seed(table.store / "other", [("a", other), ("b", second[1])]) == {"a": other}


def test_a_store_without_references_has_nothing_to_show(table: Table, tmp_path: Path) -> None:
    assert sample_clips.sample_clips(replace(table, store=tmp_path)) == []


# In a browser

HEAD = """<!doctype html><html lang="en"><meta charset="utf-8"><title>test</title>
<style>:root { color-scheme: light dark }</style>"""
Opened = Callable[..., "Page"]


@pytest.fixture
def opened(browser: "Browser", tmp_path: Path) -> Iterator[Opened]:
    """Opens HTML from a file, in a context of its own; nothing may have gone wrong there by the end."""
    contexts, wrong = [], []

    def open_page(body: str, **context: Any) -> "Page":
        path = tmp_path / "page.html"
        path.write_text(HEAD + body)
        contexts.append(browser.new_context(**context))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)
        wrong.append(complaints(page))
        page.goto(path.as_uri(), wait_until="load")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not any(wrong), wrong


def state(page: "Page") -> tuple[list[float], int, bool]:
    """At one moment: the brightness of every picture, the frame on the slider, and whether it is marked as given."""
    script = """() => [
        [...document.querySelectorAll("canvas")].map(one => {
            const values = one.getContext("2d").getImageData(0, 0, 64, 64).data.filter((_, at) => at % 4 < 3);
            return values.reduce((sum, value) => sum + value, 0) / values.length;
        }),
        Number(document.querySelector("input[type=range]").value),
        document.querySelector(".rl-gallery").classList.contains("is-given"),
    ]"""
    return page.evaluate(script)


def shows(page: "Page", brightnesses: Sequence[int], frame: int | None = None) -> int:
    """Asserts that all pictures show one frame, this one, of the versions of these brightnesses; returns it. The explorer's
    given frames are the truth's, whose brightness is 0.
    """
    greys, at, is_given = state(page)
    is_shared = at < GIVEN and page.locator(".rl-four").count() > 0
    np.testing.assert_allclose(greys, np.add(np.multiply(brightnesses, not is_shared), 25 * at), atol=1.5)
    assert is_given == (at < GIVEN)
    assert frame is None or at == frame
    return at


def choose(page: "Page", **choices: str) -> None:
    for name, value in choices.items():
        page.locator(f"select[data-choice={name}]").select_option(value)
    page.wait_for_timeout(200)  # a sheet is decoded after it is chosen


def marks(page: "Page", kind: str) -> "Locator":
    return page.locator(f".rl-picture .of-{kind}:visible")


@pytest.mark.slow
def test_choices_switch_the_picture(opened: Opened) -> None:
    shown = [one for one in everything() if (one.percentile, one.configuration, one.step) != ("5", CONFIGURATIONS[1], 300)]
    page = opened(explorer.explorer(shown).data, reduced_motion="reduce")
    last = FRAMES - 1
    shows(page, [0, 1, 3, 5], last)  # truth, base, replay 0 %, and the most of it
    choose(page, configuration=CONFIGURATIONS[0])
    shows(page, [0, 1, 3, 3], last)
    choose(page, configuration=CONFIGURATIONS[1], step="10")
    shows(page, [0, 1, 2, 4], last)
    caption = page.locator(".rl-chosen figcaption").inner_text().replace("\N{NO-BREAK SPACE}", " ")
    assert caption == "Near replay 50 %\nstep 10, ADE 4.00 px"
    assert "Near replay 50" in str(page.locator(".rl-chosen canvas").get_attribute("aria-label"))
    assert "ADE" in str(page.locator(".rl-status").text_content())
    choose(page, step="300", percentile="5", domain=EVENTFUL)  # not kept: another step is chosen
    shows(page, [0, 1, 2, 4], last)
    assert page.locator("select[data-choice=step] option[value='300']").is_disabled()
    choose(page, domain="driving")
    assert "Near replay 50" in str(page.locator(".rl-chosen canvas").get_attribute("aria-label"))
    shows(page, [0, 1, 2, 4], last)


@pytest.mark.slow
def test_the_keyboard_alone_is_enough(opened: Opened) -> None:
    page = opened(explorer.explorer(everything()).data, reduced_motion="reduce")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.type ?? document.activeElement.className"))
    assert reached == [
        *["select-one"] * 4, *["button"] * 3, "range", *["checkbox"] * 3, "rl-screens",
    ]  # fmt: skip
    page.locator(".rl-screens").focus()
    page.keyboard.press("ArrowRight")  # from the last frame on to the first
    shows(page, [0, 1, 3, 5], 0)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    shows(page, [0, 1, 3, 5], FRAMES - 2)
    page.keyboard.press("Home")
    shows(page, [0, 1, 3, 5], 0)
    page.keyboard.press("End")
    shows(page, [0, 1, 3, 5], FRAMES - 1)
    page.locator("input[type=range]").focus()
    page.keyboard.press("Home")
    shows(page, [0, 1, 3, 5], 0)
    said = str(page.locator("input[type=range]").get_attribute("aria-valuetext"))
    assert said == "1 of 8, given, \u22120.50 s"
    page.locator(".rl-screens").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Pause").wait_for()
    page.wait_for_function("document.querySelector('input[type=range]').value > 1")
    page.keyboard.press("Space")
    page.get_by_role("button", name="Play").wait_for()
    page.locator("select").first.focus()
    page.keyboard.press("ArrowUp")  # a choice, and no step
    assert page.locator("select").first.input_value() == "driving"


@pytest.mark.slow
def test_the_address_keeps_the_choice(opened: Opened) -> None:
    page = opened(explorer.explorer(everything()).data, reduced_motion="reduce")
    choose(page, configuration=CONFIGURATIONS[0], step="10", percentile="5")
    shows(page, [0, 1, 2, 2], FRAMES - 1)
    page.reload()
    shows(page, [0, 1, 2, 2], FRAMES - 1)
    assert page.locator("select[data-choice=percentile]").input_value() == "5"


@pytest.mark.slow
def test_an_arrow_leads_from_where_an_agent_is_detected_to_where_it_is(opened: Opened) -> None:
    versions = [clip(EVENTFUL), clip(EVENTFUL, configuration=BASE, brightness=4)]
    page = opened(explorer.player(versions).data, reduced_motion="reduce")
    lines = [str(one.get_attribute("d")) for one in page.locator(".of-shift .rl-shift").all()]
    (x0, y0, *_), (x1, y1, *_) = versions[1].detected_boxes[-1][0], versions[1].true_boxes[-1][0]
    assert lines[0] == "" and lines[1].startswith(f"M{x0 + 5:g},{y0 + 5:g}L{x1 + 5:g},{y1 + 5:g}")
    page.get_by_label("error", exact=True).uncheck()
    assert marks(page, "shift").count() == 0


@pytest.mark.slow
def test_a_button_shows_another_clip(opened: Opened) -> None:
    page = opened(explorer.comparison(everything([EVENTFUL]), "95").data, reduced_motion="reduce")
    before = page.locator(".rl-screen canvas").first.get_attribute("aria-label")
    page.get_by_role("button", name="Another clip").click()
    after = page.locator(".rl-screen canvas").first.get_attribute("aria-label")
    assert before != after and "5th percentile" in str(after)


@pytest.mark.slow
def test_boxes_and_paths_can_be_switched_off(opened: Opened) -> None:
    page = opened(explorer.player(everything()[:6]).data, reduced_motion="reduce")
    assert (marks(page, "true").count(), marks(page, "detected").count()) == (6, 6)
    page.get_by_label("detected", exact=True).uncheck()
    assert (marks(page, "true").count(), marks(page, "detected").count()) == (6, 0)
    page.get_by_label("true", exact=True).focus()
    page.keyboard.press("Space")
    assert (marks(page, "true").count(), marks(page, "detected").count()) == (0, 0)
    page.get_by_label("detected", exact=True).check()
    assert (marks(page, "true").count(), marks(page, "detected").count()) == (0, 6)


@pytest.mark.slow
def test_all_pictures_play_in_step_and_begin_again(opened: Opened) -> None:
    page = opened(explorer.player(everything()[:12]).data)
    seen = []
    for _ in range(60):
        seen.append(shows(page, [0, 1, 2, 3, 4, 5] * 2))
        page.wait_for_timeout(100)
    assert 0 in seen[seen.index(FRAMES - 1) :], "it does not begin again"
    page.locator(".rl-picture").first.click()
    page.get_by_role("button", name="Play").wait_for()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("make", [explorer.player, explorer.explorer])
def test_it_fits_the_window_and_takes_the_page_s_colours(opened: Opened, make: Any, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    viewport = {"width": width, "height": height}
    page = opened(make(everything()).data, viewport=viewport, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for picture in page.locator("canvas").all():
        box = picture.bounding_box()
        assert box is not None and box["width"] >= 80 and abs(box["width"] - box["height"]) < 1
        assert picture.evaluate("one => getComputedStyle(one).imageRendering") == "pixelated"
        assert (picture.get_attribute("aria-label") or "").strip()
    text = page.locator(".rl-screen strong").first.evaluate("one => getComputedStyle(one).color")
    assert text == ("rgb(0, 0, 0)" if scheme == "light" else "rgb(255, 255, 255)")
    for button in page.locator("button").all():  # large enough for a thumb
        box = button.bounding_box()
        assert box is not None and min(box["width"], box["height"]) >= 36


@pytest.mark.slow
@pytest.mark.parametrize("make", [explorer.player, explorer.explorer])
def test_without_scripts_it_is_a_film_strip(opened: Opened, make: Any) -> None:
    page = opened(make(everything()).data, java_script_enabled=False)
    pictures = page.locator(".rl-gallery img:visible").all()
    assert len(pictures) == (4 if make is explorer.explorer else len(everything()))
    for picture in pictures:
        box = picture.bounding_box()
        assert box is not None and abs(box["width"] / box["height"] - FRAMES) < 0.1
        assert "given frames" in (picture.get_attribute("alt") or "")
    assert page.locator("select:visible, button:visible").count() == 0


# Tables that can be sorted


def lines(page: "Page", table: str) -> list[str]:
    """The rows from top to bottom, of each cell the first line."""
    script = "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.split('\\n')[0]).join('|'))"
    return page.locator(f"#T_{table} tbody tr").evaluate_all(script)


def press(page: "Page", table: str, head: str) -> str | None:
    button = page.locator(f"#T_{table} thead").get_by_role("button", name=head)
    button.focus()
    page.keyboard.press("Enter")
    return button.locator("..").get_attribute("aria-sort")


@pytest.fixture
def tables(opened: Opened) -> "Page":
    script = (ROOT / "book" / "_static" / "sortable.js").as_uri()
    flat = pd.DataFrame({
        "value": ["10.2 (9 to 11)", "–", "9.5<br><small>1 – 100</small>", "\u22123.1"],
        "share": ["25 %", "100 %", "5 %", "not measured"],
        "run": ["2b79", "bb8b", "1a00", "10"],
    }, index=list("abcd"))  # fmt: skip
    index = pd.MultiIndex.from_product([["ordinary", "eventful"], ["real", "base", "tuned"]])
    grouped = pd.DataFrame({"ADE (px)": [0.4, 2.0, 1.1, 0.5, np.nan, 3.2]}, index=index)
    nested = pd.MultiIndex.from_product([["a"], ["b", "c"], ["d", "e"]])
    deep = pd.DataFrame({"x": [3, 1, 2, 0]}, index=nested)
    body = [
        styled(flat, "flat").to_html(),
        styled(grouped, "grouped").format(precision=2, na_rep="–").to_html(),
        styled(deep, "deep").to_html(),
    ]
    return opened(f'<script src="{script}"></script>{"".join(body)}')


@pytest.mark.slow
def test_a_head_sorts_up_down_and_back_numbers_as_numbers_and_nothing_last(tables: "Page") -> None:
    before = lines(tables, "flat")
    orders = {"value": ("dcab", "acdb"), "share": ("cabd", "bacd"), "run": ("cadb", "bdac")}
    for head, (up, down) in orders.items():
        for direction, order in (("ascending", up), ("descending", down)):
            assert press(tables, "flat", head) == direction
            assert "".join(line[0] for line in lines(tables, "flat")) == order, (head, direction)
        assert press(tables, "flat", head) == "none"
        assert lines(tables, "flat") == before


@pytest.mark.slow
def test_rows_under_one_head_stay_there(tables: "Page") -> None:
    before = lines(tables, "grouped")
    assert press(tables, "grouped", "ADE (px)") == "ascending"
    assert lines(tables, "grouped") == ["ordinary|real|0.40", "tuned|1.10", "base|2.00",
                                        "eventful|real|0.50", "tuned|3.20", "base|–"]  # fmt: skip
    assert press(tables, "grouped", "ADE (px)") == "descending"
    assert lines(tables, "grouped") == ["ordinary|base|2.00", "tuned|1.10", "real|0.40",
                                        "eventful|tuned|3.20", "real|0.50", "base|–"]  # fmt: skip
    assert press(tables, "grouped", "ADE (px)") == "none"
    assert lines(tables, "grouped") == before
    assert tables.locator("#T_deep button").count() == 0
