"""A notebook shows the page that was asked for, from whichever folder, or stops and says why."""

import ast
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import nbformat
import pytest
from conftest import LIMIT_SECONDS
from executed_pages import papermill
from hypothesis import given
from hypothesis import strategies as some

from replaylab.pages import own_run, parameters
from replaylab.store import book_folder, store_of
from replaylab.sweeps.sweep import Table
from replaylab.worlds.named import DOMAINS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "03_replay_sweep.ipynb"
WORLDS_PAGE = ROOT / "book" / "01_worlds.ipynb"
EXPLORER = ROOT / "book" / "explorer.ipynb"
ABLATIONS_PAGE = ROOT / "book" / "04_ablations.ipynb"
ALIGNMENT_PAGE = ROOT / "book" / "06_alignment.ipynb"
SECOND_PAGE = ROOT / "book" / "07_second_world.ipynb"
FAMILY_PAGE = ROOT / "book" / "08_architectures.ipynb"
EDITION_PAGE = ROOT / "book" / "09_second_edition.ipynb"
SCALE_PAGE = ROOT / "book" / "10_scale.ipynb"
KINDS = {
    PAGE: parameters.SweepParameters,
    WORLDS_PAGE: parameters.WorldsParameters,
    EXPLORER: parameters.ExplorerParameters,
    ABLATIONS_PAGE: parameters.AblationsParameters,
    ALIGNMENT_PAGE: parameters.AlignmentParameters,
    SECOND_PAGE: parameters.SecondWorldParameters,
    FAMILY_PAGE: parameters.SecondFamilyParameters,
    EDITION_PAGE: parameters.StoreParameters,
    SCALE_PAGE: parameters.StoreParameters,
}
VALID = ("preset", "replay_fractions", "seeds", "cluster", "cluster_file", "store")
OF_A_KERNEL: dict[str, object] = {
    "In": [""],
    "Out": {},
    "_": "",
    "_i1": "preset",
    "__name__": "__main__",
    "_dh": ["/"],
    "exit": None,
}


def refusal(names: dict[str, object]) -> str:
    with pytest.raises(ValueError) as error:
        parameters.parameters(names)
    return str(error.value)


# Parameters


def test_without_parameters_the_defaults_hold() -> None:
    assert asdict(parameters.parameters(OF_A_KERNEL)) == {
        "preset": "published", "replay_fractions": [], "seeds": [], "cluster": "inline", "cluster_file": "",
        "store": "",
    }  # fmt: skip


@given(
    some.lists(some.one_of(some.floats(0, 1), some.sampled_from([0, 1])), max_size=6, unique=True),
    some.lists(some.integers(0, 10**6), max_size=6, unique=True),
    some.sampled_from(["smoke", "quick", "published"]),
    some.sampled_from(["inline", "local", "slurm"]),
)
def test_valid_values_come_back_as_given(fractions: list[float], seeds: list[int], preset: str, cluster: str) -> None:
    given_ = {
        "replay_fractions": fractions,
        "seeds": seeds,
        "preset": preset,
        "cluster": cluster,
        "cluster_file": "lab.yaml",
        "store": "here",
    }
    assert asdict(parameters.parameters(OF_A_KERNEL | given_)) == given_


@given(
    some.text("abcdefghijklmnopqrstuvwxyz_", min_size=1).filter(
        lambda name: not name.startswith("_") and name not in {*VALID, "exit", "quit", "open"}
    ),
    some.sampled_from(["x", 1, 0.5, True, [0], {"a": 1}, (1,), None]),
)
def test_any_other_plain_public_name_is_refused(name: str, value: object) -> None:
    message = refusal({name: value})
    assert f"unknown parameter {name!r}" in message
    for valid in VALID:
        assert f"\n  {valid}: " in message


def test_a_misspelt_name_gets_the_nearest_one() -> None:
    assert "did you mean 'replay_fractions'?" in refusal({"replay_fraction": 0.5})
    assert "did you mean" not in refusal({"zzz": 0.5})


def test_what_is_no_plain_value_is_no_parameter() -> None:
    assert parameters.parameters({"figures": sys, "p": object(), "parameters": parameters.parameters}).seeds == []


