"""Runs shown by TensorBoard or Weights & Biases, through accelerate's trackers. The record does not depend on them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers

from peftbench.config import RunConfig, TrackerConfig
from peftbench.errors import ConfigurationError
from peftbench.record import RunFolder


def check_tracker(config: TrackerConfig) -> None:
    """Refuse a tracker that is not installed.

    Raises:
        ConfigurationError: it is not.
    """
    if config.name != "none" and importlib.util.find_spec(config.name) is None:
        raise ConfigurationError(
            f"tracker={config.name}: {config.name} is not installed; pip install 'peftbench[tracking]', or tracker=none"
        )


class Tracking:
    """Sends what the history file gets to the configured tracker as well.

    Args:
        accelerator: the run's.
        config: the run's.
        folder: the run's; trackers write into its `tracker/`.
    """

    def __init__(self, accelerator: Accelerator, config: RunConfig, folder: RunFolder):
        self._accelerator, self._tracker, self._folder = accelerator, config.tracker, folder
        self._values = dict(_flat(config.resolved()))
        self._offset = 0

    def __enter__(self) -> Tracking:
        tracker = self._tracker
        if tracker.name != "none":
            place = self._folder.path / "tracker"
            place.mkdir(exist_ok=True)
            self._accelerator.log_with = filter_trackers([tracker.name], str(place))
            self._accelerator.project_configuration.set_directories(str(place))
            own = {"wandb": {"name": self._folder.path.name, "mode": tracker.mode, "dir": str(place)}}
            self._accelerator.init_trackers(tracker.project, self._values, own)
        return self

    def __exit__(self, *_: object) -> None:
        if self._tracker.name != "none":
            self._accelerator.end_training()

    def stage(self, steps_before: int) -> None:
        """A stage begins: its steps come after those of the stages before."""
        self._offset = steps_before

    def log(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Numbers of a step, an evaluation or an epoch, at a step of the stage."""
        if self._tracker.name != "none":
            numbers = {f"{kind}/{key}": float(v) for key, v in values.items() if isinstance(v, int | float)}
            self._accelerator.log(numbers, step=self._offset + step)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """Nested keys with dots, as trackers' tables of hyper-parameters want them; everything else as text."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str | int | float | bool) else str(value)
