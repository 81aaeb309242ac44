"""The README.md of a finished run: a model card with the hub's metadata, for sharing its weights.

Decision: everything on it is computed from the run's spec and rows; results are means over clips after the last step, as
a table and as the hub's `model-index`. A base is given by its hub name where it has one; no local path is written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from replaylab.catalogue import measure_of
from replaylab.spec import RunSpec

TASK, LIBRARY = "image-to-video", "diffusers"
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
DIGITS = 4  # that are shown and handed on


def text_of(spec: RunSpec, rows: pd.DataFrame, realised: Mapping[str, Any]) -> str:
    """The card. rows: those of the run, columns `run_folders.COLUMNS`; realised: number of training clips of each domain."""
    from huggingface_hub import EvalResult, ModelCardData

    means = means_of(spec, rows)
    results = [
        EvalResult(
            task_type=TASK, dataset_type=domain, dataset_name=domain, dataset_split=spec.evaluation.split,
            metric_type=measure, metric_name=measure_of(measure).name, metric_value=value,
        )
        for domain, measure, value, _ in means.itertuples(index=False)
    ]  # fmt: skip
    data = ModelCardData(
        model_name=spec.run_id, base_model=base_model(spec), library_name=LIBRARY, pipeline_tag=TASK,
        datasets=[spec.target.name, *(world.name for world in spec.replay.domains)],
        tags=["video-generation", "fine-tuned", "replay"], replay_fraction=spec.replay.fraction,
        eval_results=results or None,
    )  # fmt: skip
    return f"---\n{data.to_yaml()}\n---\n\n{_body(spec, means, realised)}"


def means_of(spec: RunSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """Domain, measure, mean value and number of clips after the last step; measures without a value are left out."""
    last = rows[(rows["step"] == spec.training.steps) & rows["value"].notna()]
    grouped = last.groupby(["domain", "measure"], sort=True)["value"]
    means = grouped.agg(value="mean", clips="size").reset_index()
    return means.assign(value=[_rounded(value) for value in means["value"]])


def base_model(spec: RunSpec) -> str | None:
    """The base's name on the hub; None for a folder, or for a shipped base."""
    name = spec.model.folder if spec.model else ""
    return name if HUB_NAME.fullmatch(name) else None


def _rounded(value: float) -> float:
    return round(value, DIGITS - 1 - math.floor(math.log10(abs(value)))) if value else 0.0


def _body(spec: RunSpec, means: pd.DataFrame, realised: Mapping[str, Any]) -> str:
    training, shown = spec.training, ", ".join(f"{count} of {name}" for name, count in realised.items())
    of_base = base_model(spec) or f"a base whose weights have the digest `{spec.base}`"
    table = [
        f"| {domain} | {measure_of(measure).name} | {value:g} | {clips} |"
        for domain, measure, value, clips in means.itertuples(index=False)
    ]
    lines = [
        f"# {spec.title}",
        "",
        f"Fine-tuned from {of_base} for {training.steps} steps of {training.batch_size} clips ({training.trained} weights, "
        f"learning rate {training.learning_rate:g}). Clips shown: {shown}. Everything that determines the result is in "
        "`spec.json`; how it was executed, and with which versions, in `summary.json`.",
        "",
        f"## Results after the last step, on the {spec.evaluation.split} split",
        "",
        "| domain | measure | mean | values |",
        "|---|---|---:|---:|",
        *table,
        "",
        "`rows.parquet` has every value, and those of earlier steps; the base, real clips and copied frames on the same "
        "clips are in a folder `references-…` beside this one.",
        "",
    ]
    return "\n".join(lines)
