"""NIST (Doddington, 2002) as mteval-13a computes it, which E2E's published scores are.

nltk's `corpus_nist` agrees for one reference per input. For several it takes each order's single best reference, where
mteval matches against all of them at once and compares lengths with their mean.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import reduce
from itertools import chain
from operator import or_

from peftbench.tasks.text_metrics.corpus import Pairs, Tokens
from peftbench.tasks.text_metrics.ngrams import ngram_counts

ORDER = 5
_BETA = math.log(0.5) / math.log(1.5) ** 2


def nist(tokens: Pairs[Tokens]) -> float:
    """Mean information, in bits, of the matched n-grams, summed over n = 1 to 5, times the brevity penalty.

    Returns:
        The score, from 0 up; 0 where nothing was generated.
    """
    counts = [[ngram_counts(reference, ORDER) for reference in references] for references in tokens.references]
    total: Counter[tuple[str, ...]] = Counter()
    for each in chain.from_iterable(counts):
        total.update(each)
    words = sum(count for ngram, count in total.items() if len(ngram) == 1)
    gained, generated = [0.0] * ORDER, [0] * ORDER
    for hypothesis, references in zip(tokens.hypotheses, counts, strict=True):
        allowed = reduce(or_, references)
        for ngram, count in ngram_counts(hypothesis, ORDER).items():
            generated[len(ngram) - 1] += count
            if matched := min(count, allowed[ngram]):
                information = math.log2((total[ngram[:-1]] if len(ngram) > 1 else words) / total[ngram])
                gained[len(ngram) - 1] += matched * information
    length = sum(sum(map(len, references)) / len(references) for references in tokens.references)
    precision = sum(gain / count for gain, count in zip(gained, generated, strict=True) if count)
    return precision * _brevity_penalty(generated[0], length)


def _brevity_penalty(generated: int, length: float) -> float:
    """1 for a text as long as its references, 0.5 for one two thirds as long."""
    if generated == 0 or generated >= length:
        return float(generated > 0)
    return math.exp(_BETA * math.log(generated / length) ** 2)
