"""Seeded choices and small text helpers shared by the sample-data generators."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")
Concept = tuple[str, ...]
"""Ways to say the same thing, the plainest first."""


class Draw:
    """Random choices that come out the same on every Python version.

    Python promises a stable sequence only for ``Random.random`` under a string seed; ``choice`` and
    ``sample`` have changed between versions, so every choice here is made from ``random`` alone.
    """

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self._random() < probability

    def fraction(self) -> float:
        """Return a number from 0 up to, not including, 1."""
        return self._random()

    def below(self, stop: int) -> int:
        """Return an integer from 0 up to, not including, ``stop``."""
        return int(self._random() * stop)

    def pick(self, items: Sequence[Item]) -> Item:
        """Return one of the items."""
        return items[self.below(len(items))]

    def pick_other(self, items: Sequence[Item], *taken: Item) -> Item:
        """Return one of the items that is not among ``taken``."""
        return self.pick([item for item in items if item not in taken])

    def distinct(self, items: Sequence[Item], count: int) -> list[Item]:
        """Return ``count`` items from different positions, in random order."""
        pool = list(items)
        return [pool.pop(self.below(len(pool))) for _ in range(count)]


def concepts(text: str) -> tuple[Concept, ...]:
    """Parse ``"car/automobile; tower"`` into ``(("car", "automobile"), ("tower",))``."""
    return tuple(tuple(form.strip() for form in entry.split("/")) for entry in text.split(";"))


def words(text: str) -> tuple[str, ...]:
    """Parse a semicolon-separated list of words or phrases."""
    return tuple(entry.strip() for entry in text.split(";"))


def lines(text: str) -> list[str]:
    """Return the stripped, non-empty lines of a block of text."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def capitalised(text: str) -> str:
    """Return the text with its first letter in upper case and the rest untouched."""
    return text[:1].upper() + text[1:]


def with_article(noun: str) -> str:
    """Return the noun behind "a" or "an"."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


_SMALL = words(
    "zero; one; two; three; four; five; six; seven; eight; nine; ten; eleven; twelve; thirteen; "
    "fourteen; fifteen; sixteen; seventeen; eighteen; nineteen"
)
_TENS = words("; ; twenty; thirty; forty; fifty; sixty; seventy; eighty; ninety")


def number_forms(number: int) -> Concept:
    """Return a number below one hundred in words and in digits."""
    if number < len(_SMALL):
        return _SMALL[number], str(number)
    tens, ones = divmod(number, 10)
    return _TENS[tens] + (f"-{_SMALL[ones]}" if ones else ""), str(number)
