"""What a run leaves behind: its folder, its record, its history. Standard library only."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from peftbench.durable import write_text
from peftbench.errors import BusyError, ConfigurationError

SCHEMA = 1
WITHOUT_EFFECT: Mapping[str, frozenset[str]] = {
    "model": frozenset({"path", "wheel", "wheel_folder", "fetched"}),
    "data": frozenset({"root", "source"}),
    "task": frozenset({"form"}),
    "trainer": frozenset(
        {
            "device",
            "threads",
            "log_every",
            "progress",
            "checkpoint_every",
            "gradient_checkpointing",
            "auto_micro_batch",
        }
    ),
}
"""Keys of a configuration, by section, that change no result. Rows, weights and the form are known by what they are."""


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration by what it does: those that differ in words alone, such as the order of sites, become equal.

    Args:
        config: sections and values, as `config.yaml` holds them; it may lack keys.
    """
    sections = {key: dict(value) for key, value in config.items() if isinstance(value, Mapping)}
    method, task, trainer = (sections.get(name, {}) for name in ("method", "task", "trainer"))
    if isinstance(method.get("sites"), list):
        method["sites"] = sorted(method["sites"], key=str)
    if task.get("beams") == 1:  # Greedy: no beams are compared by their length.
        task.pop("length_penalty", None)
    if trainer.get("max_steps") is not None:
        trainer.pop("epochs", None)
    if "micro_batch_size" in trainer and trainer["micro_batch_size"] == trainer.get("batch_size"):
        trainer["micro_batch_size"] = None
    return {**config, **sections}


Status = Literal["completed", "failed", "diverged", "out_of_memory", "interrupted"]


class RunFolder:
    """`<outputs>/<experiment>/<task>-<method>-<model>/<run id>`: one run's files, one writer at a time.

    Args:
        path: the folder; not created before `claimed`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.record = path / "record.json"
        self.checkpoint = path / "checkpoint"
        self.adapter = path / "adapter"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for this process; the claim ends with the process, however that ends.

        Raises:
            ConfigurationError: the folder cannot be written. BusyError: another process is at this run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise ConfigurationError(f"outputs: cannot write to {self.path} ({error.strerror})") from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BusyError(f"another process is running {self.path}; wait for it or stop it") from error
            except OSError as error:
                raise ConfigurationError(
                    f"outputs: {self.path} cannot be locked ({error.strerror}); use a file system that has flock"
                ) from error
            yield

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """Send the package's log and Python's warnings to `run.log` while the run lasts."""
        handler = _LogFile(self.path / "run.log", encoding="utf-8", delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        loggers = [logging.getLogger(name) for name in ("peftbench", "py.warnings", "transformers")]
        logging.captureWarnings(True)
        for logger in loggers:
            logger.addHandler(handler)
            logger.propagate = False
        loggers[0].setLevel(logging.INFO)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            for logger in loggers:
                logger.removeHandler(handler)
            handler.close()

    def finished(self) -> dict[str, Any] | None:
        """The record of a completed run, or None."""
        record = read_record(self.record)
        return record if record and record.get("status") == "completed" else None

    def ended(self) -> dict[str, Any] | None:
        """The record of a run that has come to an end, a good or a bad one; None where it can go on, or begin."""
        record = read_record(self.record)
        return record if record and record.get("status") not in ("interrupted", None) else None

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Put `record.json` in place, whole."""
        write_text(self.record, json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")

    def trim_history(self, stage: int, step: int) -> None:
        """Forget lines later than `step` of `stage`: a resumed run writes them again."""
        file = self.path / "history.jsonl"
        if file.is_file():
            lines = file.read_text(encoding="utf-8").splitlines()
            kept = [x for x in lines if (at := _moment(x)) is not None and at <= (stage, step)]
            write_text(file, "".join(f"{x}\n" for x in kept))

    def append_history(self, **line: Any) -> None:
        """Add one line to `history.jsonl`."""
        with (self.path / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")


class _LogFile(logging.FileHandler):
    """A log that is lost where it cannot be written: the run's own error is the one to tell."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Say nothing."""

    def close(self) -> None:
        """Close the file, whatever is left in its buffer."""
        with contextlib.suppress(OSError):
            super().close()


def _moment(line: str) -> tuple[int, int] | None:
    """Stage and step of a history line; None for a line cut short by a crash."""
    try:
        entry = json.loads(line)
        return entry["stage"], entry["step"]
    except (ValueError, KeyError, TypeError):
        return None


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, or None where the file is not one."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and "status" in record else None


_OF_A_RUN = {
    "run_id": str, "task": str, "method": str, "model": dict, "config": dict, "data": dict, "metrics": dict,
    "parameters": dict, "selection": dict,
}  # fmt: skip
"""What a completed run's record holds, as far as it is run again or compared."""


def completed_record(path: Path, verb: str) -> dict[str, Any]:
    """The record of a completed run.

    Args:
        path: the record's file, or the run's folder.
        verb: what asks for it, the errors' first word.

    Raises:
        ConfigurationError: no record is there, or it is none of a completed run.
    """
    record = read_record(path / "record.json" if path.is_dir() else path)
    if record is None:
        raise ConfigurationError(f"{verb}: {path} is no record; give a run's record.json or its folder")
    if record["status"] != "completed":
        raise ConfigurationError(f"{verb}: the run of {path} is {record['status']}, not completed")
    if lacking := [key for key, kind in _OF_A_RUN.items() if not isinstance(record.get(key), kind)]:
        raise ConfigurationError(f"{verb}: {path} has no {lacking[0]}; it is no record of a run")
    return record


def utc_now() -> str:
    """This moment as ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
