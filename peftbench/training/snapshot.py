"""A copy of all that training changes in a model, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.doors import Attachment


def snapshot(model: nn.Module, attachment: Attachment) -> dict[str, Any]:
    """A copy of every trained parameter and of the method's state."""
    parameters = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    state = {k: v.clone() if isinstance(v, Tensor) else v for k, v in attachment.state_dict().items()}
    return {"parameters": parameters, "method": state}


@torch.no_grad()
def restore(model: nn.Module, attachment: Attachment, copy: Mapping[str, Any]) -> None:
    """Put a `snapshot` back."""
    own = dict(model.named_parameters())
    for name, value in copy["parameters"].items():
        own[name].copy_(value)
    attachment.load_state_dict(copy["method"])


@torch.no_grad()
def fingerprints(model: nn.Module) -> dict[str, tuple[float, float]]:
    """Sum and absolute sum of every trained parameter, in double precision: other values give others but by a freak."""
    sums = {
        name: torch.stack([p.sum(dtype=torch.float64), p.abs().sum(dtype=torch.float64)])
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    if not sums:
        return {}
    values = torch.stack(list(sums.values())).tolist()  # One transfer for all.
    return {name: (total, absolute) for name, (total, absolute) in zip(sums, values, strict=True)}


def unmoved(before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]) -> list[str]:
    """That parameters are as they were before training, where some are."""
    same = [name for name, value in after.items() if before.get(name) == value]
    if not same:
        return []
    return [
        f"{len(same)} of {len(after)} trained parameters did not move ({same[0]}{', ...' if len(same) > 1 else ''})"
    ]
