"""Full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from peftbench.backbones.projections import fused_tensors
from peftbench.doors import Context, ParameterGroup
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.stored_tensors import StoredTensors
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
        return FullAttachment(model, context, self)


class FullAttachment(StoredTensors):
    """The backbone itself."""

    def __init__(self, model: nn.Module, context: Context, method: Full):
        super().__init__(model, context, method)
        in_head = tuple(f"{name}." for name in context.head)
        self.parameters = [p for n, p in model.named_parameters() if not n.startswith(in_head)]
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups `backbone` and, undecayed, `backbone_no_decay` (biases and layer norms)."""
        vectors = [p for p in self.parameters if p.ndim < 2]
        matrices = [p for p in self.parameters if p.ndim >= 2]
        groups = [
            ParameterGroup("backbone", matrices),
            ParameterGroup("backbone_no_decay", vectors, decays=False),
        ]
        return [group for group in groups if group.parameters]

    def stored(self) -> dict[str, Tensor]:
        """All weights by the architecture's own names."""
        return fused_tensors(super().stored(), self.model)

    def merge(self) -> None:
        """Nothing to fold: the backbone is the result."""
