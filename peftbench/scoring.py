"""A model's logits and metrics on the splits of a task."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from accelerate import Accelerator
from torch import nn

from peftbench.assembly import TokenisedSplits
from peftbench.tasks.base import TaskSpec
from peftbench.tasks.metrics import compute_metrics
from peftbench.training.evaluation import logits_of, predictions_of


class Scorer:
    """Scores the model as it is at the moment of the call.

    Args:
        model: with or without a method attached. rows: the splits. spec: names the metrics.
        accelerator: device and precision. batch_size: rows per forward pass.
    """

    def __init__(
        self, model: nn.Module, rows: TokenisedSplits, spec: TaskSpec, accelerator: Accelerator, batch_size: int
    ):
        self._model, self._rows, self._spec = model, rows, spec
        self._accelerator, self._batch_size = accelerator, batch_size

    def logits(self, split: str) -> np.ndarray:
        """Shape (N, classes), in the split's order."""
        return logits_of(self._model, self._rows[split], self._batch_size, self._accelerator)

    def predictions(self, split: str) -> np.ndarray:
        """Classes or scores, shape (N,)."""
        return predictions_of(self.logits(split))

    def metrics(self, split: str) -> dict[str, float]:
        """The split's metrics."""
        return self.metrics_of(split, self.predictions(split))

    def metrics_of(self, split: str, predictions: np.ndarray) -> dict[str, float]:
        """The metrics of given predictions on a labelled split."""
        labels = self._rows[split].labels
        assert labels is not None
        return compute_metrics(self._spec.metrics_of(split), predictions, labels)

    def all_metrics(self, splits: Iterable[str]) -> dict[str, dict[str, float]]:
        """Metrics by split."""
        return {split: self.metrics(split) for split in splits}


NO_RANK = "no rank left: the threshold removed the whole adapter; lower sparsity.lambda or sparsity.xi"


def suspicions(predictions: dict[str, np.ndarray]) -> list[str]:
    """What a reader should know before believing a score: splits on which every prediction is the same."""
    return [f"constant prediction on {split}" for split, p in predictions.items() if len(p) > 1 and np.ptp(p) == 0]
