"""Finding records and asking them what reports ask."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from peftbench.errors import ConfigurationError
from peftbench.record import WITHOUT_EFFECT, canonical
from peftbench.report.marks import marks_of
from peftbench.report.shape import readable, wrong_in

T = TypeVar("T", bound=Hashable)

_NOT_A_SETTING = ("seed", "outputs", "experiment_name", "preset")
"""Of a configuration: what names a run or its place, not what was tried."""

_NOT_COMPARED: Mapping[str, frozenset[str]] = {
    "model": frozenset({"architecture"}),
    "trainer": frozenset({"eval_batch_size", "predictions", "merge", "score_untrained"}),
}
"""Beside `WITHOUT_EFFECT`, keys that name what a run writes or measures more, or how, not what was tried."""

_ADDED_LATER: Mapping[str, Mapping[str, Any]] = {
    "model": {"quantization": None, "double_quant": True, "dtype": "float32"},
    "trainer": {"skip_nonfinite": 0, "head": "train"},
}
"""Keys that records of earlier releases lack, with the values that those runs were made with."""


@dataclass(frozen=True)
class Run:
    """One record.

    Attributes:
        file: its `record.json`.
        record: what is in it.
        shown: metric and split that a table shows of it; None: what selected its checkpoint.
    """

    file: Path
    record: Mapping[str, Any]
    shown: tuple[str, str] | None = None

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.file.parent

    @cached_property
    def experiment_folder(self) -> str:
        """Where the runs of its experiment and their sweeps lie, whatever the folder is called by now."""
        return str(self.file.resolve().parents[2])

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
    def marks(self) -> tuple[str, ...]:
        """`marks_of` its data and weights."""
        return marks_of(self.data_kind, self.record["model"]["source"])

    @property
    def kind(self) -> str:
        """`benchmark`, or what a run's numbers are not of it for: `sample data`, `random weights`."""
        return self.marks[0].lower() if self.marks else "benchmark"

    @property
    def weights(self) -> str:
        """What names the backbone's weights: the start of their digest, else a hub id's revision, else a source."""
        model = self.record["model"]
        digest = model.get("weights_sha256")
        return digest[:8] if digest else str(model.get("revision") or model["source"])

    @cached_property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Fingerprints of the splits that train, select or are scored; those of a submission have no labels."""
        splits = self.record["data"]["splits"].items()
        return tuple(sorted((name, s["fingerprint"]) for name, s in splits if not name.startswith("submission ")))

    @cached_property
    def rows_id(self) -> str:
        """A short name of `rows`."""
        return hashlib.sha256(repr(self.rows).encode()).hexdigest()[:8]

    @property
    def train_rows(self) -> int | None:
        """Rows that trained; None where the record does not say."""
        return self.record["data"]["splits"].get("train", {}).get("rows")

    @property
    def flags(self) -> list[str]:
        """What a reader should know before believing a score."""
        found = self.record.get("flags")
        return [flag for flag in found if isinstance(flag, str)] if isinstance(found, list) else []

    @property
    def hardware(self) -> str:
        """`2 cores of Intel(R) Xeon(R) Processor, no GPU`; empty where the record does not say."""
        found = (self.record.get("environment") or {}).get("hardware")
        if not found:
            return ""
        gpus = [f"{count} × {gpu}" for gpu, count in Counter(found["gpus"]).items()]
        return f"{found['cores']} core{'s' * (found['cores'] != 1)} of {found['cpu']}, {', '.join(gpus) or 'no GPU'}"

    @property
    def commit(self) -> str:
        """`0123456789 with changes`; where the code was no checkout its version."""
        environment = self.record.get("environment") or {}
        git = environment.get("git")
        if not git or not git.get("commit"):
            return f"peftbench {(environment.get('versions') or {}).get('peftbench') or 'of unknown version'}"
        return git["commit"][:10] + (" with changes" if git.get("dirty") else "")

    @property
    def machine(self) -> str:
        """Hardware and the threads on it: seconds compare where these are the same; empty where nothing is known."""
        threads = (self.record.get("environment") or {}).get("threads")
        told = "" if threads is None else f"{threads} thread{'s' * (threads != 1)}"
        return ", ".join(filter(None, (self.hardware, told)))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration, canonical, but for seed and place, flat: `{"method.rank": 8, ...}`; lists as they are."""
        config = {
            section: {
                key: value
                for key, value in {**_ADDED_LATER.get(section, {}), **values}.items()
                if not _is_without_effect(section, key)
            }
            if isinstance(values, Mapping)
            else values
            for section, values in canonical(self.record["config"]).items()
            if section not in _NOT_A_SETTING
        }
        # The form that a run has is a setting, by whichever word it was asked for.
        return dict(_flat(config)) | {"task.form": self.record.get("form")}

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


