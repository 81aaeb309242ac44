"""The house stands as `CONTRIBUTING.md` draws it: imports go one way, and what only reads stays light.

The source is read as text; nothing is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "replaylab"
FLOORS = [
    {"catalogue"}, {"description"}, {"spec"}, {"shipped_weights"}, {"mixture"}, {"buckets"}, {"util"}, {"data"}, {"sampler"},
    {"store"}, {"worlds"}, {"metrics"}, {"models"}, {"evaluation"}, {"training"}, {"sweeps"}, {"analysis"}, {"monitor"},
    {"pages"}, {"cli"}, {"__main__"},
]  # fmt: skip
"""From the ground up: a module imports from its own package and from the floors below it."""
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

FIGURES = {"matplotlib", "seaborn", "IPython"}
TORCH = {"torch", "diffusers", "transformers", "accelerate", "peft", "torchdata"}
LIGHT = {"description", "spec", "shipped_weights", "catalogue", "mixture", "buckets", "store", "analysis", "pages", "cli"}
"""What reading published results imports: no torch, at import, by however long a way."""
LIGHTER = {
    "": TORCH | {"pandas", "cv2"},
    "sweeps.presets": TORCH | {"pandas", "cv2"},
    "cli.ceiling": TORCH | {"pandas", "cv2"},
    "util.progress": TORCH,
    "metrics.distances": TORCH,
    "metrics.dynamics": TORCH,
    "metrics.fidelity": TORCH,
    "metrics.video_network": TORCH,
}
"""Modules of heavier packages that stay light themselves, and lighter ones that do without pandas or OpenCV."""


def modules() -> dict[str, ast.Module]:
    """ "data.clips" -> its source, parsed; a package's own name is that of its `__init__`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        found[name.removesuffix(".__init__") if name != "__init__" else ""] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imported(tree: ast.AST, at_import_only: bool = False) -> Iterator[str]:
    """Full names of what a module imports; at import only: outside of functions and of `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"line {node.lineno}: a relative import"
            for each in node.names:
                yield f"{node.module}.{each.name}"
        elif (at_import_only and isinstance(node, (ast.FunctionDef, ast.Lambda))) or (
            at_import_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        ):
            continue
        else:
            yield from imported(node, at_import_only)


@cache
def ours(module: str, at_import_only: bool = False) -> frozenset[str]:
    """The modules of this package that a module imports, by their names below `replaylab`."""
    found = set()
    for full in imported(MODULES[module], at_import_only):
        package, _, rest = full.partition(".")
        if package != "replaylab":
            continue
        name = rest
        while name not in MODULES and name:
            name = name.rpartition(".")[0]
        if name and name != module:
            found.add(name)
    return frozenset(found)


def others(module: str) -> set[str]:
    """Top-level names of other packages that a module imports at import."""
    return {full.partition(".")[0] for full in imported(MODULES[module], at_import_only=True)}


def place(module: str) -> str:
    """The package, or the module at the top, that a module belongs to."""
    return module.partition(".")[0]


def test_every_module_has_a_floor() -> None:
    assert {place(module) for module in MODULES if module} == set(FLOOR)


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_imports_go_down(module: str) -> None:
    for other in ours(module):
        assert place(other) == place(module) or FLOOR[place(other)] < FLOOR[place(module)], (
            f"{module} imports {other}, which stands above it"
        )


def test_no_circle() -> None:
    """Not even one that only an import inside a function closes."""
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " imports ".join([*way[way.index(module) :], module])
        if module not in done:
            for other in sorted(ours(module)):
                visit(other, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_figures_are_drawn_on_pages_only() -> None:
    drawing = {module for module in MODULES if others(module) & FIGURES}
    assert {place(module) for module in drawing} == {"pages"}


def test_reading_results_needs_no_torch() -> None:
    for module in MODULES:
        if place(module) in LIGHT:
            assert not (way := way_to(TORCH, module)), " imports ".join(way)


@pytest.mark.parametrize("module", LIGHTER)
def test_light_modules_stay_light(module: str) -> None:
    assert not (way := way_to(LIGHTER[module], module)), " imports ".join(way)


def way_to(heavy: set[str], module: str) -> tuple[str, ...]:
    """The shortest chain of imports through which a module imports one of these packages at import; () if none does."""
    ways: list[tuple[str, ...]] = [(module,)]
    seen = {module}
    for way in ways:  # grows meanwhile
        if reached := others(way[-1]) & heavy:
            return (*way, min(reached))
        for other in sorted(ours(way[-1], at_import_only=True) - seen):
            seen.add(other)
            ways.append((*way, other))
    return ()
