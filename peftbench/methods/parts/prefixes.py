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
from peftbench.layers.surgery import device_beside
from peftbench.layers.virtual_tokens import PrefixTable
from peftbench.methods.base import Method
from peftbench.methods.parts.stored_tensors import StoredTensors


@dataclass(frozen=True)
class PrefixShape:
    """How a prefix is built.

    Attributes:
        length: |P|, virtual tokens per attention.
        hidden: width of the MLP that computes the table while training; None: the table is trained itself.
        std: of the start; None: the official prefix code's own (see `PrefixTable`).
        dropout: on keys and values, drawn for each row.
        shift_positions: real tokens take the positions after the prefix, as where it is a cache of past tokens.
        words: text whose own keys and values the prefix starts from, repeated up to its length; None: random.
        fit_steps, fit_lr: Adam steps that bring an MLP to those activations.
    """

    length: int
    hidden: int | None = None
    std: float | None = None
    dropout: float = 0.0
    shift_positions: bool = False
    words: str | None = None
    fit_steps: int = 500
    fit_lr: float = 1e-4


@dataclass
class _Layer:
    """Lays a table at its attentions, once per forward of their stack."""

    table: PrefixTable
    modules: list[nn.Module]
    heads: int
    dropout: float

    # A bound method, so that a deep copy of the model lays its own table.
    def lay(self, stack: nn.Module, args: Any) -> None:
        dropout = self.dropout if self.table.training else 0.0
        for module, values in zip(self.modules, by_head(self.table(), self.heads), strict=True):
            key, value = (x.unsqueeze(0) for x in values)
            module.virtual_tokens = KeyValues(key, value, dropout=dropout)  # type: ignore[assignment]


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
        width, hidden_size = sites(model, ("key",))[0].out_features, int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.tables = {
            kind: PrefixTable(shape.length, len(places), width, hidden_size, shape.hidden, shape.std, context.generator)
            for kind, places in self.places.items()
        }
        if shape.words is not None:
            self._start_from(shape.words)
        tables = nn.ModuleDict(self.tables).to(device_beside(backbone(model)))
        backbone(model).add_module("prefix", tables)
        for stack, path in stacks(model).items():
            for kind in (kind for kind in self.places if kind.startswith(stack)):
                modules = [self.modules[place.name] for place in self.places[kind]]
                layer = _Layer(self.tables[kind], modules, key_heads(model, stack), shape.dropout)
                model.get_submodule(path).register_forward_pre_hook(layer.lay)
        if "encoder" not in stacks(model):
            count_positions_from_mask(model.get_submodule(stacks(model)["decoder"]))
        if shape.shift_positions:
            ShiftedPositions(model, shape.length)

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
        """One group: every table, and its MLP while there is one. Undecayed."""
        return [
            ParameterGroup(self.group, [p for table in self.tables.values() for p in table.parameters()], decays=False)
        ]

    def stored(self) -> dict[str, Tensor]:
        """Each kind's table, (P, 2·L·W), the MLP evaluated, by the name that it has once the MLP is gone."""
        names = {id(module): name for name, module in self.model.named_modules()}
        with torch.no_grad():
            return {f"{names[id(table)]}.table": table.values().detach() for table in self.tables.values()}

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


def key_heads(model: nn.Module, stack: str) -> int:
    """Number of a stack's key heads, fewer than query heads where they are grouped."""
    config: Any = model.config
    own = getattr(config, f"{stack}_attention_heads", None) or getattr(config, "num_key_value_heads", None)
    return int(own or config.num_attention_heads)


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
    modules, places = inject(model), places_by_kind(model)
    tables = {kind: [_ending(p, f"prefix.{kind}.table") for p in prefixes] for kind in places}
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
            heads = key_heads(model, found[0].stack)
            values = by_head(table.unflatten(-1, (len(found), 2, -1)).permute(2, 3, 0, 1, 4), heads)
            for place, (key, value) in zip(found, values, strict=True):
                modules[place.name].virtual_tokens = KeyValues(key, value, mask[rows].to(tasks.device))  # type: ignore[assignment]

    return select


def _ending(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    return next(tensor for key, tensor in tensors.items() if key.endswith(name))
