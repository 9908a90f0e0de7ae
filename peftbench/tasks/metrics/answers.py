"""Metrics of free-text answers against several right ones."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from peftbench.tasks.free_text import exact, token_f1
from peftbench.tasks.metrics.base import LocalMetric


class RecordF1(LocalMetric):
    """Mean over the queries of the words' F1 with the nearest right answer, ReCoRD's F1.

    F1 = 2 |p and a| / (|p| + |a|) for the multisets p and a of the words of prediction and answer, in lower case,
    without punctuation and articles; the maximum over a query's answers, and the mean over queries.

    Source: Zhang et al., ReCoRD, arXiv 1810.12885, 2018, and its official evaluation.
    """

    needs = ("answers",)
    prediction_type = "string"

    def _compute(self, predictions: Any, references: Any, answers: Sequence[Sequence[str]]) -> dict[str, float]:
        return {"record_f1": _mean(token_f1, predictions, answers)}


class RecordEM(LocalMetric):
    """Share of the queries whose prediction is a right answer, ReCoRD's exact match.

    exact match = (number of queries whose prediction is one of the answers, both in lower case and without punctuation
    and articles) / (number of queries).

    Source: Zhang et al., ReCoRD, arXiv 1810.12885, 2018, and its official evaluation.
    """

    needs = ("answers",)
    prediction_type = "string"

    def _compute(self, predictions: Any, references: Any, answers: Sequence[Sequence[str]]) -> dict[str, float]:
        return {"record_em": _mean(exact, predictions, answers)}


def _mean(
    score: Callable[[str, Iterable[str]], float], predictions: Sequence[str], answers: Sequence[Sequence[str]]
) -> float:
    if not len(predictions):
        raise ValueError("predictions are empty: there is nothing to score")
    if len(predictions) != len(answers):
        raise ValueError(f"{len(predictions)} predictions cannot be scored against {len(answers)} rows of answers")
    stranger = next((row for row, text in enumerate(predictions) if not isinstance(text, str)), None)
    if stranger is not None:
        raise ValueError(f"predictions must be texts, but row {stranger} is {predictions[stranger]!r}")
    return sum(score(text, right) for text, right in zip(predictions, answers, strict=True)) / len(predictions)
