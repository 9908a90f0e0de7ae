"""What the page's script is told of each run. Records may hold anything, so nothing in them is taken on trust."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from peftbench.report.figures.style import method_marks, metric_axis
from peftbench.report.labels import label_settings, method_name
from peftbench.report.records import Run

_LONGEST = 2000
"""Characters of a text: a traceback of megabytes helps nobody."""

Pairs = list[tuple[str, str]]


def page_data(runs: Sequence[Run], folder: Path) -> dict[str, Any]:
    """Rows of the runs and what they share, of plain JSON types, every number finite.

    Args:
        runs: all of the page's.
        folder: where the page will lie; links are relative to it.
    """
    labels, environments = label_settings(runs), _Numbered()
    shared = _shared([run.settings for run in runs])
    rows = [
        _row(run, labels[run.setting_id], folder)
        | {
            "environment": environments.number(tuple(pairs(run.record.get("environment")))),
            "settings": pairs({k: v for k, v in run.settings.items() if k not in shared}),
        }
        for run in runs
    ]
    methods = sorted({run.method for run in runs}, key=lambda name: method_name(name).casefold())
    marks = method_marks(methods)
    return {
        "rows": rows,
        "shared": pairs(shared),
        "environments": environments.known,
        "marks": {method_name(name): [marks[name].colour, marks[name].marker] for name in methods},
    }


def at(values: Any, *keys: str) -> Any:
    """`values[key][key]...`, or None where a step of it is not there."""
    for key in keys:
        values = values.get(key) if isinstance(values, dict) else None
    return values


def number(value: Any) -> float | int | None:
    """A finite number as it is, None for whatever else."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if good else None


def text(value: Any) -> str:
    """A value in words, at most 2,000 characters of it."""
    if isinstance(value, str):
        told = value
    elif value is None:
        told = "–"
    elif isinstance(value, float):
        told = f"{value:.6g}"
    elif isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        told = ", ".join(map(text, value)) or "–"
    else:
        told = json.dumps(value, ensure_ascii=False, default=str)
    return told if len(told) <= _LONGEST else f"{told[:_LONGEST]} … ({len(told):,} characters)"


def listed(values: Any) -> list[Any]:
    """A list as it is, an empty one for whatever else."""
    return values if isinstance(values, list) else []


def pairs(values: Any) -> Pairs:
    """A nested mapping flat, key and value in words: `{"a": {"b": 1}}` to `[("a.b", "1")]`."""
    return list(_flat(values)) if isinstance(values, dict) else []


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", text(value)


class _Numbered:
    """Values, each kept once."""

    def __init__(self):
        self.known: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        if value not in self._numbers:
            self._numbers[value] = len(self.known)
            self.known.append(value)
        return self._numbers[value]


def _shared(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What every run was set to; empty for a single run, of which all is its own."""
    if len(settings) < 2:
        return {}
    first, *others = settings
    return {key: value for key, value in first.items() if all(key in other and other[key] == value for other in others)}


def _row(run: Run, label: str, folder: Path) -> dict[str, Any]:
    record = run.record
    metric, split = _scored(run)
    axis, factor = metric_axis(metric) if metric else ("", 1.0)
    score = number(at(record, "metrics", split, metric)) if run.completed else None
    return {
        "task": text(run.task),
        "method": method_name(text(run.method)),
        "label": label,
        "model": text(run.model),
        "seed": number(run.seed),
        "status": text(run.status),
        "metric": axis,
        "split": split,
        "score": None if score is None else score * factor,
        "effective": number(at(record, "parameters", "effective")),
        "trained": number(at(record, "parameters", "trained")),
        "before": _total(at(record, "ranks", "initial")),
        "after": _total(at(record, "ranks", "final")),
        "epoch_s": number(at(record, "timing", "epoch_median_s")),
        "rss": number(at(record, "memory", "peak_rss_mb")),
        "cuda": number(at(record, "memory", "peak_cuda_mb")),
        "flags": [text(flag) for flag in listed(record.get("flags"))],
        "error": _error(record.get("error")),
        "protocol": text(run.protocol),
        "train_rows": number(run.train_rows),
        "ground": f"weights {run.weights}, rows {run.rows_id}",
        "mark": ", ".join(run.marks),
        "run": text(run.run_id),
        "link": link(run.file, folder),
        "details": _details(record),
        "stages": [_stage(stage) for stage in listed(record.get("stages"))],
    }


def _scored(run: Run) -> tuple[str, str]:
    """Metric and split of the run's score: its table's, else what selected it; empty of a run without either."""
    chosen = run.record.get("selection")
    return run.shown or (text(at(chosen, "metric") or ""), text(at(chosen, "split") or ""))


def link(file: Path, folder: Path) -> str:
    """A file's address from a folder, percent-encoded byte by byte, so that it is never another scheme's."""
    relative = os.path.relpath(os.path.realpath(file), os.path.realpath(folder))
    return quote(os.fsencode(relative.replace(os.sep, "/")))


def _total(ranks: Any) -> int | None:
    if not isinstance(ranks, dict):
        return None
    return sum(rank for rank in ranks.values() if isinstance(rank, int))


def _error(error: Any) -> str | None:
    if not isinstance(error, dict):
        return None if error is None else text(error)
    step = "" if error.get("step") is None else f" (step {text(error['step'])})"
    return f"{text(error.get('type'))}: {text(error.get('message'))}{step}"


def _stage(stage: Any) -> dict[str, Any]:
    ranks = _total(at(stage, "ranks"))
    shares = {key: number(at(stage, key)) for key in ("generalization", "memorization")}
    told = {"name": text(at(stage, "name")), "effective": number(at(stage, "parameters", "effective"))}
    return told | {"ranks": ranks} | shares


def _details(record: Mapping[str, Any]) -> list[tuple[str, Pairs]]:
    """Sections of what opens under a row; those that a run has nothing for are left out."""
    parameters = at(record, "parameters")
    counts = parameters if isinstance(parameters, dict) else {}
    whole = ("run_id", "started", "ended", "steps", "form")
    sections = {
        "Metrics, as recorded": pairs(record.get("metrics")),
        "Untrained": pairs(record.get("untrained")),
        "Baselines": pairs(record.get("baselines")),
        "Selection": pairs(record.get("selection")),
        "Parameters": [(k, f"{v:,}" if isinstance(v, int) else text(v)) for k, v in counts.items()],
        "Ranks": _ranks(record.get("ranks")),
        "Time": pairs(record.get("timing")),
        "Memory": pairs(record.get("memory")),
        "Data": pairs(record.get("data")),
        "Model": pairs(record.get("model")),
        "Run": pairs({"experiment": at(record, "config", "experiment_name")} | {k: record.get(k) for k in whole}),
    }
    return [(title, found) for title, found in sections.items() if found]


def _ranks(ranks: Any) -> Pairs:
    final = at(ranks, "final")
    if not isinstance(final, dict):
        return []
    gone = sum(1 for rank in final.values() if rank == 0)
    return [
        ("before", text(_total(at(ranks, "initial")))),
        ("after", text(_total(final))),
        ("sites", text(len(final))),
        ("sites without rank", text(gone)),
    ]
