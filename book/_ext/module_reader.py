"""The public names of `replaylab` and their documentation, read from its source as text; nothing of it is imported.

Decision: public is what has no underscore in front. The notes on fields and constants are the comments beside them (of a
constant also those right above it, or a docstring below), because that is how this library is written. No package
for this is used: autodoc, autodoc2, autoapi and griffe drop these comments, and the first imports torch besides.

A constant is public where it has a note or fits on a line. Left out are the modules of the command line (`cli` and
`__main__`): the help of the commands documents them.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PACKAGE = "replaylab"
COMMAND_LINE = ("cli", "__main__")
# How the parts of a comment begin that are not prose.
FOR_TOOLS = r"\s# |-{5,}|\bnoqa\b|\b(?:fmt|ruff|mypy|pragma): |\btype: ignore"
LONGEST_VALUE = 100  # characters of a constant without a note, name included; longer ones are details

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Item:
    """Something public, as it is written."""

    kind: str  # of Sphinx's Python domain: function, class, method, property, attribute or data
    name: str  # within its module: "RunSpec.run_id"
    signature: str = ""  # of what is called: "(seed: int, purpose: str) -> Generator"
    parameters: tuple[str, ...] = ()  # their names
    docstring: str = ""
    annotation: str = ""  # an attribute's or a property's type
    value: str = ""  # an attribute's default, a constant's value where it is short
    options: tuple[str, ...] = ()  # for Sphinx: staticmethod, classmethod
    nature: str = ""  # of a class: "frozen dataclass", "named tuple", "protocol"
    bases: tuple[str, ...] = ()
    members: tuple[Item, ...] = ()

    def everything(self) -> Iterator[Item]:
        """This and its members."""
        yield self
        yield from self.members


@dataclass(frozen=True)
class Module:
    """A module of the package, or a package by its `__init__`."""

    name: str  # "replaylab.spec"
    path: Path
    docstring: str
    items: tuple[Item, ...]
    imports: dict[str, str]  # what a name of another module is in full: {"RunSpec": "replaylab.spec.RunSpec"}

    @property
    def summary(self) -> str:
        """The first paragraph of its docstring."""
        return self.docstring.split("\n\n")[0].replace("\n", " ")


@dataclass(frozen=True)
class Library:
    """All modules by their names."""

    modules: dict[str, Module]

    @cached_property
    def objects(self) -> dict[str, Item]:
        """Everything public by its full name."""
        return {
            f"{name}.{item.name}": item
            for name, module in self.modules.items()
            for whole in module.items
            for item in whole.everything()
        }

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The full names of everything by its name within a module."""
        found: dict[str, list[str]] = {}
        for full, item in self.objects.items():
            found.setdefault(item.name, []).append(full)
        return found

    def find(self, text: str, module: str = PACKAGE, of: str = "") -> str | None:
        """The full name of what `text` means in a module, in the class `of` first; None where it is nothing public."""
        text = text.removesuffix("()").removeprefix(f"{PACKAGE}.")
        first, _, rest = text.partition(".")
        imported = self.modules[module].imports.get(first) if module in self.modules else None
        candidates = [f"{module}.{of}.{text}", f"{module}.{text}"]
        candidates += [f"{imported}.{rest}".rstrip(".")] if imported else []
        candidates += [f"{PACKAGE}.{text}"]
        return next(filter(None, map(self._known, candidates)), None)

    def _known(self, full: str) -> str | None:
        """A full name where it is public; of a name that a package only hands on, the one where it is defined."""
        if full in self.objects or full in self.modules:
            return full
        module, _, name = full.rpartition(".")
        defined = self.modules[module].imports.get(name) if module in self.modules else None
        return self._known(defined) if defined else None

    def find_in_prose(self, text: str, module: str = PACKAGE, of: str = "") -> str | None:
        """As `find`; what begins with a capital may stand without its module where it is the only one of that name."""
        elsewhere = self._by_name.get(text, []) if text[:1].isupper() else []
        return self.find(text, module, of) or (elsewhere[0] if len(elsewhere) == 1 else None)

    def described(self, full: str) -> str:
        """The docstring of an object; of a method without one, a sentence that names what it overrides; else empty."""
        item = self.objects[full]
        if item.docstring or item.kind not in ("method", "property"):
            return item.docstring
        owner, _, name = full.rpartition(".")
        for base in self._bases(owner):
            if self.described_by(f"{base}.{name}"):
                return f"As `{base.rpartition('.')[2]}.{name}`."
        return ""

    def described_by(self, full: str) -> bool:
        """Whether there is such an object, with a docstring."""
        return full in self.objects and bool(self.objects[full].docstring)

    def _bases(self, full: str) -> Iterator[str]:
        """The classes of the package that a class derives from, nearest first."""
        module = max((name for name in self.modules if full.startswith(f"{name}.")), key=len)
        for base in self.objects[full].bases:
            found = self.find(base, module)
            if found in self.objects:
                yield found
                yield from self._bases(found)

    def undescribed(self) -> list[str]:
        """The full names of modules, functions, classes, methods and properties without a docstring."""
        modules = [name for name, module in self.modules.items() if not module.docstring]
        return modules + [
            full
            for full, item in self.objects.items()
            if item.kind not in ("attribute", "data") and not self.described(full)
        ]


