"""A task's configuration: how long its inputs are, how it is split, in which form a model meets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peftbench.strict import bounded

Protocol = Literal["glue_dev", "sora", "official"]


@dataclass(frozen=True)
class TaskConfig:
    """Which task, how long its inputs may be, on which split it is selected and scored.

    Attributes:
        max_length: tokens per input.
        protocol: `glue_dev`, the official development set; `sora`, the SoRA code's split of it; `official`, of a task
            whose test set is public, the release's own splits.
        selection_metric: the metric that selects a checkpoint; null: the protocol's own.
        selection_split: the split it is measured on; null: the first (MNLI has two).
        form: `head`, classes from a task head; `text`, text in and text out by the language model's own projection;
            `auto`, a head on encoders and text elsewhere.
    """

    name: str
    max_length: int = bounded(128, at_least=8)
    protocol: Protocol = "glue_dev"
    selection_metric: str | None = None
    selection_split: str | None = None
    form: Literal["auto", "head", "text"] = "auto"


@dataclass(frozen=True)
class GenerationTask(TaskConfig):
    """A task whose answer is a free text.

    Attributes:
        max_target_length: tokens of a target that is trained on, its end token counted.
        label_smoothing: ε, the share of a target token's probability that every token of the vocabulary shares.
        max_new_tokens: tokens generated at most.
        beams: of the beam search; 1: greedy.
        length_penalty: exponent of the length by which a beam's log-likelihood is divided.
        no_repeat_ngram: no n-gram of so many tokens twice in one output; 0: any.
        test: whether the test split is written too, once, at the end (of Algorithm 1, of every stage).
    """

    max_target_length: int = bounded(96, at_least=2)
    label_smoothing: float = bounded(0.0, at_least=0, at_most=0.99)
    max_new_tokens: int = bounded(64, at_least=1)
    beams: int = bounded(5, at_least=1)
    length_penalty: float = 1.0
    no_repeat_ngram: int = bounded(0, at_least=0)
    test: bool = True


@dataclass(frozen=True)
class LanguageModellingTask(TaskConfig):
    """Language modelling on a corpus.

    Attributes:
        corpus: folder of its text. objective: `plain`, every token; `prefix`, those after a random prefix.
    """

    corpus: str = "wikitext2_raw"
    objective: Literal["plain", "prefix"] = "plain"


@dataclass(frozen=True)
class WebNLGTask(GenerationTask):
    """WebNLG.

    Attributes:
        release: of the corpus.
        linearisation: `lora`, triples joined by bars; `prefix`, Prefix-Tuning's, with a bar before the first one too.
    """

    release: Literal["challenge_2017", "release_v2", "release_v2.1", "release_v3.0_en"] = "challenge_2017"
    linearisation: Literal["lora", "prefix"] = "lora"


@dataclass(frozen=True)
class MixtureTask(TaskConfig):
    """Several tasks for one model.

    Attributes:
        max_rows_per_task: training rows that a task gives at most, a fixed random subset of a larger one's.
    """

    max_rows_per_task: int = bounded(65536, at_least=1)


TASK_CONFIGS: dict[str, type[TaskConfig]] = {
    "e2e": GenerationTask,
    "webnlg": WebNLGTask,
    "dart": GenerationTask,
    "lm": LanguageModellingTask,
    "superglue_mixture": MixtureTask,
}
"""Configuration classes by the task's name, where it is not `TaskConfig`."""
