"""Full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from peftbench.doors import Attachment, Context, Counts, ParameterGroup, elements
from peftbench.methods.adapter_files import head_tensors, write_files
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.registry import register


@register("full")
@dataclass(frozen=True)
class Full(Method):
    """Full fine-tuning: every weight of the backbone is trained. The reference that the others are held against.

    Parameters: all of the backbone; stored: all of it again.
    Traps: wants a learning rate some twenty times smaller than low-rank methods.
    """

    default_lr: ClassVar[float] = 5e-5
    capabilities: ClassVar[Capabilities] = Capabilities(mergeable=True)

    def attach(self, model: nn.Module, context: Context) -> FullAttachment:
        """Unfreeze the backbone."""
        return FullAttachment(model, context)


class FullAttachment(Attachment):
    """The backbone itself."""

    def __init__(self, model: nn.Module, context: Context):
        self.model = model
        self.head = context.head
        self.backbone_id = context.backbone_id
        in_head = tuple(f"{name}." for name in context.head)
        self.parameters = {n: p for n, p in model.named_parameters() if not n.startswith(in_head)}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups `backbone` and, undecayed, `backbone_no_decay` (biases and layer norms)."""
        vectors = [p for p in self.parameters.values() if p.ndim < 2]
        matrices = [p for p in self.parameters.values() if p.ndim >= 2]
        groups = [
            ParameterGroup("backbone", matrices),
            ParameterGroup("backbone_no_decay", vectors, decays=False),
        ]
        return [group for group in groups if group.parameters]

    def count(self) -> Counts:
        """Everything is trained, effective and stored."""
        size = elements(list(self.parameters.values()))
        return Counts(backbone=size, trained=size, effective=size, stored=size)

    def merge(self) -> None:
        """Nothing to fold: the backbone is the result."""

    def export(self, folder: Path) -> None:
        """All weights, head included, by their own names."""
        tensors = {n: p.detach() for n, p in self.parameters.items()} | head_tensors(self.model, self.head)
        write_files(folder, tensors, {"method": "full", "base_model_name_or_path": self.backbone_id})
