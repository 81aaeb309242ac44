"""What must not change when the library is rearranged: names of runs, references and domains, random numbers, batches.

`frozen.json` was written once, at commit da4d4fd, before the library's modules were moved: every `found_...` function
below was called, and what it gave was written down as it was. Two parts were chosen by hand: which `purposes` are asked
with which seeds, and the `made_up` runs. It is NEVER written again: where a test fails, the library is wrong, because
published results, and the stores of those who use the library, are named by these ids. It may be extended, with ids of
what is new; the failure shows them. All numbers in it are whole numbers or hashes of such, the same on every processor.

When modules move, only the imports here change; when results are kept in another form, only `published`.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, tracked_files

import replaylab
from replaylab.analysis.world_survey import IN_THE_BOOK
from replaylab.description import digest
from replaylab.evaluation import corruption_study
from replaylab.mixture import Mixture, buffer
from replaylab.shipped_weights import WEIGHTS, base_folder, base_of, published_digest
from replaylab.spec import RunSpec, WorldSpec, generator, torch_seed
from replaylab.store import COLUMNS, OF_DISTANCES, ReferenceSpec
from replaylab.sweeps import ablations
from replaylab.sweeps.presets import FAMILIES, PRESETS, grid
from replaylab.worlds.build import folder_of
from replaylab.worlds.named import ALL_DOMAINS, BASE_DOMAINS, DOMAINS, NATURAL_DOMAINS, SURVEYS, domain_spec

RESULTS = ROOT / "book" / "results"
FROZEN: dict[str, Any] = json.loads((ROOT / "tests" / "frozen.json").read_text())
DRIVING_SAMPLES = "published, driving-samples"  # of the README: as many driving samples at every fraction
ASKED = ("generator", "torch_seed")  # the functions that give random numbers
CLIPS_A_VIDEO = 3  # windows of 8 frames, 2 apart, in videos of 12
STEPS = 100  # of runs whose replayed share is constant; of the others all


@cache
def published() -> dict[str, dict[str, Any]]:
    """The name of everything published (a run, references, damages), and its description as it was written down."""
    runs = pd.read_parquet(RESULTS / "runs.parquet", columns=["run", "spec"])
    damaged = {path.parent.name: json.loads(path.read_text()) for path in RESULTS.glob("*/spec.json")}
    return {run: json.loads(spec) for run, spec in runs.itertuples(index=False)} | damaged


@cache
def published_runs() -> dict[str, RunSpec]:
    """The published runs, by the names that they were published under."""
    return {name: RunSpec.from_dict(plain) for name, plain in published().items() if "-" not in name}


def check(found: Any, frozen: Any) -> None:
    """Fails, with what is gone, new or changed, if this is not what is frozen."""
    found = json.loads(json.dumps(found))
    if isinstance(frozen, dict):
        differing = [key for key in sorted({*frozen, *found}) if frozen.get(key) != found.get(key)]
        lines = [f"{key}: was {frozen.get(key)}, is {found.get(key)}" for key in differing]
    else:
        lines = [f"gone: {one}" for one in frozen if one not in found]
        lines += [f"new: {one}" for one in found if one not in frozen]
    if found != frozen:
        pytest.fail("\n".join(["not what it was:", *(lines or ["another order"])]))


# ----------------------------------------------------------------------------------------------------- names of results
def found_references() -> dict[str, list[str]]:
    """References, each with the published runs that are compared with them."""
    runs: dict[str, list[str]] = {}
    for name, spec in sorted(published_runs().items()):
        runs.setdefault(ReferenceSpec.of(spec).run_id, []).append(name)
    return dict(sorted(runs.items()))


def test_published_runs_and_references_are_there_under_their_names() -> None:
    check(found_references(), FROZEN["references"])
    known = {*FROZEN["references"], *(name for names in FROZEN["references"].values() for name in names)}
    assert {*published()} == known | {FROZEN["damages"]["published"]}


def test_a_published_run_is_read_as_it_was_written_and_named_as_it_was() -> None:
    for name, spec in published_runs().items():
        assert spec.run_id == name
        assert json.loads(json.dumps(spec.as_dict())) == published()[name], name
        references = ReferenceSpec.of(spec)
        assert json.loads(json.dumps(references.as_dict())) == published()[references.run_id], name


def found_left_out() -> dict[str, list[Any]]:
    """Fields that published descriptions do not mention, and the values that they are read with."""
    left_out: dict[str, list[Any]] = {}

    def look(full: Any, plain: Any, place: str) -> None:
        if isinstance(full, dict):
            for key, value in full.items():
                if key in plain:
                    look(value, plain[key], f"{place}.{key}")
                elif value not in (values := left_out.setdefault(f"{place}.{key}"[1:], [])):
                    values.append(value)

    for name, spec in published_runs().items():
        look(dataclasses.asdict(spec), published()[name], "")
    return dict(sorted(left_out.items()))


def test_what_a_published_run_does_not_mention_means_what_it_meant() -> None:
    check(found_left_out(), FROZEN["left_out"])


@cache
def grid_of(preset: str) -> list[RunSpec]:
    """What `sweep --preset` runs; the settings of `alternatives` are chosen by published results."""
    if preset == DRIVING_SAMPLES:
        return grid("published", [0.1, 0.25], [0, 1, 2], "driving-samples")
    return ablations.grid(preset, store=RESULTS) if preset in ablations.PRESETS else grid(preset)


def found_grid(preset: str) -> dict[str, list[str]]:
    """The runs of a preset, and the references that they need."""
    specs = grid_of(preset)
    return {
        "runs": sorted(spec.run_id for spec in specs),
        "references": sorted({ReferenceSpec.of(spec).run_id for spec in specs}),
    }


@pytest.mark.parametrize("preset", FROZEN["grids"])
def test_a_preset_is_the_runs_that_it_was(preset: str) -> None:
    found = found_grid(preset)
    for kind in ("runs", "references"):
        check(found[kind], FROZEN["grids"][preset][kind])


def is_determined(preset: str) -> bool:
    """False for alternatives whose settings are chosen by runs that are not published yet."""
    try:
        return bool(grid_of(preset))
    except FileNotFoundError:
        return False


def test_every_preset_is_frozen() -> None:
    assert {preset for preset in (*PRESETS, DRIVING_SAMPLES) if is_determined(preset)} == {*FROZEN["grids"]}


def found_damages() -> dict[str, str]:
    """The folders of damaged clips."""
    return {preset: corruption_study.spec_of(preset).run_id for preset in sorted(corruption_study.PRESETS)}


def test_damaged_clips_have_the_names_that_they_had() -> None:
    check(found_damages(), FROZEN["damages"])
    spec = corruption_study.spec_of("published")
    assert json.loads(json.dumps(spec.as_dict())) == published()[spec.run_id]


def found_made_up() -> list[str]:
    """Runs of one's own model, videos and detector, none of which is published."""
    return [RunSpec.from_dict(plain).run_id for plain in FROZEN["made_up_specs"]]


