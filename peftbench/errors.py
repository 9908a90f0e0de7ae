"""The two ways a run can end badly, and the exit status each stands for."""

from __future__ import annotations

from pathlib import Path


class PeftbenchError(Exception):
    """Something the user should read as one line: what is wrong, where, and what to do.

    Attributes:
        folder: the run's, where a record of the failure lies; None where there is none.
    """

    exit_status = 1
    folder: Path | None = None

    def __init__(self, message: str = ""):
        super().__init__(" ".join(message.splitlines()))  # What the user gave may hold any character.


class ConfigurationError(PeftbenchError):
    """A wrong key, value, file or data set: the user's to mend. Exit status 2."""

    exit_status = 2


class HubUnreachableError(ConfigurationError):
    """The hub does not answer and nothing is cached."""


class RunError(PeftbenchError):
    """A run that started correctly and failed. Exit status 1."""


class BusyError(RunError):
    """Another process is at this run."""


def first_line(error: BaseException) -> str:
    """What an exception says in its first line; its type where it says nothing, as a bare MemoryError."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
