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
