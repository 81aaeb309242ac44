"""Optional parts of the package, installed by `pip install 'replaylab[NAME]'`: a failing import names this command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec


class MissingExtra(ImportError):
    """A missing optional module; the message names it, and the command that installs it."""

    def __init__(self, module: str, extra: str = "") -> None:
        what = f"'replaylab[{extra}]'" if extra else module  # what is in no extra is installed by itself
        super().__init__(f"{module} is not installed, and this needs it: pip install {what}", name=module)


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Context for imports from an optional part; raises MissingExtra."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "a module", extra) from error


def check_there(extra: str, *modules: str) -> None:
    """Raise MissingExtra for the first of the modules that is not installed; imports none of them."""
    for module in modules:
        if find_spec(module) is None:
            raise MissingExtra(module, extra)
