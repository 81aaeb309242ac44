"""Sample clips that a sweep kept: played side by side, and on a page on which to choose among all of them.

`main_sample_clips` and `sample_clips` read them; `player` and `explorer` make one piece of HTML of them, for a page of the
book and for a notebook alone. Decision: a clip is one picture, its frames side by side (a sheet, WebP), that a script cuts
into frames: exact frames, one clock for all, no video codec, and a film strip where no script runs. Everything is in the
page (about 5 kB a clip, decoded when it is chosen; the given frames are the same in every version and stand there once),
because an executed notebook, a page opened from a disk and a book have no folder in common to fetch from.

A page has room for MOST_SHEETS of them. Of a store that keeps more clips, the last step alone is shown, and where those are
still too many, only the configurations that are compared first; every clip is in the grid of stills.

Agents are joined over frames by nearest centres, and detected boxes are matched with true ones frame by frame as
`metrics.dynamics` matches them, so that the error beside a picture is that of what is seen. Refused: clips picked by eye.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from IPython.display import HTML
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from replaylab.catalogue import CONTEXT_FRAMES, FRAMES_PER_SECOND, MAIN_FRACTION, domain_of, measure_of
from replaylab.metrics import dynamics
from replaylab.pages.style import on_the_page
from replaylab.spec import RunSpec
from replaylab.store import ReferenceSpec, Store
from replaylab.sweeps.sweep import Table
from replaylab.util import reading
from replaylab.util.text import capital, number, percent, printable

TRUTH, BASE = "truth", "base"
MISS_CAP_PX = 16.0  # of the tiny model's evaluations
MAX_HEIGHT_PX, MAX_SHEET_WIDTH_PX = 128, 16000  # WebP ends at 16383
WEBP_QUALITY = 82
MOST_SHEETS = 420  # about 2 MB
STILL_PX, STILL_QUALITY = 96, 70  # of the grid's pictures
OPENS_WITH, MAIN_REPLAY = "driving-eventful", f"replay {percent(MAIN_FRACTION)}"
NO_CLIPS = HTML("<p>No sample clips are kept in this store: run the sweep, which keeps some when it evaluates.</p>")
Boxes = Sequence[Sequence[Sequence[float]]]
Clips = dict[tuple[str, str], list["SampleClip"]]
"""By domain and percentile, the versions of each clip."""
Ranks = Mapping[tuple[str, str], str]
"""By domain and percentile, how a clip's error changes and where that stands among all clips, in words (`ranks`)."""


@dataclass(frozen=True)
class SampleClip:
    """One configuration's version of one clip."""

    domain: str
    percentile: str
    """of how far the agents move, among the clips of the domain"""
    configuration: str
    """TRUTH, BASE or the name of a fine-tuned configuration"""
    step: int
    """of fine-tuning; 0 for the truth and the base"""
    frames: NDArray[np.uint8]
    """(T, H, W, 3), small enough for a page"""
    true_boxes: Boxes
    """for each frame rows of x0, y0, x1, y1 in px"""
    detected_boxes: Boxes
    """the same, as the detector returns them; none in the context frames"""
    context_frames: int = CONTEXT_FRAMES
    frames_per_second: float = FRAMES_PER_SECOND
    miss_cap_px: float = MISS_CAP_PX
    """the error of an agent that is not detected; centres so far apart or further are not of the same agent"""
    scale: float = 1.0
    """a px here, in px of the clip"""

    @property
    def title(self) -> str:
        """The configuration, for a caption."""
        return capital(self.configuration).replace(" %", "\N{NO-BREAK SPACE}%")

    @cached_property
    def note(self) -> str:
        """The step of a fine-tuned model, and the error as figures write it."""
        error = ade_px(self)
        step = f"step {self.step}, " if self.step else ""
        ade = "no agent to find" if np.isnan(error) else f"ADE {number(error, measure_of('ade_px').digits)} px"
        return step + ade.replace(" ", "\N{NO-BREAK SPACE}")

    @property
    def description(self) -> str:
        """What is seen, for those who do not see it."""
        future = "what then happened" if self.configuration == TRUTH else "what the model drew"
        return (
            f"{self.title} ({self.note}): {domain_of(self.domain).label}, {_motion(self.percentile)}; "
            f"{self.context_frames} given frames, then {future}"
        )


