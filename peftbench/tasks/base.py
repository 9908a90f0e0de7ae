"""What a task is: its columns, labels, splits and metrics, as data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class TaskSpec:
    """A task, told without loading anything.

    Attributes:
        name: what the user types.
        suite: the folder and benchmark it belongs to.
        text_columns: one or two columns of text, in the order they are fed.
        labels: class names in the order of their integers; empty for regression.
        metrics: names in `peftbench.tasks.metrics`, the first being the one tables lead with.
        official_rows: rows of each split in the official release.
        dev_splits: labelled splits that are evaluated, the first selects.
        test_splits: splits whose labels the benchmark hides, for submissions.
        sora_selection_metric: the metric by which the SoRA code selects, where it is not the first.
        sora_holdout: True where the SoRA code takes 1,000 training rows for validation and tests on the official
            development set; False where it halves the development set.
        extra: a test set of another task that this task's model is also run on.
    """

    name: str
    suite: str
    text_columns: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    official_rows: Mapping[str, int] = field(hash=False)
    dev_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)
    sora_selection_metric: str | None = None
    sora_holdout: bool = False
    extra: TaskSpec | None = None

    @property
    def is_regression(self) -> bool:
        """True where the label is a number."""
        return not self.labels

    @property
    def num_outputs(self) -> int:
        """Width of the task head."""
        return max(1, len(self.labels))

    def metrics_of(self, split: str) -> tuple[str, ...]:
        """The metrics by which `split` is scored."""
        return self.extra.metrics if self.extra and split == self.extra.name else self.metrics

    def selection_metric(self, protocol: str) -> str:
        """The metric that selects a checkpoint under `protocol`."""
        return (protocol == "sora" and self.sora_selection_metric) or self.metrics[0]


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        name: e.g. `validation`.
        texts: one tuple of strings per text column, each of length N.
        labels: shape (N,), int64 classes or float32 scores; None where hidden.
        fingerprint: SHA-256 of the rows' content.
    """

    name: str
    texts: tuple[list[str], ...]
    labels: np.ndarray | None
    fingerprint: str

    def __len__(self) -> int:
        return len(self.texts[0])

    def take(self, rows: np.ndarray, name: str) -> Split:
        """The rows at the given positions, in that order, as a split of its own."""
        texts = tuple([column[i] for i in rows] for column in self.texts)
        labels = None if self.labels is None else self.labels[rows]
        return Split(name, texts, labels, fingerprint(texts, labels))


@dataclass(frozen=True)
class TaskData:
    """A task's splits under one protocol, ready to be tokenised.

    Attributes:
        train: what is trained on.
        evaluations: labelled splits to be scored, by name; the first selects.
        hidden: test sets for submissions, by the submission's set name; never scored.
        memorization: a fixed random subset of at most 1,000 training rows.
        provenance: source, protocol, kind, rows and fingerprints, for the record.
    """

    train: Split
    evaluations: dict[str, Split]
    hidden: dict[str, Split]
    memorization: Split
    provenance: dict

    @property
    def selection_split(self) -> str:
        """The split whose metric selects a checkpoint."""
        return next(iter(self.evaluations))


def fingerprint(texts: Sequence[Sequence[str]], labels: np.ndarray | None) -> str:
    """SHA-256 of the rows: every text column in order, then the labels."""
    digest = hashlib.sha256()
    for column in texts:
        digest.update("\x1f".join(column).encode("utf-8", "surrogatepass"))
        digest.update(b"\x1e")
    digest.update(b"hidden" if labels is None else labels.tobytes())
    return digest.hexdigest()
