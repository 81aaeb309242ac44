"""CONTRIBUTING.md names what exists, and draws the packages as tests/test_architecture.py holds them."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
TASKS = re.findall(r"^### ([^\n]+): (two|three|four) files\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)


def floors() -> list[str]:
    """The packages of test_architecture.FLOORS, from the ground up."""
    source = (ROOT / "tests" / "test_architecture.py").read_text()
    assigned = {ast.unparse(node.targets[0]): node.value for node in ast.parse(source).body if isinstance(node, ast.Assign)}
    return [name for floor in ast.literal_eval(assigned["FLOORS"]) for name in sorted(floor)]


def test_every_file_it_names_exists() -> None:
    named = [name for name in re.findall(r"`([^`\s]+)`", TEXT) if "/" in name or name.endswith(".md")]
    assert len(named) > 20
    for name in [*named, *re.findall(r"tests/[\w/]+\.py", TEXT)]:
        assert (ROOT / name).exists(), name
    for target in re.findall(r"(?:^|`|=1 )make ([a-z]+)", TEXT, re.MULTILINE):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text(), target


def test_the_map_has_every_package_in_the_order_of_imports() -> None:
    assert re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE) == [name for name in floors() if name != "__main__"]


@pytest.mark.parametrize(("task", "files", "steps"), TASKS)
def test_a_task_lists_as_many_files_as_it_takes(task: str, files: str, steps: str) -> None:
    bullets = re.findall(r"^- (.*?)(?=^- |\Z)", steps, re.MULTILINE | re.DOTALL)
    assert len(bullets) == {"two": 2, "three": 3, "four": 4}[files], task
    for bullet in bullets:
        (path,) = re.findall(r"`([^`\s]+\.(?:py|ipynb))`", bullet.split(":")[0])
        text = (ROOT / path).read_text()
        for name in re.findall(r"`([A-Z][A-Z_]+)`", bullet):
            assert name in text, f"{task}: {path} has no {name}"


def test_all_five_tasks_are_there_and_the_readme_links_to_them() -> None:
    assert len(TASKS) == 5
    assert "(CONTRIBUTING.md)" in (ROOT / "README.md").read_text()
