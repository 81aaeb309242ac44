"""Names, prompts, class labels and file names that somebody else chose: refused, or shown as text and nothing else."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from bad_inputs import REFERENCES, SPEC, _domain, _run
from fault_campaign import Fault, clear

from replaylab.data.domain import is_file_name, open_domain
from replaylab.data.importers import conversion, video_folder
from replaylab.data.importers.conversion import ConversionSettings
from replaylab.description import NAME
from replaylab.evaluation import evaluate
from replaylab.metrics.detectors import pretrained
from replaylab.pages import explorer, replay_sweep, sample_clips, style, your_model
from replaylab.spec import FolderSpec, WorldSpec
from replaylab.store import Store
from replaylab.store.packing import publish
from replaylab.sweeps import sweep
from replaylab.util.text import in_markdown, printable

HOSTILE = {
    "a script": "<script>window.hit=1</script>", "an image": "<img src=x onerror='window.hit=1'>",
    "an attribute": "\" onmouseover=\"window.hit=1", "a closed element": "</td></table><svg onload=window.hit=1>",
    "a formula": r"$\frac{a$", "a formula's link": r"$\href{javascript:window.hit=1}{x}$ \(x\)",
    "Markdown": "**a** [b](javascript:window.hit=1) `c` ![d](http://e.example/f)", "a role": "{raw}`x` {{ 7*7 }} :doc:`x`",
    "a format": "{0.__class__} %(a)s %", "a path": "../../up", "a whole path": "/tmp/up", "dots": "..",
    "a hidden name": ".git", "a zero": "a\0b", "lines": "a\n# b\n---", "an escape": "\x1b[2J\x1b]0;a\x07",
    "right to left": "\u202egpj.exe", "no text": "\udcff", "a spreadsheet's formula": "=cmd|' /C calc'!A0",
    "a long one": "x" * 300,
}  # fmt: skip
HARMLESS = ("v1.5", "v1.6", "driving-eventful", "Straße 3", "京都", "a_b-c.d")
assert not any(map(NAME.fullmatch, HOSTILE.values())) and all(map(NAME.fullmatch, HARMLESS))
KEPT_IN_HTML = {"style", "table", "thead", "tbody", "tr", "td", "th", "br", "small"}  # of tables


# ----------------------------------------------------------------------------------------------------- where names arrive
def _in_domain_json(text: str, folder: Path) -> None:
    path = _domain(folder) / "domain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": text}))
    with clear(path, "'name'"):
        open_domain(folder)


def _for_a_new_domain(text: str, folder: Path) -> None:
    (folder / "videos").mkdir()
    with clear("--name"):
        conversion.check(ConversionSettings(folder / "domain", name=text), "videos")
    assert [path.name for path in folder.iterdir()] == ["videos"], "something was made"


def _in_a_spec(text: str, folder: Path) -> None:
    with clear("name"):
        FolderSpec(text, "0" * 12, (64, 64), str(folder))
    with clear("name"):
        WorldSpec(text, "traffic", "narrow", "ordinary", (1, 1, 1))


def _in_rows(column: str, text: str, folder: Path) -> None:
    path = _run(folder / "store", SPEC) / "rows.parquet"
    pd.read_parquet(path).assign(**{column: text}).to_parquet(path, index=False)
    with clear(path, column):
        Store(folder / "store").rows([SPEC.run_id])
    if text != HOSTILE["a script"]:  # publishing takes a tenth of a second
        return
    with clear("rows.parquet", column):
        publish(folder / "store", folder / "out", {})


def _as_a_file(text: str, folder: Path) -> None:
    """The name of a video, in somebody's folder and in domain.json."""
    name = f"{text}.mp4"
    made = video_folder._name_of(name)
    assert is_file_name(f"{made}-0.mp4") and made.replace("-", "").isalnum(), made
    plain = "/" not in text and text[0] != "." and text.isprintable()
    assert is_file_name(name) <= (plain or text.isprintable() or "\udcff" in text or "\u202e" in text)
    assert not is_file_name(f"../{name}") and not is_file_name(f"a/{name}")


def _as_a_prompt(text: str, folder: Path) -> None:
    path = _domain(folder) / "domain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prompt": text}))
    if text.isprintable():
        assert open_domain(folder).about["prompt"] == text  # data for a text encoder, shown nowhere
        return
    with clear(path, "'prompt'"):
        open_domain(folder)


