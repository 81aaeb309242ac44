"""The base of all descriptions of runs and their parts: plain JSON, its canonical form and digest, and checks of fields.

Refused: unknown or missing keys, and values of another type.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

# A field that came after runs were published: it is left out where it has its default, so that they keep their names.
LATER = {"later": True}
NAME = re.compile(r"[^\W_](?:[\w .-]{0,62}[\w-])?")
"""The valid names of domains, which become part of paths, pages, figures and tables and may come from other people."""
PLACE = "folder"  # a path: it is recorded, but changes no number and is no part of a name


class Described:
    """The base of all descriptions: dataclasses that become plain JSON."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: tuples are lists."""
        values = {one: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]  # all are dataclasses
        return {
            one.name: _plain(value)
            for one, value in values.items()
            if not ("later" in one.metadata and value == one.default)
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `as_dict`; raises ValueError that names the unknown or missing keys and lists the valid ones."""
        return _build(cls, plain)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.as_dict() if isinstance(value, Described) else value


def without_places(plain: Any) -> Any:
    """The plain JSON of a description without its paths."""
    if isinstance(plain, list):
        return [without_places(each) for each in plain]
    if isinstance(plain, dict):
        return {key: without_places(value) for key, value in plain.items() if key != PLACE}
    return plain


def canonical_json(spec: Described) -> str:
    """The JSON whose hash names a description."""
    return _canonical(spec.as_dict())


def _canonical(plain: Any) -> str:
    return json.dumps(without_places(plain), sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(spec: Described) -> str:
    """Twelve hex digits of the SHA-256 of the canonical JSON."""
    return digest_of_plain(spec.as_dict())


def digest_of_plain(plain: Any) -> str:
    """The `digest` of the description that has this plain JSON."""
    return hashlib.sha256(_canonical(plain).encode()).hexdigest()[:12]


def _build(cls: Any, plain: Any) -> Any:
    """A description from plain JSON: nested ones by their type, lists as tuples; unknown keys are refused."""
    if not isinstance(plain, dict):
        raise ValueError(f"{cls.__name__}: an object with keys is needed, not {plain!r}")
    kinds = get_type_hints(cls)
    later = {one.name for one in fields(cls) if "later" in one.metadata}
    unknown, missing = sorted(plain.keys() - kinds), sorted(kinds - plain.keys() - later)
    if unknown or missing:
        raise ValueError(f"{cls.__name__}: unknown keys {unknown}, missing keys {missing}; valid keys are {sorted(kinds)}")
    return cls(**{key: _value(cls, key, kind, plain[key]) for key, kind in kinds.items() if key in plain})


def _value(cls: Any, key: str, kind: Any, plain: Any) -> Any:
    if isinstance(kind, UnionType):  # of two descriptions, one with a folder; or with None, where the key is missing
        kinds = [one for one in get_args(kind) if one is not type(None)]
        is_place = isinstance(plain, dict) and PLACE in plain
        kind = next((one for one in kinds if is_place == (PLACE in get_type_hints(one))), kinds[0])
    if get_origin(kind) is tuple:
        return tuple(_value(cls, key, get_args(kind)[0], entry) for entry in plain)
    if is_dataclass(kind):
        return _build(kind, plain)
    if not isinstance(plain, (int, float) if kind is float else kind) or isinstance(plain, bool) != (kind is bool):
        raise ValueError(f"{cls.__name__}: {key} is {plain!r}, not of type {kind.__name__}")
    return plain


# ------------------------------------------------------------------------------------------------------ checks of fields
def check_name(name: object, where: str) -> None:
    """Raises ValueError, which says `where`, unless this matches NAME."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        short = repr(name) if len(repr(name)) < 100 else f"{repr(name)[:100]}..."
        raise ValueError(
            f"{where} is {short}; a name has at most 64 letters, digits, spaces, '.', '_' and '-', and begins with a letter "
            "or a digit"
        )


LONGEST_PROMPT = 2000  # characters


def check_prompt(prompt: object, where: str) -> None:
    """Raises ValueError, which says `where`, unless this is one line that is short enough for a text encoder."""
    if not isinstance(prompt, str) or len(prompt) > LONGEST_PROMPT or not prompt.isprintable():
        short = repr(prompt) if len(repr(prompt)) < 100 else f"{repr(prompt)[:100]}..."
        raise ValueError(f"{where} is {short}; it must be a text of one line, of at most {LONGEST_PROMPT} characters")


LARGEST_WHOLE = 2**63 - 1


def check_numbers(of: Any, *names: str, above: float = -math.inf, least: float = -math.inf) -> None:
    """Raises ValueError, with the field, unless these fields are finite numbers, above `above` and at least `least`."""
    for name in names:
        value = getattr(of, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not (above < value < math.inf and value >= least)
        ):
            bounds = [f"above {above:g}"] * (above > -math.inf) + [f"at least {least:g}"] * (least > -math.inf)
            raise ValueError(f"{name} is {value!r}; it must be {' and '.join(bounds or ['a finite number'])}, and finite")
        if isinstance(value, int) and value > LARGEST_WHOLE:
            raise ValueError(f"{name} is {value!r}; it must be at most {LARGEST_WHOLE}, as tables keep whole numbers")


def check_fraction(fraction: float) -> None:
    """Raises ValueError unless the replay fraction is a number from 0 to 1."""
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
        raise ValueError(f"replay_fraction is {fraction!r}; it must be a number from 0 (without replay) to 1 (replay only)")
