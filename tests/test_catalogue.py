"""Every published domain and measure is in the catalogue, and its labels are written nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from replaylab import catalogue
from replaylab.catalogue import DOMAINS, MEASURES, PSEUDO_SUFFIX, domain_of, measure_of

ROOT = Path(__file__).resolve().parents[1]
LABELS = {
    *(entry.label for entry in DOMAINS.values()),
    *(words for entry in MEASURES.values() for words in (entry.label, entry.name, entry.axis)),
} - {*DOMAINS, *MEASURES}  # "recall" is a column too


@pytest.fixture(scope="module")
def published() -> tuple[set[str], set[str]]:
    """The domains and measures of all rows in `book/results`."""
    domains, measures = set[str](), set[str]()
    for file in sorted((ROOT / "book/results").glob("rows/*.parquet")):
        rows = pq.read_table(file, columns=["domain", "measure"], read_dictionary=["domain", "measure"])
        domains.update(rows["domain"].unique().to_pylist())
        measures.update(rows["measure"].unique().to_pylist())
    return domains, measures


def test_every_published_domain_and_measure_has_words(published: tuple[set[str], set[str]]) -> None:
    domains, measures = published
    assert domains <= set(DOMAINS) and len(domains) > 10
    known = {*MEASURES, *catalogue.DENOISING_LOSSES, *(f"{catalogue.BY_HORIZON}{frame}" for frame in range(1, 6))}
    assert {measure.removesuffix(PSEUDO_SUFFIX) for measure in measures} <= known and len(measures) > 30
    assert set(catalogue.PSEUDO.values()) <= measures


def test_entries_have_labels_of_their_own() -> None:
    for entries in (DOMAINS, MEASURES):
        labels = [entry.label for entry in entries.values()]
        assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("file", sorted((ROOT / "replaylab").rglob("*.py")), ids=lambda file: file.stem)
def test_a_label_is_written_once(file: Path) -> None:
    if file.name != "catalogue.py":
        texts = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not texts & LABELS


def test_what_nobody_listed_is_shown_under_its_own_name() -> None:
    assert domain_of("my videos").label == "my videos"
    mine = measure_of("second_tracker_ade_px")
    assert (mine.name, mine.group, mine.better) == ("second tracker ade (px)", catalogue.OF_AGENTS, "low")
    assert measure_of("ade_px_frame_3").name == "ADE, frame 3 (px)"
    assert measure_of("denoising_loss_0.5").axis == "denoising loss, level 0.5 (no unit)"
    assert measure_of("effnet_kd_pseudo").name == "EffNet-KD, pseudo-value"
