"""What does forgetting look like? Kept clips played side by side, and a page on which to choose among all of them.

`side_by_side` and `of_table` read what a sweep kept; `player` and `explorer` make one piece of HTML of it, for a page of
the book as for a notebook alone. Decision: a clip is one picture, its frames side by side (a sheet, WebP), that a
script cuts into frames: exact frames, one clock for all, no video codec, and where no script runs the sheet is a film
strip. Everything is in the page (about 8 kB a clip, drawn when it is chosen), because an executed notebook, a page
opened from a disk and a book have no folder in common to fetch from.

Agents are joined over frames by nearest centres, the found ones with the true ones frame by frame as `dynamics`
does when it measures, so that the error on a picture is that of what is seen. Refused: clips picked by eye.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from IPython.display import HTML
from numpy.typing import NDArray
from PIL import Image

from replaylab.catalogue import CONTEXT_FRAMES, FRAMES_PER_SECOND, domain_of
from replaylab.metrics import dynamics
from replaylab.spec import RunSpec
from replaylab.store import ReferenceSpec, Store
from replaylab.sweeps.sweep import Table
from replaylab.util.text import capital, number, percent

TRUTH, BASE = "truth", "base"
GATE_PX = 16.0  # `miss_cap_px` of the tiny model's evaluations
MOST_PX = 128, 16000  # height of a frame, and width of all frames side by side (WebP ends at 16383)
WEBP_QUALITY = 82
NOTHING = "<p>No sample clips are kept in this store: run the sweep, which keeps some when it evaluates.</p>"
Boxes = Sequence[Sequence[Sequence[float]]]
Points = list[list[float] | None]


@dataclass(frozen=True)
class Shown:
    """One arm's version of one clip."""

    domain: str
    percentile: str
    """of how far the agents move, among the clips of the domain"""
    arm: str
    """TRUTH, BASE or the name of a fine-tuned arm"""
    step: int
    """of fine-tuning; 0 for the truth and the base"""
    frames: NDArray[np.uint8]
    """(T, H, W, 3), small enough for a page; the first `given` are given"""
    true_boxes: Boxes
    """for each frame rows of x0, y0, x1, y1 in px"""
    found_boxes: Boxes
    """the same, as the detector finds them; none in the given frames"""
    given: int = CONTEXT_FRAMES
    frames_per_second: float = FRAMES_PER_SECOND
    gate_px: float = GATE_PX
    """centres at least so far apart are not the same agent, and an agent that is not found costs so much"""
    scale: float = 1.0
    """a px here, in px of the clip"""


# --------------------------------------------------------------------------------------------------------- from a store
def of_table(table: Table, domains: Iterable[str] = ()) -> list[Shown]:
    """Every kept clip of a sweep's first seed: truth, base and every finished arm at every evaluated step.

    `domains` (none means all that are kept) in the order of the references. An empty list where nothing is kept yet.
    """
    arms = {name: (spec, spec.evaluate_at) for name, spec in _arms(table).items()}
    return _read(table, domains, arms)


def side_by_side(table: Table, domain: str = "driving-eventful") -> list[Shown]:
    """What to compare first in a domain: truth, base, fine-tuned without replay and, of each kind of replay, the arm
    with the most below 100 %; at their last step.
    """
    most = {  # of a kind the last, as fractions rise
        (spec.target.name, spec.replay.name): (name, spec)
        for name, spec in _arms(table).items()
        if spec.replay.fraction < 1
    }
    arms = {name: (spec, spec.evaluate_at[-1:]) for name, spec in most.values()}
    return _read(table, [domain], arms)


