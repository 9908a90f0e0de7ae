"""The one-number summaries of GLUE and SuperGLUE that papers on parameter-efficient fine-tuning print."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

Score = tuple[str, str, str]
"""A task, what its split's name ends with, and the metric."""

_GLUE: tuple[Score, ...] = (
    ("cola", "", "matthews_correlation"),
    ("sst2", "", "accuracy"),
    ("mrpc", "", "accuracy"),
    ("stsb", "", "pearson"),
    ("qqp", "", "accuracy"),
    ("qqp", "", "f1"),
    ("mnli", "_matched", "accuracy"),
    ("mnli", "_mismatched", "accuracy"),
    ("qnli", "", "accuracy"),
    ("rte", "", "accuracy"),
)
"""WNLI is left out, as the papers do: their average columns (Zhang et al., AdaLoRA, 2023, Table 1; Ding et al., SoRA,
2023) are `mean_by_task` of these to 0.01 in every row known to us."""

_SUPERGLUE: tuple[Score, ...] = (
    ("boolq", "", "accuracy"),
    ("cb", "", "accuracy"),
    ("cb", "", "macro_f1"),
    ("copa", "", "accuracy"),
    ("multirc", "", "f1a"),
    ("multirc", "", "exact_match"),
    ("record", "", "record_f1"),
    ("record", "", "record_em"),
    ("superglue_rte", "", "accuracy"),
    ("wic", "", "accuracy"),
    ("wsc", "", "accuracy"),
)
"""Wang et al., SuperGLUE, NeurIPS 2019, section 3."""


def suite_scores(tasks: Collection[str]) -> tuple[Score, ...] | None:
    """What the average of GLUE or SuperGLUE is made of, where `tasks` are exactly its eight; else None."""
    suites = (suite for suite in (_GLUE, _SUPERGLUE) if {task for task, _, _ in suite} == set(tasks))
    return next(suites, None)


def mean_by_task(scores: Iterable[tuple[str, float]]) -> float:
    """Mean over tasks of the mean of each one's scores: a task with two scores counts once.

    Args:
        scores: each with its task's name.
    """
    by_task: dict[str, list[float]] = {}
    for task, score in scores:
        by_task.setdefault(task, []).append(score)
    return math.fsum(math.fsum(of_task) / len(of_task) for of_task in by_task.values()) / len(by_task)
