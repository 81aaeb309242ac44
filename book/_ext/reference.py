"""The pages of the reference: every module's public names with their documentation, and every command's options.

Decision: Sphinx's own Python domain makes signatures, anchors, index and search, and `module_reader` the text that goes in.
Docstrings are Markdown of the plainest kind: what would be a link, a picture, a heading or HTML stays as it was written. A
name in backticks, or in a signature, becomes a link where the reference has it. A page has the
modules of its packages (PAGES), in alphabetical order, so a new module needs no line here. The pages in the source tree are
written by hand; the directives `modules`, `overview` and `commands` fill them while the book is built.

Refused: a package of PAGES that does not exist. tests/test_reference.py checks that every package is on one page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import cast

from docutils import nodes
from docutils.statemachine import StringList
from markdown_it import MarkdownIt
from module_reader import PACKAGE, Item, Library, Module, package_folder, read_library
from myst_parser.config.main import MdParserConfig
from myst_parser.mdit_to_docutils.base import DocutilsRenderer
from myst_parser.parsers.mdit import create_md_parser
from sphinx.addnodes import desc_content, pending_xref
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, new_document

PAGES = {
    "reference_runs": ("spec", "description", "shipped_weights", "catalogue", "mixture", "buckets", "sampler", "store"),
    "reference_data": ("data",),
    "reference_worlds": ("worlds",),
    "reference_metrics": ("metrics",),
    "reference_models": ("models",),
    "reference_evaluation": ("evaluation",),
    "reference_training": ("training", "monitor"),
    "reference_sweeps": ("sweeps",),
    "reference_analysis": ("analysis",),
    "reference_pages": ("pages",),
    "reference_util": ("util",),
}
"""The packages, and the modules at the top, on each page of the reference."""

AS_WRITTEN = [
    "autolink", "blockquote", "entity", "escape", "heading", "hr", "html_block", "html_inline", "image", "lheading",
    "link", "reference",
]  # fmt: skip
"""What Markdown knows and docstrings do not mean by it."""


@cache
def library() -> Library:
    """The library, read once a build."""
    return read_library(package_folder())


def modules_of(page: str) -> list[Module]:
    """The modules on a page: package by package, each with its own docstring first.

    Raises ExtensionError for a package that does not exist.
    """
    found: list[Module] = []
    for package in PAGES[page]:
        whole = f"{PACKAGE}.{package}"
        if whole not in library().modules:
            raise ExtensionError(f"PAGES in book/_ext/reference.py lists {package!r}, which does not exist")
        found += [module for name, module in library().modules.items() if f"{name}.".startswith(f"{whole}.")]
    return found


@cache
def markdown() -> MarkdownIt:
    """Paragraphs, lists, tables, indented text, `code` and *stress*."""
    parser = create_md_parser(MdParserConfig(commonmark_only=True), DocutilsRenderer)
    parser.options["document"] = new_document("docstrings")
    parser.render("")  # sets the renderer up: for thousands of docstrings one by one, that takes longer than their text
    return parser.enable("table").disable(AS_WRITTEN)


def prose(text: str, find: Callable[[str], str | None]) -> list[nodes.Node]:
    """A docstring as nodes; `find` says which public object a name in backticks is, if any."""
    document = nodes.Element()
    renderer = cast(DocutilsRenderer, markdown().renderer)
    with renderer.current_node_context(document):
        renderer.nested_render_text(text, 0)
    for literal in list(document.findall(nodes.literal)):
        if full := find(literal.astext()):
            link = pending_xref("", refdomain="py", reftype="obj", reftarget=full, refexplicit=True, refwarn=True)
            literal.replace_self(link)
            link += literal
    return list(document.children)


class Modules(SphinxDirective):
    """All modules of this page: a section each."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        for module in modules_of(self.env.docname):
            self.env.note_dependency(str(module.path))
            name = module.name.removeprefix(f"{PACKAGE}.")
            section = _section(name, name)
            self.state.nested_parse(StringList(list(module_text(module)), "modules"), 0, section)
            link_types(section, library())
            found.append(section)
        return found


class Docstring(SphinxDirective):
    """The documentation of an object, by its full name."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        full, known = self.arguments[0], library()
        if full in known.modules:
            return prose(known.modules[full].docstring, partial(known.find_in_prose, module=full))
        item, module = known.objects[full], self.env.ref_context["py:module"]
        of = item.name if item.kind == "class" else item.name.rpartition(".")[0]

        def find(text: str) -> str | None:
            return None if text in item.parameters else known.find_in_prose(text, module, of)

        return prose(known.described(full), find) + prose(nature(item), find)


class Overview(SphinxDirective):
    """The modules of a page, each with the first paragraph of its docstring."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        lines = ["| module | what it has |", "|---|---|"]
        for module in modules_of(self.arguments[0]):
            self.env.note_dependency(str(module.path))
            lines.append(f"| `{module.name.removeprefix(f'{PACKAGE}.')}` | {module.summary} |")
        return prose("\n".join(lines), library().find_in_prose)