def _arms(table: Table) -> dict[str, RunSpec]:
    """The finished runs of the sweep's first seed by the names that figures give them: kind by kind, then by fraction."""
    seed = table.specs[0].seed
    specs = [spec for spec in table.specs if spec.seed == seed and Store(table.store).is_done(spec)]
    kinds = list(dict.fromkeys(["", *(spec.replay.name for spec in specs)]))
    specs.sort(key=lambda spec: (kinds.index(spec.replay.name), spec.replay.fraction))
    targets = {spec.target.name for spec in specs}
    return {
        (f"{spec.target.name}, " if len(targets) > 1 else "")
        + (f"{spec.replay.name} " if len(kinds) > 2 and spec.replay.name else "")
        + f"replay {percent(spec.replay.fraction)}": spec
        for spec in specs
    }


def _read(table: Table, domains: Iterable[str], arms: Mapping[str, tuple[RunSpec, Sequence[int]]]) -> list[Shown]:
    store, references = Store(table.store), ReferenceSpec.of(table.specs[0]).run_id
    kept = store.samples([references, *(spec.run_id for spec, _ in arms.values())])
    kept = kept.set_index(["run", "step", "domain", "percentile"])[["mp4", "boxes"]]
    versions = [(TRUTH, 0, references, -1), (BASE, 0, references, 0)]
    versions += [(arm, step, spec.run_id, step) for arm, (spec, steps) in arms.items() for step in steps]
    clips, wanted, shown = store.gallery_clips(references), set(domains), []
    model, cap_px = table.specs[0].model, table.specs[0].evaluation.miss_cap_px
    given = model.context_frames if model else CONTEXT_FRAMES
    rate = model.frames_per_second if model else FRAMES_PER_SECOND
    for domain in [name for name in clips if not wanted or name in wanted]:
        for percentile in clips[domain]:
            for arm, step, run, of_step in versions:
                if (run, of_step, domain, percentile) in kept.index:
                    mp4, text = kept.loc[(run, of_step, domain, percentile)]
                    boxes = json.loads(text)
                    small, scale = _small(_decoded(mp4))
                    shown.append(Shown(
                        domain, percentile, arm, step, small, _scaled(boxes["true"], scale), _scaled(boxes["found"], scale),
                        given, rate, cap_px / scale, scale,
                    ))  # fmt: skip
    return shown


def _decoded(mp4: bytes) -> NDArray[np.uint8]:
    from replaylab.data.video import decode

    with NamedTemporaryFile(suffix=".mp4") as file:
        file.write(mp4)
        file.flush()
        return decode(Path(file.name))


