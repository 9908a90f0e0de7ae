"""A method's doors: all that the loop and the experiment may know of a method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from peftbench.errors import RunError
from peftbench.sparsity import Strength


@dataclass(frozen=True)
class Context:
    """What a method may use while it attaches.

    Attributes:
        generator: a CPU generator of the method's own, seeded from the run's seed.
        total_steps: optimizer steps of the run (of the first stage, where there are stages).
        backbone_id: hub id or name of the backbone, for the export.
        head: names of the head's modules, for the export.
        tokenizer: the backbone's; None where only shapes are asked for.
        label_words: the names of the task's classes, in order, or the words that stand for them; () for a task that has
            neither.
    """

    generator: torch.Generator
    total_steps: int
    backbone_id: str
    head: tuple[str, ...] = ()
    tokenizer: Any = None
    label_words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Clock:
    """The moment after one optimizer step.

    Attributes:
        step: steps taken, this one included (from 1). total_steps: steps of the run or stage.
        epoch: from 0.
        lrs: learning rate that each parameter group's step used, by group name.
        strength: the sparsity schedule's λ or ξ at this step.
    """

    step: int
    total_steps: int
    epoch: int
    lrs: Mapping[str, float]
    strength: Strength


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate, decay and update rule.

    Attributes:
        lr: their own peak learning rate; None: the run's.
        decays: whether the optimizer's weight decay applies.
        rule: `main`, the configured optimizer; `gate_adam`, `peftbench.layers.proximal.GateAdam`.
    """

    name: str
    parameters: Sequence[Tensor]
    lr: float | None = None
    decays: bool = True
    rule: Literal["main", "gate_adam"] = "main"


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters; the head is in none but its own.

    Attributes:
        backbone: frozen and trained weights of the backbone, without head and adapter.
        trained: elements the optimizers update.
        effective: elements of the update once dead ranks are removed and gates folded.
        stored: elements of the exported adapter.
        head: trained elements of the task head.
        paper: the original code's count, where it counts otherwise.
    """

    backbone: int
    trained: int
    effective: int
    stored: int
    head: int = 0
    paper: int | None = None


class Attachment(ABC):
    """A method attached to a model: the doors, each with the answer of a method that needs none of it."""

    selectable: bool = True
    """False while a checkpoint of now must not be selected (AdaLoRA before its final budget)."""

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Every trained parameter outside the head, each in exactly one group."""

    def penalty(self) -> Tensor | None:
        """A differentiable scalar added to the task loss of each forward pass, or None. Logged apart."""
        return None

    def after_step(self, clock: Clock) -> None:
        """Called once per optimizer step, after it and before gradients are cleared."""

    def status(self) -> dict[str, Any]:
        """Small numbers for the progress bar and the history, e.g. zero ranks."""
        return {}

    def ranks(self) -> dict[str, int] | None:
        """Live rank of every site, or None for a method without ranks."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside parameters and optimizer: tensors, or JSON values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take `state_dict`'s answer back."""

    @abstractmethod
    def count(self) -> Counts:
        """Numbers of parameters as of now."""

    def analysis(self) -> dict[str, Any]:
        """What the method's paper looks at inside it, as JSON values: drawn later, written beside the record."""
        return {}

    def flags(self) -> list[str]:
        """What a reader of the scores should know of how the method was set up."""
        return []

    def check_finished(self) -> None:
        """Raise RunError where training did not do what the method promises."""

    def finalize(self) -> None:
        """Remove what is dead. Outputs stay equal within rounding; nothing is trained afterwards."""

    def merge(self) -> None:
        """Fold the update into the backbone. Outputs stay equal within rounding.

        Raises:
            RunError: the method's update is no change of weights; its `Capabilities` say so beforehand.
        """
        raise RunError(f"{type(self).__name__}: this method does not fold into the backbone's weights")

    @abstractmethod
    def export(self, folder: Path) -> None:
        """Write the result, head included, as safetensors and JSON. The live modules stay as they are."""


def elements(parameters: Sequence[Tensor]) -> int:
    """Number of elements, summed."""
    return sum(p.numel() for p in parameters)
