"""What every method shares that keeps its result as named tensors: counts and export."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from torch import Tensor, nn

from peftbench.backbones.quantisation import backbone_elements
from peftbench.doors import Attachment, Context, Counts, elements
from peftbench.methods.base import Method
from peftbench.methods.parts.adapter_files import head_tensors, write_files


class StoredTensors(Attachment):
    """A method whose result is `stored()`, written under its own names beside the head.

    Args:
        model: the backbone with its head, all frozen, before the method changed it.
        context: see `Context`.
        method: the hyper-parameters, which the export names.
    """

    def __init__(self, model: nn.Module, context: Context, method: Method):
        self.model = model
        self.context = context
        self.method = method
        self.backbone_size = backbone_elements(model, context.head)

    def stored(self) -> dict[str, Tensor]:
        """What is kept after training, without the head. By default every parameter of the method's groups."""
        own = {id(p) for group in self.parameter_groups() for p in group.parameters}
        return {n: p.detach() for n, p in self.model.named_parameters() if id(p) in own}

    def count(self) -> Counts:
        """`effective` and `stored` are the elements of `stored()`."""
        trained = elements([p for group in self.parameter_groups() for p in group.parameters])
        stored = elements(list(self.stored().values()))
        return Counts(self.backbone_size, trained=trained, effective=stored, stored=stored)

    def export(self, folder: Path) -> None:
        """`stored()` and the head; the configuration names the method and its hyper-parameters."""
        config = {
            "method": self.method.name,
            "base_model_name_or_path": self.context.backbone_id,
            "hyper_parameters": dataclasses.asdict(self.method),
        }
        write_files(folder, self.stored() | head_tensors(self.model, self.context.head), config)
