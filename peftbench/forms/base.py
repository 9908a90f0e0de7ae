"""What every form answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from accelerate import Accelerator
from torch import Tensor, nn

from peftbench.backbones.heads import Head
from peftbench.task_config import TaskConfig
from peftbench.tasks.base import Predictions, Split, TaskSpec
from peftbench.tasks.scores import Scores, score
from peftbench.training.batching import Rows
from peftbench.training.evaluation import logits_of, predictions_of
from peftbench.training.meter import Meter


class Form(ABC):
    """A task on a model.

    Args:
        spec: the task.
        task: its configuration.
        model: with the head that `head` names.
        tokenizer: the backbone's.

    Attributes:
        accelerator, batch_size, meter: of evaluations; see `ready`.
        written: texts that the model has written, by split.
        told: what a reader of the scores should know of lengths, by what it is about.
        progress: called with the rows done and the rows there are, where rows take long.
    """

    name: ClassVar[str]
    head: ClassVar[Head]
    accelerator: Accelerator
    batch_size: int
    meter: Meter
    progress: Callable[[str, int, int], None]

    def __init__(self, spec: TaskSpec, task: TaskConfig, model: nn.Module, tokenizer: Any):
        self.spec, self.task, self.model, self.tokenizer = spec, task, model, tokenizer
        self.written: dict[str, list[str]] = {}
        self.told: dict[str, str] = {}
        self.progress = lambda *_: None

    def ready(self, accelerator: Accelerator, batch_size: int, meter: Meter) -> None:
        """What evaluations run with: device and precision, sequences at a time, seconds and tokens counted."""
        self.accelerator, self.batch_size, self.meter = accelerator, batch_size, meter

    @abstractmethod
    def tokenise(self, split: Split) -> Rows:
        """The split's rows as the loop takes them.

        Raises:
            ConfigurationError: they do not fit the configured lengths.
        """

    @staticmethod
    def examples(spec: TaskSpec, split: Split) -> int | None:
        """How many examples to train on the rows of a split give; None: it is known once they are tokens."""
        return len(split)

    @staticmethod
    def positions(task: TaskConfig, causal: bool) -> int:
        """Positions that the longest input takes.

        Args:
            task: its configuration.
            causal: whether the backbone is a decoder.
        """
        return task.max_length

    def loss(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Mean task loss of a batch, a scalar."""
        return self.model(**inputs).loss

    def numbers(self, rows: Rows) -> np.ndarray:
        """What the model says of every row, in numbers that pruning must not change. Shape (N, ...)."""
        return logits_of(self.model, rows, self.batch_size, self.accelerator)

    def predict(self, split: Split, rows: Rows, numbers: np.ndarray | None = None) -> Predictions:
        """One prediction per row.

        Args:
            split: the rows.
            rows: the same, tokenised.
            numbers: `numbers(rows)`, where they are known already.
        """
        return predictions_of(self.numbers(rows) if numbers is None else numbers)

    def scores(
        self, split: Split, rows: Rows, predictions: Predictions, numbers: np.ndarray | None = None
    ) -> dict[str, Scores]:
        """All metrics of a labelled split, and of its subsets, by name.

        Args:
            split: the rows.
            rows: the same, tokenised.
            predictions: `predict(split, rows)`.
            numbers: `numbers(rows)`, where they are known already.
        """
        return score(self.spec, split, predictions)

    def illegal(self, splits: Mapping[str, Split]) -> dict[str, int]:
        """Of the written texts how many could be no answer, by split; empty where none are written."""
        return {}

    def written_lines(self, splits: Mapping[str, Split]) -> dict[str, str]:
        """What was written, by split, as JSON lines; empty where no texts are."""
        return {}

    def monitored(self, split: Split, rows: Rows, metric: str) -> Mapping[str, Any]:
        """The split's metrics while training goes on: at least `metric`, and nothing that takes much longer."""
        numbers = self.numbers(rows)
        return self.scores(split, rows, self.predict(split, rows, numbers), numbers)[split.name]
