"""GLUE's metrics as local `evaluate` metrics: no download, no file, no lock.

`evaluate.load("glue")` fetches a script from the network and keeps predictions in a cache folder. The
classes here give the same numbers from numpy alone and keep everything in memory, so that a run can be
scored offline, on a read-only disk, and by several processes at once.
"""

import inspect
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value


class _GlueMetric(evaluate.Metric):
    """What the metrics share: their `evaluate` card, and a way of working that never touches the disk."""

    version: str = "1"
    needs: tuple[str, ...] = ()
    """Columns of the rows that `_compute` takes beside predictions and references."""
    implementation: str = "peftbench.tasks.metrics"

    def __init__(self, *args: Any, keep_in_memory: bool = True, **kwargs: Any):
        # evaluate's default is an Arrow file and a lock file under the user's cache.
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate creates this folder even for a metric that never writes in it.
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _info(self) -> evaluate.MetricInfo:
        definition, _, source = (inspect.getdoc(type(self)) or "").partition("Source: ")
        # Labels are declared as floats too: an integer feature would silently cut 0.7 down to class 0.
        # No `format="numpy"`, which would hand `_compute` the values rounded to 32 bits.
        return evaluate.MetricInfo(
            description=definition.strip(),
            citation=source,
            inputs_description="predictions, references: two equally long sequences of numbers.",
            features=Features({"predictions": Value("float64"), "references": Value("float64")}),
        )


class Accuracy(_GlueMetric):
    """Share of predictions that equal their reference, for any number of classes.

    accuracy = (number of i with prediction_i = reference_i) / n; as `sklearn.metrics.accuracy_score`.

    Source: Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform, ICLR 2019.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predicted, actual = _labels(predictions, references)
        return {"accuracy": float(np.mean(predicted == actual))}


class F1(_GlueMetric):
    """Harmonic mean of precision and recall of class 1, for labels 0 and 1.

    F1 = 2 TP / (2 TP + FP + FN), and 0.0 where that is 0 / 0 (class 1 neither predicted nor present);
    as `sklearn.metrics.f1_score` with `zero_division=0`.

    Source: van Rijsbergen, Information Retrieval, 2nd edition, 1979, chapter 7.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        tp, fp, fn, _ = _confusion(predictions, references)
        denominator = 2 * tp + fp + fn
        return {"f1": 2 * tp / denominator if denominator else 0.0}


class MatthewsCorrelation(_GlueMetric):
    """Correlation of predictions with references, from -1 to 1, for labels 0 and 1.

    MCC = (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)), and 0.0 where a factor of the
    root is 0 (all predictions, or all references, of one class); as `sklearn.metrics.matthews_corrcoef`.

    Source: Matthews, Biochimica et Biophysica Acta 405 (2), 1975, pages 442-451.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        # Python integers: on a set as large as QQP's the product of the four sums exceeds 64 bits.
        tp, fp, fn, tn = _confusion(predictions, references)
        product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        return {"matthews_correlation": (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0}


class Pearson(_GlueMetric):
    """Linear correlation of predictions with references, from -1 to 1.

    r = sum (x_i - mean x) (y_i - mean y) / sqrt(sum (x_i - mean x)^2 sum (y_i - mean y)^2).
    Undefined for a constant vector (a collapsed model, a single row); 0.0 is returned there, where
    `scipy.stats.pearsonr` gives nan, so that such a run can still be ranked and written down.

    Source: Pearson, Proceedings of the Royal Society of London 58, 1895, pages 240-242.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"pearson": _correlation(*_numbers(predictions, references))}


