"""Do two commits compute the same? Runs a sweep with each and compares everything that they leave, byte for byte.

    python tests/helpers/compare_commits.py HEAD~1 .

Each commit is checked out into a temporary folder (`.` is the working tree as it is) and sweeps the preset into a store
of its own, with this same Python and one thread. Then every file of one store is compared with the file of that name in
the other: rows, weights, samples, latents, domains and their truth, specs. Only what records when, where, how long and
with which versions something was made is left out: some fields of `summary.json`, the seconds of each line of a log, and
the path of the base in a network's `config.json`.

Only the command line and the files of a store are used, so the two commits may be arranged in quite different ways. Bits
differ from one kind of processor to another, so nothing is kept to compare with: both sweeps are run here and now. The
smoke preset takes a minute or two for each.

Exit status: 0 where all is the same, 1 where something differs, 2 where a commit or its sweep failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = {  # of files of this name: fields that say when, where, how long and with which versions
    "summary.json": {"seconds", "git_commit", "replaylab", "packages", "python", "machine", "processors"},
    "log.jsonl": {"seconds"},
    "config.json": {"_name_or_path"},
}
KINDS = {  # of files, by the ends of their paths; the first that fits
    "rows.parquet": "rows",
    ".safetensors": "weights",
    "log.jsonl": "log, without seconds",
    "summary.json": "summary, without provenance",
    "spec.json": "spec",
    ".npy": "latents",
    ".parquet": "tables of truth",
    ".mp4": "videos",
    ".json": "other JSON",
    "": "other files",
}


class Failed(Exception):
    """A commit that cannot be checked out, or a sweep that did not end well."""


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A folder with the files of a commit, gone afterwards; the working tree itself for `.`."""
    if commit == ".":
        yield ROOT
        return
    with tempfile.TemporaryDirectory(prefix="compare-commits-") as parent:
        folder = Path(parent) / "checkout"
        _run(["git", "worktree", "add", "--quiet", "--detach", str(folder), commit], ROOT)
        try:
            yield folder
        finally:
            _run(["git", "worktree", "remove", "--force", str(folder)], ROOT)


def _run(command: list[str], folder: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout.strip()


def sweep(commit: str, preset: str, store: Path) -> None:
    """Run the preset's sweep with a commit's library, into the store."""
    started = time.monotonic()
    with checkout(commit) as folder:
        alone = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        python = [sys.executable, "-c", "import replaylab; print(replaylab.__file__)"]
        found = _run(python, folder, **alone).splitlines()[-1]
        if not Path(found).is_relative_to(folder):  # or it would be compared with itself
            raise Failed(f"{commit}: Python imports {found}, not what is in {folder}")
        command = [sys.executable, "-m", "replaylab", "sweep", "--preset", preset, "--store", str(store)]
        _run(command, folder, **alone)
    print(f"{commit}: swept {preset} in {time.monotonic() - started:.0f} s", flush=True)


def compare(old: Path, new: Path) -> pd.DataFrame:
    """One row a file of either store: columns what (its kind), file, and difference ("" for none)."""
    files = sorted({*_files(old), *_files(new)})
    return pd.DataFrame(
        [(_kind(file), file, _difference(old / file, new / file)) for file in files], columns=["what", "file", "difference"]
    )


def _files(store: Path) -> list[str]:
    """All but locks and others that are hidden."""
    paths = (path.relative_to(store) for path in store.rglob("*") if path.is_file())
    return [path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)]


def _kind(file: str) -> str:
    kind = next(name for end, name in KINDS.items() if file.endswith(end))
    first = file.split("/")[0]
    owner = first if first in ("domains", "latents") else "references" if "-" in first else "runs"
    return kind if owner == kind else f"{owner}: {kind}"


def _difference(old: Path, new: Path) -> str:
    """In what two files differ; "" in nothing that counts."""
    missing = [side for side, path in (("old", old), ("new", new)) if not path.is_file()]
    if missing:
        return f"not in the {missing[0]} store"
    if old.read_bytes() == new.read_bytes():
        return ""
    if old.suffix == ".jsonl":
        return _of_lines(*(_plain_lines(path) for path in (old, new)))
    if old.suffix == ".json":
        difference = _of_keys(*(_plain(path.read_text(), path.name) for path in (old, new)))
        return difference or ("" if old.name in LEFT_OUT else "the same content in other bytes")
    if old.suffix == ".parquet":
        return _of_tables(pd.read_parquet(old), pd.read_parquet(new)) or "the same content in other bytes"
    return f"{old.stat().st_size} and {new.stat().st_size} bytes differ"


def _plain(text: str, name: str) -> Any:
    """JSON without what is left out in files of this name."""
    found = json.loads(text)
    without = LEFT_OUT.get(name, set())
    return {key: value for key, value in found.items() if key not in without} if without else found


def _plain_lines(path: Path) -> list[Any]:
    return [_plain(line, path.name) for line in path.read_text().splitlines()]


def _of_keys(old: Any, new: Any) -> str:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return "" if old == new else "other content"
    return ", ".join(
        key if key in old and key in new else f"{key} (in one alone)"
        for key in sorted(old.keys() | new.keys())
        if key not in old or key not in new or old[key] != new[key]
    )


def _of_lines(old: list[Any], new: list[Any]) -> str:
    if len(old) != len(new):
        return f"{len(old)} and {len(new)} lines"
    differing = (number for number in range(len(old)) if old[number] != new[number])
    first = next(differing, None)
    return "" if first is None else f"from line {first + 1} on: {_of_keys(old[first], new[first])}"


def _of_tables(old: pd.DataFrame, new: pd.DataFrame) -> str:
    if list(old) != list(new) or len(old) != len(new):
        return f"{len(old)} and {len(new)} rows; columns {sorted({*old} ^ {*new}) or 'the same'}"
    other = {column: int((~_alike(old[column], new[column])).sum()) for column in old}
    return ", ".join(f"{column} in {rows} of {len(old)} rows" for column, rows in other.items() if rows)


def _alike(old: pd.Series, new: pd.Series) -> pd.Series:
    return (old == new) | (old.isna() & new.isna())


def report(table: pd.DataFrame) -> str:
    """How many files of each kind were compared and differ, then each one that does."""
    counted = table.assign(differ=table["difference"] != "").groupby("what")["differ"].agg(["size", "sum"])
    lines = [counted.rename(columns={"size": "files", "sum": "differ"}).reset_index().to_string(index=False)]
    differing = table[table["difference"] != ""]
    lines += [f"{row.file}: {row.difference}" for row in differing.itertuples()]
    lines.append(f"{len(differing)} of {len(table)} files differ" if len(differing) else "all the same")
    return "\n".join(lines)


def main() -> int:
    """The command: its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD", help="a commit, or . for the working tree")
    parser.add_argument("new", metavar="NEW", help="likewise")
    parser.add_argument("--preset", default="smoke", help="what is swept (default: %(default)s)")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the stores there, in FOLDER/old and FOLDER/new")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compare-stores-") as temporary:
        home = Path(options.keep or temporary).absolute()
        stores = home / "old", home / "new"
        if any(store.exists() for store in stores):
            parser.error(f"--keep: {home} holds old or new already; name a folder without them")
        try:
            for commit, store in zip((options.old, options.new), stores, strict=True):
                sweep(commit, options.preset, store)
        except Failed as failure:
            print(failure, file=sys.stderr)
            return 2
        table = compare(*stores)
    print(report(table))
    return int((table["difference"] != "").any() or table.empty)


if __name__ == "__main__":
    sys.exit(main())