def test_runs_of_ones_own_model_and_videos_have_the_names_that_they_had() -> None:
    check(found_made_up(), FROZEN["made_up"])
    for plain in FROZEN["made_up_specs"]:
        assert json.loads(json.dumps(RunSpec.from_dict(plain).as_dict())) == plain


# ------------------------------------------------------------------------------------------- domains, weights and tables
def _worlds_of(spec: RunSpec) -> Iterator[WorldSpec]:
    for world in (
        spec.target, *spec.replay.domains, *spec.remedy.domains, *spec.evaluation.domains, *spec.evaluation.at_the_end
    ):  # fmt: skip
        assert isinstance(world, WorldSpec)
        yield world


def found_domains() -> list[str]:
    """The folders of all domains that a preset, the damages, the survey or a name stands for."""
    worlds = {world for preset in FROZEN["grids"] for spec in grid_of(preset) for world in _worlds_of(spec)}
    damaged = [corruption_study.spec_of(preset).evaluation for preset in corruption_study.PRESETS]
    worlds |= {world for each in damaged for world in each.domains if isinstance(world, WorldSpec)}
    worlds |= {domain_spec(name, videos=(0, videos, 0)) for name in DOMAINS for videos in SURVEYS.values()}
    worlds |= {domain_spec(name) for name in ALL_DOMAINS if name not in BASE_DOMAINS}
    return sorted(folder_of(world, "").name for world in worlds)


def test_domains_have_the_folders_that_they_had() -> None:
    check(found_domains(), FROZEN["domains"])
    for folder, named in (("worlds", DOMAINS), ("worlds-natural", NATURAL_DOMAINS)):
        surveyed = json.loads((RESULTS / folder / "survey.json").read_text())["domains"]
        assert surveyed == {name: digest(domain_spec(name, videos=(0, 128, 0))) for name in named}


def test_everything_that_is_published_is_in_the_repository() -> None:
    tracked = {path.parent.relative_to("book/results") for path in tracked_files() if path.is_relative_to("book/results")}
    surveys = {path.parent.name for path in RESULTS.glob("*/survey.json")}
    assert surveys == set(IN_THE_BOOK.values()) and all(Path(name) in tracked for name in surveys)


def found_weights() -> dict[str, str]:
    """The digests of all weights that runs name, and of each base's autoencoder, which latents are named by."""
    folders = [path for path in WEIGHTS.iterdir() if path.is_dir()]
    folders += [folder / "vae" for folder in folders if (folder / "vae").is_dir()]
    return {path.relative_to(WEIGHTS).as_posix(): published_digest(path) for path in sorted(folders)}


def found_classes() -> dict[str, str]:
    """What the bases' files say that they are: users' copies say it too."""
    return {
        path.parent.name: json.loads(path.read_text())["_class_name"] for path in sorted(WEIGHTS.glob("*/model_index.json"))
    }


def found_bases() -> dict[str, str]:
    """Family and seed, and the base's folder."""
    there = [(family, seed) for family in FAMILIES for seed in (0, 1) if base_folder(seed, family).is_dir()]
    return {f"{family} {seed}": base_folder(seed, family).name for family, seed in there}


