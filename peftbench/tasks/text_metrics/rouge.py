"""ROUGE-L (Lin, 2004) as coco-caption computes it, which is not what rouge-score computes."""

from __future__ import annotations

from peftbench.tasks.text_metrics.corpus import Pairs, Tokens

BETA = 1.2


def rouge_l(words: Pairs[Tokens]) -> float:
    """Mean over inputs of the F-measure of the longest common subsequence, 0 to 1.

    Precision and recall may come from different references: each is the best that any of them gives.
    """
    scores = [
        _f_measure(words, references) for words, references in zip(words.hypotheses, words.references, strict=True)
    ]
    return sum(scores) / len(scores)


def _f_measure(hypothesis: Tokens, references: list[Tokens]) -> float:
    common = [(common_length(hypothesis, reference), len(reference)) for reference in references]
    longest = max(length for length, _ in common)
    if longest == 0:
        return 0.0
    precision = longest / len(hypothesis)
    recall = max(length / total for length, total in common if total)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_length(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence, a column of the table at once as the bits of an integer.

    Hyyrö (2004), "Bit-parallel LCS-length computation revisited": a zero bit is a row where the length grows.
    """
    rows: dict[str, int] = {}
    for row, token in enumerate(first):
        rows[token] = rows.get(token, 0) | 1 << row
    every = (1 << len(first)) - 1
    column = every
    for token in second:
        matched = column & rows.get(token, 0)
        column = ((column + matched) | (column - matched)) & every
    return len(first) - column.bit_count()
