from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from peftbench.report.statistics import Summary, holm, permutation_p, wilcoxon_p

VALUES = (0.81, 0.84, 0.79, 0.86, 0.83)


def test_mean_std_and_median_of_a_case_by_hand():
    summary = Summary((1.0, 2.0, 3.0, 6.0))
    assert summary.mean == 3.0
    assert summary.std == pytest.approx((14 / 3) ** 0.5)
    assert summary.median == 2.5
    assert summary.n == 4


def test_t_interval_is_scipys():
    expected = stats.t.interval(0.95, len(VALUES) - 1, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert Summary(VALUES).t_interval == pytest.approx(expected)


def test_bootstrap_interval_is_near_scipys_percentile_interval_and_within_the_t_interval():
    summary = Summary(VALUES)
    found = stats.bootstrap((VALUES,), np.mean, method="percentile", n_resamples=50_000, rng=np.random.default_rng(1))
    expected = found.confidence_interval
    assert summary.bootstrap_interval == pytest.approx((expected.low, expected.high), abs=4e-3)
    assert summary.bootstrap_interval == Summary(VALUES).bootstrap_interval
    assert summary.t_interval[0] < summary.bootstrap_interval[0]
    assert summary.bootstrap_interval[1] < summary.t_interval[1]


def test_one_value_has_no_spread():
    summary = Summary((0.5,))
    assert (summary.std, summary.t_interval, summary.bootstrap_interval) == (None, None, None)


@pytest.mark.parametrize("n", [3, 7, 12])
def test_exact_permutation_is_scipys(n):
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    expected = stats.permutation_test(
        (differences, np.zeros(n)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
    )
    assert permutation_p(differences) == pytest.approx(expected.pvalue)


def test_three_pairs_of_one_sign_give_a_quarter():
    assert permutation_p([0.1, 0.2, 0.3]) == 0.25


def test_ties_count_as_as_large():
    assert permutation_p([0.1, 0.1, 0.1, -0.1]) == pytest.approx(10 / 16)
    assert permutation_p([0.0, 0.0, 0.0]) == 1.0


def test_random_flips_agree_with_scipys_beyond_sixteen_pairs():
    differences = np.random.default_rng(5).normal(0.35, 1, 24)
    expected = stats.permutation_test(
        (differences, np.zeros(24)), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples",
        n_resamples=40_000, vectorized=True, rng=np.random.default_rng(2),
    )  # fmt: skip
    assert permutation_p(differences) == pytest.approx(expected.pvalue, abs=0.015)
    assert permutation_p([1.0] * 40) == 1 / 10_000


def test_wilcoxon_is_scipys_and_survives_equal_scores():
    differences = [0.1, -0.2, 0.3, 0.4, 0.5]
    assert wilcoxon_p(differences) == pytest.approx(stats.wilcoxon(differences).pvalue)
    assert wilcoxon_p([0.0, 0.0, 0.0]) == 1.0


def test_holm_of_a_case_by_hand():
    # 0.01*4, 0.02*3 -> 0.06, 0.03*2 -> 0.06, 0.04*1 -> at least the one before.
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
