"""A checkpoint that was read and is held for the models to come."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Checkpoint:
    """What was read of one, for models to come: its weights, and how it says that texts are written."""

    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    generation: Any = None

    @property
    def megabytes(self) -> float:
        """Memory that it takes."""
        return sum(weight.numel() * weight.element_size() for weight in self.weights.values()) / 1e6