class Spearman(_GlueMetric):
    """Pearson's correlation of the ranks; equal values share the mean of the ranks they span.

    rho = r(rank x, rank y), and 0.0 for a constant vector, as `Pearson`; otherwise as
    `scipy.stats.spearmanr`.

    Source: Spearman, The American Journal of Psychology 15 (1), 1904, pages 72-101.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predicted, actual = _numbers(predictions, references)
        return {"spearman": _correlation(_average_ranks(predicted), _average_ranks(actual))}


METRICS: dict[str, type[_GlueMetric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
    "pearson": Pearson,
    "spearman": Spearman,
}


def compute_metrics(
    names: Sequence[str], predictions: Any, references: Any, columns: Mapping[str, Sequence] | None = None
) -> dict[str, float]:
    """Score predictions with the named metrics (keys of `METRICS`); one flat dict, in the order of `names`.

    Args:
        names: of the metrics.
        predictions: one per row.
        references: one per row.
        columns: the rows' other columns, for metrics that group rows.

    Raises ValueError for an unknown name, and for input that is empty, of unequal length or not finite.
    """
    classes = [_metric_class(name) for name in names]
    scores: dict[str, float] = {}
    for metric_class in classes:
        needed = {name: (columns or {})[name] for name in metric_class.needs}
        # Not `compute`: it copies every row through Python objects into Arrow and back, once per metric.
        scores.update(_instance(metric_class)._compute(predictions=predictions, references=references, **needed))
    return scores


def describe(names: Sequence[str]) -> dict[str, str]:
    """State which implementation, and which version of it, gives each named metric."""
    return {name: f"{_metric_class(name).implementation} {_metric_class(name).version}" for name in names}


def _metric_class(name: str) -> type[_GlueMetric]:
    if name not in METRICS:
        raise ValueError(f"unknown metric {name!r}; known metrics: {', '.join(METRICS)}")
    return METRICS[name]


@cache
def _instance(metric_class: type[_GlueMetric]) -> _GlueMetric:
    return metric_class()


def _numbers(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both inputs as float64 vectors, or ValueError if they cannot be scored against each other."""
    predicted, actual = _vector("predictions", predictions), _vector("references", references)
    if len(predicted) != len(actual):
        raise ValueError(f"{len(predicted)} predictions cannot be scored against {len(actual)} references")
    return predicted, actual


def _vector(what: str, values: Any) -> np.ndarray:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"{what} must be one number per row, but have shape {vector.shape}")
    if vector.size == 0:
        raise ValueError(f"{what} are empty: there is nothing to score")
    _require("finite", np.isfinite(vector), what, vector)
    return vector


def _labels(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    """Like `_numbers`, for class numbers: a fraction means that scores were passed in their place."""
    predicted, actual = _numbers(predictions, references)
    for what, vector in (("predictions", predicted), ("references", actual)):
        _require("whole class numbers", vector == np.floor(vector), what, vector)
    return predicted, actual


def _confusion(predictions: Any, references: Any) -> tuple[int, int, int, int]:
    """True positives, false positives, false negatives and true negatives; class 1 is the positive one."""
    predicted, actual = _numbers(predictions, references)
    for what, vector in (("predictions", predicted), ("references", actual)):
        _require("0 or 1 for a two-class metric", (vector == 0) | (vector == 1), what, vector)
    tp = int(np.count_nonzero((predicted == 1) & (actual == 1)))
    fp = int(np.count_nonzero(predicted == 1)) - tp
    fn = int(np.count_nonzero(actual == 1)) - tp
    return tp, fp, fn, len(actual) - tp - fp - fn


def _require(rule: str, fulfilled: np.ndarray, what: str, vector: np.ndarray) -> None:
    if not fulfilled.all():
        row = int(np.argmin(fulfilled))
        raise ValueError(f"{what} must be {rule}, but row {row} is {vector[row]}")


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    # Compared with the first value, not by variance: rounding leaves 0.1, 0.1, 0.1 a variance above 0.
    if (x == x[0]).all() or (y == y[0]).all():
        return 0.0
    # Rounding can carry a perfect correlation past 1.
    return float(np.clip(np.dot(_unit(x), _unit(y)), -1.0, 1.0))


def _unit(vector: np.ndarray) -> np.ndarray:
    """The centred vector at length 1, first scaled to a largest entry of 1 lest its squares overflow."""
    centred = vector - vector.mean()
    centred = centred / np.abs(centred).max()
    return centred / np.linalg.norm(centred)


def _average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; c equal values that end at rank e share the mean of their ranks, e - (c - 1) / 2."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]