def _as_a_class(text: str, folder: Path) -> None:
    """The label of a detector's class is a key, and nothing else."""
    with clear("agents"):
        pretrained._kinds({0: text, 1: "car"}, pretrained.agents_of([f"{text}!=pedestrian"]), folder)
    assert pretrained._kinds({0: text, 1: "car"}, pretrained.agents_of([f"{text}=car"]), folder) == {0: "car"}


def _as_a_recipe(text: str, folder: Path) -> None:
    (folder / "sources").mkdir()
    (folder / conversion.RECIPE_FILE).write_text(json.dumps({"origin": text}))
    with clear(folder, "origin"):
        conversion.check(ConversionSettings(folder, name="mine"), "videos")


# ------------------------------------------------------------------------------------------------ where names are shown
class _Elements(HTMLParser):
    """The elements and attributes of a piece of HTML, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attributes]

    def handle_data(self, data: str) -> None:
        self.text += data


def check_html(source: str, text: str = "", allowed: set[str] = KEPT_IN_HTML) -> None:
    """Nothing in it is an element or attribute that only a name could have brought, and the name is there as text."""
    found = _Elements(source)
    assert {*found.names} <= allowed, {*found.names} - allowed
    wrong = [pair for pair in found.attributes if pair[0].startswith("on") or "javascript:" in pair[1]]
    assert not wrong, wrong
    assert text in found.text, f"the name is not there as it is: {found.text[:200]}"


def _in_a_table(text: str, folder: Path) -> None:
    table = pd.DataFrame({text: [text, "b"], "number": [1.0, np.nan]}, index=pd.Index([text, "c"], name=text))
    for styler in (
        style.styled(table, "mine"), style.styled(table, "mine").format("{:.3g}", na_rep="–", subset=["number"]),
        style.styled(table.T, "mine").format(str, na_rep="–"), style.styled(pd.concat({text: table}, axis=1), "mine"),
    ):  # fmt: skip
        check_html(styler.to_html(), text)
        assert "mathjax_ignore" in styler.to_html()


def _in_a_figure(text: str, folder: Path) -> None:
    with style.figure_style():
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(2, 2))
        axes.plot([0, 1], label=printable(text)[:20])
        axes.set(title=text[:20], xlabel=text[:20], ylabel=text[:20])
        axes.annotate(text[:20], (0, 0))
    style.finished(figure, text[:20], entries=axes.get_legend_handles_labels()[0]).savefig(io.BytesIO(), dpi=20)


def _in_markdown(text: str, folder: Path) -> None:
    """As the book's Markdown is read: MyST with formulas."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.myst_role import myst_role_plugin

    source = MarkdownIt("commonmark").use(dollarmath_plugin).use(myst_role_plugin).render(f"- **{in_markdown(text)}**: 1")
    check_html(source, " ".join(printable(text).split()), {"ul", "li", "strong"})


def rows_of(domain: str, measures: tuple[str, ...] = ("effnet_kd", "psnr_db", "ade_px")) -> pd.DataFrame:
    """Of all models in one domain, with and without replay, at two steps."""
    models = [(name, "", np.nan, -1, -1) for name in ("real", "autoencoder", "copy-last-frame", "constant-velocity")]
    models += [("base", "", np.nan, -1, 0)]
    models += [("fine-tuned", domain if share else "", share, 0, step) for share in (0.0, 0.25) for step in (1, 2)]
    return pd.DataFrame([
        {"run": f"{model}{share}", "base": "b", "model": model, "target": domain, "replay": replay, "replay_fraction": share,
         "seed": seed, "step": step, "domain": domain, "split": "test", "video": "a", "start": 0, "scene": "a",
         "measure": measure, "value": 1.0 + number + 0.1 * step, "n": 1}
        for number, (model, replay, share, seed, step) in enumerate(models) for measure in measures
    ])  # fmt: skip


def table_of(names: list[str]) -> Any:
    """What the page on one's own model shows, of domains of these names; no `Table`, which would refuse them."""
    domains = tuple(SimpleNamespace(name=name) for name in names)
    runs = pd.DataFrame({
        "run": ["a"], "replay": names[-1], "replay_fraction": 0.25, "seed": 0, "state": "failed", "trained_now": False,
        "seconds": 1.0, "realised_replay_fraction": 0.25, "reason": " ".join(names),
    })  # fmt: skip
    spec = SimpleNamespace(evaluation=SimpleNamespace(domains=domains))
    return SimpleNamespace(specs=[spec], rows=pd.concat(map(rows_of, names), ignore_index=True), runs=runs)


def clip_of(name: str, configuration: str, step: int) -> sample_clips.SampleClip:
    """A sample clip in a domain of this name."""
    boxes = [[[1.0, 1.0, 9.0, 9.0]]] * 4
    return sample_clips.SampleClip(
        name, name, configuration, step, np.zeros((4, 16, 16, 3), np.uint8), boxes, [[], *boxes[1:]], context_frames=1
    )


