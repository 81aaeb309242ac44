"""Sample clips (`sample_clips`) as HTML: a player for several clips side by side, and an explorer of all clips.

The result is a single piece of HTML, for pages of the book and for separate notebooks. Decision: a clip is one image with
its frames side by side (a sheet, WebP), which a script cuts into frames: exact frames, one clock for all, no video codec,
and a film strip where no script runs. Everything is embedded in the page (about 5 kB per clip, decoded when it is selected;
the given frames, which are the same in every version, are embedded once), because an executed notebook, a page opened from
disk and the book have no common folder to load files from. The explorer has an element for each domain, of which the book
(`book/_ext/lighter.py`) makes files that are loaded when their domain is selected.

A domain has at most MOST_SHEETS of them. If a store has more clips, only the last step is shown, and if these are still too
many, only the configurations of the main comparison; the grid of stills has every clip.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import HTML
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from replaylab.catalogue import MAIN_FRACTION, domain_of
from replaylab.pages.sample_clips import (
    BASE,
    DETECTED_COLOUR,
    OPENS_WITH,
    TRUE_COLOUR,
    TRUTH,
    Boxes,
    Clips,
    Rank,
    Ranks,
    SampleClip,
    by_clip,
    detected_rows,
    motion,
    true_paths,
)
from replaylab.pages.style import on_the_page
from replaylab.util.text import capital, percent, printable

WEBP_QUALITY = 82
MOST_SHEETS = 160  # of a domain: about 0.8 MB
STILL_PX, STILL_QUALITY = 96, 70  # of the grid's images
MAIN_REPLAY = f"replay {percent(MAIN_FRACTION)}"
NO_CLIPS = HTML("<p>No sample clips are kept in this store: run the sweep, which keeps some when it evaluates.</p>")


def player(versions: Sequence[SampleClip]) -> HTML:
    """The clips side by side, a row for each domain and percentile, played synchronously with one set of controls."""
    if not versions:
        return NO_CLIPS
    versions = [_printable(one) for one in versions]
    clips, body = by_clip(versions), ""
    has_domains = len({domain for domain, _ in clips}) > 1
    for place, ((domain, percentile), these) in enumerate(clips.items()):
        title = motion(percentile) + (f", {domain_of(domain).label}" if has_domains else "")
        body += f'<p class="rl-title">{html.escape(capital(title))}</p>\n{_screens(these, place, range(len(these)))}\n'
    return _page("rl-player", body, _data(clips, sheets=False))


def comparison(versions: Sequence[SampleClip], percentile: str) -> HTML:
    """The versions of one clip side by side, first the clip at this percentile; a button shows a random other clip."""
    if not versions:
        return NO_CLIPS
    clips = by_clip([_printable(one) for one in versions])
    (start,) = [place for place, (_, one) in enumerate(clips) if one == percentile]
    these = list(clips.values())[start]
    body = (
        f"{_screens(these, start, range(len(these)))}\n"
        '<button type="button" class="rl-another rl-words" hidden>Another clip</button>\n'
    )
    return _page("rl-player rl-four", body, _data(clips, sheets=True))


def explorer(versions: Sequence[SampleClip], ranked: Ranks | None = None) -> HTML:
    """Truth, base, the first configuration (replay 0 %) and another one side by side; domain, clip, the other configuration
    and step are selected on the page, and stored in its address. Opens with eventful driving if the clips include it.
    """
    versions = [_printable(one) for one in _that_fit(versions)] if versions else []
    tuned = [one for one in versions if one.step]
    if not tuned:
        return NO_CLIPS
    clips, configurations = by_clip(versions), {one.configuration: one.configuration for one in tuned}
    domains = {domain: capital(domain_of(domain).label) for domain, _ in clips}
    domain = OPENS_WITH if OPENS_WITH in domains else tuned[0].domain
    start = [key for key in clips if key[0] == domain][-1]  # its clip with the most motion
    these = clips[start]
    compared, chosen = tuned[0].configuration, _opens_with(list(configurations))
    last = {one.configuration: place for place, one in enumerate(these) if one.step}
    places = [*(place for place, one in enumerate(these) if not one.step)]
    places += [last[name] for name in dict.fromkeys([compared, chosen]) if name in last]
    said = {key: _choice(key[1], (ranked or {}).get(key)) for key in clips}
    percentiles = {percentile: said.get((domain, percentile), _choice(percentile)) for _, percentile in clips}
    steps = {str(step): str(step) for step in sorted({one.step for one in tuned})}
    choices = (
        _select("domain", "Domain", domains, domain)
        + _select("percentile", "Clip, by motion", percentiles, start[1])
        + _select("configuration", "Compared with", configurations, chosen)
        + _select("step", "Step", steps, str(these[places[-1]].step))
    )
    body = (
        f'<div class="rl-choices">{choices}</div>\n'
        f"{_screens(these, [key for key in clips if key[0] == domain].index(start), places)}\n"
        '<p class="rl-status" aria-live="polite"></p>\n'
        "<noscript><p>To choose others, allow this page to run scripts.</p></noscript>\n"
    )

    data: dict[str, list[dict[str, Any]]] = {key[0]: [] for key in clips}
    for key, of_clip in clips.items():
        data[key[0]].append({**_clip_data(key, of_clip, sheets=True), "choice": said[key]})
    body += "".join(
        _json(data[other], f' class="rl-later" data-domain="{html.escape(other)}"') for other in domains if other != domain
    )
    return _page("rl-explorer rl-four", body, {**_clock(these[0]), "clips": data[domain], "compared": compared})


def _choice(percentile: str, rank: Rank | None = None) -> str:
    """The text of a clip in the selection, such as "95th percentile: ADE +1.23 px, rank 12 of 128"."""
    return f"{percentile}th percentile" + (f": {rank}" if rank is not None else "")


def _that_fit(versions: Sequence[SampleClip]) -> list[SampleClip]:
    """All versions; or, if a page cannot hold them, the fine-tuned ones at their last step only; or, of these, only the main
    comparison.
    """
    last = {one.configuration: max(other.step for other in versions if other.configuration == one.configuration)
            for one in versions}  # fmt: skip
    at_the_end = [one for one in versions if one.step == last[one.configuration]]
    tuned = list(dict.fromkeys(one.configuration for one in versions if one.step))
    first = {TRUTH, BASE, *tuned[:1], *([_opens_with(tuned)] if tuned else [])}
    kept = [list(versions), at_the_end, [one for one in at_the_end if one.configuration in first]]
    return next((some for some in kept if max(Counter(one.domain for one in some).values()) <= MOST_SHEETS), kept[-1])


def grid(versions: Sequence[SampleClip], ranked: Ranks | None = None) -> HTML:
    """The last frame of every clip, unselected, in the versions of the main comparison, by domain: from the clip whose error
    increases most to the one whose error decreases most, with its change and rank; boxes as in the explorer.
    """
    tuned = list(dict.fromkeys(one.configuration for one in versions if one.step))
    if not tuned:
        return NO_CLIPS
    columns = list(dict.fromkeys([TRUTH, BASE, tuned[0], _opens_with(tuned)]))
    by_domain: dict[str, str] = {}
    clips, ranked = by_clip([_printable(one) for one in versions]), ranked or {}
    for key in sorted(clips, key=lambda key: ranked[key].place if key in ranked else np.inf):
        last = {one.configuration: one for one in clips[key]}  # steps rise
        stills = "".join(
            f'<figure><img src="data:image/webp;base64,{_still(last[name])}" alt="{html.escape(last[name].description)}">'
            f'<figcaption>{html.escape(last[name].title)}</figcaption></figure>'
            for name in columns if name in last
        )  # fmt: skip
        title = html.escape(_choice(key[1], ranked.get(key)))
        by_domain[key[0]] = (
            by_domain.get(key[0], "") + f'<p class="rl-title">{title}</p><div class="rl-stills">{stills}</div>'
        )
    folded = "".join(
        f"<details><summary>{html.escape(capital(domain_of(domain).label))}</summary>{body}</details>"
        for domain, body in by_domain.items()
    )
    return HTML(f'{on_the_page("rl-all")}<style>{_asset("explorer.css")}</style><div class="rl-all">{folded}</div>')


def _still(one: SampleClip) -> str:
    """The last frame with true boxes in cyan and detected ones in magenta, as a WebP in base64."""
    factor = max(1, STILL_PX // one.frames.shape[1])
    picture = Image.fromarray(np.ascontiguousarray(one.frames[-1].repeat(factor, 0).repeat(factor, 1)))
    pen = ImageDraw.Draw(picture)
    for boxes, colour in ((one.true_boxes[-1], TRUE_COLOUR), (one.detected_boxes[-1], DETECTED_COLOUR)):
        for box in boxes:
            pen.rectangle([round(factor * side) for side in box[:4]], outline=colour)
    return _webp(picture, STILL_QUALITY)


def _opens_with(configurations: Sequence[str]) -> str:
    """The preregistered configuration with replay, or else the last one."""
    main = [name for name in configurations if name.endswith(MAIN_REPLAY)]
    return main[0] if main else configurations[-1]


def _printable(one: SampleClip) -> SampleClip:
    """The clip with printable names, so that they are equal in HTML attributes and in the script's data."""
    domain, percentile, configuration = (printable(name) for name in (one.domain, one.percentile, one.configuration))
    return replace(one, domain=domain, percentile=percentile, configuration=configuration)


