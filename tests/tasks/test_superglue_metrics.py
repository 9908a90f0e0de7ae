"""Metrics of SuperGLUE that look at more than a row's class: groups of rows, and free-text answers."""

import numpy as np
import pandas
import pytest

from peftbench.tasks.free_text import normalised
from peftbench.tasks.metrics import METRICS, compute_metrics

EXACT = {"rel": 0, "abs": 1e-12}
GROUPED = {"exact_match": {"group": ["a", "a", "b", "b"]}, "gender_parity": {"group": [0, 0, 1, 1]}}
ANSWERED = ("record_f1", "record_em")


def record(prediction, *answers):
    return compute_metrics(ANSWERED, [prediction], None, {"answers": [list(answers)]})


@pytest.mark.parametrize("seed", range(5))
def test_exact_match_is_the_mean_over_questions_of_all_answers_right(seed):
    random = np.random.default_rng(seed)
    y, p = random.integers(0, 2, 200), random.integers(-1, 2, 200)
    p = np.where(random.random(200) < 0.7, y, p)
    group = [f"{row // 3}-{row % 2}" for row in random.integers(0, 60, 200)]
    table = pandas.DataFrame({"right": p == y, "group": group})
    expected = table.groupby("group")["right"].all().mean()
    assert compute_metrics(["exact_match"], p, y, {"group": group})["exact_match"] == pytest.approx(expected, **EXACT)


def test_exact_match_by_hand():
    # Question a: both right; b: one of two; c: a text that named neither class, which T5 counts as the wrong one.
    scores = compute_metrics(
        ["exact_match", "f1a"], [1, 0, 1, 1, -1], [1, 0, 1, 0, 0], {"group": ["a", "a", "b", "b", "c"]}
    )
    assert scores == {"exact_match": pytest.approx(1 / 3), "f1a": pytest.approx(2 * 2 / (4 + 2))}


def test_gender_parity_by_hand():
    # Same class, another class, both illegal, one illegal.
    group = [0, 0, 1, 1, 2, 2, 3, 3]
    score = compute_metrics(["gender_parity"], [1, 1, 0, 1, -1, -1, -1, 0], [0] * 8, {"group": group})
    assert score == {"gender_parity": 0.25}


def test_gender_parity_needs_whole_pairs():
    with pytest.raises(ValueError, match=r"^gender parity compares the two rows of a pair, but pair 1 has 1$"):
        compute_metrics(["gender_parity"], [0, 0, 1], [0, 0, 1], {"group": [0, 0, 1]})


@pytest.mark.parametrize("name", [*GROUPED, *ANSWERED])
def test_a_metric_says_which_column_it_misses(name):
    column = METRICS[name].needs[0]
    with pytest.raises(ValueError, match=f"needs the rows' column {column}$"):
        compute_metrics([name], [1, 0], [1, 0], {"idx": [0, 1]})


# The expected strings are what the official evaluation's `normalize_answer` gives, worked out by hand.
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The U.S.  Army", "us army"),
        ("an apple\tand the\u00a0pear", "apple and pear"),
        ("Theatre", "theatre"),
        ("O'Neill-Smith", "oneillsmith"),
        ("A", ""),
        ("caf\u00e9 \u201cThe\u201d", "caf\u00e9 \u201c \u201d"),
    ],
)
def test_answers_are_normalised_as_the_official_evaluation_does(answer, expected):
    assert normalised(answer) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "f1", "exact"),
    [
        ("the White House", ["White House"], 1.0, 1.0),
        ("House", ["White House", "Capitol"], 2 / 3, 0.0),
        ("new new york", ["New York"], 2 * 2 / (3 + 2), 0.0),
        ("Paris", ["London", "Paris Hilton", "paris!"], 1.0, 1.0),
        ("", ["Paris"], 0.0, 0.0),
        ("Rome", [], 0.0, 0.0),
    ],
)
def test_record_by_hand(prediction, answers, f1, exact):
    assert record(prediction, *answers) == {"record_f1": pytest.approx(f1), "record_em": exact}


def test_record_is_the_mean_over_queries():
    scores = compute_metrics(ANSWERED, ["a cat", "dog"], None, {"answers": [["Cat"], ["big dog"]]})
    assert scores == {"record_f1": pytest.approx((1 + 2 / 3) / 2), "record_em": 0.5}


@pytest.mark.parametrize(
    ("predictions", "answers", "message"),
    [
        ([], [], "^predictions are empty"),
        (["a"], [["a"], ["b"]], "^1 predictions cannot be scored against 2 rows of answers$"),
        (["a", 3], [["a"], ["b"]], "^predictions must be texts, but row 1 is 3$"),
    ],
)
@pytest.mark.parametrize("name", ANSWERED)
def test_record_refuses_what_it_cannot_score(name, predictions, answers, message):
    with pytest.raises(ValueError, match=message):
        compute_metrics([name], predictions, None, {"answers": answers})


@pytest.mark.parametrize("name", GROUPED)
def test_grouped_metrics_work_as_evaluate_metrics(name):
    found = METRICS[name]().compute(predictions=[0, 0, 1, 0], references=[0, 0, 1, 1], **GROUPED[name])
    assert found == {name: 0.5}


@pytest.mark.parametrize("name", ANSWERED)
def test_metrics_of_answers_work_as_evaluate_metrics(name):
    found = METRICS[name]().compute(predictions=["a cat", "dog"], references=[0, 1], answers=[["cat"], ["bird"]])
    assert found == {name: 0.5}