def package_folder() -> Path:
    """Where the package lies; it is not imported. Raises ModuleNotFoundError where it is not installed."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed beside this Python: `make setup` does it")
    return Path(found.origin).parent


def read_library(folder: Path) -> Library:
    """All modules below the package's folder except those of the command line."""
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        parts = [PACKAGE, *path.relative_to(folder).with_suffix("").parts]
        if parts[1] not in COMMAND_LINE:
            name = ".".join(parts).removesuffix(".__init__")
            modules[name] = read_module(path, name)
    return Library(modules)


def read_module(path: Path, name: str) -> Module:
    """One module; raises SyntaxError as Python does."""
    text = path.read_text()
    tree = ast.parse(text, filename=str(path))
    return Module(name, path, ast.get_docstring(tree) or "", tuple(_items(tree, _Comments(text))), _imports(tree))


class _Comments:
    """The comments of a source by their lines."""

    def __init__(self, text: str) -> None:
        self.beside: dict[int, str] = {}
        self.alone: dict[int, str] = {}
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                where = self.beside if token.line[: token.start[1]].strip() else self.alone
                where[token.start[0]] = re.split(FOR_TOOLS, token.string.removeprefix("#"))[0].strip()

    def beside_all_of(self, node: ast.stmt) -> str:
        """Those beside a statement, on any of its lines."""
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        return " ".join(self.beside[line] for line in lines if self.beside.get(line))

    def above(self, node: ast.stmt) -> str:
        """Those that end on the line before a statement."""
        first = node.lineno
        while self.alone.get(first - 1):
            first -= 1
        return " ".join(self.alone[line] for line in range(first, node.lineno))


def _imports(tree: ast.Module) -> dict[str, str]:
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            for name in node.names:
                found[name.asname or name.name] = f"{node.module}.{name.name}"
    return found


def _items(tree: ast.Module, comments: _Comments) -> Iterator[Item]:
    for node, below in _statements(tree.body):
        if isinstance(node, Function):
            yield Item("function", node.name, *_signature(node), ast.get_docstring(node) or "")
        elif isinstance(node, ast.ClassDef):
            yield _class(node, comments)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            # Comments within a constant of several lines are about its parts.
            note = below or comments.beside.get(node.lineno) or comments.above(node)
            if note or len(ast.unparse(node)) <= LONGEST_VALUE:
                for name, value in _assigned(node):
                    short = value if len(f"{name} = {value}") <= LONGEST_VALUE else ""
                    yield Item("data", name, docstring=note, value=short)