def test_shipped_weights_are_the_ones_that_they_were() -> None:
    check(found_weights(), FROZEN["weights"])
    check(found_classes(), FROZEN["classes"])
    check(found_bases(), FROZEN["bases"])
    for folder in FROZEN["bases"].values():
        assert base_of(FROZEN["weights"][folder]) == WEIGHTS / folder


def test_rows_have_the_columns_that_they_had() -> None:
    check([*COLUMNS, *OF_DISTANCES], FROZEN["columns"])


# -------------------------------------------------------------------------------------------------------- random numbers
def found_purposes() -> list[str]:
    """What the library asks random numbers for: the texts in its calls, with {} for what is put in."""
    texts = [path.read_text() for path in Path(replaylab.__file__).parent.rglob("*.py")]
    asking = [text for text in texts if any(f"{name}(" in text for name in ASKED)]
    return sorted({purpose for text in asking for purpose in _asked(ast.parse(text), {})})


def _asked(node: ast.AST, known: dict[str, ast.expr]) -> Iterator[str]:
    """The purposes in all calls below a node; `known`: what the function that it is in gives names to."""
    if isinstance(node, ast.FunctionDef):
        known = dict(_assigned(node))
    if isinstance(node, ast.Call) and _called(node) in ASKED:
        by_name = [word.value for word in node.keywords if word.arg == "purpose"]
        yield _template((by_name or node.args[1:])[0], known)
    for child in ast.iter_child_nodes(node):
        yield from _asked(child, known)


def _called(call: ast.Call) -> str:
    return getattr(call.func, "id", "") or getattr(call.func, "attr", "")


def _assigned(function: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The names that a function gives, and to what."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
                pairs = zip(target.elts, node.value.elts, strict=True) if several else [(target, node.value)]  # type: ignore[attr-defined]
                yield from ((name.id, value) for name, value in pairs if isinstance(name, ast.Name))


def _template(node: ast.expr, known: dict[str, ast.expr]) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(value, known) for value in node.values)
    if isinstance(node, ast.FormattedValue):
        return _template(node.value, known)
    if isinstance(node, ast.Name) and isinstance(known.get(node.id), (ast.JoinedStr, ast.Constant)):
        return _template(known[node.id], known)
    return "{}"


def found_draws(questions: list[list[Any]]) -> list[list[Any]]:
    """Each question (seed, purpose, number) with the first two draws and the seed for torch."""
    return [
        [*question, *map(int, generator(*question).integers(0, 2**31, 2)), torch_seed(*question)] for question in questions
    ]


def test_random_numbers_are_asked_for_in_the_same_words() -> None:
    check(found_purposes(), sorted(FROZEN["draws"]))


@pytest.mark.parametrize("purpose", FROZEN["draws"])
def test_the_same_question_draws_the_same_numbers(purpose: str) -> None:
    frozen = FROZEN["draws"][purpose]
    check(found_draws([line[:3] for line in frozen]), frozen)


# --------------------------------------------------------------------------------------------------------------- batches
def _hash(numbers: Any) -> str:
    return hashlib.sha256(np.asarray(numbers, "<i8").tobytes()).hexdigest()[:16]


def found_slots(name: str) -> str:
    """A hash of who fills which slot in a published run's batches: domain and clip, slot after slot."""
    spec = published_runs()[name]
    replay, training = spec.replay, spec.training
    videos = [world.videos[0] for world in (spec.target, *replay.domains)]
    clips = [CLIPS_A_VIDEO * count for count in videos]
    if replay.buffer_clips:
        clips[1:] = [replay.buffer_clips for _ in replay.domains]
    mixture = Mixture(
        replay.fraction, training.batch_size, clips, spec.seed, replay.schedule, training.steps, replay.period,
        replay.weights,
    )  # fmt: skip
    steps = STEPS if replay.schedule == "constant" else training.steps
    return _hash([(slot.domain, slot.clip) for step in range(steps) for slot in mixture.batch(step)])


@pytest.mark.parametrize("arm", FROZEN["slots"])
def test_the_batches_of_published_runs_are_filled_as_they_were(arm: str) -> None:
    run, slots = FROZEN["slots"][arm]
    assert found_slots(run) == slots, f"{arm}: run {run}"


def found_buffers() -> dict[str, str]:
    """Hashes of the clips that are kept. The features are small whole numbers: all that is reckoned with them is exact."""
    features = generator(0, "features").integers(0, 16, (64, 4))
    found = {"coverage, 16 of 64": _hash(buffer(64, 16, "coverage", features=features))}
    for choose in ("first", "random"):
        for size in (16, 64, 128, 256):
            for seed in (0, 1):
                found[f"{choose}, {size} of 1536, seed {seed}"] = _hash(buffer(1536, size, choose, seed))
    return found


def test_the_same_clips_are_kept_for_replay() -> None:
    check(found_buffers(), FROZEN["buffers"])
