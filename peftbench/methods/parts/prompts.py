"""What prompt tuning and P-Tuning share: virtual tokens at a model's input, words as their start, neighbours."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.anatomy import backbone, stacks
from peftbench.doors import Context
from peftbench.layers.prompt import Prompt, PromptedInputs, Provider, RowPrompts
from peftbench.layers.prompt_encoder import Template
from peftbench.methods.base import Method
from peftbench.methods.parts.stored_tensors import StoredTensors

POPULATION = 5000
"""Sampled words are the first so many of the vocabulary, which is ordered by frequency where it is T5's."""
_UNUSED = re.compile(r"[\[<]unused_?\d+[\]>]")
_NEIGHBOURS = 5
_ROWS = 8192


class PromptAttachment(StoredTensors):
    """A prompt before the input embeddings: of the base model, or of the encoder where there is a decoder too.

    Args:
        model: the backbone with its head, all frozen.
        context: see `Context`. method: the hyper-parameters.
        prompt: the virtual tokens' module.

    Attributes:
        inputs: the hooks; `inputs.provider` may be exchanged, for one prompt per row say.
    """

    def __init__(self, model: nn.Module, context: Context, method: Method, prompt: Prompt | Template):
        super().__init__(model, context, method)
        self.prompt = prompt
        self.inputs = place(model, prompt)

    @property
    def path(self) -> str:
        """Qualified name of the prompt's module."""
        return next(name for name, module in self.model.named_modules() if module is self.prompt)

    @abstractmethod
    def vectors(self) -> Tensor:
        """The trained virtual tokens, as the model sees them."""

    def analysis(self) -> dict[str, Any]:
        """`neighbours`: of each virtual token the five nearest words of the vocabulary, by cosine (Lester et al.)."""
        table = word_embeddings(self.model).weight
        if table.is_meta:
            return {}
        return {"neighbours": neighbours(self.vectors(), table, self.context.tokenizer)}


def place(model: nn.Module, prompt: Provider) -> PromptedInputs:
    """Put a provider's virtual tokens before the model's input; one that is a module becomes the host's `prompt`."""
    found, base = stacks(model), backbone(model)
    both = len(found) > 1
    host = model.get_submodule(found["encoder"]) if both else base
    if isinstance(prompt, nn.Module):
        host.add_module("prompt", prompt)
    inputs = PromptedInputs(host, base.get_input_embeddings, prompt, causal="encoder" not in found)  # type: ignore[arg-type]
    if both:
        inputs.keep_order(host)
        inputs.widen_memory(model.get_submodule(found["decoder"]))
    else:
        # The stack first: BERT's pooler lies between the two and reads the first hidden state.
        stack = model.get_submodule(next(iter(found.values())))
        inputs.narrow(*([] if stack is host else [stack]), host)
    return inputs


def prompt_by_row(model: nn.Module, prompts: Sequence[Tensor]) -> Callable[[Tensor], None]:
    """Several trained prompts (P, D) on one model, each row of a batch with its own.

    Returns:
        To be called with (B,) indices into `prompts` before a forward.
    """
    inputs = place(model, RowPrompts(torch.stack([p.new_zeros(0, p.shape[1]) for p in prompts[:1]])))

    def select(tasks: Tensor) -> None:
        inputs.provider = RowPrompts.by_task([p.to(tasks.device) for p in prompts], tasks)

    return select


def word_embeddings(model: nn.Module) -> nn.Embedding:
    """The backbone's word embeddings; called, they scale as the model does (BART)."""
    return backbone(model).get_input_embeddings()  # type: ignore[operator]


@torch.no_grad()
def embedded(model: nn.Module, ids: Sequence[int] | Tensor) -> Tensor:
    """Vectors of token ids, (K, D), fp32; zeros on the CPU where the backbone has no storage."""
    words = word_embeddings(model)
    if words.weight.is_meta:
        return torch.zeros(len(ids), words.embedding_dim)
    return words(torch.as_tensor(ids, dtype=torch.long, device=words.weight.device)).float()


def sampled(model: nn.Module, count: int, generator: torch.Generator, tokenizer: Any = None) -> Tensor:
    """`count` word vectors, drawn uniformly and without replacement among the vocabulary's first words, (count, D)."""
    words = _first_words(word_embeddings(model).num_embeddings, tokenizer)
    # As the released code: with replacement only where the vocabulary is too small.
    if count > len(words):
        return embedded(model, words[torch.randint(len(words), (count,), generator=generator)])
    return embedded(model, words[torch.randperm(len(words), generator=generator)[:count]])


def _first_words(size: int, tokenizer: Any) -> Tensor:
    """The first ids of a table of `size`, (K,): of words, where a tokenizer says which are."""
    if tokenizer is None:
        return torch.arange(min(POPULATION, size))
    special = set(tokenizer.all_special_ids)
    # None: the table is longer than the vocabulary.
    named = enumerate(tokenizer.convert_ids_to_tokens(list(range(size))))
    words = [i for i, token in named if i not in special and token is not None and not _UNUSED.fullmatch(token)]
    return torch.tensor(words[:POPULATION])


def word_ids(word: str, tokenizer: Any) -> list[int]:
    """Ids of a word as it stands inside a text.

    A byte-level vocabulary keeps the space before a word in its first piece: " yes" is another token than "yes".
    """
    alone, inside = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (word, f" {word}"))
    # Other vocabularies drop the space, or make a piece of it alone.
    begins = inside[0] != alone[0] and tokenizer.decode(inside[:1]).strip()
    return inside if begins and word.startswith(begins) else alone


@torch.no_grad()
def neighbours(vectors: Tensor, table: Tensor, tokenizer: Any = None) -> list[list[dict[str, Any]]]:
    """Nearest tokens of each vector, the nearest first.

    Args:
        vectors: (P, D).
        table: (V, D), the word embeddings.
        tokenizer: gives tokens their strings; None: the id in digits.
    """
    ours = F.normalize(vectors.float(), dim=1)
    # In pieces: a copy of a large vocabulary's table in fp32 would be gigabytes.
    cosine = torch.cat([F.normalize(rows.float(), dim=1) @ ours.T for rows in table.split(_ROWS)]).T
    best = cosine.topk(min(_NEIGHBOURS, len(table)), dim=1)
    found = []
    for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
        tokens = [str(i) for i in ids] if tokenizer is None else tokenizer.convert_ids_to_tokens(ids)
        found.append([{"token": str(t), "similarity": round(v, 4)} for t, v in zip(tokens, values, strict=True)])
    return found
