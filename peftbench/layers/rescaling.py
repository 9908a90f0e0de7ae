"""Multiplying activations by a learned vector. Shapes: B batch, S sequence, D width."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Rescaling(nn.Module):
    """l ⊙ h, l of ones at first.

    Its hooks put it before or after a linear map. They are methods, so that a deep copy of the model calls its own.

    Attributes:
        vector: l, (D,), fp32.
    """

    def __init__(self, width: int, device: torch.device | str):
        super().__init__()
        self.vector = nn.Parameter(torch.ones(width, device=device))

    def forward(self, h: Tensor) -> Tensor:
        """H of shape (B, S, D) to l ⊙ h of the same shape and type."""
        return (h * self.vector).to(h.dtype)

    def of_output(self, linear: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook of a linear map: l ⊙ (W x + b)."""
        return self(output)

    def of_input(self, linear: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Forward pre-hook of a linear map: W (l ⊙ x) + b."""
        return self(args[0]), *args[1:]
