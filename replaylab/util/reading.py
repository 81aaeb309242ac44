"""Reading of files: one reader for each format.

Decision: any error of a library for a file that is empty, truncated, invalid, of another type or too large becomes a
`DamagedFile` that names the file, the reason and a remedy; a missing file is a FileNotFoundError with the same information,
and errors of the system (no permission, a broken disk) stay OSErrors with the path. Callers therefore need not know the
errors of pyarrow, safetensors or JSON parsers. Refused: pickled arrays, and aliases in YAML, by which a few lines can expand
to gigabytes.
"""

from __future__ import annotations

import errno
import json
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

RESTORE = "copy it again, or move it away and make it again"
CUT = "it was cut short, or is a Git LFS pointer"
MOST_SETTINGS_BYTES = 2**20  # of a file that somebody wrote by hand
LONGEST_REASON = 300  # characters of what a library says

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 120, 120


class DamagedFile(ValueError):
    """A file that exists but cannot be used."""


def shown(value: object) -> str:
    """An external value for an error message: its `repr`, truncated."""
    return _SHORT.repr(value)


def reason(error: BaseException) -> str:
    """The reason given by a library's error: its first line, truncated."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:LONGEST_REASON]


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` replaced; raises ValueError, with the path, for an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{path}: there is no such user here, so it is no folder; write the whole path") from error


@contextmanager
def named(path: Path, what: str, remedy: str = RESTORE) -> Iterator[None]:
    """Context in which every error names this path. `what`: the expected content, such as "whole Parquet file"."""
    try:
        yield
    except DamagedFile:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; {remedy}") from error
    except OSError as error:
        if error.errno == errno.EISDIR:
            raise DamagedFile(f"{path} is a folder, and no {what}; {remedy}") from error
        if error.errno is None:  # pyarrow's and PyAV's, where the content is wrong
            raise DamagedFile(f"{path} is no {what} ({reason(error)}); {remedy}") from error
        if error.filename is None:
            raise OSError(error.errno, error.strerror or reason(error), str(path)) from error
        raise
    except Exception as error:
        empty = path.is_file() and path.stat().st_size == 0
        why = "it is empty" if empty else reason(error)
        raise DamagedFile(f"{path} is no {what} ({why}); {remedy}") from error


def text(path: Path, remedy: str = RESTORE) -> str:
    """A text file in UTF-8."""
    with named(path, "text in UTF-8", remedy):
        return path.read_text(encoding="utf-8")


def json_value(path: Path, kind: type, remedy: str = RESTORE) -> Any:
    """The value in a JSON file, of this type (dict or list)."""
    what = "JSON object" if kind is dict else "JSON list"
    with named(path, what, remedy):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, kind):
        raise DamagedFile(f"{path} is no {what}, but holds {shown(found)}; {remedy}")
    return found


def json_object(path: Path, remedy: str = RESTORE, **fields: type | tuple[type, ...]) -> dict[str, Any]:
    """The object in a JSON file, which must have these fields, of these types."""
    found: dict[str, Any] = json_value(path, dict, remedy)
    for name, kind in fields.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if name not in found:
            raise DamagedFile(f"{path}: field {name!r} is missing; {remedy}")
        if not isinstance(found[name], kinds) or (isinstance(found[name], bool) and bool not in kinds):
            wanted = " or ".join(each.__name__ for each in kinds)
            raise DamagedFile(f"{path}: field {name!r} is {shown(found[name])}, not of type {wanted}; {remedy}")
    return found


def json_lines(path: Path, remedy: str = RESTORE) -> list[dict[str, Any]]:
    """The objects in a file with one per line, and at least one."""
    found = []
    for number, line in enumerate(text(path, remedy).splitlines(), start=1):
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DamagedFile(f"{path}: line {number} is no JSON ({reason(error)}); {remedy}") from error
        if not isinstance(found[-1], dict):
            raise DamagedFile(f"{path}: line {number} is {shown(found[-1])}, and should be an object; {remedy}")
    if not found:
        raise DamagedFile(f"{path} is empty; {remedy}")
    return found


def yaml_object(path: Path, remedy: str = "see the page about clusters") -> dict[str, Any]:
    """A YAML file of settings: keys with values, or nothing; without aliases."""
    import yaml

    if path.is_file() and path.stat().st_size > MOST_SETTINGS_BYTES:
        raise DamagedFile(f"{path} has {path.stat().st_size} bytes, too many for a file of settings; {remedy}")
    with named(path, "whole YAML file", remedy):
        written = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(written, yaml.SafeLoader)):
            raise DamagedFile(f"{path} has aliases (*name), which are not read: write the values out; {remedy}")
        found = yaml.safe_load(written) or {}
    if not isinstance(found, dict):
        raise DamagedFile(f"{path} must hold keys with values, such as `partition: gpu`; got {shown(found)}")
    return found


def table(
    path: Path, remedy: str = RESTORE, columns: Mapping[str, str] | Collection[str] = (), numbers: Collection[str] = (),
    only: bool = False, **options: Any,
) -> pd.DataFrame:  # fmt: skip
    """A Parquet file; the checksums of its pages are compared if it has any.

    It must have these `columns` (names, or names with descriptions for the error), of which those in `numbers` hold numbers;
    with `only`, no other column is read. `options` go to `pandas.read_parquet`.
    """
    import pandas as pd
    from pyarrow import parquet

    with named(path, "whole Parquet file", remedy):
        if path.is_dir():  # pandas would read all files in it
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        if only:
            options["columns"] = [name for name in parquet.read_schema(path).names if name in columns]
        found = pd.read_parquet(path, page_checksum_verification=True, **options)
    _check_columns(found, path, remedy, columns)
    for column in numbers:
        if not pd.api.types.is_numeric_dtype(found[column]):
            raise DamagedFile(f"{path}: column {column!r} holds {found[column].dtype}, and should hold numbers; {remedy}")
    return found


def csv(path: Path, remedy: str = RESTORE, columns: Collection[str] = (), **options: Any) -> pd.DataFrame:
    """A CSV file with a header, which must have these columns. `options` go to `pandas.read_csv`."""
    import pandas as pd

    with named(path, "whole CSV file", remedy):
        found = pd.read_csv(path, **options)
    _check_columns(found, path, remedy, columns)
    return found


def _check_columns(
    found: pd.DataFrame, path: Path, remedy: str, columns: Mapping[str, str] | Collection[str]
) -> None:  # fmt: skip
    for column in columns:
        if column not in found:
            about = f" ({columns[column]})" if isinstance(columns, Mapping) else ""
            raise DamagedFile(f"{path}: column {column!r} is missing{about}; {remedy}")


def tensors(path: Path, load: Callable[[Path], dict[str, Any]], remedy: str = RESTORE) -> dict[str, Any]:
    """A safetensors file, read by `safetensors.torch.load_file` or the equivalent of another library."""
    with named(path, "whole safetensors file", f"{CUT}: {remedy}"):
        return load(path)


def array(path: Path, remedy: str = RESTORE) -> np.ndarray[Any, Any]:
    """A .npy file, memory-mapped; never a pickled one."""
    import numpy as np
    from numpy.lib.format import open_memmap

    with named(path, "whole .npy file", remedy):
        return np.asarray(open_memmap(path, mode="r"))  # still mapped: a plain array is quicker to cut
