"""Virtual tokens before a model's first layer. Shapes: B rows, P virtual tokens, N real ones, D embedding width."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

_Inputs = tuple[tuple[()], dict[str, Any]]


class Provider(Protocol):
    """What gives the virtual tokens of a forward pass.

    Attributes:
        mask: (R, P), zero where a row's prompt is shorter than P; None: all P count in every row.
    """

    mask: Tensor | None

    @property
    def length(self) -> int:
        """P."""
        ...

    def __call__(self) -> Tensor:
        """One prompt for all rows, (P, D), or one for each of R rows, (R, P, D)."""
        ...


class Prompt(nn.Module):
    """One trained prompt for all rows (Lester et al. 2021).

    Attributes:
        weight: (P, D), fp32.
    """

    mask: Tensor | None = None

    def __init__(self, weight: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight)

    @property
    def length(self) -> int:
        """P."""
        return self.weight.shape[0]

    def forward(self) -> Tensor:
        """The weight, (P, D)."""
        return self.weight


@dataclass
class RowPrompts:
    """Each row its own prompt: several trained prompts over one frozen backbone in one batch.

    Attributes:
        vectors: (R, P, D).
        mask: (R, P), or None where all prompts are P long. A batch of k·R rows (beams) repeats each row k times.
    """

    vectors: Tensor
    mask: Tensor | None = None

    @classmethod
    def by_task(cls, prompts: Sequence[Tensor], tasks: Tensor) -> RowPrompts:
        """Row i has `prompts[tasks[i]]`; prompts are (P_t, D), of whatever lengths."""
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=tasks.device)
        mask = torch.arange(int(lengths.max()), device=tasks.device) < lengths[:, None]
        return cls(pad_sequence(list(prompts), batch_first=True)[tasks], mask[tasks].long())

    @property
    def length(self) -> int:
        """P, the longest."""
        return self.vectors.shape[1]

    def __call__(self) -> Tensor:
        """The vectors, (R, P, D)."""
        return self.vectors


def tokens_in_cache(inputs: Mapping[str, Any]) -> int:
    """Tokens that a model has read before, by its inputs: in `cache`; up to transformers 5.23 in `past_key_values`."""
    cache = inputs.get("cache")
    cache = inputs.get("past_key_values") if cache is None else cache
    return 0 if cache is None else int(cache.get_seq_length())


class PromptedInputs:
    """Hooks that put a provider's virtual tokens before the real ones.

    The host is called as ever, with N tokens; what runs inside has P + N. Virtual tokens take the first positions and
    real ones follow, whichever side padding is on. An encoder without positions that follow the mask gets its leading
    padding moved behind the real tokens. A causal host's positions are counted along the mask; with a cache that is
    not empty, nothing is prepended, and mask and positions count the virtual tokens in it.

    Args:
        host: the module that takes `input_ids` and `attention_mask`: the base model, or an encoder stack.
        embedding: where the host's token embeddings are, as they are when the host runs.
        provider: see `Provider`.
        causal: whether the host is a decoder.

    Attributes:
        provider: may be exchanged between forward passes.
    """

    def __init__(self, host: nn.Module, embedding: Callable[[], nn.Module], provider: Provider, causal: bool = False):
        self.provider = provider
        self._embedding = embedding
        self._causal = causal
        self._names = tuple(inspect.signature(host.forward).parameters)
        self._decoder_names: tuple[str, ...] = ()
        self._width: int | None = None
        self._back: Tensor | None = None
        host.register_forward_pre_hook(self._widen, with_kwargs=True)

    def narrow(self, *modules: nn.Module) -> None:
        """Make the modules, the host last, give hidden states of the N real tokens only. Attention maps stay whole."""
        for module in modules:
            module.register_forward_hook(self._real_tokens)

    def keep_order(self, module: nn.Module) -> None:
        """Make the module give all P + N hidden states, in the order of prompt and input."""
        module.register_forward_hook(self._all_tokens)

    def widen_memory(self, decoder: nn.Module) -> None:
        """Widen the `encoder_attention_mask` that a decoder is called with, as the host's output is widened."""
        self._decoder_names = tuple(inspect.signature(decoder.forward).parameters)
        decoder.register_forward_pre_hook(self._widen_memory, with_kwargs=True)

    # Hooks are bound methods, so that a deep copy of the model has hooks of its own.
    def _real_tokens(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        return self._each(output, self.provider.length)

    def _all_tokens(self, _module: nn.Module, _args: Any, output: Any) -> Any:
        return self._each(output, 0)

    def _widen_memory(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Inputs:
        inputs = dict(zip(self._decoder_names, args, strict=False)) | kwargs
        memory = inputs.get("encoder_hidden_states")
        if memory is not None:
            rows, real = memory.shape[0], memory.shape[1] - self.provider.length
            mask = _mask(inputs.get("encoder_attention_mask"), rows, real, memory.device)
            if mask.shape[1] == real:
                inputs["encoder_attention_mask"] = torch.cat([self._prompt_mask(mask), mask], 1)
        return (), inputs

    def _widen(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Inputs:
        inputs = dict(zip(self._names, args, strict=False)) | kwargs
        seen = tokens_in_cache(inputs)
        tokens = inputs.get("input_ids") if inputs.get("inputs_embeds") is None else inputs["inputs_embeds"]
        assert isinstance(tokens, Tensor)
        rows, real = tokens.shape[0], tokens.shape[1]
        before = seen - self.provider.length if seen else 0
        mask = _mask(inputs.get("attention_mask"), rows, before + real, tokens.device)
        prompt_mask = self._prompt_mask(mask)
        inputs["attention_mask"] = torch.cat([prompt_mask, mask], 1)
        if self._causal or inputs.get("position_ids") is not None:
            inputs["position_ids"] = self._positions(inputs, prompt_mask, mask, real, cached=bool(seen))
        self._width, self._back = None, None
        if not seen:
            self._prepend(inputs)
            self._width = self.provider.length + real
            self._lead_with_real_tokens(inputs, prompt_mask, mask)
        return (), inputs

    def _prepend(self, inputs: dict[str, Any]) -> None:
        """Vectors in place of ids, with the prompt's first; token types of the prompt are zero."""
        embeds = inputs.get("inputs_embeds")
        if embeds is None:
            embeds = self._embedding()(inputs["input_ids"])
        # The host takes one of the two; as a keyword, None is what it has by default.
        inputs["input_ids"] = None
        vectors = self.provider().to(embeds)
        rows = embeds.shape[0]
        vectors = vectors.expand(rows, -1, -1) if vectors.ndim == 2 else _for_rows(vectors, rows)
        inputs["inputs_embeds"] = torch.cat([vectors, embeds], 1)
        types = inputs.get("token_type_ids")
        if types is not None:
            inputs["token_type_ids"] = torch.cat([types.new_zeros(rows, vectors.shape[1]), types.expand(rows, -1)], 1)

    def _positions(self, inputs: dict[str, Any], prompt_mask: Tensor, mask: Tensor, real: int, cached: bool) -> Tensor:
        """Position ids, (B, P + N), or (B, N) behind a cache: along the mask, or given ones moved by the prompt."""
        given = inputs.get("position_ids")
        if given is None:
            whole = (inputs["attention_mask"].long().cumsum(1) - 1).clamp(min=0)
            return whole[:, -real:] if cached else whole
        counted = prompt_mask.long().cumsum(1)
        moved = given + counted[:, -1:]
        if cached:
            return moved
        # The prompt begins where the first real token was: RoBERTa's positions do not begin at 0.
        first = given.expand(mask.shape).gather(1, (mask > 0).long().argmax(1, keepdim=True))
        return torch.cat([first + (counted - 1).clamp(min=0), moved], 1)

    def _lead_with_real_tokens(self, inputs: dict[str, Any], prompt_mask: Tensor, mask: Tensor) -> None:
        """Move leading padding to the end of its row, where the host's positions are places in the row."""
        if self._causal:
            return
        # Right-padded rows, all that training makes, are put as they stand: to ask first would wait for the device.
        moved = torch.cat([prompt_mask == 0, mask.long().cumsum(1) == 0], 1)
        order = moved.long().argsort(dim=1, stable=True)
        self._back = order.argsort(1)
        for name in ("inputs_embeds", "attention_mask", "token_type_ids", "position_ids"):
            if inputs.get(name) is not None:
                inputs[name] = _taken(inputs[name], order)

    def _each(self, output: Any, start: int) -> Any:
        """`output` with every (B, P + N, D) tensor in it back in order, from `start` on."""
        if isinstance(output, Tensor):
            if output.ndim != 3 or output.shape[1] != self._width:
                return output
            return output[:, start:] if self._back is None else _taken(output, self._back[:, start:])
        if isinstance(output, dict):
            for name in list(output):
                output[name] = self._each(output[name], start)
            return output
        if isinstance(output, (tuple, list)):
            return type(output)(self._each(value, start) for value in output)
        return output

    def _prompt_mask(self, mask: Tensor) -> Tensor:
        """(B, P) in the type of the real tokens' mask."""
        if self.provider.mask is None:
            return mask.new_ones(mask.shape[0], self.provider.length)
        return _for_rows(self.provider.mask, mask.shape[0]).to(mask)


def _mask(mask: Any, rows: int, columns: int, device: torch.device) -> Tensor:
    if mask is None:
        return torch.ones(rows, columns, dtype=torch.long, device=device)
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        raise ValueError("virtual tokens need attention_mask of shape (rows, tokens); generate without a static cache")
    return mask


def _for_rows(tensor: Tensor, rows: int) -> Tensor:
    if rows % tensor.shape[0]:
        raise ValueError(f"prompts for {tensor.shape[0]} rows do not fit a batch of {rows} rows")
    return tensor.repeat_interleave(rows // tensor.shape[0], 0)


def _taken(tensor: Tensor, places: Tensor) -> Tensor:
    """`tensor` (B, S, ...) at each row's `places` (B, K), as (B, K, ...)."""
    rows = torch.arange(tensor.shape[0], device=tensor.device).unsqueeze(1) * tensor.shape[1]
    # Whole vectors are copied at a time, which is faster than a gather by elements.
    return tensor.flatten(0, 1).index_select(0, (rows + places).flatten()).view(*places.shape, *tensor.shape[2:])
