"""Backbones in fewer bits: NF4 with double quantisation (QLoRA, Dettmers et al. 2023, arXiv 2305.14314, §3), bfloat16.

Every linear map of every layer is quantised; embeddings, layer norms and heads stay as they are. A weight takes 4 bits
and its share of the constants: one per block of 64 weights, in 8 bits, with one float32 per 256 of those: 4.127 bits.
In bfloat16 the weights of the same maps are rounded once, as autocast rounds them in every step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import TypeGuard

import torch
from torch import Tensor, nn

from peftbench.backbones.anatomy import ROLES, head_modules, sites
from peftbench.errors import ConfigurationError

BLOCK, NESTED_BLOCK = 64, 256
"""Weights that share a constant; constants that share a constant of their own."""


def require_bitsandbytes() -> None:
    """Import what quantises.

    Raises:
        ConfigurationError: bitsandbytes is not installed.
    """
    # What it tells while it is imported concerns kernels that are not used here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigurationError(
            "bitsandbytes, which quantises and pages, is not installed; run pip install 'peftbench[quantised]'"
        ) from error


def quantise(model: nn.Module, double_quant: bool = True, compute_dtype: torch.dtype = torch.bfloat16) -> None:
    """Put an NF4 map in place of every linear map that plays a role, one at a time, on the device where it is.

    Args:
        model: the loaded model, before a method is attached.
        double_quant: whether the blocks' constants are quantised too.
        compute_dtype: type of the maps' products.

    Raises:
        ConfigurationError: bitsandbytes is not installed, or the architecture is unknown.
    """
    require_bitsandbytes()
    from peftbench.backbones.nf4 import NF4Linear

    for site in sites(model, ROLES):
        linear = model.get_submodule(site.name)
        assert isinstance(linear, nn.Linear)
        model.set_submodule(site.name, NF4Linear(linear, double_quant, compute_dtype))


def halve(model: nn.Module) -> None:
    """Round the weight of every linear map that plays a role to bfloat16.

    Args:
        model: the loaded model, before a method is attached.

    Raises:
        ConfigurationError: the architecture is unknown.
    """
    for site in sites(model, ROLES):
        linear = model.get_submodule(site.name)
        assert isinstance(linear, nn.Linear)
        linear.weight = nn.Parameter(linear.weight.detach().to(torch.bfloat16), requires_grad=False)


def dequantise(model: nn.Module) -> None:
    """Put the float32 map in place of every quantised or halved one; nothing happens where there is none."""
    for name, module in list(model.named_modules()):
        if _is_quantised(module):
            model.set_submodule(name, module.plain())  # type: ignore[operator]
        elif _is_halved(module):
            module.weight = nn.Parameter(module.weight.detach().float(), requires_grad=False)


def backbone_elements(model: nn.Module, head: tuple[str, ...]) -> int:
    """Number of weights outside the head's modules; a quantised map has as many as before, not as many bytes."""
    return sum(count for _, count in _weights(model, head))


def backbone_megabytes(model: nn.Module) -> dict[str, float]:
    """What the backbone's weights occupy, in MB (10⁶ bytes), and would occupy if none were quantised or halved.

    Args:
        model: before a method is attached.
    """
    head = head_modules(model)
    tensors = {t.data_ptr(): t.nbytes for p, _ in _weights(model, head) for t in (p, *_constants(p))}
    found = {"backbone_weights_mb": sum(tensors.values())}
    if any(_is_quantised(module) or _is_halved(module) for module in model.modules()):
        count = backbone_elements(model, head)
        found |= {"backbone_weights_mb_fp32": 4 * count, "backbone_weights_mb_bf16": 2 * count}
    return {name: size / 1e6 for name, size in found.items()}


def packed_bytes(elements: int, double_quant: bool) -> int:
    """Bytes of one map of so many weights in NF4, without the tables of values that bitsandbytes keeps (1 kB a map)."""
    blocks = math.ceil(elements / BLOCK)
    if not double_quant:
        return math.ceil(elements / 2) + 4 * blocks
    # The last four bytes are the constants' mean.
    return math.ceil(elements / 2) + blocks + 4 * math.ceil(blocks / NESTED_BLOCK) + 4


def _weights(model: nn.Module, head: tuple[str, ...]) -> Iterator[tuple[Tensor, int]]:
    """Every parameter outside the head once, with its number of weights."""
    packed = {
        id(module.weight): module.in_features * module.out_features
        for module in model.modules()
        if isinstance(module, nn.Linear) and _is_quantised(module)
    }
    in_head = tuple(f"{name}." for name in head)
    for name, parameter in model.named_parameters():
        if not name.startswith(in_head):
            yield parameter, packed.get(id(parameter), parameter.numel())


def _constants(parameter: Tensor) -> list[Tensor]:
    """The tensors that a packed parameter is read with."""
    states = [getattr(parameter, "quant_state", None)]
    states.append(getattr(states[0], "state2", None))
    found = [getattr(state, key, None) for state in states for key in ("absmax", "code", "offset")]
    return [tensor for tensor in found if isinstance(tensor, Tensor)]


def _is_quantised(module: nn.Module) -> bool:
    return getattr(module, "quant_state", None) is not None


def _is_halved(module: nn.Module) -> TypeGuard[nn.Linear]:
    return isinstance(module, nn.Linear) and module.weight.dtype == torch.bfloat16
