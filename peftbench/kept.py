"""What runs of one process share: data that are read, rows that are tokenised, weights that are loaded."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

T = TypeVar("T")

SWEEP: Mapping[str, int] = {"data": 8, "rows": 64, "origin": 4, "weights": 1}
"""How many of each kind a sweep holds on to; what was used longest ago goes first."""


class Kept:
    """Things made once and used again by whoever asks with the same key. Nobody may change what it hands out.

    Args:
        limits: how many of each kind are held; a kind that is not named is made anew each time.
    """

    def __init__(self, limits: Mapping[str, int] | None = None):
        self._limits = dict(limits or {})
        self._held: dict[str, OrderedDict[Hashable, object]] = {kind: OrderedDict() for kind in self._limits}

    def holds(self, kind: str) -> bool:
        """Whether things of this kind are held at all."""
        return self._limits.get(kind, 0) > 0

    def get(self, kind: str, key: Hashable, make: Callable[[], T]) -> T:
        """The thing of this kind and key, made now if it is not held."""
        if not self.holds(kind):
            return make()
        held = self._held[kind]
        if key not in held:
            held[key] = make()
            while len(held) > self._limits[kind]:
                held.popitem(last=False)
        held.move_to_end(key)
        return held[key]  # type: ignore[return-value]
