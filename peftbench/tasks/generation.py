"""Data-to-text tasks and language modelling: a text is written, not a class chosen."""

from __future__ import annotations

import dataclasses
from functools import partial

from peftbench.task_config import LanguageModellingTask, WebNLGTask
from peftbench.tasks.base import TaskSpec
from peftbench.tasks.data_to_text import DATA_TO_TEXT, WEBNLG_SEEN, dart_rows, e2e_rows, text_rows, webnlg_rows

_SPLITS = ("validation", "test")
_TRIPLES = ("bleu", "meteor", "ter", "chrf")

_WEBNLG_ROWS = {
    "challenge_2017": {"train": 6940, "validation": 872, "test": 1862},
    "release_v2": {"train": 12876, "validation": 1619, "test": 1600},
    "release_v2.1": {"train": 12876, "validation": 1619, "test": 1600},
    "release_v3.0_en": {"train": 13211, "validation": 1667, "test": 1779},
}
"""Entries; of release 3's test set those that are to be written."""
_WIKITEXT2_ROWS = {"train": 36718, "validation": 3760, "test": 4358}
_CORPUS_ROWS = {"wikitext2": _WIKITEXT2_ROWS, "wikitext2_raw": _WIKITEXT2_ROWS}


def _webnlg(task: WebNLGTask) -> TaskSpec:
    """The release asked for, in the notation asked for."""
    opening = " | " if task.linearisation == "prefix" else ""
    parse = partial(webnlg_rows, opening=opening, seen=WEBNLG_SEEN[task.release])
    return dataclasses.replace(WEBNLG, folder=task.release, official_rows=_WEBNLG_ROWS[task.release], parse=parse)


def _lm(task: LanguageModellingTask) -> TaskSpec:
    """The corpus asked for."""
    return dataclasses.replace(LM, folder=task.corpus, official_rows=_CORPUS_ROWS.get(task.corpus, {}))


E2E = TaskSpec(
    "e2e", "e2e_nlg", ("meaning_representation", "human_reference"), (),
    ("bleu", "nist", "meteor", "rouge_l", "cider", "ter", "chrf"), {"train": 42061, "validation": 4672, "test": 4693},
    dev_splits=_SPLITS, test_splits=(), kind="generate", parse=e2e_rows, text=DATA_TO_TEXT, folder="", convention="e2e",
)  # fmt: skip
"""Restaurants (Novikova et al., 2017)."""

WEBNLG = TaskSpec(
    "webnlg", "webnlg", ("category",), (), _TRIPLES, _WEBNLG_ROWS["challenge_2017"],
    dev_splits=_SPLITS, test_splits=(), kind="generate", parse=webnlg_rows, text=DATA_TO_TEXT, subset="subset",
    folder="challenge_2017", convention="webnlg", variant=_webnlg,
)  # fmt: skip
"""DBpedia triples (Gardent et al., 2017); half of the test set is of categories that training does not have."""

DART = TaskSpec(
    "dart", "dart", (), (), _TRIPLES, {"train": 30526, "validation": 2768, "test": 5097},
    dev_splits=_SPLITS, test_splits=(), kind="generate", parse=dart_rows, text=DATA_TO_TEXT, folder="",
    convention="webnlg",
)  # fmt: skip
"""Triples of tables, restaurants and DBpedia (Nan et al., 2021), version 1.1.1; its training sets have 62,659 texts."""

LM = TaskSpec(
    "lm", "text", ("text",), (), (), {}, dev_splits=_SPLITS, test_splits=(), kind="lm", parse=text_rows, variant=_lm
)
"""Running text."""

GENERATION = (E2E, WEBNLG, DART, LM)
