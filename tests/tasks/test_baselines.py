"""Baselines that read no text, against closed forms."""

import numpy as np
import pytest

from peftbench.config import DataConfig
from peftbench.task_config import TaskConfig
from peftbench.tasks.base import Split
from peftbench.tasks.baselines import baselines
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import TASKS


def rows(labels, **columns):
    labels = None if labels is None else np.asarray(labels)
    return Split("validation", ([""] * len(next(iter(columns.values()), labels)),), labels, "", columns)


def test_two_classes():
    # Class 1 is three quarters of training; of 4000 rows 1000 are class 1.
    split = rows([1] * 1000 + [0] * 3000)
    found = baselines(TASKS["mrpc"], rows([1, 1, 1, 0]), split)
    assert found["majority"] == {"accuracy": 0.25, "f1": pytest.approx(2 * 1000 / (4000 + 1000))}
    # Precision 1/4, recall 1/2. The standard error of a mean of 20 x 4000 fair coins is 0.002.
    assert found["random"] == {"accuracy": pytest.approx(0.5, abs=0.008), "f1": pytest.approx(1 / 3, abs=0.008)}


def test_three_classes():
    found = baselines(TASKS["cb"], rows([2, 0, 2, 0]), rows([0, 1, 2] * 800))
    # The lower of two equally frequent classes; its F1 is 1/2, the others' 0.
    assert found["majority"] == {"accuracy": pytest.approx(1 / 3), "macro_f1": pytest.approx(1 / 6)}
    assert found["random"] == {name: pytest.approx(1 / 3, abs=0.01) for name in ("accuracy", "macro_f1")}


def test_a_correlation_of_guesses_is_zero():
    found = baselines(TASKS["cola"], rows([1, 1, 0]), rows([0, 1] * 1000))
    assert found["majority"]["matthews_correlation"] == 0.0
    assert found["random"]["matthews_correlation"] == pytest.approx(0.0, abs=0.02)


def test_questions_are_right_by_chance_if_all_their_answers_are():
    # Half of the questions have one answer, half have two: (1/2 + 1/4) / 2.
    group = [str(place) for place in range(2000)] + [f"pair {place // 2}" for place in range(4000)]
    found = baselines(TASKS["multirc"], rows([0, 1, 0]), rows([1, 0] * 3000, group=group))
    assert found["random"]["exact_match"] == pytest.approx(3 / 8, abs=0.01)
    assert found["majority"] == {"f1a": 0.0, "exact_match": 0.25}


def test_candidates_are_equally_likely_however_many_there_are():
    entities = [["a", "b"]] * 1000 + [["a", "b", "c", "d"]] * 1000
    split = rows([1] * 2000, choices=entities, entities=entities, answers=[["B"]] * 2000)
    found = baselines(TASKS["record"], rows([3, 3, 0]), split)
    assert found["random"]["record_em"] == pytest.approx((1 / 2 + 1 / 4) / 2, abs=0.01)
    # The fourth place is most often right; a row of two candidates has its last.
    assert found["majority"] == {"record_f1": 0.5, "record_em": 0.5}


def test_the_draws_are_the_same_every_time():
    train, split = rows([0, 1]), rows([0, 1, 1])
    assert baselines(TASKS["wsc"], train, split) == baselines(TASKS["wsc"], train, split)


@pytest.mark.parametrize("task", ["copa", "record", "wic", "superglue_rte", "mnli"])
def test_every_sample_has_its_baselines(task):
    data = load_task(TASKS[task], TaskConfig(task), DataConfig("sample"))
    split = next(iter(data.evaluations.values()))
    found = baselines(TASKS[task], data.train, split)
    assert set(found) == {"majority", "random"}
    assert set(found["random"]) == set(found["majority"]) == set(TASKS[task].metrics)
    chance = np.mean([1 / len(one) for one in split.columns.get("choices", [TASKS[task].labels])])
    # One person in five goes by two names in ReCoRD's sample.
    assert found["random"][TASKS[task].metrics[-1]] == pytest.approx(chance, abs=0.06)


def test_a_number_has_no_baseline():
    assert baselines(TASKS["stsb"], rows([1.0, 2.0]), rows([3.0])) is None
