"""The folders of the shipped weights, and their digests.

Decision: a spec names weights by their digest, so a run is never trained from, or measured with, others than it was
described with. Of weights that would make the repository too large, the folder has only the card, the learning curve and the
digest: published runs are read without them, and the command on the card makes them again. Refused: a digest that no
weights have.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cache
from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
DIGEST = "published_digest.txt"
"""In the folder of weights that are not shipped."""


@cache
def weights_digest(folder: Path) -> str:
    """Twelve hex digits of the SHA-256 of a folder's safetensors and JSON files; raises FileNotFoundError."""
    files = sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.json")])
    if not files:
        raise FileNotFoundError(f"{folder} holds no weights; make them with `python -m replaylab pretrain`")
    whole = hashlib.sha256()
    for file in files:
        whole.update(file.relative_to(folder).as_posix().encode())
        whole.update(file.read_bytes())
    return whole.hexdigest()[:12]


def published_digest(folder: Path) -> str:
    """The digest by which runs name the weights of a folder, whether or not they are shipped; raises FileNotFoundError."""
    recorded = folder / DIGEST
    return recorded.read_text().strip() if recorded.is_file() else weights_digest(folder)


def base_of(base: str) -> Path:
    """The folder of the shipped base with this digest; raises ValueError that lists the existing ones."""
    return shipped_of("base", base)


def digests_of(kind: str) -> dict[str, Path]:
    """The folders of weights whose names begin with `kind`, by digest; one without weights or digest is none of them."""
    found = {}
    for folder in sorted(WEIGHTS.glob(f"{kind}*")):
        with suppress(FileNotFoundError):
            found[published_digest(folder)] = folder
    return found


def shipped_of(kind: str, wanted: str) -> Path:
    """The folder of shipped weights whose name begins with `kind` and whose digest is `wanted`.

    Raises ValueError that lists the existing ones, or, for weights that are not shipped, if they are missing or others.
    """
    shipped = digests_of(kind)
    if wanted not in shipped:
        there = ", ".join(f"{digest} ({folder.name})" for digest, folder in shipped.items())
        raise ValueError(f"the run wants the {kind} {wanted}, but {WEIGHTS} holds {there}")
    folder = shipped[wanted]
    if (folder / DIGEST).is_file():
        _check_made_again(folder, wanted)
    return folder


def _check_made_again(folder: Path, wanted: str) -> None:
    """Raises ValueError if the weights of a folder with DIGEST are missing, or others."""
    if not any(folder.rglob("*.safetensors")):
        raise ValueError(f"the weights in {folder} are not shipped; the command in its README.md makes them again")
    if weights_digest(folder) != wanted:
        raise ValueError(
            f"the weights in {folder} have the digest {weights_digest(folder)}, and the run wants {wanted}: a processor of "
            "another kind rounds differently; to start from them, name the folder as a model of your own"
        )


def base_folder(seed: int = 0, family: str = "wan", sixteenths: int = 16, large: bool = False) -> Path:
    """The folder of a shipped base, of a large one, or of one after fewer sixteenths of its training.

    That of the Wan family with seed 0 has the plain name.
    """
    part = [f"{sixteenths}of16"] * (sixteenths != 16)
    name = ["base", *["large"] * large, *[family] * (family != "wan"), *[str(seed)] * (seed != 0), *part]
    return WEIGHTS / "-".join(name)
