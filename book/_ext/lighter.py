"""Pages that weigh little: formulas as MathML, which browsers draw by themselves, and only those icons that a page shows.

Decision: docutils translates the few formulas here, so no page loads 2 MB of MathJax, and they are there without scripts.
Of the theme's 2,000 icons, 1.5 MB that every page loads, those named on some page or by the theme's scripts are kept.

Refused: a formula that docutils does not know.
"""

from __future__ import annotations

import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.writers.html5 import HTML5Translator

ICON = re.compile(r'"?([a-z0-9-]+)"?:\[\d+,\d+,\[[^\]]*\],"[0-9a-f]+",(?:"[^"]*"|\[(?:"[^"]*",?)*\])\],?')
"""An icon in the theme's script: its name, then its size, other names, code and outline."""


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


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (in_line, None), (displayed, None))
    app.connect("build-finished", keep_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
