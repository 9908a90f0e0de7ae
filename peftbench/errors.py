"""The two ways a run can end badly, and the exit status each stands for."""


class PeftbenchError(Exception):
    """Something the user should read as one line: what is wrong, where, and what to do."""

    exit_status = 1


class ConfigurationError(PeftbenchError):
    """A wrong key, value, file or data set: the user's to mend. Exit status 2."""

    exit_status = 2


class HubUnreachableError(ConfigurationError):
    """The hub does not answer and nothing is cached."""


class RunError(PeftbenchError):
    """A run that started correctly and failed. Exit status 1."""
