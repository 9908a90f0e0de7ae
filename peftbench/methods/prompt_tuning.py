"""Prompt tuning: trained vectors before the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from peftbench.doors import Context, ParameterGroup
from peftbench.layers.prompt import Prompt
from peftbench.layers.surgery import device_beside
from peftbench.methods.base import Capabilities, Method
from peftbench.methods.parts.prompts import (
    PromptAttachment,
    embedded,
    prompt_by_row,
    sampled,
    word_embeddings,
    word_ids,
)
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("prompt_tuning")
@dataclass(frozen=True)
class PromptTuning(Method):
    """Prompt tuning (Lester et al. 2021, EMNLP, arXiv 2104.08691; code: google-research/prompt-tuning).

    Idea: the model stays as it is; p vectors before the input's embeddings are trained, and are all that is stored.
    Maths: Pr(Y | [P; X]), P of shape (p, e) before X's embeddings; real tokens start at position p.
    Parameters: p·e outside the head, e the word embeddings' width.
    Deviations: the paper's model is T5, with the prompt at the encoder's input only; BART likewise here, other
    backbones have it before their only stack, and a classifier still reads [CLS] or the last real token. The paper
    trains 100 vectors by Adafactor with a constant rate of 0.3 for 30,000 steps and no head; its optimizer is
    `optimizer=adafactor optimizer.lr=0.3 optimizer.schedule=constant`. Random starts are the paper's U(−½, ½), not its
    code's default. The prompt is not decayed (1e-5 there). Special and unused tokens, 999 of BERT's first 5,000 and
    untrained, are no starts here. A byte-level vocabulary has another token for a word with a space before it: the
    classes' words are taken with the space, as inside a text.
    Traps: slow to start, and sensitive to the rate and to the start on small models; a head trained with it has the
    same rate, which is high for one. A prompt takes p of the backbone's positions. On encoder-decoders
    `encoder_last_hidden_state` holds the prompt's p states too. Generation needs a cache that grows (the default), and
    no assistant model. Attention maps have p more columns.

    Attributes:
        length: p.
        init: `labels`, the names of the task's classes or the paper's words for them, pieces averaged, the rest as
            `vocabulary`; `vocabulary`, words drawn among the first 5,000 that are neither special nor `[unused0]` and
            the like; `random`.
    """

    default_lr: ClassVar[float] = 1e-2
    capabilities: ClassVar[Capabilities] = Capabilities(identity_at_start=False)

    length: int = bounded(20, at_least=1)
    init: Literal["labels", "vocabulary", "random"] = "labels"

    def positions_taken(self, model: nn.Module) -> int:
        """Positions of the backbone that the prompt takes: p."""
        return self.length

    def attach(self, model: nn.Module, context: Context) -> PromptTuningAttachment:
        """Put a prompt before the input embeddings."""
        return PromptTuningAttachment(model, context, self, Prompt(self._start(model, context)))

    @torch.no_grad()
    def _start(self, model: nn.Module, context: Context) -> Tensor:
        if self.init == "random":
            words = word_embeddings(model)
            drawn = torch.rand(self.length, words.embedding_dim, generator=context.generator) - 0.5
            return drawn.to(device_beside(words))
        weight = sampled(model, self.length, context.generator, context.tokenizer)
        if self.init == "labels" and context.tokenizer is not None:
            for slot, word in enumerate(context.label_words[: self.length]):
                weight[slot] = embedded(model, word_ids(word, context.tokenizer)).mean(0)
        return weight

    @classmethod
    def by_row(
        cls, methods: Sequence[Self], model: nn.Module, context: Context, results: Sequence[Mapping[str, Tensor]]
    ) -> Callable[[Tensor], None]:
        """Each row of a batch its own prompt: see `Method.by_row`."""
        prompts = [next(t for n, t in result.items() if n.endswith("prompt.weight")) for result in results]
        return prompt_by_row(model, prompts)


class PromptTuningAttachment(PromptAttachment):
    """One prompt, trained as it stands."""

    prompt: Prompt
    method: PromptTuning

    def parameter_groups(self) -> list[ParameterGroup]:
        """Group `prompt`, undecayed."""
        return [ParameterGroup("prompt", [self.prompt.weight], decays=False)]

    def flags(self) -> list[str]:
        """Where there were no classes to start from."""
        if self.method.init != "labels" or self.context.label_words:
            return []
        return ["method.init=labels: the task has no classes, so the prompt started as with method.init=vocabulary"]

    def vectors(self) -> Tensor:
        """The prompt, (p, e)."""
        return self.prompt.weight.detach()
