"""P-Tuning's prompt encoder and template. Shapes: M pseudo tokens, A anchors, P = M + A, D embedding width."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from peftbench.layers.low_rank import drawn_linear, uniform_
from peftbench.layers.prompt import Prompt


class PromptEncoder(nn.Module):
    """Pseudo tokens as the outputs of a small network over trained embeddings (Liu et al. 2021).

    `lstm`: embedding, two-layer bidirectional LSTM with D/2 units a side, D to D, ReLU, D to D, as in the LAMA code.
    `mlp`: the same without the LSTM.

    Args:
        length: M.
        width: D.
        kind: `lstm` or `mlp`.
        generator: draws torch's own initialisations: N(0, 1) embeddings, U(±1/√units) elsewhere.
        device: where the parameters are; all fp32.
    """

    def __init__(
        self, length: int, width: int, kind: Literal["lstm", "mlp"], generator: torch.Generator, device: torch.device
    ):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(length, width, generator=generator).to(device))
        half = max(width // 2, 1)
        self.lstm = None
        if kind == "lstm":
            # Made without values: torch's own start would draw from the global generator.
            self.lstm = nn.LSTM(width, half, 2, bidirectional=True, batch_first=True, device="meta")
            self.lstm.to_empty(device=device)
            for parameter in self.lstm.parameters():
                uniform_(parameter, half**-0.5, generator)
        first = drawn_linear(2 * half if kind == "lstm" else width, width, generator, device)
        self.mlp = nn.Sequential(first, nn.ReLU(), drawn_linear(width, width, generator, device))

    @property
    def length(self) -> int:
        """M."""
        return self.embedding.shape[0]

    def forward(self) -> Tensor:
        """The pseudo tokens, (M, D), in fp32 whatever autocast says."""
        with torch.autocast(self.embedding.device.type, enabled=False):
            hidden = self.embedding
            if self.lstm is not None:
                hidden = self.lstm(hidden.unsqueeze(0))[0].squeeze(0)
            return self.mlp(hidden)


class Template(nn.Module):
    """Pseudo tokens and frozen anchor words in order: a provider of virtual tokens.

    Args:
        pseudo: gives (M, D).
        anchors: (A, D), the anchors' embeddings in order.
        is_anchor: (P,), true where an anchor stands.
    """

    mask: Tensor | None = None

    def __init__(self, pseudo: PromptEncoder | Prompt, anchors: Tensor, is_anchor: Tensor):
        super().__init__()
        self.pseudo = pseudo
        self.register_buffer("anchors", anchors, persistent=False)
        # Row of [pseudo; anchors] that stands at each place.
        rows = torch.where(is_anchor, len(is_anchor) - len(anchors) + is_anchor.cumsum(0), (~is_anchor).cumsum(0)) - 1
        self.register_buffer("rows", rows.to(anchors.device), persistent=False)

    @property
    def length(self) -> int:
        """P."""
        return len(self.get_buffer("rows"))

    def forward(self) -> Tensor:
        """The prompt, (P, D)."""
        pseudo = self.pseudo()
        return torch.cat([pseudo, self.get_buffer("anchors").to(pseudo)])[self.get_buffer("rows")]
