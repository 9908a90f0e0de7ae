"""Predictions of one split to metrics, whole and by subset."""

from __future__ import annotations

import numpy as np

from peftbench.benchmark_average import mean_by_task
from peftbench.tasks.base import LIKELIHOOD, Predictions, Split, TaskSpec
from peftbench.tasks.metrics import compute_metrics, describe
from peftbench.tasks.mixture import parts

Scores = dict[str, float | None]


def score(spec: TaskSpec, split: Split, predictions: Predictions) -> dict[str, Scores]:
    """The split's metrics under its name, and those of each subset under `<split>_<subset>`.

    Of a mixture each task has its own metrics under its own name, and the split the mean over tasks of their means.

    Args:
        spec: the task.
        split: its rows, labelled.
        predictions: one per row.
    """
    if spec.members:
        return _mixture_scores(spec, split, predictions)
    found = {split.name: _scores(spec, split, predictions)}
    if spec.subset is not None and spec.subset in split.columns:
        of = np.asarray(split.columns[spec.subset])
        for part in dict.fromkeys(split.columns[spec.subset]):
            rows = np.flatnonzero(of == part)
            chosen = [predictions[i] for i in rows]
            found[f"{split.name}_{part}"] = _scores(spec, split.take(rows, split.name), chosen)
    return found


def implementations(spec: TaskSpec) -> dict[str, str]:
    """Which implementation, and which version of it, gives each of the task's metrics."""
    if spec.members:
        found = dict.fromkeys(spec.metrics, "peftbench.benchmark_average")
        return found | {name: what for member in spec.members for name, what in implementations(member).items()}
    found = dict.fromkeys(LIKELIHOOD, "torch, mean over target tokens") if spec.kind in ("generate", "lm") else {}
    if spec.convention is not None:
        from peftbench.tasks.text_metrics import describe_text_metrics

        return found | describe_text_metrics(spec.metrics, spec.convention)
    return found | describe(spec.metrics)


def _mixture_scores(spec: TaskSpec, split: Split, texts: Predictions) -> dict[str, Scores]:
    found: dict[str, Scores] = {}
    for member, places, part in parts(spec.members, split):
        assert member.text is not None
        read = member.text.read([str(texts[place]) for place in places], part)
        found |= score(member, part, read)
    known = ((name, value) for name, scores in found.items() for value in scores.values() if value is not None)
    whole: Scores = {spec.metrics[0]: mean_by_task(known)}
    return {split.name: whole} | found


def _scores(spec: TaskSpec, split: Split, predictions: Predictions) -> Scores:
    if spec.convention is not None:
        from peftbench.tasks.text_metrics import compute_text_metrics

        return compute_text_metrics(spec.metrics, list(predictions), split.columns["references"], spec.convention)
    return dict(compute_metrics(spec.metrics_of(split.name), predictions, split.labels, split.columns))
