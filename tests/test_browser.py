"""Does the built book work in a browser: every page, on a desk and on a phone, by day and by night?"""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from in_browser import SIZES, complaints

from replaylab.worlds.named import DOMAINS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
IMAGES = "images => images.map(image => [image.getAttribute('src'), image.getAttribute('alt') || '', image.naturalWidth])"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_every_page_opens_without_a_complaint(built_book: Path, browser: "Browser", size: str, scheme: str) -> None:
    width, height = SIZES[size]
    pages = [path for path in sorted(built_book.rglob("*.html")) if "_static" not in path.parts]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    wrong = complaints(page)
    for path in pages:
        page.goto(path.as_uri(), wait_until="load")
        page.wait_for_timeout(200)
        where = f"{path.relative_to(built_book)}, {size}, {scheme}"
        assert not wrong, f"{where}: {wrong}"
        assert page.evaluate("document.documentElement.dataset.theme") == scheme, where
        # Content wider than the window makes a phone scroll sideways.
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{where}: wider than the window"
        assert page.locator(".bd-header:visible").count() == 0, f"{where}: the second search bar"
        for source, alt, width_px in page.locator(".bd-article img").evaluate_all(IMAGES):  # asked at once: there are many
            # Without an alt of its own (a cell's metadata: mystnb, image, alt) a figure gets its file's name.
            assert alt.strip() and "_images/" not in alt, f"{where}: no alt text: {source}"
            assert width_px > 0, f"{where}: an image that does not load"
    context.close()


def test_figures_turn_light_at_night_and_keep_their_hues(built_book: Path, browser: "Browser") -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto((built_book / "runs" / "smoke.html").as_uri(), wait_until="load")
    figures = page.locator(".bd-article .cell_output img").all()
    assert figures
    for figure in figures:
        style = figure.evaluate("image => [getComputedStyle(image).filter, getComputedStyle(image).backgroundColor]")
        assert style == ["invert(1) hue-rotate(180deg)", "rgba(0, 0, 0, 0)"]
    context.close()


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_videos_play_where_they_are_seen_unless_the_reader_wants_less_motion(
    built_book: Path, browser: "Browser", motion: str
) -> None:
    context = browser.new_context(color_scheme="dark", reduced_motion=motion)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto((built_book / "01_worlds.html").as_uri(), wait_until="load")
    videos = page.locator(".worlds video").all()
    assert len(videos) == len(DOMAINS)
    for video in videos:
        assert (video.get_attribute("aria-label") or "").strip()
        video.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        video.evaluate("video => video.readyState >= 2 || new Promise(done => video.oncanplay = () => done(true))")
        assert video.evaluate("video => video.videoWidth") > 0
        assert video.evaluate("video => video.paused") == (motion == "reduce")
    # No white card behind videos in the dark.
    card = page.locator(".text_html:has(.worlds)").first
    assert card.evaluate("card => getComputedStyle(card).backgroundColor") == "rgba(0, 0, 0, 0)"
    context.close()


def test_the_explorer_and_the_tables_answer_in_the_book(built_book: Path, browser: "Browser") -> None:
    context = browser.new_context(reduced_motion="reduce", color_scheme="dark")
    page = context.new_page()
    page.goto((built_book / "runs" / "explorer-smoke.html").as_uri(), wait_until="load")
    page.locator("select[data-choice=configuration]").select_option("replay 50 %")
    assert "Replay 50" in page.locator(".rl-chosen figcaption").inner_text()
    card = page.locator(".text_html:has(.rl-gallery)")
    assert card.evaluate("card => getComputedStyle(card).backgroundColor") == "rgba(0, 0, 0, 0)"
    page.goto((built_book / "runs" / "smoke.html").as_uri(), wait_until="load")
    page.evaluate("document.querySelectorAll('details').forEach(folded => { folded.open = true; })")
    for table in page.locator("table.dataframe").all():
        head = table.locator("th > button").first
        head.press("Enter")
        assert head.locator("..").get_attribute("aria-sort") == "ascending"
        head.locator("..").click(position={"x": 2, "y": 2})
        assert head.locator("..").get_attribute("aria-sort") == "descending"
    context.close()


def test_the_values_of_a_figure_are_saved_by_the_keyboard_and_from_the_disk(
    built_book: Path, browser: "Browser", tmp_path: Path
) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto((built_book / "02_finetune_degradation.html").as_uri(), wait_until="load")
    links = page.locator(".rl-csv a")
    assert links.count() == page.locator(".bd-article figure img").count()
    with page.expect_download() as download:
        links.first.press("Enter")
    assert download.value.suggested_filename == "degradation-path.csv"
    download.value.save_as(tmp_path / "values.csv")
    assert (tmp_path / "values.csv").read_text().startswith("configuration,run,seed,base,step,domain,measure,")
    card = page.locator(".text_html:has(.rl-csv)").first
    assert card.evaluate("card => getComputedStyle(card).backgroundColor") == "rgba(0, 0, 0, 0)"
    context.close()


def test_a_phone_opens_the_sidebar_and_the_contents_of_the_page(built_book: Path, browser: "Browser") -> None:
    width, height = SIZES["phone"]
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    for button, shown in ((".primary-toggle", "Effects of fine-tuning"), (".secondary-toggle", "Limitations")):
        page.goto((built_book / "index.html").as_uri(), wait_until="load")
        page.locator(f"{button}:visible").click()
        page.locator("dialog[open]").get_by_text(shown, exact=True).first.wait_for(state="visible")
    context.close()
