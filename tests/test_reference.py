"""The book's reference holds everything public with its documentation, and is built without torch."""

import re
import shutil
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, run

sys.path.append(str(ROOT / "book" / "_ext"))

import reference
from html_page import Page
from module_reader import COMMAND_LINE, Item, Library, package_folder, read_library, read_module

SOURCE = '''\
"""What is here? Nothing of use.

Refused: use.
"""

from replaylab.spec import Described

KINDS = ("short", "long")
# How many are kept,
# at most.
KEPT = 2
SEEN = 3.0  # times its standard error
LONG = {
    "one": "a long text of which a reader of the reference learns nothing that would be of interest",  # the first
    "two": 2,
}
DONE, LEFT = 1, 2  # what one may be told
_HIDDEN = 1


@dataclass(frozen=True)
class Size(Described):
    """How much of each `kind`; see `measured`."""

    kind: str  # one of KINDS, by type of agent  # noqa: X1
    clips: int = field(default=8, metadata=NONE)  # to damage; 0: all  # type: ignore[assignment]
    precision: str = (
        "fp32"  # in which it is drawn
    )
    places: tuple[str, ...] = field(default_factory=tuple)

    @property
    def name(self) -> str:
        """For people."""

    @staticmethod
    def of(number: int) -> "Size":
        """From a number."""

    def as_dict(self) -> dict[str, Any]:
        pass

    def _hidden(self) -> None:
        pass


class Larger(Size):
    def as_dict(self) -> dict[str, Any]:
        pass

    def name(self) -> str:
        pass


class Model(Protocol):
    """What is asked of a model."""

    def draw(self, noise: Tensor, /) -> Tensor: ...  # futures


def measured(sizes: list[Size], *, kind: str = "short", **others: int) -> dict[str, Size]:
    """The sizes by `kind`, each a `Size`."""


def silent() -> None:
    pass
'''


@pytest.fixture(scope="module")
def library() -> Library:
    return read_library(package_folder())


@pytest.fixture
def sample(tmp_path: Path) -> Library:
    path = tmp_path / "sample.py"
    path.write_text(SOURCE)
    spec = tmp_path / "spec.py"
    spec.write_text('"""Runs."""\n\nclass Described:\n    """Plain."""\n\n    def as_dict(self):\n        """Lists."""\n')
    return Library({f"replaylab.{name.stem}": read_module(name, f"replaylab.{name.stem}") for name in (path, spec)})


def of(sample: Library, name: str) -> Item:
    return sample.objects[f"replaylab.sample.{name}"]


# ------------------------------------------------------------------------------------------------------- how it is read
def test_notes_on_fields_and_constants_are_the_comments_beside_them(sample: Library) -> None:
    notes = {name: of(sample, name).docstring for name in ("KEPT", "SEEN", "DONE", "LEFT", "KINDS")}
    assert notes == {
        "KEPT": "How many are kept, at most.", "SEEN": "times its standard error",
        "DONE": "what one may be told", "LEFT": "what one may be told", "KINDS": "",
    }  # fmt: skip
    assert of(sample, "Size.kind").docstring == "one of KINDS, by type of agent"
    assert of(sample, "Size.clips").docstring == "to damage; 0: all"
    assert of(sample, "Size.precision").docstring == "in which it is drawn"
    assert of(sample, "Model.draw").docstring == "futures"


def test_fields_have_types_and_the_defaults_that_a_reader_would_give(sample: Library) -> None:
    fields = [(of(sample, f"Size.{name}").annotation, of(sample, f"Size.{name}").value) for name in (
        "kind", "clips", "precision", "places")]  # fmt: skip
    assert fields == [("str", ""), ("int", "8"), ("str", "'fp32'"), ("tuple[str, ...]", "tuple()")]
    assert (of(sample, "DONE").value, of(sample, "LEFT").value) == ("1", "2")


def test_signatures_are_those_of_the_source(sample: Library) -> None:
    wanted = "(sizes: list[Size], *, kind: str='short', **others: int) -> dict[str, Size]"
    assert of(sample, "measured").signature == wanted
    assert of(sample, "Size.of").signature == "(number: int) -> 'Size'"
    assert of(sample, "Model.draw").signature == "(noise: Tensor, /) -> Tensor"
    assert reference.nature(of(sample, "Size")) == "Frozen dataclass, a kind of `Described`."
    assert reference.nature(of(sample, "Model")) == "Protocol."


def test_what_is_private_or_long_and_without_a_note_is_left_out(sample: Library) -> None:
    names = {full.removeprefix("replaylab.sample.") for full in sample.objects}
    assert not names & {"_HIDDEN", "Size._hidden", "LONG"}


def test_what_says_nothing_of_itself_is_found_and_an_override_says_what_it_overrides(sample: Library) -> None:
    assert sample.undescribed() == ["replaylab.sample.Larger", "replaylab.sample.silent"]
    assert sample.described("replaylab.sample.Size.as_dict") == "As `Described.as_dict`."
    assert sample.described("replaylab.sample.Larger.name") == "As `Size.name`."


def test_names_in_backticks_are_found_where_they_stand(sample: Library) -> None:
    module = "replaylab.sample"
    assert sample.find("kind", module, "Size") == "replaylab.sample.Size.kind"
    assert sample.find("measured()", module) == "replaylab.sample.measured"
    assert sample.find("Described.as_dict", module) == "replaylab.spec.Described.as_dict"
    assert sample.find("spec.Described") == "replaylab.spec.Described"
    assert sample.find("spec") == "replaylab.spec"
    assert sample.find("of all", module) is None
    assert sample.find("Size.clips") is None
    assert sample.find_in_prose("Size.clips") == "replaylab.sample.Size.clips"  # the only one of that name
    assert sample.find_in_prose("measured") is None


