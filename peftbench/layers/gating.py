"""Gates that weigh a part of a composition by the input (Mao et al. 2022). Shapes: B batch, S sequence, D width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.layers.low_rank import drawn_linear, kaiming_uniform_


class Tokens:
    """The tokens of the batch at hand; pre-hooks keep them current.

    Attributes:
        real: (B, S), one for a token and zero for padding; None: all are real.
        states: (B, S, D), the input of the attention at hand.
    """

    real: Tensor | None = None
    states: Tensor | None = None

    def keep_mask(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the model that is given `attention_mask`."""
        self.real = kwargs.get("attention_mask")

    def keep_states(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of an attention."""
        self.states = args[0] if args else kwargs["hidden_states"]


class SequenceGate(nn.Module):
    """G = mean over real tokens of σ(w·x + b), one number per row.

    Args:
        width: D.
        tokens: the batch at hand.
        device: of w and b.
        generator: draws them as torch's linear map does.

    Attributes:
        seen: (count, sum, sum of squares) of G over the rows since `record`; None while not recording.
    """

    def __init__(self, width: int, tokens: Tokens, device: torch.device, generator: torch.Generator):
        super().__init__()
        self.linear = drawn_linear(width, 1, generator, device)
        self.tokens = tokens
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """X of shape (B, S, D) to G of shape (B, 1, 1)."""
        # The mean is taken in fp32, also where the map is computed in less.
        weights = self.linear(x.to(self.linear.weight.dtype)).float().sigmoid()
        if self.tokens.real is None:
            gate = weights.mean(1, keepdim=True)
        else:
            real = self.tokens.real.unsqueeze(-1).to(weights.dtype)
            gate = (weights * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        if self.seen is not None:
            values = gate.detach().double()
            self.seen += torch.stack([torch.ones_like(values).sum(), values.sum(), values.square().sum()])
        return gate.to(x.dtype)

    def record(self) -> None:
        """Begin to sum up the gate's values."""
        self.seen = torch.zeros(3, dtype=torch.float64, device=self.linear.weight.device)

    def recorded(self) -> dict[str, float]:
        """Mean and standard deviation over the rows since `record`."""
        count, total, squares = (0.0, 0.0, 0.0) if self.seen is None else self.seen.tolist()
        if not count:
            return {}
        mean = total / count
        return {"mean": mean, "std": max(squares / count - mean**2, 0.0) ** 0.5}


class GatedLowRank(nn.Module):
    """G(x) · B A x beside a linear map; the gate stands in the place of LoRA's α/r.

    Attributes:
        lora_A: (R, I). lora_B: (O, R). gate: from x (B, S, I) to (B, 1, 1).
    """

    def __init__(self, linear: nn.Module, rank: int, gate: SequenceGate, generator: torch.Generator):
        super().__init__()
        device = gate.linear.weight.device
        inputs, outputs = int(linear.in_features), int(linear.out_features)  # type: ignore[arg-type]
        self.lora_A = nn.Parameter(torch.zeros(rank, inputs, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, device=device))
        self.gate = gate
        kaiming_uniform_(self.lora_A, generator)

    def beside(self, host: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook of the linear map: its output (B, S, O) with the update added."""
        x = args[0]
        if x is not self.gate.tokens.states:  # DeBERTa projects its relative positions by the same map.
            return output
        wide = x if torch.is_autocast_enabled(x.device.type) else x.to(self.lora_A.dtype)
        return output + (self.gate(x) * F.linear(F.linear(wide, self.lora_A), self.lora_B)).to(output.dtype)