def _class(node: ast.ClassDef, comments: _Comments) -> Item:
    members: list[Item] = []
    signature = ""
    parameters: tuple[str, ...] = ()
    for part, below in _statements(node.body, also="__init__"):
        if isinstance(part, Function) and part.name == "__init__":
            signature, parameters = _signature(part, skip=1)
        elif isinstance(part, Function):
            # A protocol's method is all on its line: its note stands beside it.
            note = comments.beside_all_of(part) if ast.unparse(part.body[0]) == "..." else ""
            members.append(_method(part, f"{node.name}.{part.name}", note))
        elif isinstance(part, ast.Assign | ast.AnnAssign):
            annotation = ast.unparse(part.annotation) if isinstance(part, ast.AnnAssign) else ""
            for name, value in _assigned(part):
                members.append(
                    Item(
                        "attribute",
                        f"{node.name}.{name}",
                        docstring=below or comments.beside_all_of(part),
                        annotation=annotation,
                        value=value,
                    )
                )
    bases = [ast.unparse(base.value if isinstance(base, ast.Subscript) else base) for base in node.bases]
    nature = {"NamedTuple": "named tuple", "Protocol": "protocol", "TypedDict": "typed dictionary"}
    natures = [nature[base] for base in bases if base in nature]
    for decorator in map(ast.unparse, node.decorator_list):
        if decorator.startswith("dataclass"):
            natures.append("frozen dataclass" if "frozen=True" in decorator else "dataclass")
    return Item(
        "class",
        node.name,
        signature.removesuffix(" -> None"),
        parameters,
        ast.get_docstring(node) or "",
        nature=", ".join(natures),
        bases=tuple(base for base in bases if base not in nature and base != "Generic"),
        members=tuple(members),
    )


def _method(node: Function, name: str, note: str) -> Item:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    text = ast.get_docstring(node) or note
    if any(decorator.split(".")[-1] in ("property", "cached_property") for decorator in decorators):
        return Item("property", name, docstring=text, annotation=ast.unparse(node.returns) if node.returns else "")
    options = tuple(word for word in ("staticmethod", "classmethod") if word in decorators)
    return Item("method", name, *_signature(node, skip=int("staticmethod" not in options)), text, options=options)


def _signature(node: Function, skip: int = 0) -> tuple[str, tuple[str, ...]]:
    """What is taken and given back, and the parameters' names; the first `skip` (self, cls) are left out."""
    arguments = node.args
    if skip:
        given = arguments.posonlyargs or arguments.args
        del given[:skip]
    back = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    parameters = tuple(part.arg for part in ast.walk(arguments) if isinstance(part, ast.arg))
    return f"({ast.unparse(arguments)}){back}", parameters


def _statements(body: list[ast.stmt], also: str = "") -> Iterator[tuple[ast.stmt, str]]:
    """The public ones (and the one named `also`), each with the docstring that follows it, if any."""
    for number, node in enumerate(body):
        after = body[number + 1] if number + 1 < len(body) else None
        below = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            below = after.value.value
        name = getattr(node, "name", "")
        if not name.startswith("_") or name == also:
            yield node, below


def _assigned(node: ast.Assign | ast.AnnAssign) -> Iterator[tuple[str, str]]:
    """The public names that a statement gives a value to, each with it."""
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        names, values = [target], [node.value]
        if isinstance(target, ast.Tuple):
            names, parts = target.elts, node.value.elts if isinstance(node.value, ast.Tuple) else []
            values = list(parts) if len(parts) == len(names) else [None] * len(names)
        for name, value in zip(names, values, strict=True):
            if isinstance(name, ast.Name) and not name.id.startswith("_"):
                yield name.id, _text(value)


def _text(value: ast.expr | None) -> str:
    """A value as it is written; of a dataclass's `field(...)` its default."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("field", "dataclasses.field"):
        given = {keyword.arg: keyword.value for keyword in value.keywords}
        made = given.get("default_factory")
        return f"{ast.unparse(made)}()" if made else _text(given.get("default"))
    return ast.unparse(value) if value else ""
