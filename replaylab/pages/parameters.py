"""The parameters of the notebooks and their validation.

papermill only warns about an unknown parameter, and converts `-p seeds [0,1]` to a string; in both cases the page would not
show what was requested. Decision: the second code cell of a notebook is `p = parameters.parameters(globals())`, which treats
every plain public value of the notebook as a parameter. An unknown name or a value of the wrong type stops the notebook,
with a message that lists the valid parameters: the fields of a dataclass, one for each notebook.

Refused: parameters that are not plain values, and guesses about mistyped ones.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar

from replaylab.description import LARGEST_WHOLE
from replaylab.evaluation import corruption_study
from replaylab.spec import CLUSTERS
from replaylab.sweeps import own_settings
from replaylab.sweeps.presets import OFFERED_EDITIONS, PRESETS
from replaylab.worlds.named import ALL_DOMAINS, SURVEYS

PLAIN = (str, int, float, bool, list, dict, tuple, type(None))
OF_IPYTHON = {"In", "Out", "exit", "quit", "open"}
PRESETS_OWN = "[] for the preset's own"
CLUSTER_FILE = 'YAML: what a job gets; "" for the cluster\'s own'


def _is_fraction(item: object) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool) and 0 <= item <= 1  # NaN is not


def _is_seed(item: object) -> bool:
    return isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= LARGEST_WHOLE


def _is_text(item: object) -> bool:
    return isinstance(item, str)


@dataclass(frozen=True)
class ItemKind:
    """The kind of items that a list may contain."""

    one: str
    several: str
    is_valid: Callable[[object], bool]
    example: list[Any]


ITEM_KINDS = {
    "fractions": ItemKind("a replay fraction from 0 to 1", "numbers from 0 to 1", _is_fraction, [0, 0.5]),
    "seeds": ItemKind(f"a whole number from 0 to {LARGEST_WHOLE}", "whole numbers from 0", _is_seed, [0, 1, 2]),
    "names": ItemKind("a name", "names", _is_text, []),  # an example is the first of the choices
    "folders": ItemKind("a folder's path", "paths", _is_text, ["domains/one", "domains/two"]),
    "settings": ItemKind("a text such as steps=200", "texts", _is_text, ["steps=200", "prompt=a car drives"]),
    "agents": ItemKind("a text such as person=pedestrian", "texts", _is_text, ["car=car", "person=pedestrian"]),
}


def text_of(default: str, note: str = "", choices: Iterable[str] = ()) -> Any:
    """A text parameter; if there are choices, one of them."""
    return field(default=default, metadata={"kind": "text", "note": note, "choices": tuple(choices)})


def list_of(kind: str, note: str = PRESETS_OWN, default: Sequence[Any] = (), choices: Iterable[str] = ()) -> Any:
    """A list parameter with items of one of ITEM_KINDS."""
    metadata = {"kind": kind, "note": note, "choices": tuple(choices)}
    return field(default_factory=lambda: list(default), metadata=metadata)


def _store(default: str = "the preset's own") -> Any:
    return text_of("", f'a folder; "" for {default}')


@dataclass(frozen=True)
class ExplorerParameters:
    """The parameters of the explorer's notebook, which trains nothing; an empty list or text means the preset's own."""

    preset: str = text_of("confirmatory", choices=PRESETS)
    replay_fractions: list[float] = list_of("fractions")
    seeds: list[int] = list_of("seeds")
    store: str = _store()


@dataclass(frozen=True)
class SweepParameters(ExplorerParameters):
    """The parameters of the notebooks that train missing runs: those of the explorer's, and where to train."""

    preset: str = text_of("published", choices=PRESETS)
    cluster: str = text_of("inline", choices=CLUSTERS)
    cluster_file: str = text_of("", CLUSTER_FILE)


@dataclass(frozen=True)
class SecondWorldParameters(ExplorerParameters):
    """The parameters of the second world's notebook: those of the explorer's, with another default preset."""

    preset: str = text_of("second-world", choices=PRESETS)


@dataclass(frozen=True)
class SecondFamilyParameters(ExplorerParameters):
    """The parameters of the second family's notebook: those of the explorer's, with another default preset."""

    preset: str = text_of("second-family", choices=PRESETS)


@dataclass(frozen=True)
class WorldsParameters:
    """The parameters of the worlds' notebook; an empty list means all domains, an empty store the preset's own."""

    preset: str = text_of("published", choices=SURVEYS)
    domains: list[str] = list_of("names", "[] for all", choices=ALL_DOMAINS)
    store: str = _store()


@dataclass(frozen=True)
class MeasuresParameters:
    """The parameters of the notebook on metrics; `domain` is the one that its figures show."""

    preset: str = text_of("published", choices=corruption_study.PRESETS)
    domain: str = text_of(corruption_study.EVENTFUL, choices=corruption_study.DOMAINS)
    store: str = _store()


@dataclass(frozen=True)
class AlignmentParameters:
    """The parameters of the notebook on alignment, which trains nothing; an empty list or text means the presets' own."""

    presets: list[str] = list_of(
        "names", "that measure the same clips", ["published", "dose", "dose-between"], choices=PRESETS
    )
    seeds: list[int] = list_of("seeds")
    store: str = _store("the presets' own")