def latest(runs: Iterable[Run], key: Callable[[Run], T]) -> dict[T, Run]:
    """One run for each key: a completed one before others, and of several the last to end."""
    return {key(run): run for run in sorted(runs, key=lambda run: (run.completed, run.record.get("ended") or ""))}


@dataclass(frozen=True)
class Found:
    """What lies under the folders of a report.

    Attributes:
        runs: every readable record, ordered by folder.
        unreadable: files that are called records and are none, each with the reason.
        sweeps: manifests of sweeps, `<experiment>/sweeps/<id>.json`, as they are but for the experiment's `folder`.
    """

    runs: list[Run]
    unreadable: list[tuple[Path, str]]
    sweeps: list[Mapping[str, Any]]


def find(places: Iterable[Path]) -> Found:
    """Every record under the given folders or files, each once; of one that was copied the first.

    Raises:
        ConfigurationError: a place is not there, or none of them holds a record.
    """
    files: dict[Path, None] = {}
    for place in places:
        if not place.exists():
            raise ConfigurationError(f"{place}: no such file or folder; name a folder that runs were written to")
        files |= dict.fromkeys([place] if place.is_file() else sorted(_files(place)))
    # A part of an experiment's runs was tuned by the sweeps of the whole.
    above = {file.absolute().parents[1:2] for file in files if file.name == "record.json"}
    experiments = {group.resolve().parent for (group,) in filter(None, above)}
    named = {file.resolve() for file in files if file.parent.name == "sweeps"}
    files |= {file: None for experiment in sorted(experiments) for file in sorted(experiment.glob("sweeps/[!.]*.json"))
              if file not in named}  # fmt: skip
    runs: dict[tuple[Any, ...], Run] = {}
    unreadable, sweeps = [], []
    for file in files:
        if file.parent.name == "sweeps":
            with contextlib.suppress(RecursionError):
                if (manifest := _mapping(file)) is not None:
                    sweeps.append({**manifest, "folder": str(file.parent.parent.resolve())})
            continue
        record, reason = _record(file)
        if record is None or reason:
            unreadable.append((file, reason))
        else:
            identity = (
                record["config"]["experiment_name"],
                *(record.get(key) for key in ("run_id", "status", "started", "ended")),
            )
            runs.setdefault(identity, Run(file, record))
    if not runs:
        told = f" ({len(unreadable)} files there are not records)" if unreadable else ""
        raise ConfigurationError(f"no record.json under {', '.join(map(str, places))}{told}")
    return Found(list(runs.values()), unreadable, sweeps)


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


def _record(file: Path) -> tuple[Mapping[str, Any] | None, str]:
    """What a file holds, and why it is no record; empty: it is one."""
    try:
        record = _mapping(file)
    except RecursionError:
        return None, "nested too deeply"
    if record is None or "status" not in record:
        return None, "not a JSON record"
    return record, wrong_in(record) or ""


def _mapping(file: Path) -> Mapping[str, Any] | None:
    """What a file holds, readable; None where that is no mapping. Raises RecursionError."""
    try:
        text = file.read_text(encoding="utf-8")
        found = json.loads(text)
    except (OSError, ValueError):
        return None
    if not isinstance(found, Mapping):
        return None
    # ASCII without escapes, as nearly every record is, has nothing to replace but what JSON itself forbids.
    plain = text.isascii() and "\\" not in text and "\x7f" not in text
    return found if plain else readable(found)


def _is_without_effect(section: str, key: str) -> bool:
    return any(key in table.get(section, ()) for table in (WITHOUT_EFFECT, _NOT_COMPARED))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
