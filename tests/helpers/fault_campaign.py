"""The campaign of faults: everything that can go wrong, on purpose, and a table of how it ended. `make faults` runs it.

A fault is clear if what it raises is a sentence for people (an error that the command line prints as one line, which names
the file or field), and harmless if all is as it would have been without it. Every module of MODULES has FAULTS; those that
take no more than a moment are also tests (tests/test_faults.py).
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from replaylab.util.progress import track

MODULES = (
    "bad_inputs",
    "bad_settings",
    "hostile_names",
    "full_disk",
    "flipped_bits",
    "power_failures",
    "dead_ends",
    "kills",
)
LONGEST_MESSAGE = 1500  # characters


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong. `happen` is called with an empty folder, and raises AssertionError where the fault is
    neither clear nor harmless.
    """

    kind: str
    """a row of the table"""
    name: str
    happen: Callable[[Path], None]
    is_short: bool = True
    """whether it takes a moment, and is a test too"""
    times: int = 1
    """how often it goes wrong, as the table counts it"""

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


@contextmanager
def clear(*words: object) -> Iterator[None]:
    """What is raised inside must be an error that the command line shows as a sentence, with these words in it."""
    try:
        yield
    except (ValueError, OSError) as error:
        text = str(error)
        missing = [str(word) for word in words if str(word) not in text]
        assert not missing, f"{missing} not in: {text[:LONGEST_MESSAGE]}"
        assert len(text) <= LONGEST_MESSAGE, f"a message of {len(text)} characters"
        return
    except Exception as error:
        raise AssertionError(f"no sentence, but {type(error).__name__}: {str(error)[:300]}") from error
    raise AssertionError("nothing was raised")


def all_faults() -> list[Fault]:
    """Of all modules, those of a kind together."""
    faults = [fault for name in MODULES for fault in import_module(name).FAULTS]
    names = [str(fault) for fault in faults]
    assert len(set(names)) == len(names), "two faults have one name"
    return faults


def main() -> int:
    """Let all happen, print the table, and those that were neither clear nor harmless."""
    tried: dict[str, int] = {}
    well: dict[str, int] = {}
    seconds: dict[str, float] = {}
    wrong = []
    for fault in track(all_faults(), "faults", unit="faults"):
        began, ended_well = time.monotonic(), 1
        with tempfile.TemporaryDirectory() as folder:
            try:
                with redirect_stderr(io.StringIO()):
                    fault.happen(Path(folder))
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                what = str(error)[:500] or f"{last.line}, line {last.lineno} of {Path(last.filename).name}"
                wrong.append(f"{fault}: {type(error).__name__}: {what}")
                ended_well = 0
        tried[fault.kind] = tried.get(fault.kind, 0) + fault.times
        well[fault.kind] = well.get(fault.kind, 0) + ended_well * fault.times
        seconds[fault.kind] = seconds.get(fault.kind, 0.0) + time.monotonic() - began
    print(f"{'kind of fault':32} {'tried':>6} {'clear or unharmed':>18} {'s':>7}")
    for kind in tried:
        print(f"{kind:32} {tried[kind]:6} {well[kind]:18} {seconds[kind]:7.1f}")
    print(f"{'all':32} {sum(tried.values()):6} {sum(well.values()):18} {sum(seconds.values()):7.1f}")
    print("\n".join(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
