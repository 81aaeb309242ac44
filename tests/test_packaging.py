"""One place for pins, and nothing that disagrees with it."""

import ast
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from conftest import HELPERS, ROOT, run, tracked_files
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from replaylab.cli.main import main
from replaylab.shipped_weights import WEIGHTS, weights_digest


def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    names = [canonicalize_name(requirement.name) for requirement in requirements]
    assert len(set(names)) == len(names), "a package is pinned twice in constraints.txt"
    return dict(zip(names, requirements, strict=True))


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def environment() -> dict:
    return yaml.safe_load((ROOT / "environment.yml").read_text())


def conda_pip_lines() -> list[str]:
    return next(entry["pip"] for entry in environment()["dependencies"] if isinstance(entry, dict))


def named(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


def test_every_pin_is_exact() -> None:
    for requirement in pins().values():
        assert [part.operator for part in requirement.specifier] == ["=="], str(requirement)
        assert "*" not in str(requirement.specifier), str(requirement)


def test_the_pins_are_the_direct_dependencies_of_pyproject_and_no_others() -> None:
    declared = project()
    direct = [*declared["build-system"]["requires"], *declared["project"]["dependencies"]]
    extras = declared["project"]["optional-dependencies"]
    assert extras["all"] == [f"replaylab[{','.join(name for name in extras if name not in ('all', 'dev'))}]"]
    for name, extra in extras.items():
        direct += extra if name != "all" else []
    assert set(named(direct)) | {"nuscenes-devkit"} == set(pins())  # installed alone: see pyproject.toml
    assert len(named(direct)) == len(direct), "pyproject.toml names a package twice"
    versioned = [line for line in direct if Requirement(line).specifier]
    assert not versioned, "versions belong in constraints.txt"


def test_environment_yml_installs_the_same_packages_at_the_same_pins() -> None:
    options = [line for line in conda_pip_lines() if line.startswith("-")]
    packages = [line for line in conda_pip_lines() if not line.startswith("-")]
    assert options == ["--constraint constraints.txt", "--editable ."]
    extras = project()["project"]["optional-dependencies"]
    of_all = [line for name, extra in extras.items() if name not in ("all", "dev") for line in extra]
    in_pyproject = named([*project()["project"]["dependencies"], *of_all])
    in_conda = named(packages)
    # The whole line, so that a condition on the platform (decord's) cannot differ, nor a version creep in.
    assert {name: str(line) for name, line in in_conda.items()} == {name: str(line) for name, line in in_pyproject.items()}


# Of each, what any of its releases can do.
PYTHONS = {f"3.{minor}": [f"3.{minor}.{patch}" for patch in range(20)] for minor in range(8, 20)}


def pythons() -> list[str]:
    """Those that pyproject.toml is for, the oldest first."""
    wanted = SpecifierSet(project()["project"]["requires-python"])
    return [version for version, releases in PYTHONS.items() if all(map(wanted.contains, releases))]


def test_pyproject_conda_and_make_want_the_same_pythons() -> None:
    assert pythons() == ["3.11", "3.12", "3.13"]
    assert project()["project"]["classifiers"] == [f"Programming Language :: Python :: {each}" for each in pythons()]
    assert f"python={pythons()[0]}" in environment()["dependencies"]
    first, last = (tuple(map(int, pythons()[at].split("."))) for at in (0, -1))
    assert f"not {first} <= sys.version_info[:2] <= {last}" in (ROOT / "Makefile").read_text()
    listed = (HELPERS / "other_pythons.sh").read_text()
    assert f"for version in {' '.join(reversed(pythons()[1:]))}; do" in listed


def test_what_is_pinned_and_what_it_needs_can_be_installed_for_each_python() -> None:
    """By what is installed here, for this Python and newer ones: older ones may get older versions of what is not pinned.
    Whether there is a wheel for it, only an index of packages can say.
    """
    refused, here = [], ".".join(map(str, sys.version_info[:2]))
    newer = pythons()[pythons().index(here) :]
    for distribution in importlib.metadata.distributions():
        name, wanted = distribution.metadata["Name"], SpecifierSet(distribution.metadata["Requires-Python"] or "")
        if name != "replaylab":  # installed before it was for all of them
            refused += [(name, str(wanted), each) for each in newer if not any(map(wanted.contains, PYTHONS[each]))]
    assert not refused


def test_the_source_has_the_grammar_of_the_oldest_python() -> None:
    major, minor = map(int, pythons()[0].split("."))
    for name in tracked_files():
        if name.suffix == ".py":
            ast.parse((ROOT / name).read_text(), str(name), feature_version=(major, minor))


COMPILE = """
import ast, sys
from pathlib import Path

for name in sys.stdin.read().split("\\0"):
    tree = ast.parse(Path(name).read_text(), name)
    compile(tree, name, "exec", dont_inherit=True)
    for node in ast.walk(tree):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
        for top in {each.partition(".")[0] for each in names}:
            print(top, top in sys.stdlib_module_names)
"""


def test_the_newest_python_here_compiles_the_source_without_a_warning_and_has_all_its_modules() -> None:
    found = subprocess.run(["sh", str(HELPERS / "other_pythons.sh")], capture_output=True, text=True, check=True).stdout
    if not found:
        pytest.skip(f"this machine has none of Python {', '.join(pythons()[1:])}")
    names = "\0".join(str(name) for name in tracked_files() if name.suffix == ".py")
    command = [found.splitlines()[0], "-W", "error::SyntaxWarning", "-W", "error::DeprecationWarning", "-c", COMPILE]
    done = subprocess.run(command, input=names, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    imported = dict(line.split() for line in done.stdout.splitlines())
    gone = {name for name, there in imported.items() if name in sys.stdlib_module_names and there == "False"}
    assert len(imported) > 50 and not gone


@pytest.mark.parametrize("name", sorted(pins()))
def test_what_is_installed_here_is_what_is_pinned(name: str) -> None:
    wanted = next(iter(pins()[name].specifier)).version
    declared = named(project()["project"]["dependencies"])
    marker = declared[name].marker if name in declared else None
    if marker is not None and not marker.evaluate():
        pytest.skip(f"{name} has no wheel for this platform")
    # "2.13.0+cpu" is 2.13.0: the local part names the build.
    assert Version(importlib.metadata.version(name)).public == wanted


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [("linux", "x86_64", True), ("linux", "aarch64", False), ("darwin", "configuration64", False), ("win32", "AMD64", True)],
)
def test_decord_is_asked_for_only_where_it_has_a_wheel(system: str, machine: str, wanted: bool) -> None:
    marker = named(project()["project"]["dependencies"])["decord"].marker
    assert marker is not None
    assert marker.evaluate({"sys_platform": system, "platform_machine": machine}) is wanted


def test_the_top_level_holds_what_was_agreed_and_nothing_else() -> None:
    agreed = {"book", "replaylab", "tests", "_config.yml", "_toc.yml", "environment.yml", "README.md"}
    tools = {
        "pyproject.toml",
        "Makefile",
        "constraints.txt",
        "LICENSE",
        "CITATION.cff",
        "CONTRIBUTING.md",
        ".gitignore",
        ".ci",
        ".github",
    }
    assert {name.parts[0] for name in tracked_files()} == agreed | tools


def test_no_single_file_is_too_large_for_git() -> None:
    large = {str(name): (ROOT / name).stat().st_size for name in tracked_files()}
    assert not {name: size for name, size in large.items() if size > 25_000_000}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of what somebody who clones the repository would get."""
    tree = tmp_path_factory.mktemp("wheel")
    for name in tracked_files():
        if name.parts[0] in ("replaylab", "pyproject.toml", "README.md", "LICENSE"):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run([*pip, "--wheel-dir", "wheels", "."], tree)
    (path,) = (tree / "wheels").iterdir()
    return path


def test_a_wheel_carries_every_file_of_the_package(wheel: Path) -> None:
    package = {name.as_posix() for name in tracked_files() if name.parts[0] == "replaylab"}
    assert package <= set(zipfile.ZipFile(wheel).namelist())


# From the wheel alone, in an empty folder: what is shipped is loaded, and the command runs.
INSTALLED = """
import os
from importlib import metadata
from pathlib import Path

import replaylab
from replaylab.cli.main import main
from replaylab.metrics.detectors import centre_point
from replaylab.shipped_weights import WEIGHTS, weights_digest
from replaylab.worlds.sumo.tracks import TRACKS

here = Path(os.environ["PYTHONPATH"])
assert Path(replaylab.__file__).is_relative_to(here) and not list(Path.cwd().iterdir())
(installed,) = metadata.distributions(path=[str(here)])
print(sorted(installed.metadata.get_all("Provides-Extra")), installed.metadata["Requires-Python"])
print({each.name: weights_digest(each) for each in sorted(WEIGHTS.iterdir())})
centre_point.load()
assert list(TRACKS.iterdir())
assert main(["domain", "add", "videos", ".", "--out", "domain"]) == 2
"""


def test_an_installed_wheel_works_outside_of_a_clone(wheel: Path, tmp_path: Path) -> None:
    installed, empty = tmp_path / "installed", tmp_path / "empty"
    zipfile.ZipFile(wheel).extractall(installed)
    empty.mkdir()
    said = run(f"PYTHONPATH={installed} {sys.executable} -c {shlex.quote(INSTALLED)}", empty)
    extras = sorted(project()["project"]["optional-dependencies"])
    wanted = SpecifierSet(project()["project"]["requires-python"])
    assert {"nuscenes", "sumo", "dev"} < set(extras) and f"{extras} {wanted}" in said
    assert str({each.name: weights_digest(each) for each in sorted(WEIGHTS.iterdir())}) in said
    assert "no video files in or below it" in said


WITHOUT = "import sys\nsys.modules |= dict.fromkeys({}, None)\n"
OF_EXTRAS = ("IPython", "ipykernel", "jupyter_book", "lightning", "matplotlib", "nbclient", "nuscenes", "panda3d",
             "papermill", "seaborn", "sklearn", "sumo", "tensorboard", "vizdoom")  # fmt: skip


def needed_by(names: Iterable[str]) -> set[str]:
    """Installed distributions, and all that they require here."""
    found, open_ = set[str](), [*names]
    while open_:
        one = open_.pop()
        if one not in found:
            found.add(one)
            wanted = map(Requirement, importlib.metadata.requires(one) or ())
            open_ += [each.name for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    return found


def environment_with(folder: Path, *names: str) -> Path:
    """The Python of a new environment that has these distributions, what they require, and replaylab; nothing is copied."""
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)], ROOT)
    (packages,) = folder.glob("lib/python*/site-packages")
    for one in needed_by(names):
        distribution = importlib.metadata.distribution(one)
        tops = {path.parts[0] for path in distribution.files or () if path.parts[0] not in ("..", "__pycache__")}
        for top in tops:
            if not (packages / top).exists():  # several distributions may share a folder
                (packages / top).symlink_to(str(distribution.locate_file(top)))
    (packages / "replaylab").symlink_to(ROOT / "replaylab")
    return folder / "bin" / "python"


def test_mixing_needs_numpy_alone(tmp_path: Path) -> None:
    python = environment_with(tmp_path / "numpy", "numpy")
    run([str(python), "-c", "import replaylab.mixture, replaylab.spec; assert replaylab.mixture.Mixture"], tmp_path)
    script = "try: import replaylab.sampler\nexcept ImportError as error: print(error)"
    assert "torch" in run([str(python), "-c", script], tmp_path)


def test_the_sampler_needs_torch_besides(tmp_path: Path) -> None:
    python = environment_with(tmp_path / "torch", "torch", "numpy")
    run([str(python), "-c", "import replaylab.sampler; assert replaylab.sampler.ReplayBatchSampler"], tmp_path)


def test_all_but_the_pages_is_imported_without_any_extra_and_what_needs_one_names_it() -> None:
    script = """
import importlib, pkgutil, replaylab
for module in pkgutil.walk_packages(replaylab.__path__, "replaylab."):
    if module.name != "replaylab.__main__" and not module.name.startswith("replaylab.pages"):
        importlib.import_module(module.name)
from replaylab.util.extras import MissingExtra
from replaylab.worlds.doom.game import vizdoom
from replaylab.worlds.renderer import Renderer
for needs in (lambda: Renderer(64), vizdoom, lambda: importlib.import_module("replaylab.pages")):
    try:
        needs()
    except MissingExtra as error:
        print(error)
"""
    said = run([sys.executable, "-c", WITHOUT.format(OF_EXTRAS) + script], ROOT)
    for module, extra in (("panda3d", "worlds"), ("vizdoom", "worlds"), ("matplotlib", "book")):
        assert re.search(
            rf"^{module}.* is not installed, and this needs it: pip install 'replaylab\[{extra}\]'$", said, re.M
        )


def test_the_package_has_a_command_of_its_own_name() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="replaylab")
    assert entry.load() is main and project()["project"]["scripts"] == {"replaylab": entry.value}


def test_setup_refuses_a_wrong_python_and_says_which_one_it_needs(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" && exit 0\nexit 1\n')
    old.chmod(0o755)
    done = subprocess.run(["make", "setup", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode != 0
    assert "Python 3.11 is needed" in done.stderr
    assert "Python 3.9.1" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_every_make_target_explains_itself() -> None:
    shown = run(["make", "--no-print-directory", "help"], ROOT)
    explained = {line.split()[0] for line in shown.splitlines()}
    phony = next(line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(".PHONY:"))
    assert explained == set(phony.split()[1:])


def test_continuous_integration_runs_the_readme_commands_with_everything_on() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "SLOW=1" in script
    for command in ("make check", "make test"):
        assert command in script
        assert command in (ROOT / "README.md").read_text()


def test_the_citation_names_the_software_and_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["license"] == project()["project"]["license"] == "Apache-2.0"
    assert cited["version"] == project()["project"]["version"]
    assert "2508.16512" in cited["references"][0]["url"]
