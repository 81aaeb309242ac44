"""Does the built book work in a browser: every page, on a desk and on a phone, by day and by night?"""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest
from in_browser import SIZES, complaints

from replaylab.catalogue import domain_of
from replaylab.worlds.named import DOMAINS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.slow
IMAGES = "images => images.map(image => [image.getAttribute('src'), image.getAttribute('alt') || '', image.naturalWidth])"
MOST_BYTES = 3_000_000  # of a page with everything that it loads
WIDE_TABLES = """() => {
    document.querySelectorAll("details").forEach(folded => { folded.open = true; });
    return [...document.querySelectorAll(".bd-article table")].filter(table => {
        const [box, around] = [table, table.closest(".bd-article")].map(one => one.getBoundingClientRect());
        return box.right > around.right + 1 || (table.rows[0]?.cells.length ?? 0) > 6;
    }).map(table => table.id || table.textContent.slice(0, 40));
}"""
"""Opens what is folded; tables that are wider than the page's text, or have more columns than fit there."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_every_page_opens_without_a_complaint(built_book: Path, browser: "Browser", size: str, scheme: str) -> None:
    width, height = SIZES[size]
    pages = [path for path in sorted(built_book.rglob("*.html")) if "_static" not in path.parts]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    wrong, loaded = complaints(page), set[str]()
    page.on("request", lambda request: loaded.add(request.url))
    for path in pages:
        loaded.clear()
        page.goto(path.as_uri(), wait_until="load")
        page.wait_for_timeout(200)
        where = f"{path.relative_to(built_book)}, {size}, {scheme}"
        assert not wrong, f"{where}: {wrong}"
        assert page.evaluate("document.documentElement.dataset.theme") == scheme, where
        # Content wider than the window makes a phone scroll sideways.
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{where}: wider than the window"
        assert page.locator(".bd-header:visible").count() == 0, f"{where}: the second search bar"
        assert page.evaluate(WIDE_TABLES) == [], where
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{where}: wider once all is unfolded"
        files = {unquote(urlsplit(url).path) for url in loaded if url.startswith("file:")}
        assert sum(Path(file).stat().st_size for file in files) <= MOST_BYTES, f"{where}: too heavy"
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


def test_clips_of_another_domain_are_loaded_when_it_is_selected(built_book: Path, browser: "Browser") -> None:
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    loaded: list[str] = []
    page.on("request", lambda request: loaded.append(request.url))
    page.goto((built_book / "runs" / "explorer-smoke.html").as_uri(), wait_until="load")
    select, shown = page.locator("select[data-choice=domain]"), page.locator(".rl-chosen canvas")
    first = select.input_value()
    others = [name for one in select.locator("option").all() if (name := str(one.get_attribute("value"))) != first]
    assert len(others) >= 2 and not any("/clips/" in url for url in loaded)

    def is_shown(domain: str) -> bool:
        page.wait_for_function("!document.querySelector('[aria-busy]')")
        return domain_of(domain).label in str(shown.get_attribute("aria-label"))

    select.select_option(others[0])
    assert is_shown(others[0]) and sum("/clips/" in url for url in loaded) == 1
    page.reload()  # its address has the domain
    assert is_shown(others[0])
    page.evaluate("document.querySelectorAll('.rl-later').forEach(one => { one.dataset.file = 'missing.js'; })")
    select.select_option(others[1])
    page.locator(".rl-status.is-visible").wait_for()
    assert "missing.js" in page.locator(".rl-status").inner_text() and is_shown(others[0])
    select.select_option(first)
    assert is_shown(first) and not page.locator(".rl-status.is-visible").count()
    context.close()


def test_a_row_of_a_table_is_a_card_on_a_phone_and_its_cells_name_their_columns(
    built_book: Path, browser: "Browser"
) -> None:
    width, height = SIZES["phone"]
    context = browser.new_context(viewport={"width": width, "height": height})
    page = context.new_page()
    page.goto((built_book / "verdicts.html").as_uri(), wait_until="load")
    cells = page.locator("#T_verdicts tbody tr").first.locator("td, th").all()
    boxes = [cell.bounding_box() for cell in cells if cell.is_visible()]
    assert len(boxes) == 6 and all(box is not None and box["x"] == boxes[0]["x"] for box in boxes)  # type: ignore[index]
    names = [cell.get_attribute("data-column") for cell in cells]
    assert names == ["claim", "statement", "verdict", "change", "supported if", "measure"]
    said = cells[2].evaluate("cell => getComputedStyle(cell, '::before').content")
    assert said == '"verdict"'
    page.set_viewport_size({"width": 1280, "height": 500})  # on a desk the heads stay in view
    table = page.locator("#T_verdicts")
    table.locator("tbody tr").last.scroll_into_view_if_needed()
    head, last = (table.locator(part).bounding_box() for part in ("thead th >> nth=1", "tbody tr >> nth=-1"))
    assert head is not None and last is not None and 0 <= head["y"] < last["y"]
    context.close()


def test_the_search_finds_how_to_cite_and_prose_before_the_library(built_book: Path, browser: "Browser") -> None:
    page = browser.new_page()
    for words in ("cite", "license", "licence", "replay"):
        page.goto(f"{(built_book / 'search.html').as_uri()}?q={words}", wait_until="load")
        page.wait_for_function("document.querySelectorAll('#search-results li').length > 0")
        page.wait_for_timeout(300)
        found = page.locator("#search-results li > a").all()
        first = [str(link.get_attribute("href")) for link in found[:3]]
        assert "reference_" not in first[0], (words, first)
        assert words == "replay" or first[0].startswith("index.html"), (words, first)
    page.close()


def test_the_values_of_a_figure_are_saved_by_the_keyboard_and_from_the_disk(
    built_book: Path, browser: "Browser", tmp_path: Path
) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto((built_book / "02_finetune_degradation.html").as_uri(), wait_until="load")
    links = page.locator(".rl-csv a", has_text="Values of this figure")
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