def _select(name: str, label: str, options: dict[str, str], chosen: str) -> str:
    listed = "".join(
        f'<option value="{html.escape(value)}"{" selected" if value == chosen else ""}>{html.escape(text)}</option>'
        for value, text in options.items()
    )
    return f'<label>{label} <select data-choice="{name}">{listed}</select></label>'


def _screens(versions: Sequence[SampleClip], clip: int, places: Sequence[int]) -> str:
    """Figures of some versions of a clip, side by side: their images are the sheets until the script plays them."""
    figures = ""
    for place in places:
        one = versions[place]
        chosen = " rl-chosen" if place == places[-1] else ""
        figures += (
            f'<figure class="rl-screen{chosen}" data-clip="{clip}" data-version="{place}"><div class="rl-picture">'
            f'<img src="data:image/webp;base64,{_sheet(one.frames)}" alt="{html.escape(one.description)}"></div>'
            f"<figcaption><strong>{html.escape(one.title)}</strong> <span>{html.escape(one.note)}</span>"
            "</figcaption></figure>"
        )
    return f'<div class="rl-screens" style="--screens: {len(places)}">{figures}</div>'


def _sheet(frames: NDArray[np.uint8]) -> str:
    """Frames (T, H, W, 3) side by side as one WebP in base64."""
    return _webp(Image.fromarray(np.concatenate(list(frames), axis=1)), WEBP_QUALITY)


