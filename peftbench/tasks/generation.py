"""Data-to-text tasks and language modelling: a text is written, not a class chosen."""

from __future__ import annotations

from peftbench.tasks.base import TaskSpec

GENERATION: tuple[TaskSpec, ...] = ()
