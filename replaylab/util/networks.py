"""Networks on disk, as folders of `config.json` and safetensors: reading, saving, checks and digests.

Decision: a network is read by its own class's `from_pretrained` after its files were checked: one that is partly random
because a file is truncated or a tensor is missing would train without an error. Refused: pickled weights.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from replaylab.util import reading
from replaylab.util.files import write_folder

if TYPE_CHECKING:
    from torch import nn

MIB = 2**20
AGAIN = "copy or download it again"
CARD = "README.md"
Network = TypeVar("Network", bound="nn.Module")


def load(kind: Any, folder: Path, unused: tuple[str, ...] = (), **settings: Any) -> Any:
    """A network of a class from its folder, frozen and in evaluation mode; `settings` go to `from_pretrained` (dtype).

    Raises FileNotFoundError or ValueError if weights are missing, except `unused` ones with these prefixes.
    """
    check_weights(folder)
    try:
        network, about = kind.from_pretrained(
            folder, output_loading_info=True, use_safetensors=True, local_files_only=True, **settings
        )
    except Exception as error:  # of several libraries, with nothing in common
        raise ValueError(f"{folder} cannot be read as a {kind.__name__}: {reading.reason(error)}; {AGAIN}") from error
    if lacking := sorted(name for name in about["missing_keys"] if not name.startswith(unused)):
        raise ValueError(
            f"{folder}: {len(lacking)} tensors of a {kind.__name__} are missing, {lacking[0]!r} for one: these weights are "
            "not whole, or of another model"
        )
    return network.eval().requires_grad_(False)


def save(network: Any, folder: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Replace the folder by the result of `save_pretrained`, atomically. An existing card is kept. `leave_out`: fields of
    the configuration, in addition to the path from which the network was read, which has no meaning elsewhere.
    """

    def fill(fresh: Path) -> None:
        network.save_pretrained(fresh, safe_serialization=True)
        config = json.loads((fresh / "config.json").read_text())
        kept = {name: value for name, value in config.items() if name not in ("_name_or_path", *leave_out)}
        (fresh / "config.json").write_text(json.dumps(kept, indent=2) + "\n")
        if (folder / CARD).is_file():
            shutil.copyfile(folder / CARD, fresh / CARD)

    write_folder(folder, fill)


def without_batch_norm(network: Network) -> Network:
    """For inference: merge each batch norm into the preceding convolution, in place; equivalent up to rounding."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    network.eval()
    for module in network.modules():
        for (name, before), (name_of_norm, norm) in pairwise(list(module.named_children())):
            if isinstance(before, nn.Conv2d | nn.Conv3d) and isinstance(norm, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(module, name, fuse_conv_bn_eval(before, norm))
                setattr(module, name_of_norm, nn.Identity())
    return network


def read_json(folder: Path, *names: str) -> dict[str, Any]:
    """The content of the first of these files that exists; FileNotFoundError or ValueError with the reason."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder}: no {' or '.join(names)}; it comes with the weights in transformers' layout: copy it too"
        )
    return reading.json_object(path, AGAIN)


def check_weights(folder: Path) -> None:
    """Raise FileNotFoundError or ValueError unless all of a network's files exist and have their stated lengths."""
    from safetensors import safe_open

    for path in weight_files(folder):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing, but its index lists it: copy or download it again")
        with reading.named(path, "whole safetensors file", f"{reading.CUT}: {AGAIN}"), safe_open(path, "pt"):
            pass


def weight_files(folder: Path) -> list[Path]:
    """A network's weight files, including those listed in its index; raises FileNotFoundError if there are none."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    maps = [(index, reading.json_object(index, AGAIN, weight_map=dict)["weight_map"]) for index in indices]
    for index, files in maps:
        if wrong := [file for file in files.values() if not isinstance(file, str) or "/" in file]:
            raise reading.DamagedFile(f"{index}: {reading.shown(wrong[0])} is no file's name; {AGAIN}")
    listed = {file for _, files in maps for file in files.values()}
    files = [folder / file for file in sorted(listed)] or sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = any(folder.glob("*.bin"))
        raise FileNotFoundError(
            f"{folder} has no weights (*.safetensors)"
            + (": those in .bin files are pickled, and are not read" if pickled else "")
        )
    return files


def digest(folder: Path, parts: tuple[str, ...]) -> str:
    """Sixteen hex digits that identify the weights of some of a pipeline's parts: the digest of their configurations, and of
    the size, the first and the last MiB of every weight file. Reading a text encoder's ten gigabytes would take a minute.
    """
    seen = hashlib.sha256()
    for part in parts:
        for path in sorted((folder / part).glob("*.json")):
            seen.update(path.read_bytes())
        for path in weight_files(folder / part) if (folder / part / "config.json").is_file() else []:
            size = path.stat().st_size
            with path.open("rb") as file:
                seen.update(str(size).encode() + file.read(MIB))
                file.seek(max(0, size - MIB))
                seen.update(file.read())
    return seen.hexdigest()[:16]
