"""Where are a model's weights, and are they whole? A folder in diffusers' layout, or a name on the Hugging Face hub.

Decision: every part is read by its own class's `from_pretrained`, from safetensors, after its files were looked at: a
network that is partly random because a file was cut short or a tensor is missing would train without a word. Refused:
pickled weights, parts of another class than the family has, and a hub that cannot be reached (at once, with what to do).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MIB = 2**20
PATIENCE_S = 10  # to wait for the hub's first answer


def found(name: str | Path) -> Path:
    """The folder itself, or the hub's copy of it in the local cache, downloaded where it can be.

    Raises FileNotFoundError for a folder that is not there, and ConnectionError for a hub that is gated or out of reach.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):  # no organisation/model
        raise FileNotFoundError(
            f"{name} is no folder here, and no name on the Hugging Face hub (organisation/model) either"
        )
    try:
        return _downloaded(str(name))
    except Exception as error:  # of several libraries, with nothing in common but Exception
        raise ConnectionError(
            f"{name} is no folder here, and from the Hugging Face hub: {why(error)}. {what_to_do(str(name))}"
        ) from error


def _downloaded(name: str) -> Path:
    """What the hub has now; where it does not answer, what the cache has."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import model_info

    try:
        model_info(name, timeout=PATIENCE_S)  # one question with a time limit: the download has none
    except Exception as unanswered:
        try:
            return Path(DiffusionPipeline.download(name, use_safetensors=True, local_files_only=True))
        except Exception:  # not in the cache: what the hub said is the reason
            raise unanswered from None
    return Path(DiffusionPipeline.download(name, use_safetensors=True))


def why(error: BaseException) -> str:
    """What stopped a download, from an error or those that it came from."""
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


def what_to_do(name: str) -> str:
    """How to have a model of the hub without the hub."""
    return (
        f"Without the hub: `hf download {name} --local-dir {name.split('/')[1]}` on a machine that reaches it, copy that "
        "folder here, and give its path instead of the name"
    )


def index_of(folder: Path) -> dict[str, Any]:
    """What `model_index.json` says; raises FileNotFoundError or ValueError that names it."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} is no folder in diffusers' layout (model_index.json, transformer/, vae/, ...). "
            "Models in other layouts have a conversion script in diffusers' repository, under scripts/"
        )
    try:
        index = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON ({error}): copy or download it again") from error
    if not isinstance(index, dict) or "_class_name" not in index:
        raise ValueError(f"{path} has no field '_class_name': it does not say which pipeline this is")
    return index


def read(folder: Path, part: str, expected: str | None = None, **settings: Any) -> Any:
    """One part of the pipeline, by `from_pretrained`; `settings` go there (dtype).

    Raises ValueError where its class is not `expected`, or its weights are cut short or not all there.
    """
    import diffusers
    import transformers

    library, name = index_of(folder).get(part) or (None, None)
    if name is None or not (folder / part).is_dir():
        raise FileNotFoundError(f"{folder / part} is missing: the {part} of this model was not copied or downloaded")
    if expected is not None and name != expected:
        raise ValueError(f"{folder / 'model_index.json'}: {part!r} is a {name}; this family has a {expected}")
    kind = getattr({"diffusers": diffusers, "transformers": transformers}.get(str(library)), str(name), None)
    if kind is None:
        raise ValueError(f"{folder / 'model_index.json'}: {part!r} is a {name} of {library}, which is not known here")
    if not (folder / part / "config.json").is_file():  # a scheduler, a tokenizer, an image processor
        return kind.from_pretrained(folder / part)
    return read_network(kind, folder / part, **settings)


def read_network(kind: Any, folder: Path, **settings: Any) -> Any:
    """A network from its folder, frozen and in evaluation mode; raises ValueError if not all of its weights are there."""
    look_at_weights(folder)
    try:
        network, about = kind.from_pretrained(
            folder, output_loading_info=True, use_safetensors=True, local_files_only=True, **settings
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"{folder} cannot be read as a {kind.__name__}: {error}") from error
    if about["missing_keys"]:
        lacking = sorted(about["missing_keys"])
        raise ValueError(
            f"{folder}: {len(lacking)} tensors of a {kind.__name__} are missing, {lacking[0]!r} for one: these weights are "
            "not whole, or of another model"
        )
    return network.eval().requires_grad_(False)


def look_at_weights(folder: Path) -> None:
    """Raise FileNotFoundError or ValueError unless a network's files are all there and as long as they say."""
    from safetensors import SafetensorError, safe_open

    for path in weights_of(folder):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, but its index lists it: copy or download it again")
        try:
            with safe_open(path, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(
                f"{path} is no whole safetensors file ({error}): it was cut short, or is a Git LFS pointer; copy or "
                "download it again"
            ) from error


def weights_of(folder: Path) -> list[Path]:
    """A network's weight files, those that its index lists included; raises FileNotFoundError if there are none."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    listed = {file for index in indices for file in json.loads(index.read_text())["weight_map"].values()}
    files = [folder / file for file in sorted(listed)] or sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = any(folder.glob("*.bin"))
        raise FileNotFoundError(
            f"{folder} has no weights (*.safetensors)"
            + (": those in .bin files are pickled, and are not read" if pickled else "")
        )
    return files


def digest_of(folder: Path, parts: tuple[str, ...]) -> str:
    """Sixteen hex digits that name some parts' weights: of their configurations, and of every weight file its size, its
    first and its last MiB. All of a text encoder's ten gigabytes would take a minute to read, each time.
    """
    seen = hashlib.sha256()
    for part in parts:
        for path in sorted((folder / part).glob("*.json")):
            seen.update(path.read_bytes())
        for path in weights_of(folder / part) if (folder / part / "config.json").is_file() else []:
            size = path.stat().st_size
            with path.open("rb") as file:
                seen.update(str(size).encode() + file.read(MIB))
                file.seek(max(0, size - MIB))
                seen.update(file.read())
    return seen.hexdigest()[:16]
