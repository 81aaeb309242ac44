"""Low-rank adapters for any network: adding, writing, reading and merging.

Decision: peft's layers are used instead of diffusers' `add_adapter`, which UNetSpatioTemporalConditionModel does not have.
The written files can be loaded by `load_lora_weights` of diffusers' pipelines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from replaylab.spec import torch_seed
from replaylab.util import reading
from replaylab.util.files import write_atomically

FILE = "pytorch_lora_weights.safetensors"


def add_lora(network: Any, pattern: str, rank: int, seed: int) -> None:
    """LoRA (Hu et al. 2021, arXiv 2106.09685) on the layers whose names match; all other weights are frozen.

    Scaled by alpha / rank = 1. Raises ValueError where no layer matches.
    """
    from peft import LoraConfig, inject_adapter_in_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed, "adapters"))  # peft draws from the global stream
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern), network)
    for weight in network.parameters():
        if weight.requires_grad and weight.dtype != torch.float32:
            weight.data = weight.data.float()  # a small step would be lost in half precision


def write_lora(network: Any, folder: Path, network_name: str, weights: dict[str, Tensor] | None = None) -> None:
    """Write `<folder>/pytorch_lora_weights.safetensors`; each name begins with the network's name in its pipeline.

    `weights`: all weights of the network, if its own are sharded.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    adapters = get_peft_model_state_dict(network, state_dict=weights)
    named = {f"{network_name}.{name}": weight.detach().cpu().contiguous() for name, weight in adapters.items()}
    write_atomically(folder / FILE, lambda aside: save_file(named, aside))


def read_lora(network: Any, folder: Path, network_name: str) -> None:
    """Load the file of `write_lora` into the network's adapters; raises FileNotFoundError, with the path."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    if not (folder / FILE).is_file():
        raise FileNotFoundError(f"{folder / FILE} is missing: this run's adapters were not kept, train it again")
    named = reading.tensors(folder / FILE, load_file, "train the run again")
    weights = {name.removeprefix(f"{network_name}."): weight for name, weight in named.items()}
    set_peft_model_state_dict(network, weights)


def merge_lora(network: Any) -> None:
    """Add the adapters to the weights they adapt, and remove them."""
    from diffusers.utils.peft_utils import recurse_remove_peft_layers
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()
    recurse_remove_peft_layers(network)
    del network.peft_config