# --------------------------------------------------------------------------------------------------------- from a store
def sample_clips(table: Table, domains: Iterable[str] = ()) -> list[SampleClip]:
    """Every kept clip of a sweep's first seed: truth, base and every finished configuration at every evaluated step.

    `domains` (none means all that are kept) in the order of the references. An empty list where nothing is kept yet.
    """
    return _read(table, domains, {name: (run, run.evaluate_at) for name, run in _finished(table).items()})


def main_sample_clips(table: Table, domain: str = OPENS_WITH) -> list[SampleClip]:
    """To compare first, at the last step: truth, base, no replay, and of each kind of replay the preregistered fraction, or
    where that is not there the most below 100 %.
    """
    main: dict[tuple[str, str], tuple[str, RunSpec]] = {}
    for name, run in _finished(table).items():  # of a kind, as fractions rise
        kind = (run.target.name, run.replay.name)
        if run.replay.fraction < 1 and (kind not in main or main[kind][1].replay.fraction != MAIN_FRACTION):
            main[kind] = (name, run)
    return _read(table, [domain], {name: (run, run.evaluate_at[-1:]) for name, run in main.values()})


def of_folders(folders: Mapping[str, Path], domain: str, percentile: str) -> list[SampleClip]:
    """One clip of a tiny model's evaluation, as `evaluate.keep` writes it, from several folders; their names are those of
    the versions. Raises ValueError for a file that cannot be read, naming it.
    """
    clips = []
    for name, folder in folders.items():
        file = folder / f"{domain}-{percentile}.json"
        boxes = reading.json_object(file)
        with reading.named(file, "sample clip with the boxes of its frames"):
            frames = _decoded(file.with_suffix(".mp4").read_bytes())
            clips.append(SampleClip(domain, percentile, name, 0, frames, boxes["true"], boxes["found"]))
    return clips


def nearest_to_the_mean(clips: Sequence[SampleClip], mean_px: float) -> str:
    """The percentile of the clip whose ADE changes from base to first fine-tuned version most nearly as on average."""
    changes = {}
    for (_, percentile), versions in _by_clip(clips).items():
        base, tuned = (
            [one for one in versions if bool(one.step) == is_tuned and one.configuration != TRUTH] for is_tuned in (0, 1)
        )
        if base and tuned:
            changes[percentile] = abs(ade_px(tuned[0]) - ade_px(base[0]) - mean_px)
    return min(changes, key=lambda one: changes[one])


def ranks(table: Table) -> dict[tuple[str, str], str]:
    """Of each kept clip the change of ADE from the base to no replay at the last step, in the first seed, and its rank among
    all clips of its domain, 1 for the largest: "ADE +1.23 px, rank 12 of 128". Clips without agents have none.
    """
    runs = [run for run in _finished(table).values() if not run.replay.fraction]
    if not runs or table.rows.empty:
        return {}
    references = ReferenceSpec.of(table.specs[0]).run_id
    rows = table.rows[(table.rows["measure"] == "ade_px") & table.rows["run"].isin([references, runs[0].run_id])]
    found = {}
    for domain, clips in Store(table.store).gallery_clips(references).items():
        here = rows[rows["domain"] == domain]
        base = here.loc[here["model"] == "base", "value"].reset_index(drop=True)  # in the order of the clips
        tuned = here.loc[(here["run"] == runs[0].run_id) & (here["step"] == runs[0].evaluate_at[-1]), "value"]
        change = tuned.reset_index(drop=True) - base
        order = change.rank(ascending=False, method="first")
        for percentile, clip in clips.items():
            if clip < len(change) and not np.isnan(change[clip]):
                said = number(change[clip], f"+{measure_of('ade_px').digits}")
                found[domain, percentile] = f"ADE {said} px, rank {order[clip]:.0f} of {change.notna().sum()}"
    return found


def _finished(table: Table) -> dict[str, RunSpec]:
    """The finished runs of the first seed by the names that figures give them: kind by kind, then by fraction."""
    seed = table.specs[0].seed
    runs = [run for run in table.specs if run.seed == seed and Store(table.store).is_done(run)]
    kinds = list(dict.fromkeys(["", *(run.replay.name for run in runs)]))
    runs.sort(key=lambda run: (kinds.index(run.replay.name), run.replay.fraction))
    has_targets, has_kinds = len({run.target.name for run in runs}) > 1, len(kinds) > 2
    return {
        (f"{run.target.name}, " if has_targets else "")
        + (f"{run.replay.name} " if has_kinds and run.replay.name else "")
        + f"replay {percent(run.replay.fraction)}": run
        for run in runs
    }


