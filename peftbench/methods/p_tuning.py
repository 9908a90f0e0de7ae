"""P-Tuning: continuous prompts from a small recurrent network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from peftbench.doors import Context, ParameterGroup
from peftbench.errors import ConfigurationError
from peftbench.layers.prompt import Prompt
from peftbench.layers.prompt_encoder import PromptEncoder, Template
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.prompts import PromptAttachment, embedded, prompt_by_row, word_embeddings
from peftbench.methods.registry import register


@register("p_tuning")
@dataclass(frozen=True)
class PTuning(Method):
    """P-Tuning, version 1 (Liu et al. 2021, "GPT Understands, Too", arXiv 2103.10385; code: THUDM/P-tuning).

    Idea: pseudo tokens in the prompt are the outputs of a small network, which ties them together while they are
    learnt; afterwards only the outputs are kept.
    Maths: h = MLP(BiLSTM(E)), E of shape (m, d), m pseudo tokens; the MLP is d → d, ReLU, d → d. Anchors are real
    words between pseudo tokens, with the backbone's own frozen vectors.
    Parameters: stored m·d. Trained: m·d, the MLP's 2·(d² + d) and, with `lstm`, 12·d² + 16·d in two bidirectional
    layers of d/2 units a side; the default at d = 384: 2,074,752 against 3,456 stored.
    Deviations: the template goes before the input; the paper's interleaves it with the input's parts and a [MASK]. The
    sizes are the LAMA code's; its few-shot code has d units a side and trains the backbone too, which is not done here.
    Traps: trained and stored counts differ a thousandfold. The template takes its length of the backbone's positions.
    A byte-level tokenizer has another token for a word with a space before it: write the space into the anchor.

    Attributes:
        template: pseudo tokens (a number: so many) and anchors (a text: one token) in order.
        encoder: `lstm` | `mlp`.
    """

    default_lr: ClassVar[float] = 1e-3
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    template: tuple[int | str, ...] = (3, 3, 3)
    encoder: Literal["lstm", "mlp"] = "lstm"

    def __post_init__(self):
        for part in self.template:
            if part == "" or (isinstance(part, int) and part < 1):
                raise ValueError(f"template: {part!r} is neither a number of pseudo tokens nor a word")
        if not self.pseudo_tokens:
            raise ValueError("template: without a number of pseudo tokens nothing is trained")

    @property
    def pseudo_tokens(self) -> int:
        """The trained ones: m."""
        return sum(part for part in self.template if isinstance(part, int))

    def positions_taken(self, model: nn.Module) -> int:
        """Positions of the backbone that the template takes."""
        return self.pseudo_tokens + sum(isinstance(part, str) for part in self.template)

    def attach(self, model: nn.Module, context: Context) -> PTuningAttachment:
        """Put the template before the input embeddings.

        Raises:
            ConfigurationError: an anchor is not one token.
        """
        return PTuningAttachment(model, context, self, self._template(model, context))

    def _template(self, model: nn.Module, context: Context) -> Template:
        words = [part for part in self.template if isinstance(part, str)]
        anchors = embedded(model, [_token(word, context.tokenizer) for word in words])
        places = [[True] if isinstance(part, str) else [False] * part for part in self.template]
        width = word_embeddings(model).embedding_dim
        encoder = PromptEncoder(self.pseudo_tokens, width, self.encoder, context.generator, anchors.device)
        return Template(encoder, anchors, torch.tensor([place for part in places for place in part]))

    def _trained(self, model: nn.Module, context: Context, result: Mapping[str, Tensor]) -> Tensor:
        template = self._template(model, context)
        template.pseudo = Prompt(next(t for n, t in result.items() if n.endswith("prompt.pseudo.weight")))
        return template().detach()

    @classmethod
    def by_row(
        cls, methods: Sequence[Self], model: nn.Module, context: Context, results: Sequence[Mapping[str, Tensor]]
    ) -> Callable[[Tensor], None]:
        """Each row of a batch its own prompt: see `Method.by_row`."""
        prompts = [m._trained(model, context, result) for m, result in zip(methods, results, strict=True)]
        return prompt_by_row(model, prompts)


def _token(word: str, tokenizer: Any) -> int:
    """The id of a word that is one token, or of a token written as the vocabulary writes it."""
    if tokenizer is None:
        return 0
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    if len(ids) == 1:
        return ids[0]
    if word in (vocabulary := tokenizer.get_vocab()):
        return vocabulary[word]
    pieces = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(ids)))
    raise ConfigurationError(
        f"method.template: {word!r} is {len(ids)} tokens of this backbone; write them as parts of their own: {pieces}"
    )


class PTuningAttachment(PromptAttachment):
    """The encoder while training, its outputs afterwards."""

    prompt: Template

    def parameter_groups(self) -> list[ParameterGroup]:
        """Groups `prompt_encoder` and, undecayed, `prompt_encoder_no_decay` (biases)."""
        parameters = list(self.prompt.parameters())
        groups = [
            ParameterGroup("prompt_encoder", [p for p in parameters if p.ndim > 1]),
            ParameterGroup("prompt_encoder_no_decay", [p for p in parameters if p.ndim < 2], decays=False),
        ]
        return [group for group in groups if group.parameters]

    @torch.no_grad()
    def vectors(self) -> Tensor:
        """The pseudo tokens, (m, d)."""
        return self.prompt.pseudo().detach()

    def stored(self) -> dict[str, Tensor]:
        """The pseudo tokens by the name that they have once the encoder is gone."""
        return {f"{self.path}.pseudo.weight": self.vectors()}

    def finalize(self) -> None:
        """Evaluate the encoder once and keep its outputs in its place."""
        self.prompt.pseudo = Prompt(self.vectors().clone())
