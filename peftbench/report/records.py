"""Finding records and asking them what reports ask."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from peftbench.errors import ConfigurationError
from peftbench.record import read_record

_NOT_A_SETTING = ("seed", "outputs", "experiment_name", "preset")
"""Of a configuration: what names a run or its place, not what was tried."""

_NOT_COMPARED: Mapping[str, frozenset[str]] = {
    "data": frozenset({"root", "source"}),
    "model": frozenset({"path", "wheel", "wheel_folder", "architecture"}),
    "trainer": frozenset(
        {"progress", "threads", "log_every", "checkpoint_every", "eval_batch_size", "predictions", "merge", "device"}
    ),
}
"""Keys by section that change no result: two runs that differ in these alone are the same setting."""


@dataclass(frozen=True)
class Run:
    """One record.

    Attributes:
        file: its `record.json`.
        record: what is in it.
    """

    file: Path
    record: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.file.parent

    @property
    def run_id(self) -> str:
        """The hash that names the run."""
        return self.record["run_id"]

    @property
    def status(self) -> str:
        """`completed`, or how it ended otherwise."""
        return self.record["status"]

    @property
    def completed(self) -> bool:
        """Whether there is a result."""
        return self.status == "completed"

    @property
    def experiment(self) -> str:
        """`experiment_name`."""
        return self.record["config"]["experiment_name"]

    @property
    def task(self) -> str:
        """The task's name."""
        return self.record["task"]

    @property
    def method(self) -> str:
        """The method's name."""
        return self.record["method"]

    @property
    def model(self) -> str:
        """The backbone's name."""
        return self.record["model"]["name"]

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.record["seed"]

    @property
    def protocol(self) -> str:
        """The split protocol."""
        return self.record["data"]["protocol"]

    @property
    def data_kind(self) -> str:
        """`benchmark`, `partial`, `sample` or `unchecked`."""
        return self.record["data"]["kind"]

    @property
    def is_benchmark(self) -> bool:
        """Whether data and weights are the real ones: every official row, pretrained weights."""
        return self.data_kind == "benchmark" and self.record["model"]["source"] != "random"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration but for seed and place, flat: `{"method.rank": 8, ...}`; lists as they are."""
        config = {
            section: {k: v for k, v in values.items() if k not in _NOT_COMPARED.get(section, ())}
            if isinstance(values, Mapping)
            else values
            for section, values in self.record["config"].items()
            if section not in _NOT_A_SETTING
        }
        return dict(_flat(config))

    @cached_property
    def setting_id(self) -> str:
        """Hash of `settings`: runs that share it differ in their seed alone."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def metric(self, name: str, split: str | None = None) -> float | None:
        """A metric of a split, or None where the run has not got it.

        Args:
            name: the metric's.
            split: None: the one that selected.
        """
        if not self.completed:
            return None
        found = self.record["metrics"].get(split or self.record["selection"]["split"], {})
        return found.get(name)


@dataclass(frozen=True)
class Found:
    """What lies under the folders of a report.

    Attributes:
        runs: every readable record, ordered by folder.
        unreadable: files that are called records and are none, each with the reason.
        sweeps: manifests of sweeps, `<experiment>/sweeps/<id>.json`, as they are but for the folder's `experiment`.
    """

    runs: list[Run]
    unreadable: list[tuple[Path, str]]
    sweeps: list[Mapping[str, Any]]


def find(places: Iterable[Path]) -> Found:
    """Every record under the given folders or files, each once.

    Raises:
        ConfigurationError: a place is not there, or none of them holds a record.
    """
    files: dict[Path, None] = {}
    for place in places:
        if not place.exists():
            raise ConfigurationError(f"{place}: no such file or folder; name a folder that runs were written to")
        files |= dict.fromkeys([place] if place.is_file() else sorted(_files(place)))
    runs, unreadable, sweeps = [], [], []
    for file in files:
        if file.parent.name == "sweeps":
            if (manifest := _mapping(file)) is not None:
                sweeps.append({**manifest, "experiment": file.parent.parent.name})
            continue
        record = read_record(file)
        reason = "not a JSON record" if record is None else _lacks(record)
        if reason:
            unreadable.append((file, reason))
        else:
            assert record is not None
            runs.append(Run(file, record))
    if not runs:
        told = f" ({len(unreadable)} files there are not records)" if unreadable else ""
        raise ConfigurationError(f"no record.json under {', '.join(map(str, places))}{told}")
    return Found(runs, unreadable, sweeps)


def _files(root: Path) -> Iterator[Path]:
    """Records, and sweeps' manifests, below a folder; hidden folders and a run's own folders are passed over."""
    for folder, below, names in os.walk(root):
        here = Path(folder)
        if "record.json" in names:
            below.clear()
            yield here / "record.json"
        elif here.name == "sweeps":
            yield from (here / name for name in names if name.endswith(".json") and not name.startswith("."))
        below[:] = sorted(name for name in below if not name.startswith("."))


_NEEDED = (
    "run_id", "task", "method", "seed", "parameters", "timing", "config.experiment_name", "config.task",
    "config.method",
    "model.name", "model.source", "data.kind", "data.protocol", "data.splits",
)  # fmt: skip
_OF_A_RESULT = ("metrics", "selection.split", "selection.metric", "selection.rule")


def _lacks(record: Mapping[str, Any]) -> str | None:
    needed = (*_NEEDED, *(_OF_A_RESULT if record["status"] == "completed" else ()))
    missing = [key for key in needed if not _has(record, key)]
    return f"no {', '.join(missing)} in it" if missing else None


def _has(record: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(record, Mapping) or part not in record:
            return False
        record = record[part]
    return True


def _mapping(file: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, Mapping) else None


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
