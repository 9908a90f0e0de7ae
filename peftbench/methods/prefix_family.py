"""What prefix tuning and its relatives share: tables of virtual keys and values, placed in every attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from peftbench.backbones.anatomy import Attention, attentions, backbone, sites, stacks
from peftbench.backbones.injection import (
    KeyValues,
    ShiftedPositions,
    count_positions_from_mask,
    inject,
    recorded,
)
from peftbench.doors import Context, ParameterGroup
from peftbench.errors import ConfigurationError
from peftbench.layers.virtual_tokens import PrefixTable
from peftbench.methods.base import Method
from peftbench.methods.stored_tensors import StoredTensors


@dataclass(frozen=True)
class PrefixShape:
    """How a prefix is built.

    Attributes:
        length: |P|, virtual tokens per attention.
        hidden: width of the MLP that computes the table while training; None: the table is trained itself.
        dropout: on keys and values.
        shift_positions: real tokens take the positions after the prefix, as where it is a cache of past tokens.
        words: text whose own keys and values the prefix starts from, repeated up to its length; None: random.
        fit_steps, fit_lr: Adam steps that bring an MLP to those activations.
    """

    length: int
    hidden: int | None = None
    dropout: float = 0.0
    shift_positions: bool = False
    words: str | None = None
    fit_steps: int = 500
    fit_lr: float = 1e-4


class PrefixAttachment(StoredTensors):
    """One table for each kind of attention of each stack: encoder self, decoder self, decoder cross.

    Three independent tables for encoder-decoders are the official code's (XiangLi1999/PrefixTuning).
    """

    group = "prefix"

    def __init__(self, model: nn.Module, context: Context, method: Method, shape: PrefixShape):
        super().__init__(model, context, method)
        self.shape = shape
        self.modules = inject(model)
        self.places = places_by_kind(model)
        self.heads = key_heads(model)
        width, hidden_size = sites(model, ("key",))[0].out_features, int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.tables = {
            kind: PrefixTable(
                shape.length, len(places), width, hidden_size, shape.hidden, shape.dropout, context.generator
            )
            for kind, places in self.places.items()
        }
        if shape.words is not None:
            self._start_from(shape.words)
        device = next(backbone(model).parameters()).device
        # Beside a model without storage (counts on the meta device) the tables are real: they are small.
        tables = nn.ModuleDict(self.tables)
        backbone(model).add_module("prefix", tables if device.type == "meta" else tables.to(device))
        for kind, path in stacks(model).items():
            model.get_submodule(path).register_forward_pre_hook(self._filler(kind))
        if "encoder" not in stacks(model):
            count_positions_from_mask(model.get_submodule(stacks(model)["decoder"]))
        if shape.shift_positions:
            ShiftedPositions(model, shape.length)

    def _filler(self, stack: str) -> Callable[[nn.Module, Any], None]:
        """A hook that computes a stack's tables once per forward and lays them at its attentions."""
        kinds = [kind for kind in self.places if kind.startswith(stack)]

        def fill(module: nn.Module, args: Any) -> None:
            for kind in kinds:
                for place, values in zip(self.places[kind], self.tables[kind](), strict=True):
                    key, value = (x.unsqueeze(0) for x in by_head(values, self.heads))
                    self.modules[place.name].virtual_tokens = KeyValues(key, value)  # type: ignore[assignment]

        return fill

    @torch.no_grad()
    def _start_from(self, words: str) -> None:
        """The prefix's values become what the frozen model computes for real words (Li & Liang 2021, §7.4)."""
        if self.context.tokenizer is None:  # Only shapes are asked for.
            return
        ids = self.context.tokenizer(words, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ConfigurationError(f"method.init_words: {words!r} has no token; give words to start from")
        base = backbone(self.model)
        inputs = {"input_ids": torch.tensor([ids], device=next(base.parameters()).device)}
        if "decoder" in stacks(self.model) and "encoder" in stacks(self.model):
            inputs["decoder_input_ids"] = inputs["input_ids"]
        training = self.model.training
        with recorded(self.modules) as seen:
            self.model.eval()
            base(**inputs)
            self.model.train(training)
        slots = torch.arange(self.shape.length) % len(ids)
        for kind, places in self.places.items():
            pairs = [torch.stack([x[0].transpose(0, 1).flatten(1) for x in seen[place.name]]) for place in places]
            values = torch.stack(pairs)[:, :, slots.to(pairs[0].device)]
            self.tables[kind].set_values(values.cpu(), self.shape.fit_steps, self.shape.fit_lr)

    def parameter_groups(self) -> list[ParameterGroup]:
        """One group: every table, and its MLP while there is one. Undecayed, as published."""
        return [
            ParameterGroup(self.group, [p for table in self.tables.values() for p in table.parameters()], decays=False)
        ]

    def stored(self) -> dict[str, Tensor]:
        """`prefix.<kind>`: (P, 2·L·W) of each kind, the MLP evaluated."""
        with torch.no_grad():
            return {f"prefix.{kind}": table.values().detach() for kind, table in self.tables.items()}

    def finalize(self) -> None:
        """Drop the MLP; its output is all that is kept."""
        for table in self.tables.values():
            table.fold()


def places_by_kind(model: nn.Module) -> dict[str, list[Attention]]:
    """`encoder_self`, `decoder_self` and `decoder_cross`, as far as there are any, to their attentions in order."""
    places: dict[str, list[Attention]] = {}
    for place in attentions(model):
        places.setdefault(f"{place.stack}_{place.kind}", []).append(place)
    return places


def key_heads(model: nn.Module) -> int:
    """Number of key heads, fewer than query heads where they are grouped."""
    config: Any = model.config
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def by_head(values: Tensor, heads: int) -> Tensor:
    """(..., P, W) to (..., H, P, d)."""
    return values.unflatten(-1, (heads, -1)).transpose(-3, -2)


def prefix_by_row(
    model: nn.Module, prefixes: Sequence[Mapping[str, Tensor]], shifted: Sequence[bool]
) -> Callable[[Tensor], None]:
    """Several trained prefixes on one model, each row of a batch with its own.

    Args:
        model: the backbone, all of it frozen.
        prefixes: `stored()` of each.
        shifted: whether each shifts the positions of real tokens.

    Returns:
        To be called with (B,) indices into `prefixes` before a forward.
    """
    modules, places, heads = inject(model), places_by_kind(model), key_heads(model)
    tables = {kind: [p[f"prefix.{kind}"] for p in prefixes] for kind in places}
    lengths = torch.tensor([len(table) for table in next(iter(tables.values()))])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    shift = ShiftedPositions(model, 0)
    if "encoder" not in stacks(model):
        count_positions_from_mask(model.get_submodule(stacks(model)["decoder"]))

    def select(tasks: Tensor) -> None:
        rows = tasks.cpu()
        shift.amount = (lengths * torch.tensor(shifted))[rows, None].to(tasks.device)
        for kind, found in places.items():
            table = pad_sequence(tables[kind], batch_first=True)[rows].to(tasks.device)
            # (B, P, 2·L·W) to (L, 2, B, H, P, d)
            values = by_head(table.unflatten(-1, (len(found), 2, -1)).permute(2, 3, 0, 1, 4), heads)
            for place, (key, value) in zip(found, values, strict=True):
                modules[place.name].virtual_tokens = KeyValues(key, value, mask[rows].to(tasks.device))  # type: ignore[assignment]

    return select
