"""The SuperGLUE benchmark's tasks, in the hub's columns, labels and splits."""

from __future__ import annotations

from peftbench.tasks.base import TaskSpec

SUPERGLUE: tuple[TaskSpec, ...] = ()
