"""The GLUE benchmark's nine tasks and its diagnostic set, in the hub's columns, labels and splits."""

from __future__ import annotations

from peftbench.tasks.base import TaskSpec
from peftbench.tasks.text_formats import classes, similarity

_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_SENTENCES = ("sentence1", "sentence2")
_ACCEPTABILITY = ("unacceptable", "acceptable")
_SENTIMENT = ("negative", "positive")
_EQUIVALENCE = ("not_equivalent", "equivalent")
_DUPLICATE = ("not_duplicate", "duplicate")
_WINOGRAD = ("not_entailment", "entailment")
_NLI_TEXT = classes(_NLI, hypothesis=1, premise=0)


def _rows(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


_MNLI_ROWS = {
    "train": 392702,
    "validation_matched": 9815,
    "validation_mismatched": 9832,
    "test_matched": 9796,
    "test_mismatched": 9847,
}

AX = TaskSpec("ax", "glue", ("premise", "hypothesis"), _NLI, ("matthews_correlation",), {"test": 1104}, text=_NLI_TEXT)
"""GLUE's diagnostic set: no training rows; an MNLI model is run on it."""

GLUE = (
    TaskSpec(
        "cola", "glue", ("sentence",), _ACCEPTABILITY, ("matthews_correlation", "accuracy"), _rows(8551, 1043, 1063),
        text=classes(_ACCEPTABILITY, sentence=0),
    ),
    TaskSpec(
        "sst2", "glue", ("sentence",), _SENTIMENT, ("accuracy",), _rows(67349, 872, 1821),
        sora_holdout=True, text=classes(_SENTIMENT, sentence=0),
    ),
    TaskSpec(
        "mrpc", "glue", _SENTENCES, _EQUIVALENCE, ("accuracy", "f1"), _rows(3668, 408, 1725),
        sora_selection_metric="f1", text=classes(_EQUIVALENCE, sentence1=0, sentence2=1),
    ),
    TaskSpec(
        "stsb", "glue", _SENTENCES, (), ("pearson", "spearman"), _rows(5749, 1500, 1379),
        text=similarity(sentence1=0, sentence2=1),
    ),
    TaskSpec(
        "qqp", "glue", ("question1", "question2"), _DUPLICATE, ("accuracy", "f1"), _rows(363846, 40430, 390965),
        sora_holdout=True, text=classes(_DUPLICATE, question1=0, question2=1),
    ),
    TaskSpec(
        "mnli", "glue", ("premise", "hypothesis"), _NLI, ("accuracy",), _MNLI_ROWS,
        dev_splits=("validation_matched", "validation_mismatched"), test_splits=("test_matched", "test_mismatched"),
        extras=(AX,), text=_NLI_TEXT,
    ),
    TaskSpec(
        "qnli", "glue", ("question", "sentence"), _ENTAILMENT, ("accuracy",), _rows(104743, 5463, 5463),
        sora_holdout=True, text=classes(_ENTAILMENT, question=0, sentence=1),
    ),
    TaskSpec(
        "rte", "glue", _SENTENCES, _ENTAILMENT, ("accuracy",), _rows(2490, 277, 3000),
        text=classes(_ENTAILMENT, cut="left", sentence1=0, sentence2=1),
    ),
    TaskSpec(
        "wnli", "glue", _SENTENCES, _WINOGRAD, ("accuracy",), _rows(635, 71, 146),
        text=classes(_WINOGRAD, cut="left", sentence1=0, sentence2=1),
    ),
)  # fmt: skip
