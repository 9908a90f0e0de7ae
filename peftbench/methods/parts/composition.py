"""Several methods on one backbone, as one attachment."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from peftbench.doors import Context, ParameterGroup
from peftbench.methods.base import Method
from peftbench.methods.parts.stored_tensors import StoredTensors

Part = Callable[[], StoredTensors]


class Composition(StoredTensors):
    """Parts attached one after another, for parts that train, are stored and are finalized, and have no other door.

    Args:
        model: the backbone with its head, all frozen.
        context: see `Context`.
        method: the composition's hyper-parameters.
        parts: attach one part each, in order; a part that renames modules comes last.
    """

    def __init__(self, model: nn.Module, context: Context, method: Method, parts: Sequence[Part]):
        super().__init__(model, context, method)
        self.parts = [attach() for attach in parts]

    def parameter_groups(self) -> list[ParameterGroup]:
        """The groups of all parts, by their own names."""
        return [group for part in self.parts for group in part.parameter_groups()]

    def stored(self) -> dict[str, Tensor]:
        """The tensors of all parts."""
        return {name: tensor for part in self.parts for name, tensor in part.stored().items()}

    def finalize(self) -> None:
        """Finalize every part."""
        for part in self.parts:
            part.finalize()
