"""What test_ranks compares, made by every rank of `torchrun tests/helpers/on_ranks.py FOLDER`."""

import json
import sys
from itertools import islice, product
from pathlib import Path
from typing import Any

import monitored_loops
from accelerate import Accelerator, DataLoaderConfiguration
from numbered_items import DATA, MIXTURE, STEPS
from safetensors.torch import save_file
from small_training import model, sources, training
from torch.utils.data import DataLoader

from replaylab.mixture import Mixture
from replaylab.sampler import ReplayBatchSampler
from replaylab.spec import MachineSpec, RemedySpec
from replaylab.training import loop
from replaylab.util import distributed

VARIANTS: dict[str, tuple[dict[str, Any], RemedySpec]] = {
    "full": ({}, RemedySpec()),
    "lora": ({"trained": "lora"}, RemedySpec()),
    "temporal": ({"trained": "temporal"}, RemedySpec()),
    "in parts": ({"accumulate": 2}, RemedySpec()),
    "lwf": ({}, RemedySpec("lwf", 1.0)),
    "l2-sp": ({}, RemedySpec("l2-sp", 1.0)),
    "wise-ft": ({}, RemedySpec("wise-ft", 0.5)),
}
CLIPS = sources()
MIXED = Mixture(0.25, 4, [len(source) for source in CLIPS], 1)


def fitted(folder: Path, name: str, machine: MachineSpec, rank=distributed.Rank()):
    changes, remedy = VARIANTS[name]
    made = model()
    seen: list[int] = []
    loop.fit(made, CLIPS, MIXED, training(5, **changes), 1, folder, name, machine=machine, rank=rank, remedy=remedy,
              evaluate_at=(2, 5), evaluate=seen.append)  # fmt: skip
    assert seen == [2, 5]
    return loop.full_state_dict(made)


def under_accelerate(split: bool) -> list[list[int]]:
    """The items that this rank gets."""
    loader = DataLoader(DATA, batch_sampler=ReplayBatchSampler(MIXTURE, STEPS))
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(split_batches=split))
    return [batch[0].tolist() for batch in accelerator.prepare(loader)]


def resumed_under_accelerate(split: bool, dispatch: bool) -> list[list[int]]:
    """The items that this rank gets in all steps, of a stateful loader that was stopped after 7."""
    config = DataLoaderConfiguration(split_batches=split, dispatch_batches=dispatch, use_stateful_dataloader=True)

    def loader() -> Any:
        batches = ReplayBatchSampler(MIXTURE, STEPS, shards=1 if split else 2)
        return Accelerator(cpu=True, dataloader_config=config).prepare(DataLoader(DATA, batch_sampler=batches))

    stopped, resumed = loader(), loader()
    seen = [batch[0].tolist() for batch in islice(stopped, 7)]
    resumed.load_state_dict(stopped.state_dict())
    return seen + [batch[0].tolist() for batch in resumed]


def monitored(folder: Path, clips: monitored_loops.Held, sharded: bool, lora: bool, rank=distributed.Rank()):
    """Whether a loop with a monitor ends in the bits of one without, and what was measured."""
    watched, alone = (
        monitored_loops.fine_tuned(folder, clips, settings, lora=lora, sharded=sharded, rank=rank)
        for settings in (dict[str, Any](), None)
    )
    assert watched.monitor
    history = [[one.step, one.loss, one.seconds, one.share] for one in watched.monitor.history]
    return {"same": monitored_loops.same(watched, alone), "history": history}


def main(home: Path) -> None:
    rank = distributed.this_rank()
    for way, sharded in (("DDP", False), ("FSDP2", True)):
        for name in VARIANTS:
            folder = home / way / name
            weights = fitted(folder, name, MachineSpec("fp32", sharded=sharded, checkpoint_steps=2), rank)
            if rank.is_main:
                save_file(weights, folder / "weights.safetensors")
    got = {way: under_accelerate(split) for way, split in (("split", True), ("in turns", False))}
    for split, dispatch in product((True, False), (True, False)):
        got[f"resumed {split=} {dispatch=}"] = resumed_under_accelerate(split, dispatch)
    (home / f"accelerate-{rank.index}.json").write_text(json.dumps(got))
    tiny = home / "wan", monitored_loops.encoded("wan", home / "wan")
    found = {}
    for sharded, lora in product((True, False), repeat=2):
        found[f"{sharded=} {lora=}"] = monitored(*tiny, sharded, lora, rank)
    (home / f"monitored-{rank.index}.json").write_text(json.dumps(found))
    bad = [CLIPS[0] * float("nan"), CLIPS[1]]
    try:
        loop.fit(model(), bad, MIXED, training(5), 1, home / "bad", "bad", rank=rank)
    except FloatingPointError as error:
        (home / f"bad-{rank.index}.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
