"""What makes a score no benchmark's, in words."""

from __future__ import annotations

from collections.abc import Iterable


def marks_of(data_kind: str, weights: str) -> tuple[str, ...]:
    """`SAMPLE data`, `RANDOM weights`: what makes a score no benchmark's; none where both are the real ones.

    Args:
        data_kind: the record's.
        weights: their source.
    """
    data = () if data_kind == "benchmark" else (f"{data_kind.upper()} data",)
    return (*data, "RANDOM weights") if weights == "random" else data


def not_the_benchmark(marks: Iterable[str]) -> str:
    """What marks say of a table or figure; empty where there are none."""
    named = sorted(set(marks), key=lambda mark: (mark.endswith("weights"), mark))
    return f"{' and '.join(named)}: not the benchmark" if named else ""
