"""Schedules of λ and ξ against closed forms that numpy computes."""

import json
import math

import numpy as np
import pytest
from conftest import SHARED

from peftbench.errors import ConfigurationError
from peftbench.sparsity import DEFAULT_LAMBDA, SCHEDULES, Constant, Ramp, Stages, Strength, levels
from peftbench.strict import build

CLOSED_FORMS = {
    "linear": np.linspace,
    "log_linear": lambda start, end, count: np.log(np.linspace(np.exp(start), np.exp(end), count)),
    "exp_linear": np.geomspace,
}
TRACES = SHARED / "golden" / "gate_traces.json"


def section(**values):
    """A sparsity section as the configuration builds it."""
    values.setdefault("schedule", "constant")
    return build(SCHEDULES[values["schedule"]], values, "sparsity", "conf/sparsity/x.yaml")


@pytest.mark.parametrize("spacing", CLOSED_FORMS)
@pytest.mark.parametrize(("start", "end", "count"), [(1e-3, 7e-3, 7), (0.1, 4.0, 7), (0.5, 0.6, 2), (1e-5, 3.0, 23)])
def test_levels_are_spaced_by_the_closed_form(spacing, start, end, count):
    found = levels(spacing, start, end, count)
    assert len(found) == count
    np.testing.assert_allclose(found, CLOSED_FORMS[spacing](start, end, count), rtol=0, atol=1e-12 * max(1.0, end))
    assert (found[0], found[-1]) == (start, end)
    assert list(found) == sorted(set(found))


@pytest.mark.parametrize("spacing", ["linear", "log_linear"])
def test_levels_may_start_at_zero(spacing):
    found = levels(spacing, 0.0, 7e-4, 7)
    np.testing.assert_allclose(found, CLOSED_FORMS[spacing](0.0, 7e-4, 7), rtol=0, atol=1e-15)
    assert found[0] == 0


def test_logarithmic_spacing_of_large_strengths_does_not_overflow():
    found = levels("log_linear", 0.0, 5000.0, 3)
    assert found == (0.0, pytest.approx(5000 - math.log(2), abs=1e-9), 5000.0)


@pytest.mark.parametrize("spacing", CLOSED_FORMS)
def test_equal_ends_are_one_level_throughout(spacing):
    np.testing.assert_allclose(levels(spacing, 0.25, 0.25, 4), [0.25] * 4, rtol=1e-15)


@pytest.mark.parametrize(
    ("spacing", "start", "end", "count", "complaint"),
    [
        ("linear", 0.0, 1.0, 1, "count: 1"),
        ("exp_linear", 0.0, 1.0, 7, "must start above 0"),
        ("exp_linear", 0.0, 0.0, 7, "must start above 0"),
        ("linear", 2.0, 1.0, 7, "start: 2 is above the last level, 1"),
        ("log_linear", 2.0, 1.0, 7, "above the last level"),
        ("exp_linear", 0.1, 3e-4, 7, "above the last level"),
    ],
)
def test_impossible_levels_are_refused(spacing, start, end, count, complaint):
    with pytest.raises(ValueError, match=complaint):
        levels(spacing, start, end, count)


@pytest.mark.skipif(not TRACES.is_file(), reason="golden gate traces are not beside this checkout")
@pytest.mark.parametrize("spacing", CLOSED_FORMS)
def test_levels_are_those_of_the_golden_traces(spacing):
    traces = json.loads(TRACES.read_text())[f"{spacing}_schedule"]
    assert traces
    for trace in traces:
        np.testing.assert_allclose(trace["lambdas"], levels(spacing, 0.001, 0.007, 7), rtol=0, atol=1e-12)


def test_a_threshold_is_lr_times_lambda_or_xi_itself():
    assert section(**{"lambda": 3.0}).at(0, 10).threshold(1e-3) == pytest.approx(3e-3)
    assert section(**{"lambda": 3.0}).at(0, 10).threshold(0.0) == 0
    assert section(xi=3e-4).at(0, 10).threshold(1e-3) == 3e-4
    assert section(xi=3e-4).at(0, 10).threshold(0.0) == 3e-4


def test_neither_set_means_the_default_lambda_and_it_is_written_out():
    assert section().at(0, 10) == Strength(DEFAULT_LAMBDA, scales_with_lr=True)
    assert section().with_default() == section(**{"lambda": DEFAULT_LAMBDA})
    assert section(xi=1e-3).with_default() == section(xi=1e-3)
    assert section(**{"lambda": 0}).with_default().lambda_ == 0


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_both_set_is_an_error_in_every_schedule(schedule):
    with pytest.raises(ConfigurationError, match="lambda and xi are both set"):
        section(schedule=schedule, xi=1e-3, **{"lambda": 1.0})


