"""The shipped weights are there, carded and small enough, and are found by their digests."""

import hashlib
import zlib
from pathlib import Path

import pytest

from replaylab import shipped_weights
from replaylab.shipped_weights import WEIGHTS, base_folder, base_of
from replaylab.sweeps.presets import SECOND_BASES, grid

SECOND_EDITION = {base_folder(seed).name for seed in SECOND_BASES}


def bytes_in_git(files: list[Path]) -> int:
    """As git keeps them: what is there twice once, and compressed."""
    contents = {hashlib.sha256(content).digest(): content for content in map(Path.read_bytes, files)}
    return sum(len(zlib.compress(content)) for content in contents.values())


def test_every_shipped_part_has_a_card_and_all_are_small():
    for part, command in (
        ("base", "base"), ("base-1", "base --seed 1"), ("base-cogvideox", "base --family cogvideox"),
        ("base/vae", "autoencoder"), ("autoencoder-2/vae", "autoencoder --seed 2"),
        ("detector", "detector"), ("videonet", "videonet"),
    ):  # fmt: skip
        assert f"python -m replaylab pretrain {command}" in (WEIGHTS / part / "README.md").read_text()
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    of_second = {path for path in files if path.relative_to(WEIGHTS).parts[0] in SECOND_EDITION}
    assert max(map(bytes_in_git, ([path] for path in of_second))) * len(SECOND_EDITION) < 45e6
    assert bytes_in_git([path for path in files if path not in of_second]) < 45e6
    assert {path.suffix for path in files} == {".safetensors", ".json", ".md", ".csv", ".mp4"}


def test_a_base_is_found_by_its_digest_and_no_other_is_taken_for_it():
    spec = grid("smoke")[0]
    assert base_of(spec.base) == WEIGHTS / "base"
    with pytest.raises(ValueError, match=rf"wants the base 0123.*holds {spec.base} \(base\), .* \(base-1\)"):
        base_of("0123")


def test_a_folder_that_was_left_half_made_stands_in_no_one_s_way(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped_weights, "WEIGHTS", tmp_path)
    (tmp_path / "base-3").mkdir()
    (tmp_path / "base-4").mkdir()
    (tmp_path / "base-4" / "model_index.json").write_text("{}")
    (digest,) = shipped_weights.digests_of("base")
    assert base_of(digest) == tmp_path / "base-4"


def test_weights_that_are_not_shipped_are_known_by_their_digest_and_taken_only_if_they_have_it(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped_weights, "WEIGHTS", tmp_path)
    folder = base_folder(3, sixteenths=4)
    weights = folder / "transformer" / "weights.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"as published")
    digest = shipped_weights.weights_digest(folder)
    shipped_weights.weights_digest.cache_clear()
    (folder / shipped_weights.DIGEST).write_text(f"{digest}\n")
    (folder / "README.md").write_text("how they are made again")
    assert shipped_weights.published_digest(folder) == digest and base_of(digest) == folder
    weights.write_bytes(b"rounded otherwise")
    shipped_weights.weights_digest.cache_clear()
    with pytest.raises(ValueError, match=rf"the run wants {digest}: a processor of another kind"):
        base_of(digest)
    weights.unlink()
    assert shipped_weights.published_digest(folder) == digest
    with pytest.raises(ValueError, match=r"base-3-4of16 are not shipped; the command in its README.md"):
        base_of(digest)


def test_a_base_has_a_folder_for_its_family_and_seed():
    assert base_folder(1, "cogvideox") == WEIGHTS / "base-cogvideox-1" and base_folder() == WEIGHTS / "base"
