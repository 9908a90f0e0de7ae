"""Metrics of predicted numbers."""

from typing import Any

import numpy as np

from peftbench.tasks.metrics.base import LocalMetric, numbers


class Pearson(LocalMetric):
    """Linear correlation of predictions with references, from -1 to 1.

    r = sum (x_i - mean x) (y_i - mean y) / sqrt(sum (x_i - mean x)^2 sum (y_i - mean y)^2).
    Undefined for a constant vector (a collapsed model, a single row); 0.0 is returned there, where
    `scipy.stats.pearsonr` gives nan, so that such a run can still be ranked and written down.

    Source: Pearson, Proceedings of the Royal Society of London 58, 1895, pages 240-242.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"pearson": _correlation(*numbers(predictions, references))}


class Spearman(LocalMetric):
    """Pearson's correlation of the ranks; equal values share the mean of the ranks they span.

    rho = r(rank x, rank y), and 0.0 for a constant vector, as `Pearson`; otherwise as
    `scipy.stats.spearmanr`.

    Source: Spearman, The American Journal of Psychology 15 (1), 1904, pages 72-101.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predicted, actual = numbers(predictions, references)
        return {"spearman": _correlation(_average_ranks(predicted), _average_ranks(actual))}


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
