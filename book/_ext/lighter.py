"""Pages that weigh little: formulas as MathML, which browsers draw by themselves, only those icons that a page shows, and
clips in files that are loaded when their domain is selected; and a sidebar that is quickly made.

Decision: docutils translates the few formulas here, so no page loads 2 MB of MathJax, and they are there without scripts.
Of the theme's 2,000 icons, 1.5 MB that every page loads, those named on some page or by the theme's scripts are kept.
The explorer's clips of other domains than the first (elements of the class `rl-later`, `pages/explorer.py`) become scripts,
which a page opened from disk may load too.
Sphinx makes each page's sidebar from copies of all headings and all documented names, and keeps the pages' titles. Here it
is given the titles, which makes the same sidebar.

Refused: a formula that docutils does not know.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator

ICON = re.compile(r'"?([a-z0-9-]+)"?:\[\d+,\d+,\[[^\]]*\],"[0-9a-f]+",(?:"[^"]*"|\[(?:"[^"]*",?)*\])\],?')
"""An icon in the theme's script: its name, then its size, other names, code and outline."""
LATER = re.compile(r'(?P<start><script type="application/json" class="rl-later"[^>]*)>(?P<clips>[^<]*)</script>')


def in_line(translator: HTML5Translator, node: nodes.math) -> None:
    """A formula within a line."""
    translator.body.append(_translated(node))
    raise nodes.SkipNode


def displayed(translator: HTML5Translator, node: nodes.math_block) -> None:
    """A formula in a line of its own."""
    translator.body.append(f'<div class="math notranslate">{_translated(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def _translated(node: nodes.Element, as_block: bool = False) -> str:
    try:
        return str(tex2mathml(node.astext(), as_block))
    except MathError as error:
        raise ExtensionError(f"{node.source}: formula {node.astext()!r}: {error}") from error


def keep_icons(app: Sphinx, exception: Exception | None) -> None:
    """Leave the icons that some page, or the theme's scripts, name."""
    scripts = Path(app.outdir) / "_static" / "scripts"
    icons = scripts / "fontawesome.js"
    if exception is not None or not icons.is_file():
        return
    named = [*Path(app.outdir).rglob("*.html"), *(file for file in scripts.glob("*.js") if file != icons)]
    used = {name for file in named for name in re.findall(r"\bfa-([a-z0-9-]+)", file.read_text(encoding="utf-8"))}
    text = icons.read_text(encoding="utf-8")
    icons.write_text(ICON.sub(lambda icon: icon[0] if icon[1] in used else "", text), encoding="utf-8")


def move_clips_to_files(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Leave of clips that are shown later the name of the file that has them."""

    def moved(element: re.Match[str]) -> str:
        name = f"{hashlib.sha256(element['clips'].encode()).hexdigest()[:16]}.js"
        path = Path(app.outdir) / "_static" / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'(window.rlClips ??= {{}})["{name}"] = {element["clips"]};\n', encoding="utf-8")
        return f'{element["start"]} data-file="{context["pathto"](f"_static/clips/{name}", 1)}"></script>'

    if "body" in context:
        context["body"] = LATER.sub(moved, context["body"])


def make_sidebars_of_titles(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Give a template's `toctree` function titles alone, where it asks for no more."""
    whole = context["toctree"]

    def toctree(**options: Any) -> str:
        kept = app.env.tocs
        app.env.tocs = _titles(app.env) if options.get("titles_only") else kept
        try:
            return str(whole(**options))
        finally:
            app.env.tocs = kept

    context["toctree"] = toctree


@cache
def _titles(env: BuildEnvironment) -> dict[str, nodes.bullet_list]:
    """The table of contents of each page, with its title and the pages below it."""
    tocs = {page: toc.deepcopy() for page, toc in env.tocs.items()}
    for toc in tocs.values():
        for title in toc.children:
            if len(title) > 1 and (below := list(title.findall(addnodes.toctree))):
                title[1][:] = below
            else:
                del title[1:]
    return tocs


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (in_line, None), (displayed, None))
    app.connect("html-page-context", make_sidebars_of_titles)
    app.connect("html-page-context", move_clips_to_files)
    app.connect("build-finished", keep_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