def _read(table: Table, domains: Iterable[str], runs: Mapping[str, tuple[RunSpec, Sequence[int]]]) -> list[SampleClip]:
    store, references = Store(table.store), ReferenceSpec.of(table.specs[0]).run_id
    kept = store.samples([references, *(run.run_id for run, _ in runs.values())])
    kept = kept.set_index(["run", "step", "domain", "percentile"])[["mp4", "boxes"]]
    versions = [(TRUTH, 0, references, -1), (BASE, 0, references, 0)]
    versions += [(name, step, run.run_id, step) for name, (run, steps) in runs.items() for step in steps]
    by_domain, wanted, clips = store.gallery_clips(references), set(domains), []
    model, miss_cap_px = table.specs[0].model, table.specs[0].evaluation.miss_cap_px
    context_frames = model.context_frames if model else CONTEXT_FRAMES
    rate = model.frames_per_second if model else FRAMES_PER_SECOND
    for domain in [name for name in by_domain if not wanted or name in wanted]:
        for percentile in by_domain[domain]:
            for name, step, run, kept_step in versions:
                if (run, kept_step, domain, percentile) in kept.index:
                    mp4, text = kept.loc[(run, kept_step, domain, percentile)]
                    with reading.named(table.store / run, f"run with a whole clip of {domain}, percentile {percentile}"):
                        frames, scale = _small(_decoded(mp4))
                        true, detected = (_scaled(json.loads(text)[kind], scale) for kind in ("true", "found"))
                    clips.append(SampleClip(
                        domain, percentile, name, step, frames, true, detected,
                        context_frames, rate, miss_cap_px / scale, scale,
                    ))  # fmt: skip
    return clips


def _decoded(mp4: bytes) -> NDArray[np.uint8]:
    from replaylab.data.video import decode

    with NamedTemporaryFile(suffix=".mp4") as file:
        file.write(mp4)
        file.flush()
        return decode(Path(file.name))


def _small(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """Frames (T, H, W, 3) that a page can hold, and how many px a px of theirs was."""
    count, height, width = frames.shape[:3]
    scale = max(1.0, height / MAX_HEIGHT_PX, count * width / MAX_SHEET_WIDTH_PX)
    if scale == 1:
        return frames, 1.0
    size = max(1, int(width / scale)), max(1, int(height / scale))
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames]), scale


def _scaled(boxes: Boxes, scale: float) -> Boxes:
    return boxes if scale == 1 else [[[side / scale for side in box[:4]] for box in frame] for frame in boxes]


# ------------------------------------------------------------------------------------------------------ paths and error
def true_paths(boxes: Boxes, gate_px: float = MISS_CAP_PX) -> list[list[int | None]]:
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


def detected_rows(clip: SampleClip) -> list[dict[int, int]]:
    """For each frame, the row of the detected box by that of its true one, matched as in `dynamics.agent_errors`."""
    pairs = zip(clip.true_boxes, clip.detected_boxes, strict=True)
    matched = (dynamics.match(true, detected, clip.miss_cap_px) for true, detected in pairs)
    return [dict(zip(rows.tolist(), columns.tolist(), strict=True)) for rows, columns, _ in matched]


def ade_px(clip: SampleClip) -> float:
    """Mean error of the future frames' true agents in px of the clip, the miss cap for one not detected; NaN without any."""
    true, detected = clip.true_boxes[clip.context_frames :], clip.detected_boxes[clip.context_frames :]
    agents = [np.arange(len(boxes)) for boxes in true]
    counts = [np.ones(len(boxes), dtype=np.bool_) for boxes in true]
    errors = dynamics.agent_errors(true, agents, counts, detected, miss_cap_px=clip.miss_cap_px)
    return clip.scale * dynamics.accuracy(errors).ade_px.value


