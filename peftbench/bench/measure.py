"""Measuring in turn, and what a measurement says."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ratio:
    """One line of the table: `what` took `value` times as long (or as much) as `against`.

    Attributes:
        section: the table it stands in. target: at most this; None: it is only told.
        at_least: the target is a lower bound. detail: the medians behind it.
    """

    section: str
    what: str
    against: str
    value: float
    target: float | None = None
    at_least: bool = False
    detail: str = ""

    @property
    def verdict(self) -> str:
        """`pass`, `short of target`, or nothing where there is no target."""
        if self.target is None:
            return ""
        good = self.value >= self.target if self.at_least else self.value <= self.target
        return "pass" if good else "short of target"

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"verdict": self.verdict}


def in_turn(
    cases: Mapping[str, Callable[[], object]],
    repeats: int,
    warmup: int = 2,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Median seconds of each case; the cases take turns, so that what the machine does besides meets all alike.

    Every second round is in the opposite order, so that no case always follows the same one.

    Args:
        cases: by name.
        repeats: rounds that count.
        warmup: rounds before them that do not.
        progress: called after every round.
    """
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(warmup + repeats):
        for name, case in list(cases.items())[:: -1 if turn % 2 else 1]:
            began = time.perf_counter()
            case()
            if turn >= warmup:
                taken[name].append(time.perf_counter() - began)
        progress()
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def peak_megabytes(work: Callable[[], object]) -> float:
    """The most memory that is live at once of what `work` allocates on the CPU, in MB (10⁶ bytes)."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # It tells of every start on standard error.
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    held = most = 0
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()  # type: ignore[attr-defined]
        most = max(most, held)
    return most / 1e6


def saved_megabytes(forward: Callable[[], Tensor]) -> float:
    """Memory that a forward pass keeps for the backward pass, in MB (10⁶ bytes); weights that live anyway excluded.

    Args:
        forward: returns the loss.
    """
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and not isinstance(tensor._base, torch.nn.Parameter):
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    # The loss is held until the tensors are counted, so that no address is given twice.
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    total = sum(held.values()) / 1e6
    del loss
    return total
