"""GLUE and SuperGLUE as text in, text out, after T5's published preprocessing.

The wording, the order of the parts and the targets are those of T5's code (Raffel et al., 2020, appendix D;
`preprocessors.glue`, `stsb`, `wsc_simple`, `record`), without the task's name in front, which Lester et al. (2021)
leave out where one prompt serves one task. Deviations: WSC's pronoun is marked where it stands, also behind a quotation
mark, where T5 rewrites the text; WNLI is asked as the other pairs are. An input's parts are the split's texts by
position, so that a diagnostic set is asked the way its task is.

A generated text is read after its outer white space is stripped, case and all; T5 compares it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from peftbench.tasks.base import Split, TextFormat
from peftbench.tasks.free_text import distinguished

Part = str | int
"""A part of the input: a column's name, or the position of a text."""

_WORDS = "a an each every few her his many much my our some that the their these this those which whose your"
_DETERMINERS = frozenset(_WORDS.split())
_NO_SCORE = -1.0


def classes(labels: Sequence[str], cut: Literal["left", "right"] = "right", **parts: Part) -> TextFormat:
    """`name: text name: text`, in that order, to the name of the class; -1 where the text names none.

    Args:
        labels: class names in the order of their integers.
        cut: see `TextFormat`.
        parts: what stands behind each name.
    """
    targets = tuple(labels)
    places = {target: place for place, target in enumerate(targets)}

    def pairs(split: Split) -> tuple[np.ndarray, list[str]]:
        labels = _labels(split)
        return np.arange(len(labels)), [targets[label] for label in labels]

    def read(texts: list[str], split: Split) -> np.ndarray:
        return np.asarray([places.get(text.strip(), -1) for text in texts], dtype=np.int64)

    def legal(texts: list[str], split: Split) -> list[bool]:
        return [text.strip() in places for text in texts]

    return TextFormat(partial(_joined, parts), pairs, read, targets, legal, cut)


def similarity(**parts: Part) -> TextFormat:
    """STS-B: the score to the nearest 0.2, as "3.8"; a generated text is a number from 0 to 5, or T5's -1."""

    def pairs(split: Split) -> tuple[np.ndarray, list[str]]:
        # In 32 bits and half to even, as T5's TensorFlow rounds.
        rounded = np.round(np.asarray(_labels(split), dtype=np.float32) * np.float32(5)) / np.float32(5)
        return np.arange(len(rounded)), [f"{score:.1f}" for score in rounded]

    def read(texts: list[str], split: Split) -> np.ndarray:
        scores = [_number(text) for text in texts]
        return np.asarray([_NO_SCORE if score is None else score for score in scores], dtype=np.float64)

    def legal(texts: list[str], split: Split) -> list[bool]:
        return [_number(text) is not None for text in texts]

    targets = tuple(f"{step / 5:.1f}" for step in range(26))
    return TextFormat(partial(_joined, parts), pairs, read, targets, legal)


def pronoun() -> TextFormat:
    """WSC as T5's `wsc_simple`: the text with its *pronoun* marked, to the noun phrase that it refers to.

    Only rows whose noun phrase is the right one are trained on (259 of the release's 554), for the others do not say
    what is. A generated text is read as True where it means the row's noun phrase, by T5's lenient rule. No answer is a
    text of nothing but articles and the like, read as no class, so that silence is not False; and a copy of the source
    up to its marked pronoun, read as True.
    """

    def sources(split: Split) -> list[str]:
        marked = []
        for text, (_, (_, start, end)) in zip(split.texts[0], split.columns["spans"], strict=True):
            marked.append(f"{text[:start]}*{text[start:end]}*{text[end:]}")
        return marked

    def pairs(split: Split) -> tuple[np.ndarray, list[str]]:
        rows = np.flatnonzero(np.asarray(_labels(split)) == 1)
        return rows, [split.columns["referent"][row] for row in rows]

    def read(texts: list[str], split: Split) -> np.ndarray:
        rows = zip(texts, split.columns["referent"], strict=True)
        means = [int(same_referent(text, phrase)) if says_something(text) else -1 for text, phrase in rows]
        return np.asarray(means, dtype=np.int64)

    def legal(texts: list[str], split: Split) -> list[bool]:
        return [says_something(text) and "*" not in text for text in texts]

    return TextFormat(sources, pairs, read, legal=legal)


def cloze() -> TextFormat:
    """ReCoRD as T5's `record`: query, entities and passage to an answer; one training example for each answer.

    No answer is a text that is none of the row's entities, as the official evaluation tells them apart; it is scored as
    it is, by its words.
    """

    def sources(split: Split) -> list[str]:
        rows = zip(split.columns["query"], split.columns["mentions"], split.texts[0], strict=True)
        return [f"query: {query} entities: {', '.join(names)} passage: {passage}" for query, names, passage in rows]

    def pairs(split: Split) -> tuple[np.ndarray, list[str]]:
        answers = split.columns["answers"]
        rows = [row for row, found in enumerate(answers) for _ in found]
        return np.asarray(rows, dtype=np.int64), [answer for found in answers for answer in found]

    def read(texts: list[str], split: Split) -> list[str]:
        return [text.strip() for text in texts]

    def legal(texts: list[str], split: Split) -> list[bool]:
        names = [{distinguished(name) for name in names} for names in split.columns["mentions"]]
        return [distinguished(text) in known for text, known in zip(texts, names, strict=True)]

    return TextFormat(sources, pairs, read, legal=legal)


def says_something(text: str) -> bool:
    """Whether there is a word besides determiners in it."""
    return any(word not in _DETERMINERS for word in text.lower().split())


def same_referent(generated: str, phrase: str) -> bool:
    """T5's rule: but for case and determiners, the words of one are among those of the other.

    "Bob" is not "Bob's hat": either both have an apostrophe or neither has. No words mean nothing.
    """
    first, second = (
        {word for word in text.lower().split() if word not in _DETERMINERS} for text in (generated, phrase)
    )
    if any("'" in word for word in first) != any("'" in word for word in second):
        return False
    return bool(first and second) and (first <= second or second <= first)


def _joined(parts: dict[str, Part], split: Split) -> list[str]:
    columns = [split.texts[part] if isinstance(part, int) else split.columns[part] for part in parts.values()]
    return [
        " ".join(f"{name}: {text}" for name, text in zip(parts, row, strict=True)) for row in zip(*columns, strict=True)
    ]


def _labels(split: Split) -> list:
    """The labels; none where they are hidden, of which there are no examples to train on."""
    return [] if split.labels is None else split.labels.tolist()


def _number(text: str) -> float | None:
    found = re.fullmatch(r"[0-5](\.[0-9]+)?", text.strip())
    return float(found[0]) if found and float(found[0]) <= 5 else None