# ----------------------------------------------------------------------------------------------------------------- HTML
def player(versions: Sequence[SampleClip]) -> HTML:
    """The clips side by side, a row for each domain and percentile, played in step under one set of controls."""
    if not versions:
        return NO_CLIPS
    versions = [_printable(one) for one in versions]
    clips, body = _by_clip(versions), ""
    has_domains = len({domain for domain, _ in clips}) > 1
    for place, ((domain, percentile), these) in enumerate(clips.items()):
        title = _motion(percentile) + (f", {domain_of(domain).label}" if has_domains else "")
        body += f'<p class="rl-title">{html.escape(capital(title))}</p>\n{_screens(these, place, range(len(these)))}\n'
    return _page("rl-player", body, _data(clips, sheets=False))


def comparison(versions: Sequence[SampleClip], percentile: str) -> HTML:
    """Versions of one clip side by side, that of this percentile first; a button shows another clip at random."""
    if not versions:
        return NO_CLIPS
    clips = _by_clip([_printable(one) for one in versions])
    (start,) = [place for place, (_, one) in enumerate(clips) if one == percentile]
    these = list(clips.values())[start]
    body = (
        f"{_screens(these, start, range(len(these)))}\n"
        '<button type="button" class="rl-another rl-words" hidden>Another clip</button>\n'
    )
    return _page("rl-player rl-four", body, _data(clips, sheets=True))


def explorer(versions: Sequence[SampleClip], ranked: Ranks | None = None) -> HTML:
    """Truth, base, the first configuration (no replay) and another one side by side; domain, clip, the other configuration
    and step are chosen on the page, and stand in its address. Opens with eventful driving where there is some.
    """
    versions = [_printable(one) for one in _that_fit(versions)]
    tuned = [one for one in versions if one.step]
    if not tuned:
        return NO_CLIPS
    clips, configurations = _by_clip(versions), {one.configuration: one.configuration for one in tuned}
    domains = {domain: capital(domain_of(domain).label) for domain, _ in clips}
    domain = OPENS_WITH if OPENS_WITH in domains else tuned[0].domain
    start = [key for key in clips if key[0] == domain][-1]  # of its clips the one that moves most
    these = clips[start]
    compared, chosen = tuned[0].configuration, _opens_with(list(configurations))
    last = {one.configuration: place for place, one in enumerate(these) if one.step}
    places = [*(place for place, one in enumerate(these) if not one.step)]
    places += [last[name] for name in dict.fromkeys([compared, chosen]) if name in last]
    said = {key: _choice(key[1], (ranked or {}).get(key, "")) for key in clips}
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
        f"{_screens(these, list(clips).index(start), places)}\n"
        '<p class="rl-status" aria-live="polite"></p>\n'
        "<noscript><p>To choose others, allow this page to run scripts.</p></noscript>\n"
    )
    data = _data(clips, sheets=True)
    for one, key in zip(data["clips"], clips, strict=True):
        one["choice"] = said[key]
    return _page("rl-explorer rl-four", body, {**data, "compared": compared})


def _choice(percentile: str, rank: str = "") -> str:
    """A clip among the choices, such as "95th percentile: ADE +1.23 px, rank 12 of 128"."""
    return f"{percentile}th percentile" + (f": {rank}" if rank else "")


def _that_fit(versions: Sequence[SampleClip]) -> list[SampleClip]:
    """All of them, or of the fine-tuned ones those at their last step, or only the first configuration and the one that is
    compared with it first: the most that a page has room for.
    """
    last = {one.configuration: max(other.step for other in versions if other.configuration == one.configuration)
            for one in versions}  # fmt: skip
    at_the_end = [one for one in versions if one.step == last[one.configuration]]
    tuned = list(dict.fromkeys(one.configuration for one in versions if one.step))
    first = {TRUTH, BASE, *tuned[:1], *([_opens_with(tuned)] if tuned else [])}
    kept = [list(versions), at_the_end, [one for one in at_the_end if one.configuration in first]]
    return next((some for some in kept if len(some) <= MOST_SHEETS), kept[-1])


