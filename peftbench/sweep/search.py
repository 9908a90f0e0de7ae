"""What tuning draws from, and how it draws."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from peftbench.errors import ConfigurationError


@dataclass(frozen=True)
class Uniform:
    """A number in [low, high]; `log`: its logarithm is uniform. `whole`: an integer."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


Range = Uniform | tuple[str, ...]


@dataclass(frozen=True)
class Space:
    """What a tuning sweep compares, and what it may change for each.

    Attributes:
        cells: the words of every combination of groups that are compared.
        seeds: `seed=...`, the first of which the trials use.
        ranges: what a trial draws, by key.
    """

    cells: list[list[str]]
    seeds: list[str]
    ranges: Mapping[str, Range]

    @staticmethod
    def of(overrides: Sequence[Override]) -> Space:
        """Groups and plain values make cells, the seed repeats them, every other sweep is a range.

        Raises:
            ConfigurationError: nothing to draw, or a range that is none.
        """
        choices: dict[str, list[str]] = {}
        ranges: dict[str, Range] = {}
        for override in overrides:
            key = override.get_key_element()
            if key == "seed" and override.is_sweep_override() and not override.is_discrete_sweep():
                raise ConfigurationError("seed: tuning takes seeds by name, e.g. seed=0,21,42")
            if not override.is_sweep_override():
                choices[key] = [f"{key}={override.get_value_element_as_str()}"]
            elif "." not in key:
                choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                ranges[key] = _range(key, override)
        if not ranges:
            raise ConfigurationError(
                "tuning has nothing to draw: give a range, e.g. 'optimizer.lr=tag(log,interval(1e-4,1e-2))', or sweep"
                " a grid (hydra/sweeper=grid)"
            )
        seeds = choices.pop("seed", ["seed=0"])
        return Space([list(words) for words in itertools.product(*choices.values())], seeds, ranges)

    def corner(self) -> list[str]:
        """A point of the space, to see whether it is one."""
        return [
            f"{key}={values[0] if isinstance(values, tuple) else values.low}" for key, values in self.ranges.items()
        ]


def _range(key: str, override: Override) -> Range:
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        low, high = float(value.start or 0), float(value.end or 0)
        log = "log" in value.tags
        if not low < high or (log and low <= 0):
            raise ConfigurationError(f"{key}: interval({low:g}, {high:g}) is not a range{' above 0' if log else ''}")
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        return Uniform(low, high, log, whole)
    if isinstance(value, RangeSweep):
        return tuple(str(number) for number in value.range())
    return tuple(override.sweep_string_iterator())


class Sampler(Protocol):
    """Proposes points of one cell, one after another, and is told what came of each."""

    def ask(self) -> list[str]:
        """The next point's words."""
        ...

    def tell(self, value: float) -> None:
        """The last point's objective; larger is better, NaN where it failed."""
        ...


class RandomSampler:
    """Independent draws; the same ones in every cell that draws from the same ranges."""

    def __init__(self, ranges: Mapping[str, Range], seed: int):
        self._ranges, self._draw = ranges, random.Random(seed)

    def ask(self) -> list[str]:
        """A point drawn uniformly."""
        return [f"{key}={self._drawn(values)}" for key, values in self._ranges.items()]

    def tell(self, value: float) -> None:
        """Draws learn nothing."""

    def _drawn(self, values: Range) -> str:
        if isinstance(values, tuple):
            return self._draw.choice(values)
        if values.whole:
            return str(self._draw.randint(int(values.low), int(values.high)))
        if values.log:
            return f"{math.exp(self._draw.uniform(math.log(values.low), math.log(values.high))):.4g}"
        return f"{self._draw.uniform(values.low, values.high):.4g}"


class TPESampler:
    """Optuna's tree-structured Parzen estimator (Bergstra et al., 2011).

    Raises:
        ConfigurationError: Optuna is not installed.
    """

    def __init__(self, ranges: Mapping[str, Range], seed: int):
        try:
            import optuna
        except ImportError as error:
            raise ConfigurationError(
                "hydra/sweeper=tpe needs Optuna: pip install 'peftbench[tuning]', or use hydra/sweeper=random"
            ) from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._ranges, self._failed = ranges, optuna.trial.TrialState.FAIL
        self._study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def ask(self) -> list[str]:
        """The point that TPE proposes."""
        self._trial = self._study.ask()
        return [f"{key}={self._suggested(key, values)}" for key, values in self._ranges.items()]

    def tell(self, value: float) -> None:
        """Enter the objective; a trial that failed is told as failed."""
        if math.isnan(value):
            self._study.tell(self._trial, state=self._failed)
        else:
            self._study.tell(self._trial, value)

    def _suggested(self, key: str, values: Range) -> str:
        if isinstance(values, tuple):
            return str(self._trial.suggest_categorical(key, values))
        if values.whole:
            return str(self._trial.suggest_int(key, int(values.low), int(values.high), log=values.log))
        return f"{self._trial.suggest_float(key, values.low, values.high, log=values.log):.4g}"


def sampler_of(name: str, space: Space, seed: int) -> Sampler:
    """The sampler of this name, at its beginning.

    Raises:
        ConfigurationError: there is none, or Optuna is not installed.
    """
    samplers = {"random": RandomSampler, "tpe": TPESampler}
    if name not in samplers:
        raise ConfigurationError(f"hydra.sweeper.sampler: {name!r} is not one of {', '.join(samplers)}")
    return samplers[name](space.ranges, seed)