def _on_the_page(text: str, folder: Path) -> None:
    table = table_of([text, f"{text} too"])
    for styler in (your_model.measures_table(table), replay_sweep.status_table(table.runs)):
        check_html(styler.to_html(), text)
    page = explorer.player([clip_of(text, sample_clips.TRUTH, 0), clip_of(text, text, 2)]).data
    page += explorer.explorer([clip_of(text, sample_clips.TRUTH, 0), clip_of(text, text, 2)]).data
    found = _Elements(page)
    assert found.names.count("script") == 4 and not {"svg", "a"} & {*found.names}
    assert found.names.count("img") == 4 and not [name for name, _ in found.attributes if name.startswith("on")]
    assert html.escape(printable(text), quote=True)[:20] in page


def _in_a_reason(text: str, folder: Path) -> None:
    """A file's name comes into an error, and that into a table and failed.txt."""
    reason = sweep._record_failure(folder, ValueError(text))
    assert reason == f"ValueError: {printable(text)}"
    assert printable(text) in (folder / "failed.txt").read_text()
    check_html(style.styled(pd.DataFrame({"reason": [reason]}), "runs").to_html(), reason)


# ---------------------------------------------------------------------------------------------------- what names decide
def _clips_of_two_versions(folder: Path) -> None:
    """A dot in a name is no suffix: the clips of v1.5 and of v1.6 are other files."""
    for name in ("v1.5", "v1.6"):
        pixels, nothing = np.zeros((1, 4, 32, 32, 3), np.uint8), pd.DataFrame(columns=["x0", "y0", "x1", "y1", "eligible"])
        real = SimpleNamespace(
            name=name, context_frames=1, has_agents=False, truth=[[nothing] * 4],
            clips=[SimpleNamespace(video="a")], frames_per_second=4.0,
        )  # fmt: skip
        evaluate.keep_clips(folder, real, pixels, None, {"5": 0, "50": 0})  # type: ignore[arg-type]
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == sorted(f"{name}-{at}.{of}" for name in ("v1.5", "v1.6") for at in (5, 50) for of in ("mp4", "json"))


def _harmless(text: str, folder: Path) -> None:
    path = _domain(folder) / "domain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"name": text}))
    assert open_domain(folder).name == text
    for show in (_in_a_table, _in_a_figure, _in_markdown, _on_the_page):
        show(text, folder)


def _two_kinds(folder: Path) -> None:
    """Names of several replayed domains are joined in rows."""
    path = _run(folder, REFERENCES) / "rows.parquet"
    pd.read_parquet(path).assign(replay="kitchen+v1.5").to_parquet(path, index=False)
    assert set(Store(folder).rows([REFERENCES.run_id])["replay"]) == {"kitchen+v1.5"}


PLACES: dict[str, Callable[[str, Path], None]] = {
    "domain.json": _in_domain_json, "a new domain": _for_a_new_domain, "a spec": _in_a_spec, "a prompt": _as_a_prompt,
    "rows": partial(_in_rows, "domain"), "a video's file": _as_a_file, "a class": _as_a_class, "a recipe": _as_a_recipe,
    "a table": _in_a_table, "a figure": _in_a_figure, "Markdown": _in_markdown, "a page": _on_the_page,
}  # fmt: skip
NO_SURROGATES = ("rows", "a table", "a figure", "a page")  # neither Parquet nor matplotlib can hold them
DRAWN, SOME = ("a figure", "a page"), ("a script", "a formula")  # drawing takes a tenth of a second
KIND = "hostile names"
FAULTS = [
    *(Fault(KIND, f"{what} in {place}", partial(happen, text), place not in DRAWN or what in SOME)
      for place, happen in PLACES.items() for what, text in HOSTILE.items()
      if what != "no text" or place not in NO_SURROGATES),
    *(Fault(KIND, f"a script in rows, {column}", partial(_in_rows, column, HOSTILE["a script"]))
      for column in ("target", "replay", "model", "measure", "split")),
    *(Fault(KIND, f"{name}, which is harmless", partial(_harmless, name), name == "v1.5") for name in HARMLESS),
    *(Fault(KIND, f"{what} in the reason of a failure", partial(_in_a_reason, text)) for what, text in HOSTILE.items()),
    Fault(KIND, "two versions' clips", _clips_of_two_versions), Fault(KIND, "names that are joined", _two_kinds),
]  # fmt: skip