def grid(versions: Sequence[SampleClip], ranked: Ranks | None = None) -> HTML:
    """The last frame of every clip in the versions that are compared first, domain by domain, unselected: from the clip
    whose error rises most to the one whose error falls most, with its change and rank; boxes as in the explorer.
    """
    tuned = list(dict.fromkeys(one.configuration for one in versions if one.step))
    if not tuned:
        return NO_CLIPS
    columns = list(dict.fromkeys([TRUTH, BASE, tuned[0], _opens_with(tuned)]))
    by_domain: dict[str, str] = {}
    clips, ranked = _by_clip([_printable(one) for one in versions]), ranked or {}
    for key in sorted(clips, key=lambda key: _rank_of(ranked.get(key, ""))):
        last = {one.configuration: one for one in clips[key]}  # steps rise
        stills = "".join(
            f'<figure><img src="data:image/webp;base64,{_still(last[name])}" alt="{html.escape(last[name].description)}">'
            f'<figcaption>{html.escape(last[name].title)}</figcaption></figure>'
            for name in columns if name in last
        )  # fmt: skip
        title = html.escape(_choice(key[1], ranked.get(key, "")))
        by_domain[key[0]] = (
            by_domain.get(key[0], "") + f'<p class="rl-title">{title}</p><div class="rl-stills">{stills}</div>'
        )
    folded = "".join(
        f"<details><summary>{html.escape(capital(domain_of(domain).label))}</summary>{body}</details>"
        for domain, body in by_domain.items()
    )
    return HTML(f'{on_the_page("rl-all")}<style>{_asset("explorer.css")}</style><div class="rl-all">{folded}</div>')


def _rank_of(said: str) -> int:
    """The rank in what `ranks` says; clips without one come last."""
    return int(said.split("rank ")[1].split(" of ")[0]) if "rank " in said else 10**9


def _still(one: SampleClip) -> str:
    """The last frame with true boxes in cyan and detected ones in magenta, as a WebP in base64."""
    factor = max(1, STILL_PX // one.frames.shape[1])
    picture = Image.fromarray(np.ascontiguousarray(one.frames[-1].repeat(factor, 0).repeat(factor, 1)))
    pen = ImageDraw.Draw(picture)
    for boxes, colour in ((one.true_boxes[-1], "#00e5ff"), (one.detected_boxes[-1], "#ff3dd8")):
        for box in boxes:
            pen.rectangle([round(factor * side) for side in box[:4]], outline=colour)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=STILL_QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _opens_with(configurations: Sequence[str]) -> str:
    """The preregistered comparison, or what has the most replay below 100 %."""
    main = [name for name in configurations if name.endswith(MAIN_REPLAY)]
    return main[0] if main else configurations[-1]


def _printable(one: SampleClip) -> SampleClip:
    """With names that are the same in an attribute, which has no control characters, and in the script's data."""
    domain, percentile, configuration = (printable(name) for name in (one.domain, one.percentile, one.configuration))
    return replace(one, domain=domain, percentile=percentile, configuration=configuration)


def _by_clip(versions: Sequence[SampleClip]) -> Clips:
    clips: Clips = {}
    for one in versions:
        clips.setdefault((one.domain, one.percentile), []).append(one)
    return clips


def _motion(percentile: str) -> str:
    return f"{percentile}th percentile of the agents' motion"


def _select(name: str, label: str, options: dict[str, str], chosen: str) -> str:
    listed = "".join(
        f'<option value="{html.escape(value)}"{" selected" if value == chosen else ""}>{html.escape(text)}</option>'
        for value, text in options.items()
    )
    return f'<label>{label} <select data-choice="{name}">{listed}</select></label>'


def _screens(versions: Sequence[SampleClip], clip: int, places: Sequence[int]) -> str:
    """Figures of some versions of a clip, side by side: their pictures are the sheets until the script plays them."""
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
    """Frames (T, H, W, 3) side by side in one WebP, in base64."""
    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(frames), axis=1)).save(file, "WEBP", quality=WEBP_QUALITY)
    return base64.b64encode(file.getvalue()).decode()


def _data(clips: Clips, sheets: bool) -> dict[str, Any]:
    """What the script needs; the truth and the given frames once a clip. Sheets that stand in the page are left out."""
    first = next(iter(clips.values()))[0]
    return {
        "context_frames": first.context_frames,
        "frames_per_second": first.frames_per_second,
        "clips": [_clip_data(key, versions, sheets) for key, versions in clips.items()],
    }


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
    """For each true agent the centre of its box among `boxes` in every frame; `rows` as `detected_rows` gives them."""

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
    # In a script element only "<" could end it, or begin a comment.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    return HTML(
        f"{on_the_page('rl-gallery')}<style>{_asset('explorer.css')}</style>\n"
        f'<div class="rl-gallery {kind}">\n{body}<script type="application/json">{text}</script>\n</div>\n'
        f"<script>{_asset('explorer.js')}</script>"
    )


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text()