class Commands(SphinxDirective):
    """Every command's own help."""

    def run(self) -> list[nodes.Node]:
        # Not at the top: all other pages are made without importing the package.
        from replaylab.cli.main import build_parser

        self.env.note_reread()
        return [self.command(name, parser) for name, parser in leaves(build_parser(), f"python -m {PACKAGE}")]

    def command(self, name: str, parser: argparse.ArgumentParser) -> nodes.section:
        """A section: what it does, how it is called, and its arguments, each with an anchor."""
        parser.prog = name
        verb = name.removeprefix(f"python -m {PACKAGE} ")
        section = _section(verb, f"command-{verb.replace(' ', '-')}")
        about = (parser.description or "").rstrip(".")
        section += prose(f"{about[:1].upper()}{about[1:]}.", _nothing)
        formatter = parser._get_formatter()
        arguments = [one for one in parser._actions if not isinstance(one, argparse._HelpAction)]
        wanted = [one for one in arguments if one.required or not one.option_strings]
        formatter.add_usage(None, wanted, [], prefix="")
        options = any(one.option_strings and not one.required for one in arguments)
        usage = formatter.format_help().strip() + (" [options]" if options else "")
        section += nodes.literal_block("", usage, language="text", classes=["usage"])
        for group in parser._action_groups:
            if group._group_actions and group.title not in ("positional arguments", "options"):
                section += nodes.rubric("", group.title or "")
                section += prose(group.description or "", _nothing)
            for action in [one for one in group._group_actions if one in arguments]:
                called = formatter._format_action_invocation(action)
                text = [f"```{{program}} {verb}", "```", f"```{{option}} {called}", "```"]
                self.state.nested_parse(StringList(text, "commands"), 0, section)
                about = formatter._expand_help(action) if action.help else ""
                list(section.findall(desc_content))[-1].extend(prose(about, _nothing))
        return section


def leaves(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The commands below a parser that have no further ones, by their whole names."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        for verb, inner in action.choices.items():
            yield from leaves(inner, f"{name} {verb}")


def module_text(module: Module) -> Iterator[str]:
    """A module in MyST: its docstring, its classes and functions as they stand there, its constants."""
    yield from (f"```{{py:module}} {module.name}", "```", f"```{{docstring}} {module.name}", "```")
    constants = [item for item in module.items if item.kind == "data"]
    for item in module.items:
        if item not in constants:
            yield from _item_text(module, item)
    if constants:
        yield from ("", "```{rubric} Constants", "```")
    for item in constants:
        yield from _item_text(module, item)


def _item_text(module: Module, item: Item, ticks: int = 5) -> Iterator[str]:
    fence = "`" * ticks
    yield f"{fence}{{py:{item.kind}}} {item.name.rpartition('.')[2]}{item.signature}"
    if item.annotation:
        yield f":type: {json.dumps(item.annotation, ensure_ascii=False)}"
    if item.value:
        yield f":value: {json.dumps(item.value, ensure_ascii=False)}"
    if item.kind == "data" or "." in item.name:
        yield ":no-contents-entry:"  # the contents of a page list classes and functions
    yield from (f":{option}:" for option in item.options)
    yield from ("", f"```{{docstring}} {module.name}.{item.name}", "```")
    for member in item.members:
        yield from _item_text(module, member, ticks - 1)
    yield fence


def nature(item: Item) -> str:
    """What kind of class it is, as a sentence; empty where there is nothing to say."""
    bases = ", ".join(f"`{base}`" for base in item.bases)
    words = (item.nature or ("class" if bases else "")) + (f", a kind of {bases}" if bases else "")
    return f"{words[:1].upper()}{words[1:]}." if words else ""


def _section(title: str, name: str) -> nodes.section:
    section = nodes.section(ids=[nodes.make_id(name)], names=[nodes.fully_normalize_name(name)])
    section += nodes.title("", title)
    return section


def _nothing(text: str) -> None:
    """No name in the help of a command is a link."""


def link_types(section: nodes.section, known: Library) -> None:
    """Types in signatures: links where they are ours, whichever module they are imported from; else as they are written."""
    for link in list(section.findall(pending_xref)):
        if "py:module" in link:
            full = known.find(link["reftarget"], link["py:module"], link.get("py:class") or "")
            if full is None:
                link.replace_self(link.children)
            else:
                link["reftarget"], link["reftype"] = full, "obj"  # of any kind: types may be constants


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("modules", Modules)
    app.add_directive("docstring", Docstring)
    app.add_directive("overview", Overview)
    app.add_directive("commands", Commands)
    app.connect("builder-inited", lambda app: library.cache_clear())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
