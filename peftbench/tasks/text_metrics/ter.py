"""Translation edit rate (Snover et al., 2006) as pyter computes it, which the WebNLG evaluation uses.

sacrebleu's TER is tercom's: edits of the whole set over the mean length of the references, times 100, with other limits
on which runs may move and how far. Here every input has its own rate, against the reference that suits it best.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from peftbench.tasks.text_metrics.corpus import Pairs, Tokens


def ter(words: Pairs[Tokens]) -> float:
    """Mean over inputs of the least edit rate over the references, from 0 up."""
    rates = [
        _least_rate(hypothesis, references)
        for hypothesis, references in zip(words.hypotheses, words.references, strict=True)
    ]
    return sum(rates) / len(rates)


def _least_rate(hypothesis: Tokens, references: list[Tokens]) -> float:
    # An empty reference counts 1, as the evaluation has it.
    least = 1.0 if not all(references) else float("inf")
    bounds = sorted((_bag_distance(hypothesis, words) / len(words), words) for words in references if words)
    for bound, words in bounds:
        if bound < least:
            least = min(least, _edits(hypothesis, words) / len(words))
    return least


def _edits(hypothesis: Tokens, reference: Tokens) -> int:
    """Shifts of runs, each taken where it shortens the edit distance most, and the edit distance that is left."""
    table = _EditTable(reference)
    floor = _bag_distance(hypothesis, reference)
    shifts = 0
    columns = table.columns(hypothesis)
    while columns[-1].distance > floor:
        # Among equal shifts pyter takes the alphabetically last result; another choice gives other rates.
        best = columns[-1].distance, hypothesis
        for first, start, target, length in _runs(hypothesis, reference):
            rest = hypothesis[:start] + hypothesis[start + length :]
            shifted = rest[:target] + hypothesis[start : start + length] + rest[target:]
            distance = table.distance(columns[first], shifted[first:])
            if distance < best[0] or (distance == best[0] < columns[-1].distance and shifted > best[1]):
                best = distance, shifted
        if best[0] == columns[-1].distance:
            break
        shifts, hypothesis = shifts + 1, best[1]
        columns = table.columns(hypothesis)
    return shifts + columns[-1].distance


def _runs(hypothesis: Tokens, reference: Tokens) -> Iterator[tuple[int, int, int, int]]:
    """Each run that both have at different places: first place that moves, start, target, and greatest length."""
    places: dict[str, list[int]] = {}
    for target, word in enumerate(reference):
        places.setdefault(word, []).append(target)
    for start, word in enumerate(hypothesis):
        for target in places.get(word, ()):
            if start != target:
                pairs = zip(hypothesis[start:], reference[target:], strict=False)
                length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
                yield min(start, target), start, target, length


def _bag_distance(first: Tokens, second: Tokens) -> int:
    """The edit distance of the words in the best order: no order of them has a shorter one."""
    common = (Counter(first) & Counter(second)).total()
    return max(len(first), len(second)) - common


class _Column(NamedTuple):
    """One column of the edit distance's table: bits of the rows where it grows, where it falls, and its last value."""

    up: int
    down: int
    distance: int


class _EditTable:
    """Edit distances to one reference, a column at once as the bits of an integer.

    Myers (1999), in the form of Hyyrö (2003) for the distance between whole texts.
    """

    def __init__(self, reference: Tokens) -> None:
        self._rows: dict[str, int] = {}
        for row, word in enumerate(reference):
            self._rows[word] = self._rows.get(word, 0) | 1 << row
        self._every = (1 << len(reference)) - 1
        self._last = 1 << (len(reference) - 1)
        self._first = _Column(self._every, 0, len(reference))

    def columns(self, words: Tokens) -> list[_Column]:
        """The column after each prefix of the words, the empty one included."""
        found = [self._first]
        for word in words:
            found.append(self._after(found[-1], [word]))
        return found

    def distance(self, column: _Column, words: Tokens) -> int:
        """Edit distance of a prefix, given by its column, followed by the words."""
        return self._after(column, words).distance

    def _after(self, column: _Column, words: Tokens) -> _Column:
        up, down, distance = column
        rows, every, last = self._rows, self._every, self._last
        for word in words:
            equal = rows.get(word, 0)
            vertical = equal | down
            diagonal = (((equal & up) + up) ^ up) | equal
            grows = down | (every & ~(diagonal | up))
            falls = up & diagonal
            if grows & last:
                distance += 1
            elif falls & last:
                distance -= 1
            grows, falls = grows << 1 | 1, falls << 1
            up = (falls | ~(vertical | grows)) & every
            down = grows & vertical & every
        return _Column(up, down, distance)
