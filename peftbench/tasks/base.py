"""What a task is: its columns, labels, splits and metrics, as data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Kind = Literal["classify", "choose", "spans", "generate", "lm", "mixture"]
Columns = dict[str, list]
Predictions = np.ndarray | list[str]
"""One per row: classes (-1 where a text named none) or numbers, shape (N,); or texts."""


LIKELIHOOD = ("log_likelihood", "perplexity")
"""Metrics of a language model's references: mean nats per target token, and exp of their negative."""

LOWER_IS_BETTER = frozenset({"ter", "perplexity"})
"""Metrics that fall as quality grows; of every other one more is better."""


@dataclass(frozen=True)
class Parsed:
    """A source's columns as a task means them; every list has one entry per row.

    Attributes:
        texts: what is fed, one list of strings per input text.
        labels: numbers, one per row; None where the task has no classes.
        columns: whatever else of the rows metrics, heads and text formats need, by name.
        source_rows: rows of the source that belong to the split; None: all of them.
    """

    texts: tuple[list[str], ...]
    labels: list | None
    columns: Columns = field(default_factory=dict)
    source_rows: int | None = None


@dataclass(frozen=True)
class TextFormat:
    """A task as text in, text out.

    Attributes:
        sources: the input text of every row.
        pairs: training examples: the row of each, shape (E,), and its target text. A row may give several or none.
        read: generated texts, one per row, as predictions.
        targets: every target there is, where they are few and known; () where they are free text.
        legal: of generated texts, one per row, which could be an answer at all; None: every text could.
        cut: where a source that is too long loses its tokens: on the side where its longest part stands.
    """

    sources: Callable[[Split], list[str]]
    pairs: Callable[[Split], tuple[np.ndarray, list[str]]]
    read: Callable[[list[str], Split], Predictions]
    targets: tuple[str, ...] = ()
    legal: Callable[[list[str], Split], list[bool]] | None = None
    cut: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class TaskSpec:
    """A task, told without loading anything.

    Attributes:
        name: what the user types.
        suite: the folder and benchmark it belongs to.
        text_columns: columns of text: the one or two that are fed, in that order, or those that `parse` reads.
        labels: class names in the order of their integers; empty for regression and for free text.
        metrics: names in `peftbench.tasks.metrics`, the first being the one tables lead with.
        official_rows: rows of each split in the official release.
        dev_splits: labelled splits that are evaluated, the first selects.
        test_splits: splits whose labels the benchmark hides, for submissions.
        sora_selection_metric: the metric by which the SoRA code selects, where it is not the first.
        sora_holdout: True where the SoRA code takes 1,000 training rows for validation and tests on the official
            development set; False where it halves the development set.
        extras: test sets of other tasks that this task's model is also run on.
        kind: what a model does with a row: puts it into a class (or gives it a number), chooses one of the
            candidates in the column `choices`, classes a pair of spans (the column `spans`), writes a text,
            models the text itself, or does with it what the row's own task asks (see `peftbench.tasks.mixture`).
        parse: source columns to rows, given whether they are trained on; None: text columns and `label` as they are.
        text: the task as text in, text out; None where it has no such form.
        subset: column by whose values a split is also scored in parts.
        folder: where in the suite its files are, and its name on the hub; None: `name`.
        convention: by whose scripts its texts are scored, see `peftbench.tasks.text_metrics`.
        variant: the task as its configuration wants it (a release, a corpus); None: there is one.
        prompt_words: words that a prompt may start from, where they are not the labels.
        members: the tasks that a mixture is of.
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
    extras: tuple[TaskSpec, ...] = ()
    kind: Kind = "classify"
    parse: Callable[[Columns, bool], Parsed] | None = None
    text: TextFormat | None = None
    subset: str | None = None
    folder: str | None = None
    convention: Literal["e2e", "webnlg"] | None = None
    variant: Callable[[Any], TaskSpec] | None = None
    prompt_words: tuple[str, ...] = ()
    members: tuple[TaskSpec, ...] = ()

    @property
    def is_regression(self) -> bool:
        """True where the label is a number."""
        return self.kind == "classify" and not self.labels

    @property
    def num_outputs(self) -> int:
        """Width of the task head: one score for each candidate that is chosen among, else one output per class."""
        return 1 if self.kind == "choose" else max(1, len(self.labels))

    def metrics_of(self, split: str) -> tuple[str, ...]:
        """The metrics by which `split` is scored."""
        return next((extra.metrics for extra in self.extras if split == extra.name), self.metrics)

    def selection_metric(self, protocol: str) -> str:
        """The metric that selects a checkpoint under `protocol`: of written texts the likelihood of their references.

        It is known without a text being written, which takes many times longer.
        """
        if self.kind in ("generate", "lm"):
            return LIKELIHOOD[0]
        return (protocol == "sora" and self.sora_selection_metric) or self.metrics[0]


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    Attributes:
        name: e.g. `validation`.
        texts: one list of strings per input text, each of length N.
        labels: shape (N,), int64 classes or float32 scores; None where hidden, or where the task has none.
        fingerprint: SHA-256 of the rows' content.
        columns: whatever else the rows carry, lists of length N by name.
        source_rows: rows that the source had, where one of its rows is not one of these.
    """

    name: str
    texts: tuple[list[str], ...]
    labels: np.ndarray | None
    fingerprint: str
    columns: Columns = field(default_factory=dict)
    source_rows: int | None = None

    def __len__(self) -> int:
        return len(self.texts[0])

    def take(self, rows: np.ndarray, name: str) -> Split:
        """The rows at the given positions, in that order, as a split of its own."""
        texts = tuple([column[i] for i in rows] for column in self.texts)
        labels = None if self.labels is None else self.labels[rows]
        columns = {key: [column[i] for i in rows] for key, column in self.columns.items()}
        return Split(name, texts, labels, fingerprint(texts, labels, columns), columns)


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


def fingerprint(
    texts: Sequence[Sequence[str]], labels: np.ndarray | None, columns: Mapping[str, Sequence] | None = None
) -> str:
    """SHA-256 of the rows: every input text in order, then the labels, then the other columns by name."""
    digest = hashlib.sha256()
    for column in texts:
        digest.update("\x1f".join(column).encode("utf-8", "surrogatepass"))
        digest.update(b"\x1e")
    digest.update(b"hidden" if labels is None else labels.tobytes())
    if columns:
        digest.update(json.dumps(columns, sort_keys=True, default=int).encode())
    return digest.hexdigest()
