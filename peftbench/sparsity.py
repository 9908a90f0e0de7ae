"""Schedules of SoRA's sparsity: how strong the soft threshold is, and when.

The paper's symbols: λ is the strength, η_t the gates' learning rate at step t, ξ the threshold of the proximal step.
With `lambda` the threshold is ξ_t = η_t·λ (SoRA, Eq. 10); with `xi` it is used as it is, as the released code does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from peftbench.strict import bounded

DEFAULT_LAMBDA = 2.0
"""λ where neither `sparsity.lambda` nor `sparsity.xi` is given: about a quarter of N(0,1) gates end at zero where
Σ λη_t is 0.35, as in three epochs of MRPC at learning rate 1e-3. Gates move at most about η_t a step, so with λ above 1
and thousands of steps every rank goes: train long with less, or with a preset's ξ."""

Spacing = Literal["linear", "log_linear", "exp_linear"]
Operator = Literal["soft", "official"]


@dataclass(frozen=True)
class Strength:
    """A threshold's size at one step.

    Attributes:
        value: λ or ξ.
        scales_with_lr: True for λ (the threshold is η_t·λ), False for ξ.
        operator: `soft` (the paper's soft-thresholding) or `official` (the released code's dead zone of 2ξ).
    """

    value: float
    scales_with_lr: bool
    operator: Operator = "soft"

    def threshold(self, lr: float) -> float:
        """The threshold ξ_t of a proximal step whose gates moved with learning rate `lr`."""
        return self.value * lr if self.scales_with_lr else self.value


def levels(spacing: Spacing, start: float, end: float, count: int) -> tuple[float, ...]:
    """`count` values from `start` to `end`, spaced as in the released SoRA code.

    `linear`: evenly. `log_linear`: the logarithms of evenly spaced exponentials. `exp_linear`: the exponentials of
    evenly spaced logarithms, that is geometrically.

    Raises:
        ValueError: `count` is below 2, `start` above `end`, or `exp_linear` is asked to start at 0 (log 0).
    """
    if count < 2:
        raise ValueError(f"count: {count} levels do not span a schedule, at least 2")
    if start > end:
        raise ValueError(f"start: {start:g} is above the last level, {end:g}; a schedule rises")
    if spacing == "linear":
        inner = _between(start, end, count)
    elif spacing == "log_linear":
        # Taken out of the exponentials, the larger end cannot overflow them.
        inner = [end + math.log(v) for v in _between(math.exp(start - end), 1.0, count)]
    elif start <= 0:
        raise ValueError("start: exp_linear spaces logarithms, so it must start above 0")
    else:
        inner = [math.exp(v) for v in _between(math.log(start), math.log(end), count)]
    return (start, *inner, end)


def _between(start: float, end: float, count: int) -> list[float]:
    """The inner ones of `count` evenly spaced values."""
    step = (end - start) / (count - 1)
    return [start + i * step for i in range(1, count - 1)]


@dataclass(frozen=True)
class Constant:
    """One threshold from the first step to the last.

    Attributes:
        operator: see `Strength`.
        lambda_: λ; null with `xi` null means `DEFAULT_LAMBDA`.
        xi: ξ.
    """

    schedule: Literal["constant"] = "constant"
    operator: Operator = "soft"
    lambda_: float | None = bounded(None, at_least=0)
    xi: float | None = bounded(None, at_least=0)

    def __post_init__(self):
        if self.lambda_ is not None and self.xi is not None:
            raise ValueError("lambda and xi are both set; the threshold is either lr times lambda or xi: set one")

    @property
    def end(self) -> float:
        """The schedule's largest λ or ξ."""
        if self.xi is not None:
            return self.xi
        return DEFAULT_LAMBDA if self.lambda_ is None else self.lambda_

    def with_default(self) -> Self:
        """The same schedule with the default λ written out."""
        return replace(self, lambda_=self.end) if self.xi is None else self

    def strength(self, value: float) -> Strength:
        """`value` in this schedule's unit."""
        return Strength(value, scales_with_lr=self.xi is None, operator=self.operator)

    def at(self, step: int, total_steps: int) -> Strength:
        """The strength at optimizer step `step` (from 0) of `total_steps`."""
        return self.strength(self.end)


@dataclass(frozen=True)
class Ramp(Constant):
    """`count` levels from `start` to λ (or ξ), each held for an equal share of the steps."""

    schedule: Spacing = "linear"  # type: ignore[assignment]
    start: float = bounded(0.0, at_least=0)
    count: int = bounded(7, at_least=2)

    def __post_init__(self):
        super().__post_init__()
        levels(self.schedule, self.start, self.end, self.count)

    def at(self, step: int, total_steps: int) -> Strength:
        """The strength at optimizer step `step` (from 0) of `total_steps`."""
        reached = min(self.count - 1, step * self.count // total_steps)
        return self.strength(levels(self.schedule, self.start, self.end, self.count)[reached])


@dataclass(frozen=True)
class Stages(Constant):
    """Algorithm 1: train dense, then once more for each larger threshold, each stage starting from the one before.

    Attributes:
        spacing: how the thresholds lie between `start` and λ (or ξ).
        values: the thresholds themselves, instead of spacing, start and count.
        stage_epochs: epochs of every stage after the dense one (the released code: 15).
        restart: `fresh` gives each stage a new optimizer and learning-rate schedule. `official` goes on with the
            dense stage's, whose learning rate has reached 0: the projections stand still and the gates only shrink,
            as in the released code.
    """

    schedule: Literal["stages"] = "stages"  # type: ignore[assignment]
    spacing: Spacing = "linear"
    start: float = bounded(0.0, at_least=0)
    count: int = bounded(7, at_least=2)
    values: tuple[float, ...] | None = None
    stage_epochs: int = bounded(15, at_least=1)
    restart: Literal["fresh", "official"] = "fresh"

    def __post_init__(self):
        super().__post_init__()
        if self.restart == "official" and self.xi is None:
            raise ValueError("restart=official keeps a learning rate of 0, where lr times lambda is 0: set xi")
        if self.values is not None and (not self.values or list(self.values) != sorted(set(self.values))):
            raise ValueError("values must be a rising list of thresholds")
        if self.values is not None and self.values[0] < 0:
            raise ValueError("values: a threshold cannot be negative")
        rising = self.sparse_levels()
        if not rising:
            raise ValueError("no threshold above 0: nothing would follow the dense stage")
        if len(set(rising)) < len(rising):
            raise ValueError(f"start: {self.start:g} is the last threshold too; every stage needs a larger one")

    def sparse_levels(self) -> Sequence[float]:
        """The thresholds after the dense stage, rising."""
        values = self.values or levels(self.spacing, self.start, self.end, self.count)
        return [v for v in values if v > 0]

    def at(self, step: int, total_steps: int) -> Strength:
        """The dense stage's strength: no threshold."""
        return self.strength(0.0)


Sparsity = Constant | Ramp | Stages
SCHEDULES: dict[str, type[Constant]] = {
    "constant": Constant,
    "linear": Ramp,
    "log_linear": Ramp,
    "exp_linear": Ramp,
    "stages": Stages,
}
