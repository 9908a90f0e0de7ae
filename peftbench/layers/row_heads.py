"""A task head for each row of a batch. Shapes: B rows, K classes of the task that has most."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class RowHeads(nn.Module):
    """In the place of one module of a head: several trained ones, each row of the batch through its own.

    Args:
        module: the module that is replaced; its copies take the trained tensors, whatever number of classes these have.
        trained: of each task, the module's parameters by name.

    Attributes:
        tasks: (B,), which head each row goes through; set before a forward.
    """

    def __init__(self, module: nn.Module, trained: Sequence[Mapping[str, Tensor]]):
        super().__init__()
        self.heads = nn.ModuleList(_with(module, tensors) for tensors in trained)
        self.tasks = torch.zeros(0, dtype=torch.long)

    def forward(self, x: Tensor) -> Tensor:
        """X of shape (B, ...) to (B, ..., K), minus infinity where a row's task has fewer classes."""
        out = None
        for task, head in enumerate(self.heads):
            rows = (self.tasks == task).nonzero().squeeze(1)
            values = head(x[rows])
            if out is None:
                out = values.new_full((len(x), *values.shape[1:-1], 0), float("-inf"))
            missing = values.shape[-1] - out.shape[-1]
            out = nn.functional.pad(out, (0, max(missing, 0)), value=float("-inf"))
            out[rows] = nn.functional.pad(values, (0, max(-missing, 0)), value=float("-inf"))
        assert out is not None
        return out


def _with(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    head = copy.deepcopy(module)
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        setattr(head.get_submodule(owner), leaf, nn.Parameter(tensor.to(next(module.parameters())), False))
    return head
