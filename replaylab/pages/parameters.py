"""What did the reader ask this notebook for?

papermill only warns about a parameter that no cell knows, and turns `-p seeds [0,1]` into a string. Both
would show a page that is not the one asked for. So a notebook's second cell is `p =
notebook.parameters(globals())`: whatever plain public value stands in the notebook by then is taken for a
parameter, and an unknown name or a value of the wrong kind stops the notebook with a message that lists the
valid ones. The valid ones are the fields of a dataclass, so another notebook brings its own.

Refused: parameters that are not plain values, and guessing what a mistyped one meant.
"""

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from replaylab.analysis import world_statistics
from replaylab.evaluation import corruption_study
from replaylab.spec import CLUSTERS
from replaylab.sweeps import own_model
from replaylab.sweeps.presets import PRESETS
from replaylab.worlds.named import DOMAINS

PLAIN = (str, int, float, bool, list, dict, tuple, type(None))
OF_IPYTHON = {"In", "Out", "exit", "quit", "open"}
EMPTY = "[] for the preset's own"


def _is_fraction(item: object) -> bool:
    is_number = isinstance(item, int | float) and not isinstance(item, bool)
    return is_number and math.isfinite(item) and 0 <= item <= 1  # type: ignore[arg-type, operator]


def _is_seed(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and item >= 0


def _is_text(item: object) -> bool:
    return isinstance(item, str)


@dataclass(frozen=True)
class Items:
    """What a list may hold."""

    one: str
    several: str
    is_fine: Callable[[object], bool]
    example: list[Any]


LISTS = {
    "fractions": Items("a replay fraction from 0 to 1", "numbers from 0 to 1", _is_fraction, [0, 0.5]),
    "seeds": Items("a whole number from 0 up", "whole numbers from 0", _is_seed, [0, 1, 2]),
    "names": Items("a name", "names", _is_text, []),  # an example is the first of the choices
    "folders": Items("a folder's path", "paths", _is_text, ["domains/one", "domains/two"]),
    "settings": Items("a text such as steps=200", "texts", _is_text, ["steps=200", "prompt=a car drives"]),
    "agents": Items("a text such as person=pedestrian", "texts", _is_text, ["car=car", "person=pedestrian"]),
}


def _holds(kind: str, note: str = "", choices: Iterable[str] = ()) -> dict[str, Any]:
    """What a parameter may hold, as the metadata of its field: `kind` is "text" or one of LISTS."""
    return {"kind": kind, "note": note, "choices": tuple(choices)}


@dataclass(frozen=True)
class SweepParameters:
    """The parameters of the replay sweep's notebook; an empty list or text means the preset's own."""

    preset: str = field(default="published", metadata=_holds("text", choices=PRESETS))
    replay_fractions: list[float] = field(default_factory=list, metadata=_holds("fractions", EMPTY))
    seeds: list[int] = field(default_factory=list, metadata=_holds("seeds", EMPTY))
    cluster: str = field(default="inline", metadata=_holds("text", choices=CLUSTERS))
    cluster_file: str = field(default="", metadata=_holds("text", 'YAML: what a job gets; "" for the cluster\'s own'))
    store: str = field(default="", metadata=_holds("text", 'a folder; "" for the preset\'s own'))


@dataclass(frozen=True)
class SamplesParameters:
    """The parameters of the explorer's notebook, which only reads; an empty list or text means the preset's own."""

    preset: str = field(default="published", metadata=_holds("text", choices=PRESETS))
    replay_fractions: list[float] = field(default_factory=list, metadata=_holds("fractions", EMPTY))
    seeds: list[int] = field(default_factory=list, metadata=_holds("seeds", EMPTY))
    store: str = field(default="", metadata=_holds("text", 'a folder; "" for the preset\'s own'))


@dataclass(frozen=True)
class WorldsParameters:
    """The parameters of the worlds' notebook; an empty list means all domains, an empty text the preset's own."""

    preset: str = field(default="published", metadata=_holds("text", choices=world_statistics.PRESETS))
    domains: list[str] = field(default_factory=list, metadata=_holds("names", "[] for all", DOMAINS))
    store: str = field(default="", metadata=_holds("text", 'a folder; "" for the preset\'s own'))


@dataclass(frozen=True)
class DamageParameters:
    """The parameters of the measures' notebook; `domain` is the one that its figures show."""

    preset: str = field(default="published", metadata=_holds("text", choices=corruption_study.PRESETS))
    domain: str = field(default=corruption_study.EVENTFUL, metadata=_holds("text", choices=corruption_study.DOMAINS))
    store: str = field(default="", metadata=_holds("text", 'a folder; "" for the preset\'s own'))


@dataclass(frozen=True)
class AlignmentParameters:
    """The parameters of the notebook on alignment, which only reads; an empty list or text means the presets' own."""

    presets: list[str] = field(
        default_factory=lambda: ["published", "dose", "dose-between"],
        metadata=_holds("names", "that measure the same clips", PRESETS),
    )
    seeds: list[int] = field(default_factory=list, metadata=_holds("seeds", EMPTY))
    store: str = field(default="", metadata=_holds("text", 'a folder; "" for the presets\' own'))


@dataclass(frozen=True)
class AblationsParameters:
    """The parameters of the notebook on ablations, which only reads; an empty list or text means the presets' own."""

    seeds: list[int] = field(default_factory=list, metadata=_holds("seeds", EMPTY))
    store: str = field(default="", metadata=_holds("text", 'a folder; "" for the presets\' own'))


@dataclass(frozen=True)
class SecondWorldParameters:
    """The parameters of the second world's notebook, which only reads; an empty list or text means the preset's own."""

    preset: str = field(default="second-world", metadata=_holds("text", choices=PRESETS))
    replay_fractions: list[float] = field(default_factory=list, metadata=_holds("fractions", EMPTY))
    seeds: list[int] = field(default_factory=list, metadata=_holds("seeds", EMPTY))
    store: str = field(default="", metadata=_holds("text", 'a folder; "" for the preset\'s own'))


@dataclass(frozen=True)
class SecondFamilyParameters(SecondWorldParameters):
    """The parameters of the second family's notebook: those of the second world's, with another preset to begin with."""

    preset: str = field(default="second-family", metadata=_holds("text", choices=PRESETS))


@dataclass(frozen=True)
class OwnParameters:
    """The parameters of the notebook for models and videos of one's own."""

    driving: str = field(default="", metadata=_holds("text", "a domain: python -m replaylab domain add"))
    replay: list[str] = field(default_factory=list, metadata=_holds("folders", "domains to replay"))
    replay_fractions: list[float] = field(
        default_factory=lambda: [0.0, 0.25], metadata=_holds("fractions", "0 is no replay")
    )
    preset: str = field(default="wan", metadata=_holds("text", "settings of a family", own_model.PRESETS))
    model: str = field(default="", metadata=_holds("text", 'a folder or a name on the hub; "" for the preset\'s'))
    settings: list[str] = field(default_factory=list, metadata=_holds("settings", EMPTY))
    seeds: list[int] = field(default_factory=lambda: [0], metadata=_holds("seeds"))
    detector: str = field(default="", metadata=_holds("text", "of transformers; without one no agent is measured"))
    agents: list[str] = field(default_factory=list, metadata=_holds("agents", "[] for the usual classes"))
    cluster: str = field(default="inline", metadata=_holds("text", choices=CLUSTERS))
    cluster_file: str = field(default="", metadata=_holds("text", 'YAML: what a job gets; "" for the cluster\'s own'))
    store: str = field(default="", metadata=_holds("text", 'a folder; "" for book/runs/store'))


Parameters = TypeVar("Parameters")


def parameters(names: Mapping[str, object], kind: type[Parameters] = SweepParameters) -> Parameters:  # type: ignore[assignment]
    """The notebook's parameters out of its `globals()`, as an instance of the dataclass `kind`.

    Raises ValueError that names the parameter, what was got, what to write, and all valid parameters: for a
    plain public value in `names` that is no field of `kind`, and for a field of the wrong type or out of
    range.
    """
    valid = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    for name, value in names.items():
        is_public = not name.startswith("_") and name not in OF_IPYTHON
        if is_public and name not in valid and isinstance(value, PLAIN):
            raise ValueError(f"unknown parameter {name!r}{_nearest(name, list(valid))}\n{_listed(valid)}")
    given = {name: names[name] for name in valid if name in names}
    for name, value in given.items():
        problem = _problem(valid[name], value)
        if problem:
            raise ValueError(f"{problem}\n{_listed(valid)}")
    return kind(**given)


def _problem(one: "Field[Any]", value: object) -> str:
    """What is wrong with `value` for this field and what to write instead; "" if nothing."""
    name, kind, choices = one.name, one.metadata["kind"], one.metadata["choices"]
    got = f"parameter {name!r} is {value!r} ({type(value).__name__})"
    if kind == "text":
        if not isinstance(value, str):
            return f"{got}, but must be text. Write -r {name} TEXT: papermill leaves the value of -r as it is."
        if choices and value not in choices:
            return f"{got}, but must be one of {_quoted(choices)}{_nearest(value, list(choices))}"
        return ""
    items = LISTS[kind]
    if not isinstance(value, list | tuple):
        return f"{got}, but must be a list. Write {_as_yaml(one, value)}"
    for position, item in enumerate(value):
        wrong = f"{got}: item {position}, {item!r} ({type(item).__name__}), is"
        if not items.is_fine(item):
            return f"{wrong} not {items.one}. Write for example {_as_yaml(one, None)}"
        if choices and item not in choices:
            return f"{wrong} none of {_quoted(choices)}{_nearest(item, list(choices))}"
    if len(set(value)) < len(value):
        return f"{got}: every item may stand in it only once"
    return ""


def _as_yaml(one: "Field[Any]", value: object) -> str:
    """The papermill option that passes the list the reader seems to have meant, else an example."""
    items, choices = LISTS[one.metadata["kind"]], one.metadata["choices"]
    text = str(value).strip().strip("[]()")
    try:
        meant = [name.strip(" \"'") for name in text.split(",")] if choices else json.loads(f"[{text}]")
    except json.JSONDecodeError:
        meant = []
    if not meant or not all(items.is_fine(item) and (not choices or item in choices) for item in meant):
        meant = items.example or list(choices[:2])
    # Names go without quotes: the shell has the only ones.
    listed = f"[{', '.join(meant)}]" if choices else json.dumps(meant)
    return f'-y "{one.name}: {listed}"'


def _listed(valid: Mapping[str, "Field[Any]"]) -> str:
    return "Valid parameters:\n" + "\n".join(f"  {_described(one)}" for one in valid.values())


def _described(one: "Field[Any]") -> str:
    default = one.default if one.default_factory is MISSING else one.default_factory()
    kind = one.metadata["kind"]
    of_type, of_them = ("text", "one") if kind == "text" else (f"list of {LISTS[kind].several}", "any")
    notes = [f"{of_them} of {_quoted(one.metadata['choices'])}"] if one.metadata["choices"] else []
    notes += [one.metadata["note"]] if one.metadata["note"] else []
    return f"{one.name}: {of_type}, default {json.dumps(default)} ({'; '.join(notes)})"


def _nearest(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(json.dumps(name) for name in names)
