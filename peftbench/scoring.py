"""A model's numbers, predictions and metrics on the splits of a task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from peftbench.assembly import TokenisedSplits
from peftbench.errors import RunError
from peftbench.tasks.base import Predictions, TaskData, TaskSpec
from peftbench.tasks.baselines import all_baselines
from peftbench.tasks.mixture import parts
from peftbench.tasks.scores import Scores, implementations


class Scorer:
    """Scores the model as it is at the moment of the call.

    Args:
        rows: the splits, and the form that knows the model.
        metric: the one that selects.
    """

    def __init__(self, rows: TokenisedSplits, metric: str):
        self._rows, self._form, self._metric = rows, rows.form, metric

    def metrics(self, split: str) -> Mapping[str, Any]:
        """The split's metrics as far as training needs them, the selecting one among them."""
        return self._form.monitored(self._rows.splits[split], self._rows[split], self._metric)

    def all_metrics(self, splits: Iterable[str]) -> dict[str, Mapping[str, Any]]:
        """`metrics` by split."""
        return {split: self.metrics(split) for split in splits}

    def numbers(self, split: str) -> np.ndarray:
        """Logits or likelihoods, of every row: what pruning must not change."""
        return self._form.numbers(self._rows[split])

    def result(self, split: str, numbers: np.ndarray | None = None) -> tuple[dict[str, Scores], Predictions]:
        """All metrics of a split and of its subsets, and the predictions they are of."""
        rows, whole = self._rows[split], self._rows.splits[split]
        predictions = self._form.predict(whole, rows, numbers)
        return self._form.scores(whole, rows, predictions, numbers), predictions

    def results(
        self, spec: TaskSpec, data: TaskData, known: Mapping[str, np.ndarray], submission: bool
    ) -> tuple[dict[str, Any], dict[str, Predictions]]:
        """What the record says of the trained model: its scores, what gives them, what to read them against.

        Args:
            spec: the task.
            data: its splits; every labelled one is scored.
            known: `numbers` that are known already, by split.
            submission: whether the hidden splits are predicted too.

        Returns:
            The record's part, and predictions by split.
        """
        metrics, predictions = {}, {}
        self._form.written.clear()  # What an earlier state of the model wrote.
        for name in data.evaluations:
            scores, predictions[name] = self.result(name, known.get(name))
            metrics |= scores
        for name, split in data.hidden.items() if submission else ():
            if name not in predictions:
                predictions[name] = self._form.predict(split, self._rows[name])
        illegal = self._form.illegal(self._rows.splits)
        apart: dict[str, Predictions] = {
            member.name: [predictions[name][place] for place in places]
            for name, split in data.evaluations.items()
            for member, places, _ in parts(spec.members, split)
        }
        found = {
            "metrics": metrics,
            "metric_versions": implementations(spec),
            "baselines": all_baselines(spec, data.train, data.evaluations),
            "illegal_outputs": illegal,
            "flags": [*suspicions(predictions | apart, illegal), *self._form.told.values()],
        }
        return found, predictions


NO_RANK = "no rank left: the threshold removed the whole adapter; lower sparsity.lambda or sparsity.xi"


def check_pruning(before: np.ndarray, after: np.ndarray, halved: bool) -> float:
    """The largest difference that pruning made to a number.

    Args:
        before: numbers of the model as it was trained.
        after: the same, without what is dead.
        halved: whether it computes with fewer bits than float32.

    Raises:
        RunError: it is more than rounding.
    """
    difference, limit = largest_difference(before, after), 0.1 if halved else 1e-3
    if not difference <= limit:
        raise RunError(f"pruning changed a logit by {difference:.3g}, more than {limit:g}")
    return difference


def largest_difference(before: np.ndarray, after: np.ndarray) -> float:
    """Between numbers of the same rows; places that hold none (-inf) in both are equal."""
    there = ~(np.isneginf(before) & np.isneginf(after))
    return float(np.abs(before[there] - after[there]).max(initial=0.0))


def suspicions(predictions: Mapping[str, Predictions], illegal: Mapping[str, int]) -> list[str]:
    """What a reader should know before believing a score.

    Args:
        predictions: by split.
        illegal: of texts that could be no answer their number, by split.
    """
    flags = []
    for split, found in predictions.items():
        different = set(found) if isinstance(found, list) else set(found.tolist())
        if len(found) > 1 and len(different) == 1:
            flags.append(f"constant prediction on {split}")
        if count := illegal.get(split):
            flags.append(f"illegal outputs on {split}: {count} of {len(found)}")
    return flags


def at_chance(metrics: Mapping[str, Scores], baselines: Mapping[str, Any], split: str, metric: str) -> list[str]:
    """That the selecting score is no better than one that reads no text, where that is so.

    Args:
        metrics: by split, as the record has them.
        baselines: alike, see `all_baselines`.
        split: the one that selects.
        metric: alike.
    """
    value = metrics[split][metric]
    known = {name: found.get(metric) for name, found in (baselines.get(split) or {}).items()}
    name, best = max(((n, v) for n, v in known.items() if v is not None), key=lambda one: one[1], default=("", None))
    if value is None or best is None or value > best:
        return []
    return [f"{metric} on {split} is at chance level: {value:.4f}, and {best:.4f} without reading ({name})"]
