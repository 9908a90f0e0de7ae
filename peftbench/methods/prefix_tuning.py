"""Prefix tuning."""

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


@register("prefix_tuning")
@dataclass(frozen=True)
class PrefixTuning(Method):
    """Prefix tuning (Li & Liang 2021, ACL, arXiv 2101.00190; code: XiangLi1999/PrefixTuning).

    Idea: every attention sees |P| further keys and values, which are trained; the model is frozen.
    Maths: K ← [P_K; K], V ← [P_V; V] in every layer; while training P_θ[i] = MLP(P'_θ[i]) with
    Linear(d, k), tanh, Linear(k, 2·L·d), dropped afterwards.
    Parameters: stored 2·L·|P|·(key width) per kind of attention; encoder-decoders have three kinds (encoder self,
    decoder self, cross), each with a table and an MLP of its own. Trained: the MLP and its (|P|, d) embedding instead.
    Deviations: keys and values go in at the attention, not as a cache of past tokens, so encoders, cross-attention and
    DeBERTa have a prefix too. `init_words` are repeated up to the length (the code takes their number of pieces as the
    length). The loss is the trainer's mean over tokens (the code sums over tokens).
    Traps: without the MLP training is slower to start and more sensitive to its initialisation (ACL version, footnote);
    trained and stored counts differ a hundredfold with it.

    Attributes:
        length: |P|, virtual tokens.
        mlp: compute the prefix by an MLP while training.
        mlp_hidden: k, its width (512 table-to-text, 800 summarisation).
        dropout: on keys and values.
        init_words: start from the activations of these words (the low-data setting); null: random.
        init_steps: Adam steps that fit the MLP to those activations. init_lr: their learning rate.
        shift_positions: real tokens start at position |P|, as under the code's cache; no meaning in T5, BART's learned
            positions and DeBERTa's relative ones.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    length: int = bounded(10, at_least=1)
    mlp: bool = True
    mlp_hidden: int = bounded(512, at_least=1)
    dropout: float = bounded(0.0, at_least=0, at_most=0.99)
    init_words: str | None = None
    init_steps: int = bounded(500, at_least=1)
    init_lr: float = bounded(1e-4, above=0)
    shift_positions: bool = True

    def positions_taken(self, model: nn.Module) -> int:
        """The prefix's length, where positions are shifted and the backbone counts any."""
        return self.length if self.shift_positions and positions(model) else 0

    def attach(self, model: nn.Module, context: Context) -> PrefixAttachment:
        """Put a prefix into every attention."""
        hidden = self.mlp_hidden if self.mlp else None
        shape = PrefixShape(
            self.length,
            hidden,
            None,
            self.dropout,
            self.shift_positions,
            self.init_words,
            self.init_steps,
            self.init_lr,
        )
        return PrefixAttachment(model, context, self, shape)

    @classmethod
    def by_row(
        cls, methods: Sequence[Self], model: nn.Module, context: Context, results: Sequence[Mapping[str, Tensor]]
    ) -> Callable[[Tensor], None]:
        """Each row of a batch its own prefix: see `Method.by_row`."""
        return prefix_by_row(model, results, [method.shift_positions for method in methods])
