"""Pipelines in diffusers' layout and their parts, from a folder or, by name, from the Hugging Face hub.

Decision: a name is looked up on the hub with a time limit, then in the local cache. Refused: parts whose class differs from
the family's, and a hub that cannot be reached (immediately, with a remedy).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from replaylab.util import networks, reading

PATIENCE_S = 10  # to wait for the hub's first answer
CONFIGURATIONS = ["model_index.json", "*/config.json", "*/scheduler_config.json"]


def fetch(name: str | Path, download: Callable[[str], Path] | None = None) -> Path:
    """The folder itself, or the hub's copy in the local cache, downloaded if possible.

    `download`: replaces the download of a pipeline. Raises FileNotFoundError for a missing folder, and ConnectionError for a
    gated model or a hub that cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):  # no organisation/model
        raise FileNotFoundError(f"{name} is no folder here, and no name on the Hugging Face hub (organisation/model) either")
    try:
        return (download or _download)(str(name))
    except Exception as error:  # of several libraries, with nothing in common but Exception
        raise ConnectionError(
            f"{name} is no folder here, and from the Hugging Face hub: {_reason(error)}. {_instructions(str(name))}"
        ) from error


def fetch_configurations(name: str | Path) -> Path:
    """As `fetch`, but from the hub only the index and the configurations of the parts: kilobytes, without weights."""
    return fetch(name, _download_configurations)


def _download(name: str) -> Path:
    from diffusers import DiffusionPipeline

    return _current(name, partial(DiffusionPipeline.download, use_safetensors=True))


def _download_configurations(name: str) -> Path:
    from huggingface_hub import snapshot_download

    return _current(name, partial(snapshot_download, allow_patterns=CONFIGURATIONS))


def _current(name: str, download: Callable[..., Any]) -> Path:
    """The hub's current version, or the cached one if the hub does not respond."""
    from huggingface_hub import model_info

    try:
        model_info(name, timeout=PATIENCE_S)  # one question with a time limit: the download has none
    except Exception as unanswered:
        try:
            return Path(download(name, local_files_only=True))
        except Exception:  # not in the cache: what the hub said is the reason
            raise unanswered from None
    return Path(download(name))


def _reason(error: BaseException) -> str:
    """The reason of a failed download, from an error or its causes."""
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(isinstance(each, GatedRepoError) for each in chain):
        return "the hub gives it to those only who accepted its licence (gated): accept it on its page, `hf auth login`"
    if any(isinstance(each, RepositoryNotFoundError) for each in chain):
        return "the hub has no such model, or keeps it private: look at the spelling, or `hf auth login`"
    if any(isinstance(each, OfflineModeIsEnabled) for each in chain):
        return "it is not in the local cache, and HF_HUB_OFFLINE forbids to ask the hub"
    return f"it is not in the local cache, and the hub cannot be reached ({chain[min(1, len(chain) - 1)]})"


def _instructions(name: str) -> str:
    """Instructions for copying a model without access to the hub."""
    return (
        f"Without the hub: `hf download {name} --local-dir {name.split('/')[1]}` on a machine that reaches it, copy that "
        "folder here, and give its path instead of the name"
    )


def read_index(folder: Path) -> dict[str, Any]:
    """The contents of `model_index.json`; raises FileNotFoundError or ValueError with its path."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} is no folder in diffusers' layout (model_index.json, transformer/, vae/, ...). "
            "Models in other layouts have a conversion script in diffusers' repository, under scripts/"
        )
    return reading.json_object(path, networks.AGAIN, _class_name=str)


def load_part(folder: Path, part: str, expected: str | None = None, **settings: Any) -> Any:
    """One part of the pipeline, by `from_pretrained` with these `settings` (dtype).

    Raises ValueError if its class is not `expected`, or its weights are truncated or incomplete.
    """
    kind = _class_of(folder, part, expected)
    if not (folder / part / "config.json").is_file():  # a scheduler, a tokenizer, an image processor
        with reading.named(folder / part, f"whole {kind.__name__}", networks.AGAIN):
            return kind.from_pretrained(folder / part)
    return networks.load(kind, folder / part, **settings)


def outline_part(folder: Path, part: str, expected: str) -> Any:
    """A network from its configuration on torch's meta device, without weights. Errors as in `load_part`."""
    import torch

    kind = _class_of(folder, part, expected)
    with torch.device("meta"):
        return kind.from_config(kind.load_config(folder / part)).eval()


def _class_of(folder: Path, part: str, expected: str | None) -> Any:
    """The class of a part; raises FileNotFoundError or ValueError."""
    import diffusers
    import transformers

    entry = read_index(folder).get(part) or (None, None)
    if not isinstance(entry, list | tuple) or len(entry) != 2:
        raise reading.DamagedFile(f"{folder / 'model_index.json'}: {part!r} is {reading.shown(entry)}, no library and class")
    library, name = entry
    if name is None or not (folder / part).is_dir():
        raise FileNotFoundError(f"{folder / part} is missing: the {part} of this model was not copied or downloaded")
    if expected is not None and name != expected:
        raise ValueError(f"{folder / 'model_index.json'}: {part!r} is a {name}; this family has a {expected}")
    kind = getattr({"diffusers": diffusers, "transformers": transformers}.get(str(library)), str(name), None)
    if kind is None:
        raise ValueError(f"{folder / 'model_index.json'}: {part!r} is a {name} of {library}, which is not known here")
    return kind
