"""Statistics over seeds, and tests of paired differences."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

MIN_SEEDS = 3
"""Of fewer seeds there is no test and no verdict."""

_EXACT_UP_TO = 16
_FLIPS = 9_999
_RESAMPLES = 10_000
_SEED = 20231206

Test = Literal["permutation", "wilcoxon"]


@dataclass(frozen=True)
class Summary:
    """A score over seeds.

    Attributes:
        values: one a seed, at least one.
    """

    values: tuple[float, ...]

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @functools.cached_property
    def mean(self) -> float:
        """Arithmetic mean."""
        return math.fsum(self.values) / self.n

    @functools.cached_property
    def std(self) -> float | None:
        """Standard deviation with n-1; None of one value."""
        if self.n < 2:
            return None
        return math.sqrt(math.fsum((v - self.mean) ** 2 for v in self.values) / (self.n - 1))

    @property
    def median(self) -> float:
        """The middle value, or the mean of the two."""
        return float(np.median(self.values))

    @functools.cached_property
    def t_interval(self) -> tuple[float, float] | None:
        """95% interval of the mean by Student's t with n-1 degrees of freedom; None of one value."""
        if self.std is None:
            return None
        from scipy.special import stdtrit

        half = float(stdtrit(self.n - 1, 0.975)) * self.std / math.sqrt(self.n)
        return self.mean - half, self.mean + half

    @functools.cached_property
    def bootstrap_interval(self) -> tuple[float, float] | None:
        """95% percentile interval of the mean over 10,000 resamples with a fixed seed; None of one value.

        Of 3 to 5 seeds it is too narrow: no resample leaves the range of the values, and it knows nothing of the
        uncertainty of their spread. Verdicts therefore use `t_interval`.
        """
        if self.n < 2:
            return None
        low, high = np.quantile(np.asarray(self.values)[_resamples(self.n)].mean(axis=1), (0.025, 0.975))
        return float(low), float(high)


# A report asks for as many again and again, of one fixed seed.
@functools.lru_cache(maxsize=8)
def _resamples(n: int) -> np.ndarray:
    """Places of n values, (10,000, n)."""
    return np.random.default_rng(_SEED).integers(0, n, (_RESAMPLES, n))


@functools.lru_cache(maxsize=8)
def _flips(n: int) -> np.ndarray:
    """Signs of n pairs, (9,999, n)."""
    return np.random.default_rng(_SEED).choice((-1.0, 1.0), (_FLIPS, n))


def permutation_p(differences: Sequence[float]) -> float:
    """Two-sided p of paired differences under random signs: exact up to 16 pairs, 9,999 random flips beyond."""
    values = np.asarray(differences, dtype=float)
    observed = abs(values.sum())
    tolerance = 1e-9 * max(1.0, float(np.abs(values).sum()))
    if len(values) <= _EXACT_UP_TO:
        sums = np.zeros(1)
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
        return float(np.mean(np.abs(sums) >= observed - tolerance))
    as_large = int(np.sum(np.abs(_flips(len(values)) @ values) >= observed - tolerance))
    # The observed signs are one of the flips, so that p is never 0 (Phipson & Smyth, 2010).
    return (as_large + 1) / (_FLIPS + 1)


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; 1 where every difference is 0."""
    if not any(differences):
        return 1.0
    from scipy.stats import wilcoxon

    return float(wilcoxon(differences).pvalue)  # type: ignore[attr-defined]


def paired_p(differences: Sequence[float], test: Test) -> float:
    """P of the test asked for."""
    return permutation_p(differences) if test == "permutation" else wilcoxon_p(differences)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979), in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
