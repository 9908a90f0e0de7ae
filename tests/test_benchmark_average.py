"""The averages of GLUE and SuperGLUE against the average column of published tables."""

import pytest

from peftbench.benchmark_average import mean_by_task, suite_scores
from peftbench.tasks.registry import TASKS

GLUE = ("mnli", "mnli", "sst2", "cola", "qqp", "qqp", "qnli", "rte", "mrpc", "stsb")
SUPERGLUE = ("boolq", "cb", "cb", "copa", "multirc", "multirc", "record", "record", "superglue_rte", "wic", "wsc")

# DeBERTaV3-base on GLUE's development sets, in the order of GLUE; then the table's own average.
# Zhang et al., AdaLoRA, ICLR 2023, Table 1; and Ding et al., SoRA, EMNLP 2023, known only as quoted (without
# naming the table) in the README of the AFLoRA repository.
TABLE = """
AdaLoRA paper, full fine-tuning  | 89.90 90.12 95.63 69.19 92.40 89.80 94.03 83.75 89.46 91.60 88.09
AdaLoRA paper, BitFit            | 89.37 89.91 94.84 66.96 88.41 84.95 92.24 78.70 87.75 91.35 86.02
AdaLoRA paper, HAdapter 1.22M    | 90.13 90.17 95.53 68.64 91.91 89.27 94.11 84.48 89.95 91.48 88.12
AdaLoRA paper, PAdapter 1.18M    | 90.33 90.39 95.61 68.77 92.04 89.40 94.29 85.20 89.46 91.54 88.24
AdaLoRA paper, LoRA r=8          | 90.65 90.69 94.95 69.82 91.99 89.38 93.87 85.20 89.95 91.60 88.34
AdaLoRA paper, AdaLoRA 1.27M     | 90.76 90.79 96.10 71.45 92.23 89.74 94.55 88.09 90.69 91.84 89.31
AdaLoRA paper, HAdapter 0.61M    | 90.12 90.23 95.30 67.87 91.65 88.95 93.76 85.56 89.22 91.30 87.93
AdaLoRA paper, PAdapter 0.60M    | 90.15 90.28 95.53 69.48 91.62 88.86 93.98 84.12 89.22 91.52 88.04
AdaLoRA paper, HAdapter 0.31M    | 90.10 90.02 95.41 67.65 91.54 88.81 93.52 83.39 89.25 91.31 87.60
AdaLoRA paper, PAdapter 0.30M    | 89.89 90.06 94.72 69.06 91.40 88.62 93.87 84.48 89.71 91.38 87.90
AdaLoRA paper, LoRA r=2          | 90.30 90.38 94.95 68.71 91.61 88.91 94.03 85.56 89.71 91.68 88.15
AdaLoRA paper, AdaLoRA 0.32M     | 90.66 90.70 95.80 70.04 91.78 89.16 94.49 87.36 90.44 91.63 88.86
SoRA paper, full fine-tuning     | 89.98 89.95 95.64 69.21 92.05 89.31 93.78 82.49 89.22 91.59 87.82
SoRA paper, LoRA r=8             | 90.47 90.46 95.57 69.73 91.95 89.26 93.76 85.32 89.71 91.86 88.38
SoRA paper, AdaLoRA              | 90.27 90.30 95.95 70.86 92.13 88.41 94.28 87.36 90.22 91.39 88.83
SoRA paper, SoRA 0.47M           | 90.38 90.43 95.57 71.05 92.06 89.44 93.92 86.04 90.20 91.76 88.71
"""

# The leaderboard as of 2022-02-09 as Vu et al., SPoT, ACL 2022, Table 5, quote it, in the order of SUPERGLUE,
# then its own score; last, Lester et al., 2021, Table 3, on the development sets.
SUPERGLUE_TABLE = """
ST-MoE-32B                  | 92.4 96.9 98.0  99.2 89.6 65.8 95.1 94.4 93.5  77.7  96.6 91.2
Turing NLR v5               | 92.0 95.9 97.6  98.2 88.4 63.0 96.4 95.9 94.1  77.1  97.3 90.9
ERNIE 3.0                   | 91.0 98.6 99.2  97.4 88.6 63.2 94.7 94.2 92.6  77.4  97.3 90.6
T5 + UDG                    | 91.4 95.8 97.6  98.0 88.3 63.0 94.2 93.5 93.0  77.9  96.6 90.4
DeBERTa / Turing NLR v4     | 90.3 95.7 97.6  98.4 88.2 63.7 94.5 94.1 93.2  77.5  95.9 90.3
human baselines             | 89.0 95.8 98.9 100.0 81.8 51.9 91.7 91.3 93.6  80.0 100.0 89.8
T5                          | 91.2 93.9 96.8  94.8 88.1 63.3 94.1 93.4 92.5  76.9  93.8 89.3
frozen T5 1.1 + SPoT        | 91.1 95.8 97.6  95.6 87.9 61.9 93.3 92.4 92.9  75.8  93.8 89.2
GPT-3 few-shot              | 76.4 52.0 75.6  92.0 75.4 30.5 91.1 90.2 69.0  49.4  80.1 71.8
WARP few-shot               | 62.2 70.2 82.4  51.6  0.0  0.5 14.0 13.6 69.1  53.1  63.7 48.7
CBoW                        | 62.2 49.0 71.2  51.6  0.0  0.5 14.0 13.6 49.7  53.1  65.1 44.5
prompt tuning, mean of 5    | 91.1 99.0 99.3  98.8 88.7 65.7 93.4 92.7 92.6  76.2  95.8 90.5
"""


def rows(table):
    """Name -> scores, the average last."""
    cells = (line.split("|") for line in table.strip().splitlines())
    return {name.strip(): [float(number) for number in numbers.split()] for name, numbers in cells}


@pytest.mark.parametrize("row", rows(TABLE))
def test_published_averages_are_reproduced(row):
    *scores, average = rows(TABLE)[row]
    assert mean_by_task(zip(GLUE, scores, strict=True)) == pytest.approx(average, rel=0, abs=0.01)


@pytest.mark.parametrize("row", rows(SUPERGLUE_TABLE))
def test_published_superglue_scores_are_reproduced(row):
    *scores, average = rows(SUPERGLUE_TABLE)[row]
    # Half a digit of the average and at most half a digit of its parts.
    assert mean_by_task(zip(SUPERGLUE, scores, strict=True)) == pytest.approx(average, abs=0.1)


@pytest.mark.parametrize(("suite", "columns"), [("glue", GLUE), ("super_glue", SUPERGLUE)])
def test_a_suites_scores_are_the_published_ones_by_names_that_records_have(suite, columns):
    found = suite_scores(set(columns))
    assert sorted(task for task, _, _ in found) == sorted(columns)
    for task, ending, metric in found:
        spec = TASKS[task]
        assert spec.suite == suite
        assert metric in spec.metrics
        assert f"validation{ending}" in spec.dev_splits


def test_there_is_no_average_over_other_tasks():
    assert suite_scores({*GLUE} - {"rte"}) is None
    assert suite_scores({*GLUE, "wnli"}) is None
    assert suite_scores({*GLUE, *SUPERGLUE}) is None
