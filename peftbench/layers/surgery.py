"""Putting modules in place of others and beside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put `new` where `name` (a dotted path that exists) stands in `model`."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def device_beside(host: nn.Module | Tensor) -> torch.device:
    """Where new parameters of `host` belong: its own device, but the CPU beside one without storage, for counts."""
    tensor = host if isinstance(host, Tensor) else next(host.parameters())
    return torch.device("cpu") if tensor.is_meta else tensor.device
