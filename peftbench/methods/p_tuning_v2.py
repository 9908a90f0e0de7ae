"""P-Tuning v2: deep prompts for language understanding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor, nn

from peftbench.backbones.anatomy import positions
from peftbench.doors import Context
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.prefixes import PrefixAttachment, PrefixShape, prefix_by_row
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("p_tuning_v2")
@dataclass(frozen=True)
class PTuningV2(Method):
    """P-Tuning v2 (Liu et al. 2022, ACL, arXiv 2110.07602; code: THUDM/P-tuning-v2).

    Idea: prompts in every layer, as keys and values, with a fresh classification head on [CLS]; no verbaliser.
    Maths: K ← [P_K; K], V ← [P_V; V]; the table (|P|, 2·L·d) is trained itself, or computed by
    Linear(d, k), tanh, Linear(k, 2·L·d) where `projection` is set. All of it starts as N(0, 0.02²), the model's own
    start for what a checkpoint lacks. Dropout falls on the prefix, drawn for each row.
    Parameters: 2·L·|P|·d stored; with `projection` more while training.
    Deviations: keys and values go in at the attention instead of a patched model or a cache. BERT's pooler is trained
    with the head here, as for every method; the code freezes it.
    Traps: wants learning rates of 5e-3 to 1e-2 and tens of epochs; the best length depends on the task (8 to 128).

    Attributes:
        length: |P|, prompt tokens per layer.
        projection: compute the table by an MLP while training. projection_hidden: its width k.
        dropout: on keys and values (the code uses the model's hidden dropout, 0.1).
        shift_positions: real tokens start at position |P|, as in the code.
    """

    default_lr: ClassVar[float] = 7e-3
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    length: int = bounded(20, at_least=1)
    projection: bool = False
    projection_hidden: int = bounded(512, at_least=1)
    dropout: float = bounded(0.1, at_least=0, at_most=0.99)
    shift_positions: bool = True

    def positions_taken(self, model: nn.Module) -> int:
        """The prefix's length, where positions are shifted and the backbone counts any."""
        return self.length if self.shift_positions and positions(model) else 0

    def attach(self, model: nn.Module, context: Context) -> PrefixAttachment:
        """Put a prefix into every attention."""
        hidden = self.projection_hidden if self.projection else None
        return PrefixAttachment(
            model, context, self, PrefixShape(self.length, hidden, 0.02, self.dropout, self.shift_positions)
        )

    @classmethod
    def by_row(
        cls, methods: Sequence[Self], model: nn.Module, context: Context, results: Sequence[Mapping[str, Tensor]]
    ) -> Callable[[Tensor], None]:
        """Each row of a batch its own prefix: see `Method.by_row`."""
        return prefix_by_row(model, results, [method.shift_positions for method in methods])
