"""Task names to task specifications. Imports no data library: `list` and error messages read it."""

from __future__ import annotations

from typing import Any

from peftbench.errors import ConfigurationError
from peftbench.strict import did_you_mean
from peftbench.tasks.base import TaskSpec
from peftbench.tasks.generation import GENERATION
from peftbench.tasks.glue import GLUE
from peftbench.tasks.mixture import SUPERGLUE_MIXTURE
from peftbench.tasks.superglue import SUPERGLUE

TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in (*GLUE, *SUPERGLUE, *GENERATION, SUPERGLUE_MIXTURE)}


def task_spec(name: str) -> TaskSpec:
    """The specification of task `name`.

    Raises:
        ConfigurationError: no such task.
    """
    if name not in TASKS:
        raise ConfigurationError(
            f"task.name: {name!r} is not a task{did_you_mean(str(name), TASKS)} (known: {', '.join(TASKS)})"
        )
    return TASKS[name]


def configured(task: Any) -> TaskSpec:
    """The specification that a task's configuration describes, its release or corpus chosen."""
    spec = task_spec(task.name)
    return spec if spec.variant is None else spec.variant(task)
