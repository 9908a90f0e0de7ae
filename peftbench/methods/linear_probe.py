"""The linear probe: only the head is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from peftbench.doors import Context, ParameterGroup
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.stored_tensors import StoredTensors
from peftbench.methods.registry import register


@register("linear_probe")
@dataclass(frozen=True)
class LinearProbe(Method):
    """Linear probe: the backbone is frozen and the head is trained, as every other method trains it.

    Idea: what the head alone can do; the floor that an adapter has to rise above.
    Parameters: none outside the head. The head is the architecture's own: a pooler and a linear map on BERT, two
    linear maps on RoBERTa, so it is "linear" in name only where the stock head is deeper.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(mergeable=True, trains_without_head=False)

    def attach(self, model: nn.Module, context: Context) -> LinearProbeAttachment:
        """Leave the model as it is."""
        return LinearProbeAttachment(model, context, self)


class LinearProbeAttachment(StoredTensors):
    """Nothing but the head, which the experiment trains."""

    def parameter_groups(self) -> list[ParameterGroup]:
        """None: the head's group is the experiment's."""
        return []

    def merge(self) -> None:
        """Nothing to fold."""
