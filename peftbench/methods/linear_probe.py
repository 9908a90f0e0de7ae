"""The linear probe: only the head is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import nn

from peftbench.doors import Attachment, Context, Counts, ParameterGroup, elements
from peftbench.methods.adapter_files import head_tensors, write_files
from peftbench.methods.base import Capabilities, Method
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
        return LinearProbeAttachment(model, context)


class LinearProbeAttachment(Attachment):
    """Nothing but the head, which the experiment trains."""

    def __init__(self, model: nn.Module, context: Context):
        self.model = model
        self.context = context

    def parameter_groups(self) -> list[ParameterGroup]:
        """None: the head's group is the experiment's."""
        return []

    def count(self) -> Counts:
        """Zero everywhere but the backbone."""
        head = elements(list(head_tensors(self.model, self.context.head).values()))
        return Counts(elements(list(self.model.parameters())) - head, trained=0, effective=0, stored=0)

    def merge(self) -> None:
        """Nothing to fold."""

    def export(self, folder: Path) -> None:
        """The head's tensors."""
        config = {"method": "linear_probe", "base_model_name_or_path": self.context.backbone_id}
        write_files(folder, head_tensors(self.model, self.context.head), config)
