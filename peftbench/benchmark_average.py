"""The one-number summaries of GLUE and SuperGLUE that papers on parameter-efficient fine-tuning print."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

# One entry per task; a task with two scores counts once, by their mean. WNLI is left out, as the papers do.
_TASKS: tuple[tuple[str, ...], ...] = (
    ("cola",),
    ("sst2",),
    ("mrpc",),
    ("stsb",),
    ("qqp_accuracy", "qqp_f1"),
    ("mnli_matched", "mnli_mismatched"),
    ("qnli",),
    ("rte",),
)

_SUPERGLUE_TASKS: tuple[tuple[str, ...], ...] = (
    ("boolq",),
    ("cb_accuracy", "cb_macro_f1"),
    ("copa",),
    ("multirc_f1a", "multirc_exact_match"),
    ("record_f1", "record_em"),
    ("superglue_rte",),
    ("wic",),
    ("wsc",),
)


def glue_average(scores: Mapping[str, float]) -> float | None:
    """Average GLUE scores the way the published tables do.

    average = (cola + sst2 + mrpc + stsb + (qqp_accuracy + qqp_f1) / 2
    + (mnli_matched + mnli_mismatched) / 2 + qnli + rte) / 8.

    CoLA is Matthews' correlation, STS-B a correlation, the others accuracy unless the key says F1; all on
    one scale (0 to 1, or 0 to 100).

    Source: inferred from the average columns of AdaLoRA (Zhang et al., 2023, Table 1) and SoRA (Ding et al.,
    2023), which it gives to 0.01 in every row known to us.

    Returns None when a score is missing: an average over fewer tasks would not be comparable.
    """
    return _average(scores, _TASKS)


def superglue_average(scores: Mapping[str, float]) -> float | None:
    """Average SuperGLUE scores the way the benchmark does: the mean over its eight tasks of the mean of their metrics.

    average = (boolq + (cb_accuracy + cb_macro_f1) / 2 + copa + (multirc_f1a + multirc_exact_match) / 2
    + (record_f1 + record_em) / 2 + superglue_rte + wic + wsc) / 8.

    BoolQ, COPA, RTE, WiC and WSC are accuracies; all on one scale (0 to 1, or 0 to 100).

    Source: Wang et al., SuperGLUE, NeurIPS 2019, section 3.

    Returns None when a score is missing: an average over fewer tasks would not be comparable.
    """
    return _average(scores, _SUPERGLUE_TASKS)


_MEASURED = {
    "cola": ("cola", "", "matthews_correlation"),
    "stsb": ("stsb", "", "pearson"),
    "qqp_accuracy": ("qqp", "", "accuracy"),
    "qqp_f1": ("qqp", "", "f1"),
    "mnli_matched": ("mnli", "_matched", "accuracy"),
    "mnli_mismatched": ("mnli", "_mismatched", "accuracy"),
    "cb_accuracy": ("cb", "", "accuracy"),
    "cb_macro_f1": ("cb", "", "macro_f1"),
    "multirc_f1a": ("multirc", "", "f1a"),
    "multirc_exact_match": ("multirc", "", "exact_match"),
    "record_f1": ("record", "", "record_f1"),
    "record_em": ("record", "", "record_em"),
}
"""Of scores that are not their task's accuracy: the task, what its split's name ends with, and the metric."""


def benchmark_average(
    benchmark: Literal["glue", "super_glue"],
    metrics: Mapping[str, Mapping[str, Mapping[str, Any]]],
    split: str = "validation",
) -> float | tuple[str, ...]:
    """A benchmark's average, `glue_average` or `superglue_average`, of the records of its tasks.

    Args:
        benchmark: which.
        metrics: of each task its record's `metrics`, by split and name; other tasks' may be among them.
        split: whose scores are averaged; of MNLI those of `<split>_matched` and `<split>_mismatched`.

    Returns:
        The average, on the metrics' scale; or the names of the tasks that lack a score of it.
    """
    tasks = _TASKS if benchmark == "glue" else _SUPERGLUE_TASKS
    scores, missing = {}, []
    for key in (key for task in tasks for key in task):
        task, ending, metric = _MEASURED.get(key, (key, "", "accuracy"))
        scores[key] = metrics.get(task, {}).get(f"{split}{ending}", {}).get(metric)
        if not _is_score(scores[key]):
            missing.append(task)
    return tuple(dict.fromkeys(missing)) if missing else _mean(scores, tasks)


def suite_scores(tasks: Collection[str]) -> tuple[tuple[str, str, str], ...] | None:
    """What the average of GLUE or SuperGLUE is made of, where `tasks` are exactly its eight; else None.

    Returns:
        Of each score its task, what its split's name ends with, and its metric.
    """
    for suite in (_TASKS, _SUPERGLUE_TASKS):
        scores = tuple(_MEASURED.get(key, (key, "", "accuracy")) for task in suite for key in task)
        if {task for task, _, _ in scores} == set(tasks):
            return scores
    return None


def mean_of_means(scores: Sequence[Collection[float]]) -> float:
    """Mean over tasks of the mean of each one's scores."""
    return math.fsum(math.fsum(task) / len(task) for task in scores) / len(scores)


def missing_scores(scores: Mapping[str, float]) -> tuple[str, ...]:
    """Name the scores `glue_average` needs and does not find; None, nan and infinity count as missing."""
    return _missing(scores, _TASKS)


def missing_superglue_scores(scores: Mapping[str, float]) -> tuple[str, ...]:
    """Name the scores `superglue_average` needs and does not find; None, nan and infinity count as missing."""
    return _missing(scores, _SUPERGLUE_TASKS)


def _average(scores: Mapping[str, float], tasks: Sequence[tuple[str, ...]]) -> float | None:
    return None if _missing(scores, tasks) else _mean(scores, tasks)


def _mean(scores: Mapping[str, float], tasks: Sequence[tuple[str, ...]]) -> float:
    return mean_of_means([[scores[key] for key in task] for task in tasks])


def _missing(scores: Mapping[str, float], tasks: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(key for task in tasks for key in task if not _is_score(scores.get(key)))


def _is_score(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