@dataclass(frozen=True)
class StoreParameters:
    """The parameters of the notebooks on the second edition and on scale, which train nothing."""

    store: str = _store("the presets' own")


@dataclass(frozen=True)
class AblationsParameters:
    """The parameters of the notebook on ablations, which trains nothing; an empty list or text means the presets' own."""

    edition: str = text_of("first", "of the experiment", choices=OFFERED_EDITIONS)
    seeds: list[int] = list_of("seeds")
    store: str = _store("the presets' own")


@dataclass(frozen=True)
class YourModelParameters:
    """The parameters of the notebook for a reader's own models and videos."""

    driving: str = text_of("", "a domain: python -m replaylab domain add")
    replay: list[str] = list_of("folders", "domains to replay")
    replay_fractions: list[float] = list_of("fractions", "0 is without replay", [0.0, 0.25])
    preset: str = text_of("wan", "settings of a family", own_settings.PRESETS)
    model: str = text_of("", 'a folder or a name on the hub; "" for the preset\'s')
    settings: list[str] = list_of("settings")
    seeds: list[int] = list_of("seeds", "", [0])
    detector: str = text_of("", "of transformers; without one no agent is measured")
    agents: list[str] = list_of("agents", "[] for the usual classes")
    cluster: str = text_of("inline", choices=CLUSTERS)
    cluster_file: str = text_of("", CLUSTER_FILE)
    store: str = _store("book/runs/store")


Parameters = TypeVar("Parameters")


def parameters(names: Mapping[str, object], kind: type[Parameters] = SweepParameters) -> Parameters:  # type: ignore[assignment]
    """The notebook's parameters, from its `globals()`, as an instance of the dataclass `kind`.

    Raises ValueError, with the parameter, its value, what to write, and all valid parameters, for a plain public value in
    `names` that is not a field of `kind`, and for a field of the wrong type or out of range.
    """
    valid = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]
    for name, value in names.items():
        is_public = not name.startswith("_") and name not in OF_IPYTHON
        if is_public and name not in valid and isinstance(value, PLAIN):
            raise ValueError(f"unknown parameter {name!r}{_nearest(name, list(valid))}\n{_listed(valid)}")
    given = {name: names[name] for name in valid if name in names}
    for name, value in given.items():
        if problem := _problem(valid[name], value):
            raise ValueError(f"{problem}\n{_listed(valid)}")
    return kind(**given)


def _problem(one: "Field[Any]", value: object) -> str:
    """Why `value` is invalid for this field, and what to write instead; "" if it is valid."""
    name, kind, choices = one.name, one.metadata["kind"], one.metadata["choices"]
    got = f"parameter {name!r} is {value!r} ({type(value).__name__})"
    if kind == "text":
        if not isinstance(value, str):
            return f"{got}, but must be text. Write -r {name} TEXT: papermill leaves the value of -r as it is."
        if choices and value not in choices:
            return f"{got}, but must be one of {_quoted(choices)}{_nearest(value, list(choices))}"
        return ""
    items = ITEM_KINDS[kind]
    if not isinstance(value, list | tuple):
        return f"{got}, but must be a list. Write {_as_yaml(one, value)}"
    for position, item in enumerate(value):
        wrong = f"{got}: item {position}, {item!r} ({type(item).__name__}), is"
        if not items.is_valid(item):
            return f"{wrong} not {items.one}. Write for example {_as_yaml(one, None)}"
        if choices and item not in choices:
            return f"{wrong} none of {_quoted(choices)}{_nearest(item, list(choices))}"
    if len(set(value)) < len(value):
        return f"{got}: every item may stand in it only once"
    return ""


def _as_yaml(one: "Field[Any]", value: object) -> str:
    """The papermill option that passes the list that was probably meant, or else an example."""
    items, choices = ITEM_KINDS[one.metadata["kind"]], one.metadata["choices"]
    text = str(value).strip().strip("[]()")
    try:
        meant = [name.strip(" \"'") for name in text.split(",")] if choices else json.loads(f"[{text}]")
    except json.JSONDecodeError:
        meant = []
    if not meant or not all(items.is_valid(item) and (not choices or item in choices) for item in meant):
        meant = items.example or list(choices[:2])
    # Names without quotes: only the shell's are needed.
    listed = f"[{', '.join(meant)}]" if choices else json.dumps(meant)
    return f'-y "{one.name}: {listed}"'


def _listed(valid: Mapping[str, "Field[Any]"]) -> str:
    return "Valid parameters:\n" + "\n".join(f"  {_described(one)}" for one in valid.values())


def _described(one: "Field[Any]") -> str:
    default = one.default if one.default_factory is MISSING else one.default_factory()
    kind = one.metadata["kind"]
    of_type, of_them = ("text", "one") if kind == "text" else (f"list of {ITEM_KINDS[kind].several}", "any")
    choices = f"{of_them} of {_quoted(one.metadata['choices'])}" if one.metadata["choices"] else ""
    notes = "; ".join(filter(None, [choices, one.metadata["note"]]))
    return f"{one.name}: {of_type}, default {json.dumps(default)} ({notes})"


def _nearest(name: str, valid: list[str]) -> str:
    near = difflib.get_close_matches(name, valid, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(json.dumps(name) for name in names)
