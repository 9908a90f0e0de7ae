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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the allocator of a device, or of the host, is what gave up. Torch's own error is known by its name."""
    told = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    by_kind = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return by_kind or any(words in str(error) for words in told)
