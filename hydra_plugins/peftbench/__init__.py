"""The sweeper that Hydra runs: grids, explicit lists, and tuning with as many trials for every method.

It stands here since Hydra takes plugins from this package alone.
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from peftbench.compose import from_hydra, without_environment
from peftbench.config import RunConfig
from peftbench.console import screen
from peftbench.errors import ConfigurationError
from peftbench.sweep.search import Space, sampler_of
from peftbench.sweep.workers import Workers, WorkersJob, threads_of_a_job

_MANY = 20
"""Runs whose composition takes long enough to say so."""


class Sweep(BasicSweeper):
    """`conf/hydra/sweeper/grid.yaml`, `random.yaml` and `tpe.yaml`.

    Every run is composed and checked before the first one starts. Of a grid every combination of values is a run, and
    of `points` every point with every combination of the keys outside it. With `trials`, keys that name what is
    compared (groups such as method, task, model, and the seed) make cells; each cell gets the same number of trials
    over the other keys' ranges, with the first seed, and its best point on the selection split runs with every seed.

    Args:
        max_batch_size: runs handed to the launcher at a time; None: all.
        params: sweeps of a configuration file, key to values; the command line's words take their place.
        points: explicit points, `key=value key=value` each.
        trials: of each cell; None: no tuning.
        sampler: `random` or `tpe`. sampler_seed: of its draws.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None,
        points: Sequence[str],
        trials: int | None,
        sampler: str | None,
        sampler_seed: int,
    ):
        for key, value, kind in (("params", params, Mapping), ("points", points, Sequence)):
            if value is not None and (isinstance(value, str) or not isinstance(value, kind)):
                wanted = "a mapping of keys to values" if kind is Mapping else "a list of points"
                raise ConfigurationError(f"hydra.sweeper.{key}: {value!r} is not {wanted}")
        super().__init__(max_batch_size, dict(params or {}))  # type: ignore[arg-type]
        for key, number in (("trials", trials), ("max_batch_size", max_batch_size)):
            if number is not None and (type(number) is not int or number < 1):
                raise ConfigurationError(f"hydra.sweeper.{key}: {number!r} is not a whole number, at least 1")
        self._points = list(points or ())
        self._trials, self._sampler, self._sampler_seed = trials, sampler, sampler_seed

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's; the jobs are the task function's own."""
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self._jobs = task_function.jobs  # type: ignore[attr-defined]
        if not isinstance(self.launcher, BasicLauncher):
            assert self.launcher is not None
            folder = Path(str(config.outputs)).absolute() / ".hydra" / "outcomes" / uuid.uuid4().hex[:12]
            job: Any = WorkersJob(str(folder), threads_of_a_job(self.launcher), pins=hasattr(self.launcher, "joblib"))
            self.launcher.setup(hydra_context=hydra_context, task_function=job, config=config)
            self.launcher = Workers(self.launcher, folder, self._jobs.ledger, self._composed)  # type: ignore[assignment]

    def sweep(self, arguments: list[str]) -> Any:
        """Every run, in batches."""
        with without_environment():
            _ = self.config.outputs  # type: ignore[union-attr]  # A folder is made of it before the runs are checked.
        if self._trials is None:
            return super().sweep(arguments)
        if self._points:
            raise ConfigurationError("hydra.sweeper.points: tuning takes ranges, not points; use hydra/sweeper=grid")
        return self._tune(self._parsed([*self._parse_config(), *arguments]))

    def split_arguments(self, overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:  # type: ignore[override]
        """Batches of runs, each a list of words; a run that would be there twice is there once.

        The command line's words take the place of a point's and of `params`; of groups (task, method, model) that a
        point names, they keep the point's values that are among them, and leave out points that have none.

        Raises:
            ConfigurationError: no point is left, or a run is misconfigured.
        """
        given = {override.get_key_element(): _values(override) for override in overrides[len(self.params) :]}
        own = {override.get_key_element(): _values(override) for override in overrides[: len(self.params)]}
        for key, values in (own | given).items():
            if not values:
                raise ConfigurationError(f"{key}: lists no value")
        runs: dict[tuple[str, ...], None] = {}
        for point in self._points or [""]:
            named = {override.get_key_element(): _values(override) for override in self._parsed(point.split())}
            groups = {
                key: [v for v in given[key] if v in named[key]] for key in named if key in given and "." not in key
            }
            choices = own | named | given | groups
            words = [[f"{key}={value}" for value in values] for key, values in choices.items()]
            runs |= dict.fromkeys(itertools.product(*words))
        if not runs:
            told = ", ".join(self._points)
            raise ConfigurationError(f"hydra.sweeper.points: none of them fits the command line's groups ({told})")
        unique = [list(words) for words in runs]
        self._check(unique)
        self._jobs.ledger.plan(unique)
        return list(self.split_overrides_to_chunks(unique, max_batch_size))

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Hydra asks before each batch; every run was checked before the first."""

    def _check(self, runs: Sequence[Sequence[str]]) -> None:
        """Refuse them all where one is misconfigured.

        Raises:
            ConfigurationError: it is; nothing has run.
        """
        if len(runs) > _MANY:
            screen().print(f"checking the configurations of {len(runs)} runs")
        for words in runs:
            try:
                self._composed(words)
            except ConfigurationError as error:
                raise ConfigurationError(f"{error} (in the run {' '.join(words)}; nothing was run)") from error

    def _composed(self, words: Sequence[str]) -> RunConfig:
        assert self.hydra_context is not None
        node = self.hydra_context.config_loader.load_sweep_config(self.config, list(words))  # type: ignore[arg-type]
        own = OmegaConf.masked_copy(node, [str(key) for key in node if key != "hydra"])
        return from_hydra(own, node.hydra)

    def _parsed(self, words: Sequence[str]) -> list[Override]:
        assert self.hydra_context is not None
        return OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(list(words))

    def _tune(self, overrides: Sequence[Override]) -> list[float]:
        assert self._trials is not None
        space = Space.of(overrides)
        ledger = self._jobs.ledger
        ledger.sweeper, ledger.trials = str(self._sampler), self._trials
        ledger.total = len(space.cells) * (self._trials + len(space.seeds) - 1)
        corners = [[*cell, *space.corner(), space.seeds[0]] for cell in space.cells]
        self._check(corners)
        configs = [self._composed(corner) for corner in corners]
        return [self._tune_cell(space, cell, config) for cell, config in zip(space.cells, configs, strict=True)]

    def _tune_cell(self, space: Space, cell: list[str], config: RunConfig) -> float:
        """The objective of the best point, run with every seed."""
        sampler = sampler_of(str(self._sampler), space, self._sampler_seed)
        of = {"task": config.task.name, "method": config.method_name, "model": config.model.name}
        entry: dict[str, Any] = {**of, "overrides": cell, "trials": [], "chosen": None, "runs": []}
        self._jobs.ledger.cells.append(entry)
        best: tuple[float, list[str], int] | None = None
        for number in range(self._trials or 0):
            point = sampler.ask()
            value = self._launch([*cell, *point, space.seeds[0]], of | {"seed": config.seed}, entry["trials"])
            sampler.tell(value)
            if value == value and (best is None or value > best[0]):
                best = value, point, number
        if best is None:
            return float("nan")
        entry["chosen"] = {"overrides": best[1], "objective": best[0]}
        entry["runs"].append(entry["trials"][best[2]])
        for seed in space.seeds[1:]:
            self._launch([*cell, *best[1], seed], of | {"seed": int(seed.partition("=")[2])}, entry["runs"])
        return best[0]

    def _launch(self, words: list[str], of: dict[str, Any], entered: list[dict[str, Any]]) -> float:
        """One run, entered among a cell's; NaN where it failed or the configuration does not allow it."""
        assert self.launcher is not None
        ledger = self._jobs.ledger
        try:
            self._composed(words)
        except ConfigurationError as error:
            entered.append(ledger.entry(ledger.refuse(words, of, str(error))))
            return float("nan")
        (job,) = self.launcher.launch([words], initial_job_idx=len(ledger.outcomes))
        entered.append(ledger.entry(ledger.outcomes[-1]))
        return float(job.return_value)


def _values(override: Override) -> list[str]:
    """What a word lists.

    Raises:
        ConfigurationError: it is a range, of which no grid can be made.
    """
    if not override.is_sweep_override():
        return [override.get_value_element_as_str()]
    if not override.is_discrete_sweep():
        raise ConfigurationError(
            f"{override.input_line}: a grid needs values, not a range; tune over it with hydra/sweeper=random or tpe"
        )
    return list(override.sweep_string_iterator())