@pytest.mark.parametrize(
    "text",
    [
        "Clips (B, C, t, h, w) <= 2 > 1 & less <b>than</b> [this](that) or ![that](this)",
        "a backslash \\n, a_b_c, $x$, {name}, {{name}}, https://example.org, &amp;",
        "# no heading\nunder it\n---\n> 0 is no quotation",
    ],
)
def test_prose_stays_as_it_is_written(text: str) -> None:
    shown = "\n".join(node.astext() for node in reference.prose(text, lambda name: None))
    assert shown.split() == text.split()


def test_prose_has_code_lists_tables_and_indented_text() -> None:
    text = "Of `one`:\n\n- *all*\n- none\n\n| a | b |\n|---|---|\n| 1 | `2` |\n\n    as  it\n      stands"
    tags = Counter(node.tagname for part in reference.prose(text, lambda name: None) for node in part.findall())
    assert tags["literal"] == 2
    assert (tags["list_item"], tags["emphasis"], tags["row"], tags["literal_block"]) == (2, 1, 2, 1)


# --------------------------------------------------------------------------------------------------------- what is there
def test_everything_public_has_a_docstring(library: Library) -> None:
    silent = library.undescribed()
    assert not silent, f"no docstring: {', '.join(silent)}"


def test_every_package_is_on_one_page_and_every_page_is_in_the_contents(library: Library) -> None:
    listed = Counter(name for names in reference.PAGES.values() for name in names)
    top = {path.stem for path in package_folder().iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert listed == Counter(top - {"__init__", *COMMAND_LINE}), "PAGES in book/_ext/reference.py"
    shown = Counter(module.name for page in reference.PAGES for module in reference.modules_of(page))
    assert shown == Counter(library.modules.keys() - {"replaylab"})
    for page in reference.PAGES:
        assert f"file: {page}\n" in (ROOT / "_toc.yml").read_text()
        assert f"{{overview}} {page}\n" in (ROOT / "book" / "reference.md").read_text()


def test_every_option_of_every_command_says_what_it_is_for() -> None:
    from replaylab.cli.main import build_parser

    silent = [
        f"{name} {action.dest}"
        for name, parser in reference.leaves(build_parser(), "replaylab")
        for action in parser._actions
        if not action.help
    ]
    assert silent == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The reference alone, built by Sphinx without a warning: the HTML of each page."""
    folder = tmp_path_factory.mktemp("reference")
    for path in (ROOT / "book").glob("reference_*.md"):
        shutil.copy2(path, folder)
    shutil.copy2(ROOT / "book" / "reference.md", folder / "reference.md")
    (folder / "clusters.md").write_text("# Clusters\n")
    (folder / "index.md").write_text("# Book\n\n```{toctree}\n:glob:\n\n*\n```\n")
    (folder / "conf.py").write_text(
        textwrap.dedent(f"""
        import sys
        from pathlib import Path

        sys.path.insert(0, {str(ROOT / "book" / "_ext")!r})
        extensions = ["myst_parser", "reference"]
        html_theme = "basic"
        html_domain_indices = False

        def finished(app, error):
            heavy = {{"torch", "diffusers", "transformers", "panda3d"}} & set(sys.modules)
            Path(app.outdir, "heavy.txt").write_text(" ".join(sorted(heavy)))

        def setup(app):
            app.connect("build-finished", finished)
        """)
    )
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "-b", "html", str(folder), str(folder / "html")]
    run(command, ROOT)
    html = {path.stem: path.read_text() for path in (folder / "html").glob("reference*.html")}
    return html | {"heavy": (folder / "html" / "heavy.txt").read_text()}


def words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text)


def test_the_reference_builds_without_a_warning_and_without_torch(built: dict[str, str]) -> None:
    assert built["heavy"] == ""


def test_every_public_name_has_an_anchor_on_its_page(built: dict[str, str], library: Library) -> None:
    for page in reference.PAGES:
        anchors = set(re.findall(r'\bid="([^"]+)"', built[page]))
        for module in reference.modules_of(page):
            wanted = {f"{module.name}.{item.name}" for whole in module.items for item in whole.everything()}
            assert wanted <= anchors, f"{page} lacks {sorted(wanted - anchors)[:5]}"


def test_a_page_says_every_word_of_a_docstring(built: dict[str, str], library: Library, tmp_path: Path) -> None:
    for page in reference.PAGES:
        path = tmp_path / f"{page}.html"
        path.write_text(built[page])
        shown = f" {' '.join(words(Page(path).text))} "
        for module in reference.modules_of(page):
            texts = [module.docstring]
            texts += [item.docstring for whole in module.items for item in whole.everything()]
            for text in texts:
                for part in re.split(r"^\d+\. |\n\n", text, flags=re.MULTILINE):
                    assert f" {' '.join(words(part))} " in shown or not words(part), f"{page}, {module.name}: {part}"


def test_types_of_other_modules_are_links(built: dict[str, str]) -> None:
    assert 'href="reference_runs.html#replaylab.spec.RunSpec"' in built["reference_sweeps"]
    assert 'href="#replaylab.spec.WorldSpec"' in built["reference_runs"]


def test_the_commands_are_those_of_the_parser(built: dict[str, str]) -> None:
    for anchor in ("command-worlds-build", "command-sweep", "cmdoption-sweep-seeds", "cmdoption-compare-arg-MADE"):
        assert f'id="{anchor}"' in built["reference_commands"], anchor


def test_the_library_is_read_without_being_imported() -> None:
    code = "import sys, module_reader as r; r.read_library(r.package_folder()); print('numpy' in sys.modules)"
    assert run(f'cd book/_ext && {sys.executable} -c "{code}"', ROOT).strip() == "False"
