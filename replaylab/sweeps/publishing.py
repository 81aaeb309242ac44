"""Publishing a store: the presets and the configuration of each run; the files are written by `store.packing`."""

from __future__ import annotations

from pathlib import Path

from replaylab.spec import RunSpec
from replaylab.store import packing
from replaylab.sweeps import ablations, presets


def publish(store: Path, out: Path) -> None:
    """Pack the finished runs of a store into the folder `out`, in addition to its packed runs; see `packing.publish`."""
    asked = {name: configurations(name, store, out) for name in presets.PRESETS}
    packing.publish(store, out, asked, with_all_clips=[of.sweep[0] for of in presets.EDITIONS.values()])


def configurations(preset: str, *stores: Path) -> dict[str, str]:
    """Run id -> configuration in words, for every run of a preset. If the preset depends on the results of other runs, the
    first store with these is used; empty if no store has them.
    """
    if preset in ablations.PRESETS:
        for store in stores:
            try:
                named = ablations.named(preset, store=store)
            except FileNotFoundError:
                continue
            return {run: f"{group}: {name}" for run, group, name in named.itertuples(index=False)}
        return {}
    plain = {spec.run_id: _words(spec) for spec in presets.grid(preset)}
    shares = [share for share in presets.PRESETS[preset].replay_fractions if 0 < share < 1]
    longer = presets.grid(preset, shares, budget="driving-samples") if shares else []
    return {spec.run_id: f"{_words(spec)}, as many driving samples" for spec in longer} | plain


def _words(spec: RunSpec) -> str:
    return spec.title.rpartition(", seed")[0]
