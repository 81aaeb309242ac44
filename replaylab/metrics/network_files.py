"""The folder of a small network trained here: config.json, model.safetensors and a card, README.md.

Decision: a folder is written atomically, and the only loader reports what is wrong with it and how to train it again.
Refused: missing files, weights that do not fit the configuration or whose SHA-256 differs from the recorded one, and
replacing a folder that holds anything else. Torch is loaded only when a network is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaylab.util import reading
from replaylab.util.files import sha256, write_folder

if TYPE_CHECKING:
    from torch import nn

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"
FILES = {WEIGHTS_FILE, CONFIG_FILE, CARD_FILE}


def checked(folder: Path, remedy: str) -> Path:
    """The folder; FileNotFoundError, with the remedy, if its configuration or weights are missing."""
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder}: no {name}; {remedy}")
    return folder


def load(folder: Path, build: Callable[[dict[str, Any]], nn.Module], what: str, remedy: str, *, is_checked: bool) -> Any:
    """The network that `build` creates from the configuration, with the folder's weights, ready for inference.

    `is_checked`: the configuration must record the weights' SHA-256. FileNotFoundError or ValueError names the folder,
    the reason and the remedy.
    """
    from safetensors.torch import load_file

    checked(folder, remedy)
    try:
        config = reading.json_object(folder / CONFIG_FILE, remedy)
        digest = sha256(folder / WEIGHTS_FILE)
        if is_checked and (recorded := config["weights_sha256"]) != digest:
            raise ValueError(f"{WEIGHTS_FILE} has sha256 {digest}, not {recorded}")
        network = build(config)
        network.load_state_dict(reading.tensors(folder / WEIGHTS_FILE, load_file, remedy))
    except Exception as error:
        raise ValueError(f"{folder}: not a {what} of this version ({error}); {remedy}") from error
    return network.eval().requires_grad_(False)


def check_replaceable(folder: Path, what: str) -> None:
    """ValueError unless the folder is missing, empty, or a network's."""
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= FILES):
        raise ValueError(f"folder: {folder} exists and holds no {what}; name another, it would be replaced")


def weights_bytes(network: nn.Module) -> bytes:
    """The content of the network's weights file."""
    from safetensors.torch import save

    return save({name: value.contiguous() for name, value in network.state_dict().items()})


def write(folder: Path, weights: bytes, config: str, card: str) -> None:
    """Replace the folder atomically by one with these files."""

    def fill(fresh: Path) -> None:
        (fresh / WEIGHTS_FILE).write_bytes(weights)
        (fresh / CONFIG_FILE).write_text(config + "\n")
        (fresh / CARD_FILE).write_text(card)

    write_folder(folder, fill)