def _webp(picture: Image.Image, quality: int) -> str:
    """The image as a WebP in base64."""
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=quality)
    return base64.b64encode(file.getvalue()).decode()


def _data(clips: Clips, sheets: bool) -> dict[str, Any]:
    """The script's data; the truth and the given frames once per clip. Without `sheets`, those in the page are used."""
    of_clips = [_clip_data(key, versions, sheets) for key, versions in clips.items()]
    return {**_clock(next(iter(clips.values()))[0]), "clips": of_clips}


def _clock(first: SampleClip) -> dict[str, Any]:
    return {"context_frames": first.context_frames, "frames_per_second": first.frames_per_second}


def _clip_data(key: tuple[str, str], versions: Sequence[SampleClip], sheets: bool) -> dict[str, Any]:
    first = versions[0]
    every_row = [{row: row for row in range(len(boxes))} for boxes in first.true_boxes]
    return {
        "domain": key[0], "percentile": key[1], "size": list(first.frames.shape[:3]), "boxes": _rounded(first.true_boxes),
        "paths": _centre_paths(first, first.true_boxes, every_row),
        **({"given": _sheet(first.frames[: first.context_frames])} if sheets else {}),
        "versions": [
            {
                "configuration": one.configuration, "step": one.step,
                "title": one.title, "note": one.note, "description": one.description,
                "boxes": _rounded(one.detected_boxes),
                "paths": _centre_paths(one, one.detected_boxes, detected_rows(one)),
                **({"sheet": _sheet(one.frames[one.context_frames :])} if sheets else {}),
            }
            for one in versions
        ],
    }  # fmt: skip


def _centre_paths(clip: SampleClip, boxes: Boxes, rows: list[dict[int, int]]) -> list[list[list[float] | None]]:
    """For each true agent, the centre of its box among `boxes` in every frame; `rows` as from `detected_rows`."""

    def centre(frame: int, row: int | None) -> list[float] | None:
        if row is None or row not in rows[frame]:
            return None
        x0, y0, x1, y1 = boxes[frame][rows[frame][row]][:4]
        return [round((x0 + x1) / 2, 1), round((y0 + y1) / 2, 1)]

    paths = true_paths(clip.true_boxes, clip.miss_cap_px)
    return [[centre(frame, row) for frame, row in enumerate(path)] for path in paths]


def _rounded(boxes: Boxes) -> list[list[list[float]]]:
    return [[[round(side, 1) for side in box[:4]] for box in frame] for frame in boxes]


def _page(kind: str, body: str, data: dict[str, Any]) -> HTML:
    return HTML(
        f"{on_the_page('rl-gallery')}<style>{_asset('explorer.css')}</style>\n"
        f'<div class="rl-gallery {kind}">\n{body}{_json(data)}</div>\n'
        f"<script>{_asset('explorer.js')}</script>"
    )


def _json(data: Any, attributes: str = "") -> str:
    """A script element with data."""
    # In a script element, only "<" could end it or begin a comment.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return f'<script type="application/json"{attributes}>{text}</script>\n'


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text()
