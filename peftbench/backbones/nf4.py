"""A linear map in NF4. It needs bitsandbytes, so it is imported only where something is quantised."""

from __future__ import annotations

import torch
from bitsandbytes import matmul_4bit
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit, Params4bit
from torch import Tensor, nn


class NF4Linear(Linear4bit):
    """y = x Wᵀ + b with W in NF4 and b as it was; the product is computed in `compute_dtype`.

    The forward pass is not bitsandbytes' own, which rounds the bias to the compute type in place, and on some
    processors repacks the weight at the first evaluation, with its constants rounded and no gradient afterwards.

    Args:
        linear: the map to quantise, weight (O, I), on the device where it stays.
        double_quant: whether the blocks' constants are quantised too.
        compute_dtype: type of the product.
    """

    def __init__(self, linear: nn.Linear, double_quant: bool, compute_dtype: torch.dtype):
        # T5 casts its hidden states to the type of this weight, unless that is int8.
        packing = {"compress_statistics": double_quant, "quant_type": "nf4", "quant_storage": torch.int8}
        super().__init__(
            linear.in_features, linear.out_features, False, compute_dtype=compute_dtype, device="meta", **packing
        )
        weight = Params4bit(linear.weight.detach(), requires_grad=False, **packing)
        self.weight = weight.to(linear.weight.device)  # type: ignore[misc]
        self.quant_state = self.weight.quant_state  # type: ignore[union-attr]
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """X of shape (B, S, I) to y of shape (B, S, O), in x's type."""
        assert self.compute_dtype is not None
        y = matmul_4bit(x.to(self.compute_dtype), self.weight, self.quant_state).to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    @torch.no_grad()
    def plain(self) -> nn.Linear:
        """The float32 map that these four bits stand for."""
        linear = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        weight = dequantize_4bit(self.weight.data, self.quant_state).float()
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.bias = self.bias
        return linear
