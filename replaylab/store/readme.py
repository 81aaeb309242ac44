"""The README of published results, generated from the files: every file, column and measure, with its unit."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq

from replaylab.catalogue import DOMAINS, measure_of
from replaylab.store import packed

COLUMNS = {
    "run": "id of the run: a hash of its spec; of references `references-` and a hash of theirs",
    "preset": "the first preset that has the run, which names its files of rows and samples; `references`, or `others`",
    "presets": "all presets of the library that have the run, with spaces between",
    "configuration": "what was done, in words; the same for all seeds",
    "base": "the model that fine-tuning started from: hash of its weights",
    "target": "domain that was fine-tuned on; empty for references",
    "replay": "kind of replay: `near`, `far`, `all`, or the domains' names; empty without replay",
    "replay_fraction": "share of each batch that was replayed, 0 to 1; missing for references",
    "seed": "of clips' order and noise; −1 for references",
    "split": "of the clips that were measured: `dev`, or `test` for preregistered runs",
    "steps": "training steps; 0 for references",
    "state": "`done`: only finished runs are published",
    "seconds": "s; of a run the time that it took, in a log its clock, which begins again where the run resumed",
    "commit": "git commit that the run was made at; `+changes` where files differed from it, with a digest in newer runs",
    "sha256": "of the Parquet file that the run's rows were published from",
    "weights_sha256": "of the file of trained weights; empty for references and older runs",
    "spec": "JSON: all that determines the run's numbers",
    "summary": "JSON: seconds, clips that were shown, execution (threads, precision, device), versions, machine",
    "manifest": "JSON: how the run was executed",
    "gallery": "JSON, of references: domain → percentile of how far the agents move → number of the clip that is kept",
    "model": "`fine-tuned`; of references `base`, `real`, `autoencoder`, `copy-last-frame` or `constant-velocity`",
    "step": "of fine-tuning; 0 for the base, −1 for other references",
    "domain": "what was measured on",
    "video": "of the domain; empty for a measure of a whole set of clips",
    "start": "first frame of the clip in its video",
    "scene": "what is resampled together: clips of one scene are no independent samples",
    "measure": "see Measures",
    "value": "in the measure's unit, to 12 binary digits",
    "n": "what the value is a mean of or rests on: agents, frames or feature vectors",
    "frames": "of a distance: that one feature vector sees; else 0",
    "size_px": "of a distance: height and width that frames were given to the extractor in, px; else 0",
    "resize": "of a distance: how frames came to that size",
    "extractor": "of a distance: the network that gives features",
    "extractor_digest": "of a distance: SHA-256 of the network's weights",
    "loss": "mean squared error of the predicted velocity or noise, over the batch",
    "gradient_norm": "Euclidean norm of all gradients, before clipping",
    "learning_rate": "of AdamW at this step",
    "percentile": "of how far the agents of the clip move, among the domain's clips",
    "boxes": "JSON: lists a frame, under `true` and `found`, of left, top, right, bottom in px",
    "mp4": "the clip, context frames first",
    "name": "file name",
    "bytes": "the file: an mp4 or png",
    "statistic": "which, see `replaylab.analysis.world_statistics`; the unit ends its name",
    "low": "lower end of the 95 % interval, over scenes",
    "high": "its upper end",
    "scenes": "how many went in",
    "vx_px_s": "an agent's velocity in the image, to the right, px/s",
    "vy_px_s": "the same, downwards",
    "damage": "how clips were damaged",
    "grade": "how strongly, in `unit`",
    "unit": "of the grade",
}
"""The meaning of each column of all tables; a test fails if one is missing here."""
FILES = {
    "runs.parquet": "A row a run or references (the base, real clips, autoencoder, copied frames).",
    "logs.parquet": "A row a training step.",
    "rows": "A row a value: of a clip, or of a whole set. Each run's rows are in the file of its first preset.",
    "samples.parquet": "Clips with true and detected boxes: after the last step, of one base of each preset.",
    "worlds": "What moves in the domains: `survey.json` names the videos, `media.parquet` has some with their truth.",
    "damage": "The measures of clips that were damaged in known ways; `media.parquet` has an example of each.",
}


def text_of(folder: Path) -> str:
    """README.md of a packed store."""
    runs = packed.runs_in(folder)
    references = sum(run.startswith(packed.REFERENCES) for run in runs)
    lines = [
        "# Results",
        "",
        f"{len(runs) - references} finished runs and {references} sets of references, packed by the verb `publish`.",
        "To read them without the library:",
        "",
        "```python",
        "import pandas as pd",
        "",
        'runs = pd.read_parquet("runs.parquet")',
        'rows = pd.read_parquet("rows/published.parquet", filters=[("measure", "==", "ade_px")])',
        "```",
        "",
    ]
    for kind, about in FILES.items():
        paths = sorted(folder.glob(f"{kind}*")) if kind in ("damage", "rows", "worlds") else [folder / kind]
        paths = [file for path in paths for file in ([path] if path.is_file() else sorted(path.glob("*.parquet")))]
        if any(path.is_file() for path in paths):
            lines += [f"## {kind}", "", about, "", *_table(("file", "rows"), _sizes(folder, paths)), ""]
            lines += [*_table(("column", "type", "meaning"), _columns(paths)), ""]
    measures = {name for path in folder.glob("rows/*.parquet") for name in _measures(path)}
    entries = {name: measure_of(name) for name in sorted(measures)}
    better = {"low": "lower", "high": "higher", "real": "as on real clips"}
    of_measures = [(f"`{name}`", one.label, one.unit or "–", better[one.better], one.group) for name, one in entries.items()]
    lines += ["## Measures", "", *_table(("measure", "name", "unit", "better", "group"), of_measures), ""]
    of_domains = [(f"`{name}`", domain.label, domain.role) for name, domain in DOMAINS.items()]
    lines += ["## Domains", "", *_table(("domain", "name", "role"), of_domains), ""]
    lines += [
        "## Licence and citation",
        "",
        "Apache-2.0, see `LICENSE` in the repository. To cite, see `CITATION.cff` there.",
        "",
    ]
    return "\n".join(lines)


def _sizes(folder: Path, paths: Iterable[Path]) -> list[tuple[str, ...]]:
    return [(f"`{path.relative_to(folder).as_posix()}`", str(pq.read_metadata(path).num_rows)) for path in paths]


def _columns(paths: Iterable[Path]) -> list[tuple[str, ...]]:
    types = {field.name: str(field.type) for path in paths for field in pq.read_schema(path)}
    return [
        (f"`{name}`", kind.removeprefix("large_"), COLUMNS.get(name, "as the run logged it")) for name, kind in types.items()
    ]


def _measures(path: Path) -> list[str]:
    return packed.read(path, columns=["measure"], read_dictionary=["measure"])["measure"].unique().to_pylist()


def _table(head: Iterable[str], lines: Iterable[Iterable[str]]) -> list[str]:
    rows = [list(head), ["---" for _ in head], *lines]
    return [f"| {' | '.join(row)} |" for row in rows]