@pytest.mark.parametrize("key", ["lambda", "xi"])
def test_a_negative_strength_is_refused(key):
    with pytest.raises(ConfigurationError, match=rf"sparsity\.{key}: -1.0 is too small"):
        section(**{key: -1.0})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_operator_reaches_every_step(schedule):
    start = {} if schedule == "constant" else {"start": 0.1}
    made = section(schedule=schedule, operator="official", **start)
    assert made.at(0, 10).operator == "official"
    assert made.strength(1.0).operator == "official"


def test_constant_is_constant():
    assert {Constant(xi=0.5).at(step, 10).value for step in range(10)} == {0.5}


@pytest.mark.parametrize(("total", "count"), [(70, 7), (71, 7), (10, 3), (3, 7), (1, 2), (1000, 2)])
def test_a_ramp_holds_each_level_for_an_equal_share(total, count):
    ramp = Ramp(xi=0.6, start=0.0, count=count)
    spaced = np.linspace(0.0, 0.6, count)
    # Level i holds over the i-th of `count` equal shares of [0, total).
    expected = [spaced[math.floor(step * count / total)] for step in range(total)]
    np.testing.assert_allclose([ramp.at(step, total).value for step in range(total)], expected, atol=1e-15)


def test_a_ramp_changes_exactly_at_the_boundaries():
    ramp = Ramp(xi=0.6, start=0.0, count=7)
    values = [ramp.at(step, 70).value for step in (0, 9, 10, 59, 60, 69)]
    np.testing.assert_allclose(values, [0.0, 0.0, 0.1, 0.5, 0.6, 0.6], atol=1e-15)


def test_a_ramp_stays_at_its_last_level_past_the_end():
    assert Ramp(xi=0.6, count=7).at(75, 70).value == 0.6


def test_a_ramp_of_xi_does_not_scale_with_the_learning_rate():
    assert Ramp(xi=0.6).at(69, 70).threshold(0.1) == 0.6
    assert Ramp(lambda_=0.6).at(69, 70).threshold(0.1) == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"schedule": "exp_linear", "start": 0.0}, "must start above 0"),
        ({"schedule": "exp_linear", "start": 0.1, "xi": 3e-4}, "above the last level"),
        ({"schedule": "linear", "start": 3.0, "lambda": 2.0}, "above the last level"),
        ({"schedule": "linear", "count": 1}, r"sparsity\.count: 1 is too small"),
        ({"schedule": "linear", "start": -1.0}, r"sparsity\.start: -1.0 is too small"),
        ({"schedule": "stages", "values": []}, "rising list"),
        ({"schedule": "stages", "values": [2.0, 1.0]}, "rising list"),
        ({"schedule": "stages", "values": [1.0, 1.0]}, "rising list"),
        ({"schedule": "stages", "values": [-1.0, 1.0]}, "cannot be negative"),
        ({"schedule": "stages", "values": [0.0]}, "no threshold above 0"),
        ({"schedule": "stages", "lambda": 0.0}, "no threshold above 0"),
        ({"schedule": "stages", "start": 3.0, "lambda": 2.0}, "above the last level"),
        ({"schedule": "stages", "start": 2.0, "lambda": 2.0}, "every stage needs a larger one"),
        ({"schedule": "stages", "spacing": "exp_linear"}, "must start above 0"),
        ({"schedule": "stages", "restart": "official", "lambda": 1.0}, "set xi"),
        ({"schedule": "stages", "stage_epochs": 0}, r"sparsity\.stage_epochs: 0 is too small"),
    ],
)
def test_schedules_that_cannot_be_are_refused(values, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        section(**values)


def test_the_dense_stage_takes_the_place_of_a_zero_threshold():
    found = Stages(xi=7e-4, start=0.0, count=7).sparse_levels()
    np.testing.assert_allclose(found, np.linspace(0, 7e-4, 7)[1:], atol=1e-18)
    assert len(Stages(xi=7e-4, start=1e-4, count=7).sparse_levels()) == 7


@pytest.mark.parametrize("spacing", CLOSED_FORMS)
def test_stages_are_spaced_like_a_ramp(spacing):
    found = Stages(xi=7e-4, start=1e-4, count=5, spacing=spacing).sparse_levels()
    np.testing.assert_allclose(found, CLOSED_FORMS[spacing](1e-4, 7e-4, 5), rtol=1e-9)


def test_explicit_thresholds_replace_the_spacing():
    assert list(Stages(values=(0.0, 0.5, 3.0), count=7).sparse_levels()) == [0.5, 3.0]
    assert section(schedule="stages", values=[1, 2]).sparse_levels() == [1.0, 2.0]


def test_the_dense_stage_has_no_threshold():
    assert {Stages().at(step, 10).threshold(1.0) for step in range(10)} == {0.0}
