"""One run in several processes: rows are shared out, gradients and evaluations put together again.

Every process holds the whole model and takes the same step. Gradients are summed in one message, so that parameters,
gates and budgets stay equal to the bit on all of them; only the main process writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, distributed

T = TypeVar("T")


class Devices:
    """The run's processes, seen from one of them.

    Args:
        accelerator: the run's.

    Attributes:
        rank: which one this is, 0 the main one. size: how many there are.
    """

    def __init__(self, accelerator: Accelerator):
        self.rank, self.size = accelerator.process_index, accelerator.num_processes

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Those of the items that this process works on."""
        return items[self.rank :: self.size]

    def together(self, own: Sequence[T]) -> list[T]:
        """What all processes made of their shares, in the items' order."""
        if self.size == 1:
            return list(own)
        parts = self.gathered(list(own))
        longest = max(map(len, parts))
        return [part[i] for i in range(longest) for part in parts if i < len(part)]

    def gathered(self, own: T) -> list[T]:
        """Each process's own, by rank."""
        if self.size == 1:
            return [own]
        found: list[Any] = [None] * self.size
        distributed.all_gather_object(found, own)
        return found

    def agreed(self, value: T) -> T:
        """The main process's value, on all."""
        if self.size == 1:
            return value
        held = [value]
        distributed.broadcast_object_list(held, src=0)
        return held[0]

    def add(self, parameters: Sequence[Tensor], loss: Tensor, asked: bool) -> tuple[Tensor, bool]:
        """Sum the gradients over processes; the summed loss, and whether any process was asked to end.

        A gradient that no process has stays away.

        Args:
            parameters: the trained ones, in one order everywhere.
            loss: this process's part, ().
            asked: whether a signal came here.
        """
        if self.size == 1:
            return loss, asked
        there = [p.grad is not None for p in parameters]
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in parameters]
        flat = torch.cat([*parts, loss.float()[None], loss.new_tensor([asked, *there], dtype=torch.float32)])
        distributed.all_reduce(flat)
        *sums, total, flags = flat.split([*(p.numel() for p in parameters), 1, 1 + len(there)])
        asked_anywhere, *held = (flags > 0).tolist()
        for parameter, grad, any_has in zip(parameters, sums, held, strict=True):
            parameter.grad = grad.view_as(parameter).to(parameter.dtype) if any_has else None
        return total[0], asked_anywhere
