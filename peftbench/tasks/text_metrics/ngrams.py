"""Runs of tokens, which NIST and CIDEr count."""

from collections import Counter


def ngram_counts(tokens: list[str], most: int) -> Counter[tuple[str, ...]]:
    """How often each run of 1 to `most` tokens occurs."""
    return Counter(tuple(tokens[start : start + n]) for n in range(1, most + 1) for start in range(len(tokens) - n + 1))