@pytest.mark.parametrize(
    ("name", "value", "to_write"),
    [
        ("replay_fractions", "[0,0.5]", '-y "replay_fractions: [0, 0.5]"'),
        ("replay_fractions", 0.25, '-y "replay_fractions: [0.25]"'),
        ("replay_fractions", "half", '-y "replay_fractions: [0, 0.5]"'),
        ("replay_fractions", None, '-y "replay_fractions: [0, 0.5]"'),
        ("seeds", "[0,1]", '-y "seeds: [0, 1]"'),
        ("seeds", "0,1", '-y "seeds: [0, 1]"'),
        ("seeds", 3, '-y "seeds: [3]"'),
        ("store", 12, "-r store TEXT"),
        ("preset", True, "-r preset TEXT"),
    ],
)
def test_a_value_of_the_wrong_type_says_what_to_write(name: str, value: object, to_write: str) -> None:
    message = refusal({name: value})
    assert f"parameter {name!r} is {value!r} ({type(value).__name__})" in message
    assert to_write in message


@pytest.mark.parametrize("item", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5", None, [0.5]])
def test_replay_fractions_are_numbers_from_0_to_1(item: object) -> None:
    assert f"item 1, {item!r}" in refusal({"replay_fractions": [0, item]})


@pytest.mark.parametrize("item", [-1, 0.0, True, "0", None])
def test_seeds_are_whole_numbers_from_0(item: object) -> None:
    assert f"item 0, {item!r}" in refusal({"seeds": [item]})


def test_nothing_is_asked_for_twice() -> None:
    assert "only once" in refusal({"replay_fractions": [0, 0.5, 0.0]})


def test_presets_and_clusters_are_listed() -> None:
    assert "did you mean 'quick'?" in refusal({"preset": "quik"})
    assert 'one of "inline", "local", "slurm"' in refusal({"cluster": "slum"})


def test_names_are_of_those_there_are_and_go_through_the_shell() -> None:
    def refused(value: object) -> str:
        with pytest.raises(ValueError) as error:
            parameters.parameters({"domains": value}, parameters.WorldsParameters)
        return str(error.value)

    assert parameters.parameters({"domains": ["near"]}, parameters.WorldsParameters).domains == ["near"]
    assert "did you mean 'driving'?" in refused(["near", "drivin"]) and '"doom"' in refused(["drivin"])
    for value in ("near, driving", "[near, driving]", '["near", "driving"]'):
        assert '-y "domains: [near, driving]"' in refused(value)
    assert '-y "domains: [driving, ' in refused(3)
    assert "is not a name" in refused([3]) and "only once" in refused(["near", "near"])


def test_a_default_that_is_a_list_is_shown_where_valid_parameters_are_listed() -> None:
    with pytest.raises(ValueError, match=r'presets: list of names, default \["published", "dose", "dose-between"\]'):
        parameters.parameters({"preset": "pilot"}, parameters.AlignmentParameters)


def test_another_notebook_brings_its_own_parameters() -> None:
    @dataclass(frozen=True)
    class Others:
        clips: list[int] = parameters.list_of("seeds")

    assert parameters.parameters({"clips": [3]}, Others).clips == [3]
    with pytest.raises(ValueError, match="unknown parameter 'seeds'"):
        parameters.parameters({"seeds": [3]}, Others)


# Folders


def test_the_book_is_found_from_the_root_from_itself_and_from_below(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (ROOT, ROOT / "book", ROOT / "book" / "runs"):
        monkeypatch.chdir(folder)
        assert book_folder().samefile(ROOT / "book")


def test_outside_a_repository_the_error_says_where_it_looked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"in {tmp_path} or above"):
        book_folder()


def test_stores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT / "book")
    assert store_of("published", "") == book_folder() / "results"
    assert store_of("quick", "") == book_folder() / "runs" / "store"
    monkeypatch.chdir(tmp_path)
    assert store_of("quick", "mine") == tmp_path / "mine"
    assert store_of("published", tmp_path) == tmp_path


# The pages themselves


@pytest.fixture(scope="module", params=list(KINDS), ids=lambda path: path.name)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def page(path: Path) -> nbformat.NotebookNode:
    page = nbformat.read(path, as_version=4)
    nbformat.validate(page)
    return page


def code_cells(page: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in page.cells if cell.cell_type == "code"]


def page_tags(page: nbformat.NotebookNode, tag: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in page.cells if tag in cell.metadata.get("tags", [])]


def test_cells_are_thin(page: nbformat.NotebookNode) -> None:
    for cell in code_cells(page):
        assert len(cell.source.splitlines()) <= 8
        kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
        assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.For, ast.While, ast.Try}
        assert "chdir" not in cell.source and "warnings" not in cell.source


