"""Metrics of classes, numbers and short answers; of texts that are written at length see `tasks.text_metrics`."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from peftbench.tasks.metrics.answers import RecordEM, RecordF1
from peftbench.tasks.metrics.base import LocalMetric
from peftbench.tasks.metrics.classification import (
    F1,
    Accuracy,
    ExactMatch,
    F1a,
    GenderParity,
    MacroF1,
    MatthewsCorrelation,
)
from peftbench.tasks.metrics.correlation import Pearson, Spearman

METRICS: dict[str, type[LocalMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearman": Spearman,
    "macro_f1": MacroF1,
    "f1a": F1a,
    "exact_match": ExactMatch,
    "gender_parity": GenderParity,
    "record_f1": RecordF1,
    "record_em": RecordEM,
}


def compute_metrics(
    names: Sequence[str], predictions: Any, references: Any, columns: Mapping[str, Sequence] | None = None
) -> dict[str, float]:
    """Score predictions with the named metrics (keys of `METRICS`); one flat dict, in the order of `names`.

    Args:
        names: of the metrics.
        predictions: one per row.
        references: one per row.
        columns: the rows' other columns, for metrics that need them.

    Raises ValueError for an unknown name, for a column that a metric needs and does not find, and for input that is
    empty, of unequal length or not finite.
    """
    classes = [_metric_class(name) for name in names]
    scores: dict[str, float] = {}
    for metric_class in classes:
        lost = [name for name in metric_class.needs if name not in (columns or {})]
        if lost:
            raise ValueError(f"{metric_class.__name__} needs the rows' column {', '.join(lost)}")
        needed = {name: (columns or {})[name] for name in metric_class.needs}
        # Not `compute`: it copies every row through Python objects into Arrow and back, once per metric.
        scores.update(_instance(metric_class)._compute(predictions=predictions, references=references, **needed))
    return scores


def describe(names: Sequence[str]) -> dict[str, str]:
    """State which implementation, and which version of it, gives each named metric."""
    return {name: f"{_metric_class(name).__module__} {_metric_class(name).version}" for name in names}


def _metric_class(name: str) -> type[LocalMetric]:
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; known metrics: {', '.join(METRICS)}")
    return METRICS[name]


@cache
def _instance(metric_class: type[LocalMetric]) -> LocalMetric:
    return metric_class()
