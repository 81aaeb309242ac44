"""The configurations of a replay sweep in figures: their order, the paths through them, and their colours.

Decision: the fractions of one kind of replay form a path, from replay 0 % to the most, in one hue, which is the same
wherever that kind is shown. The functions take tables of `tables.per_configuration`.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import seaborn as sns

from replaylab.analysis.changes import FINE_TUNED
from replaylab.analysis.tables import NONE
from replaylab.catalogue import MAIN_FRACTION
from replaylab.pages import style
from replaylab.pages.style import BLUE, VERMILION


def tuned_configurations(values: pd.DataFrame) -> list[str]:
    """The names of the fine-tuned configurations: replay 0 %, then each kind of replay by increasing fraction."""
    tuned = values[values["model"] == FINE_TUNED].drop_duplicates("configuration").itertuples()
    ordered = sorted(tuned, key=lambda one: (one.configuration != NONE, *_hue_first(one.replay), one.replay_fraction))
    return [one.configuration for one in ordered]


def _hue_first(kind: str) -> tuple[bool, bool, str]:
    """A key for sorting kinds: near replay first, so that it is always blue, and "all" last."""
    return kind == "all", kind != "near", kind


def main_comparison(means: pd.DataFrame) -> list[str]:
    """Those of the main comparison: replay 0 %, MAIN_FRACTION of each kind (or its largest below 1), and all."""
    tuned = means[means["model"] == FINE_TUNED].drop_duplicates("configuration")
    chosen = list(tuned.loc[tuned["replay_fraction"].isin([0, 1]), "configuration"])
    mixed = tuned[(tuned["replay_fraction"] > 0) & (tuned["replay_fraction"] < 1)]
    for _, of_kind in mixed.groupby("replay"):
        main = of_kind[of_kind["replay_fraction"] == MAIN_FRACTION]
        chosen.append((main if len(main) else of_kind.nlargest(1, "replay_fraction"))["configuration"].iloc[0])
    return [name for name in tuned_configurations(means) if name in chosen]


def chains_of(values: pd.DataFrame) -> dict[str, list[str]]:
    """Kind of replay -> the configurations on its path, from replay 0 % to the most; "fine-tuned" if there is one kind only.

    Replay 0 % and replay of everything ("all", beside other kinds) are the ends of every path.
    """
    tuned = values[values["model"] == FINE_TUNED].sort_values("replay_fraction")
    ends = {"", "all"} if set(tuned["replay"]) - {"", "all"} else {""}
    kinds = sorted(set(tuned["replay"]) - ends) or [""]
    chains = [list(dict.fromkeys(tuned.loc[tuned["replay"].isin([*ends, kind]), "configuration"])) for kind in kinds]
    return dict(zip([FINE_TUNED] if len(kinds) == 1 else kinds, chains, strict=True))


def colours_of(values: pd.DataFrame) -> dict[str, Any]:
    """Vermilion without replay; with replay a hue per kind, darker for larger fractions."""
    names = tuned_configurations(values)
    kinds = values.drop_duplicates("configuration").set_index("configuration")["replay"]
    kinds = kinds.reindex([name for name in names if name != NONE])
    colours: dict[str, Any] = dict.fromkeys(names, VERMILION)
    for hue, (_, of_kind) in zip(style.HUES, kinds.groupby(kinds, sort=False), strict=False):
        shades = sns.blend_palette(hue, len(of_kind)) if len(of_kind) > 1 else [hue[1]]
        colours |= dict(zip(of_kind.index, shades, strict=True))
    return colours


def colour_of_chain(chain: Sequence[str], colours: dict[str, Any]) -> Any:
    """The colour of a path: that of its middle."""
    return colours[chain[len(chain) // 2]] if chain else BLUE