def test_the_parameters_cell_has_the_defaults_and_nothing_else(page: nbformat.NotebookNode, path: Path) -> None:
    (cell,) = page_tags(page, "parameters")
    names: dict[str, object] = {}
    exec(cell.source, {}, names)
    assert names == asdict(KINDS[path]())


def test_no_cell_leaves_a_plain_value_that_would_be_taken_for_a_parameter(page: nbformat.NotebookNode, path: Path) -> None:
    """Or the second cell would fail when a reader runs it again."""
    assigned = [
        (target.id, type(node.value))
        for cell in code_cells(page)
        if "parameters" not in cell.metadata.get("tags", [])
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
    others = {PAGE: ["table", "values", "control", "budgets"], EDITION_PAGE: ["made"], SCALE_PAGE: ["points"]}
    names = ["p", *others.get(path, ["table"])]
    assert assigned == [(name, ast.Call) for name in names]


def test_every_figure_is_described_in_words(page: nbformat.NotebookNode, path: Path) -> None:
    drawn = [cell for cell in code_cells(page) if cell.id.endswith("-figure") or cell.id == "base-curve"]
    counts = {PAGE: 5, WORLDS_PAGE: 2, EXPLORER: 0, ABLATIONS_PAGE: 2, ALIGNMENT_PAGE: 5, SECOND_PAGE: 2,
              FAMILY_PAGE: 2, EDITION_PAGE: 1, SCALE_PAGE: 1}  # fmt: skip
    assert len(drawn) == counts[path]
    for cell in drawn:
        assert len(cell.metadata.mystnb.image.alt) > 80
        assert len(cell.metadata.mystnb.figure.caption) > 40


# The page, executed


def papermill_alone(folder: Path, *words: str, fails: bool = False) -> str:
    """What papermill wrote to stdout, run as a process in `folder` without a terminal; with `fails`, to stderr."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "papermill", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    assert (done.returncode != 0) == fails, done.stderr[-4000:]
    return done.stderr if fails else done.stdout


@pytest.fixture(scope="module")
def store(swept: Table) -> Path:
    """One store for this file's executions: they read. (The README's commands, tested elsewhere, train.)"""
    return swept.store


def smoke(store: Path) -> list[str]:
    return ["-p", "preset", "smoke", "-p", "store", str(store)]


def shown(executed: nbformat.NotebookNode) -> dict[str, list[dict[str, str]]]:
    """What the reader sees, by cell: the data of every output that is not a log."""
    assert not [o for cell in code_cells(executed) for o in cell.outputs if o.output_type == "error"]
    return {
        cell.id: [o.data for o in cell.outputs if o.output_type in ("execute_result", "display_data")]
        for cell in code_cells(executed)
        if "injected-parameters" not in cell.metadata.get("tags", [])
    }


@pytest.fixture(scope="module")
def from_root(store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    out = tmp_path_factory.mktemp("out") / "smoke.ipynb"
    papermill("book/03_replay_sweep.ipynb", str(out), *smoke(store))
    return shown(nbformat.read(out, as_version=4))


def test_it_shows_every_table_figure_and_sentence_once(from_root: dict[str, list[dict[str, str]]]) -> None:
    kinds = {cell: [next(k for k in ("image/svg+xml", "text/markdown", "text/html") if k in data) for data in datas]
             for cell, datas in from_root.items() if datas}  # fmt: skip
    assert kinds == {
        "opening": ["text/markdown"],
        "own-effects": ["text/html"],
        "own-clips": ["text/html"],
        "own-next": ["text/markdown"],
        "tradeoff-figure": ["image/svg+xml"],
        "tradeoff-values": ["text/html"],
        "steps-figure": ["image/svg+xml"],
        "steps-values": ["text/html"],
        "fractions-figure": ["image/svg+xml"],
        "fractions-values": ["text/html"],
        "gallery": ["text/html"],
        "budgets-found": ["text/markdown"],
        "found-text": ["text/markdown"],
        "every-figure": ["image/svg+xml"],
        "every-values": ["text/html"],
        "measures-table": ["text/html"],
        "ceilings": ["text/markdown"],
        "base-curve": ["image/svg+xml"],
        "base-values": ["text/html"],
        "standing": ["text/markdown"],
        "status-table": ["text/html"],
    }


def test_a_reader_s_own_run_says_what_ran_beside_what_is_published(from_root: dict[str, list[dict[str, str]]]) -> None:
    (banner,), (following,) = (
        ("".join(data["text/markdown"]) for data in from_root["opening"]),
        ("".join(data["text/markdown"]) for data in from_root["own-next"]),
    )
    assert "preset *smoke*, 2 of 2 runs complete: 4 steps" in banner and "**It took** 2 runs, " in banner
    cells = re.findall(r"<td[^>]*>(.*?)</td>", "".join(from_root["own-effects"][0]["text/html"]))
    lines = [cells[first : first + 4] for first in range(0, len(cells), 4)]
    assert all(
        re.fullmatch(r"[+−][\d.]+", own) and re.fullmatch(r"[+−][\d.]+ \(.* to .*\)", there) for _, own, there, _ in lines
    )
    assert len(lines) == 6 and len([line for line in lines if "replay 50 % − replay 0 %" in line[0]]) == 3
    same = sum(line[3] == "the same" for line in lines)
    assert f"**{same} of {sum('none' not in line[3] for line in lines)} directions agree**" in banner
    assert not re.search(r"too few runs|0 of 0", banner)
    assert "".join(from_root["own-clips"][0]["text/html"]).count("<figure") > 4
    assert "top of the page" in "".join(from_root["gallery"][0]["text/html"])
    assert '-p preset smoke -y "seeds: [0, 1, 2]"' in following and "4 runs more, about" in following
    assert "--preset published" in following and "hours in all" in following
    assert not from_root["control-values"] and not from_root["budgets-table"]
    assert "about the published runs" in "".join(from_root["budgets-found"][0]["text/markdown"])


def prose(executed: dict[str, list[dict[str, str]]]) -> list[str]:
    return [executed[cell][0]["text/markdown"] for cell in ("standing", "found-text")]


def test_from_elsewhere_with_a_store_of_ones_own_it_says_which_results_are_not_here(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for cell in code_cells(nbformat.read(PAGE, as_version=4)):
        exec(cell.source, names)
        if "parameters" in cell.metadata.get("tags", []):
            names |= {"preset": "smoke", "store": str(store)}
    assert (names["table"].runs["state"] == "done").all()  # type: ignore[attr-defined]
    assert names["control"].rows.empty  # type: ignore[attr-defined]
    assert "published results are not here" in own_run.opening(names["table"], ["C4"])  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_from_the_book_folder_it_shows_the_same(
    store: Path, from_root: dict[str, list[dict[str, str]]], tmp_path: Path
) -> None:
    papermill_alone(ROOT / "book", "03_replay_sweep.ipynb", str(tmp_path / "out.ipynb"), *smoke(store))
    executed = shown(nbformat.read(tmp_path / "out.ipynb", as_version=4))
    assert prose(executed) == prose(from_root)


@pytest.mark.slow
def test_in_place_it_shows_the_same(store: Path, from_root: dict[str, list[dict[str, str]]], tmp_path: Path) -> None:
    book = tmp_path / "book"
    book.mkdir()
    shutil.copy(PAGE, book)
    shutil.copy(ROOT / "_toc.yml", book)
    same = "book/03_replay_sweep.ipynb"
    papermill_alone(tmp_path, same, same, *smoke(store))
    assert prose(shown(nbformat.read(tmp_path / same, as_version=4))) == prose(from_root)


@pytest.mark.slow
def test_piped_it_prints_the_executed_notebook(store: Path, from_root: dict[str, list[dict[str, str]]]) -> None:
    printed = papermill_alone(ROOT, "book/03_replay_sweep.ipynb", *smoke(store))
    assert prose(shown(nbformat.reads(printed, as_version=4))) == prose(from_root)


def test_an_unknown_parameter_stops_it_before_anything_runs(tmp_path: Path) -> None:
    error = papermill_alone(ROOT, str(PAGE), str(tmp_path / "out.ipynb"), "-p", "replay", "0.5", fails=True)
    assert "unknown parameter 'replay'" in error and "Valid parameters:" in error
    executed = nbformat.read(tmp_path / "out.ipynb", as_version=4)
    (swept,) = [cell for cell in code_cells(executed) if cell.id == "sweep"]
    assert swept.execution_count is None


@pytest.mark.slow
def test_a_list_passed_as_text_stops_it(tmp_path: Path) -> None:
    words = [str(PAGE), str(tmp_path / "out.ipynb"), "-p", "replay_fractions", "[0,0.5]"]
    assert '-y "replay_fractions: [0, 0.5]"' in papermill_alone(ROOT, *words, fails=True)


# The explorer's page, executed


def test_the_explorer_shows_every_run_of_the_store(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "explorer.ipynb"
    papermill("book/explorer.ipynb", str(out), *smoke(store))
    executed = {cell: datas for cell, datas in shown(nbformat.read(out, as_version=4)).items() if datas}
    assert list(executed) == ["explorer", "grid"]
    page, stills = ("".join(data["text/html"]) for (data,) in executed.values())
    assert stills.count('class="rl-title"') == 9 and re.search(
        r"th percentile: ADE [+\u2212][\d.]+ px, rank \d of 8<", stills
    )
    for choice in ("driving-eventful", "95", "replay 0 %", "replay 50 %", "2", "4"):
        assert f'<option value="{choice}"' in page


# The page on alignment, executed


def test_the_page_on_alignment_shows_what_a_store_has(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "alignment.ipynb"
    words = ["-y", "presets: [smoke]", "-p", "store", str(store)]
    papermill("book/06_alignment.ipynb", str(out), *words)
    executed = {cell: datas for cell, datas in shown(nbformat.read(out, as_version=4)).items() if datas}
    drawn = [cell for cell, (data,) in executed.items() if "image/svg+xml" in data]
    assert drawn == ["plane-figure", "within-figure", "configurations-figure", "clips-figure", "dose-figure"]
    assert "preset *smoke*, 2 of 2 runs complete: 4 steps" in executed["opening"][0]["text/markdown"]
    effects = "".join(executed["own-effects"][0]["text/html"])
    assert "Sample clips of seed 0 at the last step" in "".join(executed["own-clips"][0]["text/html"])
    assert "fine-tuned on 0 % eventful" in effects and "directions agree" in executed["opening"][0]["text/markdown"]
    following = "".join(executed["own-next"][0]["text/markdown"])
    assert "python -m replaylab sweep --preset smoke --seeds 0 1 2 --store" in following
    assert '-y "presets: [smoke]" -y "seeds: [0, 1, 2]" -p store' in following
    assert "no run has enough checkpoints" in executed["found-text"][0]["text/markdown"]


# The worlds' page, executed


SHOWN_OF_WORLDS = {
    "survey": "text/markdown",
    "target-videos": "text/html",
    "replay-videos": "text/html",
    "second-videos": "text/html",
    "statistics-table": "text/html",
    "patterns-figure": "image/svg+xml",
    "patterns-values": "text/html",
    "velocities-figure": "image/svg+xml",
    "velocities-values": "text/html",
    "found-text": "text/markdown",
}


def worlds_shown(folder: Path, *words: str) -> dict[str, list[dict[str, str]]]:
    out = folder / "worlds.ipynb"
    store = ["-p", "store", str(folder / "store")]
    papermill("book/01_worlds.ipynb", str(out), "-p", "preset", "smoke", *store, *words)
    executed = shown(nbformat.read(out, as_version=4))
    assert {cell for cell, datas in executed.items() if datas} == set(SHOWN_OF_WORLDS)
    for cell, kind in SHOWN_OF_WORLDS.items():
        assert [kind in data for data in executed[cell]] == [True], cell
    return executed


def test_the_worlds_page_shows_the_domains_that_were_asked_for(tmp_path: Path) -> None:
    executed = worlds_shown(tmp_path, "-y", "domains: [driving, diverse-driving]")
    assert executed["target-videos"][0]["text/html"].count("<video ") == 2
    assert "None of these domains" in executed["second-videos"][0]["text/html"]
    assert "times as many" in executed["found-text"][0]["text/markdown"]


@pytest.mark.slow
def test_the_worlds_page_shows_every_domain(tmp_path: Path) -> None:
    executed = worlds_shown(tmp_path)
    videos = [executed[f"{group}-videos"][0]["text/html"].count("<video ") for group in ("target", "replay", "second")]
    assert sum(videos) == len(DOMAINS) and min(videos) > 0


def test_the_worlds_page_refuses_a_domain_that_does_not_exist(tmp_path: Path) -> None:
    words = [str(WORLDS_PAGE), str(tmp_path / "out.ipynb"), "-y", "domains: [highway]"]
    assert 'none of "driving", ' in papermill_alone(ROOT, *words, fails=True)
