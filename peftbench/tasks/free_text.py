"""Free-text answers as the SQuAD and ReCoRD evaluations compare them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(answer: str) -> str:
    """The answer in lower case, without ASCII punctuation and articles, its words one space apart.

    Source: the official evaluation of SQuAD (Rajpurkar et al., 2016), which ReCoRD's follows.
    """
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def distinguished(name: str) -> str:
    """What tells two names apart: `normalised`; in lower case, a name of nothing but articles and punctuation."""
    return normalised(name) or name.strip().lower()


def exact(predicted: str, answers: Iterable[str]) -> float:
    """1.0 where the prediction equals one of the answers once both are normalised, else 0.0."""
    return float(normalised(predicted) in {normalised(answer) for answer in answers})


def token_f1(predicted: str, answers: Iterable[str]) -> float:
    """The best F1 over the answers between the words of prediction and answer as multisets, both normalised."""
    words = Counter(normalised(predicted).split())
    return max((_overlap_f1(words, Counter(normalised(answer).split())) for answer in answers), default=0.0)


def _overlap_f1(predicted: Counter[str], actual: Counter[str]) -> float:
    shared = (predicted & actual).total()
    return 2 * shared / (predicted.total() + actual.total()) if shared else 0.0
