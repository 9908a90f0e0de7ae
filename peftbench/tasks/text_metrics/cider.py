"""CIDEr (Vedantam, Zitnick and Parikh, 2015) as coco-caption's `Cider` computes it.

Its code is not the paper's CIDEr but nearly its CIDEr-D: matches are clipped and a difference in length is penalised.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

from peftbench.tasks.text_metrics.corpus import Pairs, Tokens
from peftbench.tasks.text_metrics.ngrams import ngram_counts

ORDER = 4
SIGMA = 6.0


class _Vector(NamedTuple):
    """A text's weights, their norm per order, and how many pairs of neighbours it has, which stands for its length."""

    weights: dict[tuple[str, ...], float]
    norms: list[float]
    length: int


def cider(words: Pairs[Tokens]) -> float:
    """Ten times the mean, over inputs, references and orders 1 to 4, of the cosine of tf-idf vectors, 0 to 10.

    The rarity of an n-gram is its rarity among the inputs' references, so that a score depends on the whole set, and
    that of a single input is 0.
    """
    references = [[ngram_counts(text, ORDER) for text in texts] for texts in words.references]
    inputs_with = Counter(ngram for texts in references for ngram in set().union(*texts))
    total = 0.0
    for hypothesis, texts in zip(words.hypotheses, references, strict=True):
        ours = _vector(ngram_counts(hypothesis, ORDER), inputs_with, len(references))
        total += sum(_similarity(ours, _vector(text, inputs_with, len(references))) for text in texts) / len(texts)
    return 10 * total / len(references)


def _vector(counts: Counter[tuple[str, ...]], inputs_with: Counter[tuple[str, ...]], inputs: int) -> _Vector:
    weights = {ngram: count * math.log(inputs / max(1, inputs_with[ngram])) for ngram, count in counts.items()}
    squares = [0.0] * ORDER
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight**2
    return _Vector(weights, list(map(math.sqrt, squares)), sum(n for ngram, n in counts.items() if len(ngram) == 2))


def _similarity(hypothesis: _Vector, reference: _Vector) -> float:
    """Mean over orders of the clipped cosine, times a Gaussian of the difference in length."""
    products = [0.0] * ORDER
    for ngram in hypothesis.weights.keys() & reference.weights.keys():
        weight = reference.weights[ngram]
        products[len(ngram) - 1] += min(hypothesis.weights[ngram], weight) * weight
    norms = [ours * theirs for ours, theirs in zip(hypothesis.norms, reference.norms, strict=True)]
    cosines = [product / norm for product, norm in zip(products, norms, strict=True) if norm > 0]
    return sum(cosines) / ORDER * math.exp(-((hypothesis.length - reference.length) ** 2) / (2 * SIGMA**2))
