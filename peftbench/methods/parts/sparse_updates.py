"""What methods share that change single weights of the backbone: which there are, and how a change is stored."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from peftbench.doors import Context
from peftbench.layers.delta import SparseDelta, Target, targets


def backbone_targets(model: nn.Module, context: Context) -> list[Target]:
    """Every parameter outside the head, tied ones once."""
    in_head = tuple(f"{name}." for name in context.head)
    return [target for target in targets(model) if not target.name.startswith(in_head)]


def sparse_tensors(target: Target, delta: SparseDelta) -> dict[str, Tensor]:
    """`<name>.indices` into the flattened weight, as narrow as they can be, and `<name>.values`; {} where none."""
    if not len(delta.indices):
        return {}
    width = torch.int32 if target.parameter.numel() <= torch.iinfo(torch.int32).max else torch.int64
    return {f"{target.name}.indices": delta.indices.to(width), f"{target.name}.values": delta.values.detach()}
