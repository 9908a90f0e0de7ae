"""Data-to-text tasks and language modelling: a text is written, not a class chosen."""

from __future__ import annotations

import dataclasses

from peftbench.tasks.base import TaskSpec
from peftbench.tasks.data_to_text import DATA_TO_TEXT, e2e_rows, text_rows

GENERATION = (
    TaskSpec(
        "e2e", "e2e_nlg", ("meaning_representation", "human_reference"), (),
        ("bleu", "nist", "meteor", "rouge_l", "cider", "ter", "chrf"),
        {"train": 42061, "validation": 4672, "test": 4693}, dev_splits=("validation", "test"), test_splits=(),
        kind="generate", parse=e2e_rows, text=DATA_TO_TEXT, folder="", convention="e2e",
    ),
    TaskSpec(
        "lm", "text", ("text",), (), (), {}, dev_splits=("validation",), test_splits=(), kind="lm", parse=text_rows,
        variant=lambda task: dataclasses.replace(LM, folder=task.corpus),
    ),
)  # fmt: skip
LM = GENERATION[-1]