def _small(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Frames (T, H, W, 3) that a page can hold, and how many px a px of theirs was."""
    count, height, width = frames.shape[:3]
    scale = max(1.0, height / MOST_PX[0], count * width / MOST_PX[1])
    if scale == 1:
        return frames, 1.0
    size = max(1, int(width / scale)), max(1, int(height / scale))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames]), scale


def _scaled(boxes: Boxes, scale: float) -> Boxes:
    if scale == 1:
        return boxes
    return [[[side / scale for side in box[:4]] for box in frame] for frame in boxes]


# ------------------------------------------------------------------------------------------------------ paths and error
def true_paths(boxes: Boxes, gate_px: float = GATE_PX) -> list[list[int | None]]:
    """Agents over time: for each, the row of its box in every frame, or None where it has none.

    Boxes of neighbouring frames are joined one to one by the distance of their centres; one that is gate_px or further
    from every box of the frame before begins a new agent.
    """
    paths: list[list[int | None]] = []
    for frame, now in enumerate(boxes):
        alive = [path for path in paths if path[-1] is not None]
        before = [boxes[frame - 1][path[-1]] for path in alive]  # type: ignore[index]
        old, new, _ = dynamics.match(before, now, gate_px)
        for path in paths:
            path.append(None)
        for place, row in zip(old, new, strict=True):
            alive[place][-1] = int(row)
        begun = sorted(set(range(len(now))) - set(new.tolist()))
        paths += [[None] * frame + [row] for row in begun]
    return paths


def found_rows(one: Shown) -> list[dict[int, int]]:
    """For each frame, which found box is taken for which true one: as `dynamics.agent_errors` matches them."""
    matched = (
        dynamics.match(true, found, one.gate_px) for true, found in zip(one.true_boxes, one.found_boxes, strict=True)
    )
    return [dict(zip(rows.tolist(), columns.tolist(), strict=True)) for rows, columns, _ in matched]


def ade_px(one: Shown) -> float:
    """Mean error of the true agents of the future frames, in px of the clip; one that is not found costs the gate. NaN
    without any.
    """
    true, found = one.true_boxes[one.given :], one.found_boxes[one.given :]
    agents = [np.arange(len(boxes)) for boxes in true]
    counts = [np.ones(len(boxes), dtype=np.bool_) for boxes in true]
    return one.scale * dynamics.clip_dynamics(true, agents, counts, found, miss_cap_px=one.gate_px).ade_px


# ----------------------------------------------------------------------------------------------------------------- HTML
def player(shown: Sequence[Shown]) -> HTML:
    """The clips side by side, a row for each domain and percentile, played in step under one set of controls."""
    if not shown:
        return HTML(NOTHING)
    clips, body = _clips(shown), ""
    several = len({domain for domain, _ in clips}) > 1
    for place, ((domain, percentile), versions) in enumerate(clips.items()):
        title = _percentile(percentile) + (f", {_domain(domain)}" if several else "")
        screens = "".join(_screen(one, place, at) for at, one in enumerate(versions))
        body += (
            f'<p class="rl-title">{html.escape(capital(title))}</p>\n'
            f'<div class="rl-screens" style="--screens: {len(versions)}">{screens}</div>\n'
        )
    return _page("rl-player", body, _data(clips, sheets=False))


def explorer(shown: Sequence[Shown]) -> HTML:
    """Truth, base and one fine-tuned model side by side; which domain, clip, arm and step is chosen on the page."""
    if not any(one.step for one in shown):
        return HTML(NOTHING)
    clips = _clips(shown)
    tuned = [one for one in shown if one.step]
    first = tuned[0]
    start = [key for key in clips if key[0] == first.domain][-1]  # of its clips the one that moves most
    versions, clip = clips[start], list(clips).index(start)
    at = max(place for place, one in enumerate(versions) if one.arm == first.arm)  # its last step
    places = [*(place for place, one in enumerate(versions) if not one.step), at]
    steps = sorted({one.step for one in tuned})
    choices = [
        _select("domain", "Domain", {domain: capital(_domain(domain)) for domain, _ in clips}, first.domain),
        _select("percentile", "Clip, by motion", {each: f"{each}th percentile" for _, each in clips}, start[1]),
        _select("arm", "Fine-tuned with", {one.arm: one.arm for one in tuned}, first.arm),
        _select("step", "Step", {str(step): str(step) for step in steps}, str(versions[at].step)),
    ]
    body = (
        f'<div class="rl-choices">{"".join(choices)}</div>\n'
        f'<div class="rl-screens" style="--screens: {len(places)}">'
        f"{''.join(_screen(versions[place], clip, place) for place in places)}</div>\n"
        '<p class="rl-status" aria-live="polite"></p>\n'
        "<noscript><p>To choose others, allow this page to run scripts.</p></noscript>\n"
    )
    return _page("rl-explorer", body, _data(clips, sheets=True))


def _clips(shown: Sequence[Shown]) -> dict[tuple[str, str], list[Shown]]:
    clips: dict[tuple[str, str], list[Shown]] = {}
    for one in shown:
        clips.setdefault((one.domain, one.percentile), []).append(one)
    return clips


def _domain(name: str) -> str:
    return domain_of(name).label


def _percentile(percentile: str) -> str:
    return f"{percentile}th percentile of the agents' motion"


def _select(name: str, label: str, options: dict[str, str], chosen: str) -> str:
    listed = "".join(
        f'<option value="{html.escape(value)}"{" selected" if value == chosen else ""}>{html.escape(text)}</option>'
        for value, text in options.items()
    )
    return f'<label>{label} <select data-choice="{name}">{listed}</select></label>'


def _screen(one: Shown, clip: int, place: int) -> str:
    """A figure whose picture is the sheet until the script plays it; `place` is the version's in its clip."""
    tuned = " rl-chosen" if one.step else ""
    return (
        f'<figure class="rl-screen{tuned}" data-clip="{clip}" data-version="{place}"><div class="rl-picture">'
        f'<img src="data:image/webp;base64,{_sheet(one.frames)}" alt="{html.escape(_described(one))}"></div>'
        f"<figcaption><strong>{html.escape(_name(one))}</strong> <span>{html.escape(_note(one))}</span>"
        "</figcaption></figure>"
    )


def _described(one: Shown) -> str:
    """What is seen, for those who do not see it."""
    future = "what then happened" if one.arm == TRUTH else "what the model drew"
    return (
        f"{_name(one)} ({_note(one)}): {_domain(one.domain)}, {_percentile(one.percentile)}; {one.given} given "
        f"frames, then {future}"
    )


def _name(one: Shown) -> str:
    return capital(one.arm).replace(" %", "\N{NO-BREAK SPACE}%")


def _note(one: Shown) -> str:
    """The step of a fine-tuned model, and the error as figures write it."""
    error = ade_px(one)
    step = f"step {one.step}, " if one.step else ""
    ade = "no agent to find" if np.isnan(error) else f"ADE {number(error)} px"
    return step + ade.replace(" ", "\N{NO-BREAK SPACE}")


def _sheet(frames: NDArray[np.uint8]) -> str:
    """Frames (T, H, W, 3) side by side in one WebP, in base64."""
    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(file, "WEBP", quality=WEBP_QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _data(clips: dict[tuple[str, str], list[Shown]], sheets: bool) -> dict[str, Any]:
    """What the script draws; the truth once a clip. Sheets that stand in the page already are left out."""
    first = next(iter(clips.values()))[0]
    return {
        "given": first.given,
        "frames_per_second": first.frames_per_second,
        "clips": [
            {
                "domain": domain, "percentile": percentile, "size": list(versions[0].frames.shape[:3]),
                "boxes": _rounded(versions[0].true_boxes), "paths": _centres_of_true(versions[0]),
                "versions": [_version(one, sheets) for one in versions],
            }
            for (domain, percentile), versions in clips.items()
        ],
    }  # fmt: skip


def _version(one: Shown, sheets: bool) -> dict[str, Any]:
    version = {
        "arm": one.arm, "step": one.step, "name": _name(one), "note": _note(one), "described": _described(one),
        "boxes": _rounded(one.found_boxes), "paths": _centres_of_found(one),
    }  # fmt: skip
    return {**version, "sheet": _sheet(one.frames)} if sheets else version


def _centres_of_true(one: Shown) -> list[Points]:
    return [
        [None if row is None else _centre(one.true_boxes[frame][row]) for frame, row in enumerate(path)]
        for path in true_paths(one.true_boxes, one.gate_px)
    ]


def _centres_of_found(one: Shown) -> list[Points]:
    """Where each true agent was found, in every frame."""
    taken = found_rows(one)
    return [
        [
            _centre(one.found_boxes[frame][taken[frame][row]]) if row is not None and row in taken[frame] else None
            for frame, row in enumerate(path)
        ]
        for path in true_paths(one.true_boxes, one.gate_px)
    ]


def _centre(box: Sequence[float]) -> list[float]:
    return [round((box[0] + box[2]) / 2, 1), round((box[1] + box[3]) / 2, 1)]


def _rounded(boxes: Boxes) -> list[list[list[float]]]:
    return [[[round(side, 1) for side in box[:4]] for box in frame] for frame in boxes]


def _page(kind: str, body: str, data: dict[str, Any]) -> HTML:
    # In a script element only "<" could end it, or begin a comment.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return HTML(
        f'<style>{_asset("explorer.css")}</style>\n<div class="rl-gallery {kind}">\n{body}'
        f'<script type="application/json">{text}</script>\n</div>\n<script>{_asset("explorer.js")}</script>'
    )


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text()
