"""Anatomy of an encoder: which module plays which role in which layer.

Architectures name the same six linear maps differently (`query`, `query_proj`, `q_lin`, `attn.q`). A method
names roles instead, so that one configuration serves every backbone. A new architecture is one entry in
`FAMILIES`. Everything here reads names and shapes only, so it works on the meta device too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from peftbench.errors import ConfigurationError
from peftbench.strict import did_you_mean

ROLES = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
"""The linear maps of a transformer layer, in the order of its forward pass."""


@dataclass(frozen=True)
class Site:
    """One linear map that a method can adapt.

    Attributes:
        name: qualified module name in the whole model, for `model.get_submodule`.
        layer: index of its transformer layer, from 0.
        role: one of `ROLES`.
        in_features: D, the map's input width.
        out_features: O, the map's output width.
    """

    name: str
    layer: int
    role: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Family:
    """Where an architecture keeps its parts. Paths are relative to the base model.

    Attributes:
        layers: path of the list of transformer layers.
        roles: role -> pattern (`fnmatch`) of the linear map's whole name inside one layer. The whole name is
            matched, never its end: BERT's `output.dense` is also the end of `attention.output.dense`.
        embeddings: path of the embeddings module.
        pooler: path of the pooler inside the base model, for models that have one.
    """

    layers: str
    roles: Mapping[str, str]
    embeddings: str = "embeddings"
    pooler: str | None = None


_BERT_ROLES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
}

FAMILIES: Mapping[str, Family] = {
    "bert": Family(layers="encoder.layer", roles=_BERT_ROLES, pooler="pooler"),
    "roberta": Family(layers="encoder.layer", roles=_BERT_ROLES, pooler="pooler"),
    "electra": Family(layers="encoder.layer", roles=_BERT_ROLES),
    "deberta-v2": Family(
        layers="encoder.layer",
        roles=_BERT_ROLES
        | {
            "query": "attention.self.query_proj",
            "key": "attention.self.key_proj",
            "value": "attention.self.value_proj",
        },
    ),
    "distilbert": Family(
        layers="transformer.layer",
        roles={
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attention_output": "attention.out_lin",
            "ffn_in": "ffn.lin1",
            "ffn_out": "ffn.lin2",
        },
    ),
    "mpnet": Family(
        layers="encoder.layer",
        roles=_BERT_ROLES
        | {
            "query": "attention.attn.q",
            "key": "attention.attn.k",
            "value": "attention.attn.v",
            "attention_output": "attention.attn.o",
        },
        pooler="pooler",
    ),
}
"""`config.model_type` -> its family."""


def sites(model: nn.Module, roles: Sequence[str]) -> tuple[Site, ...]:
    """The linear maps that play `roles`, by layer, then in the order of `ROLES`.

    Read them before a method replaces modules: afterwards their names lead to the replacements.

    Args:
        model: a transformers model, with or without a task head, on any device.
        roles: some of `ROLES`, in any order.

    Raises:
        ConfigurationError: an unknown role, or an architecture that `FAMILIES` lacks.
        RuntimeError: a layer without one of the roles, or with two modules for one; the model is not built
            as its `model_type` says.
    """
    for role in roles:
        if role not in ROLES:
            raise ConfigurationError(
                f"{role!r} is not a role{did_you_mean(str(role), ROLES)}; known roles: {', '.join(ROLES)}"
            )
    family = _family(model)
    wanted = [role for role in ROLES if role in roles]
    return tuple(
        _site(name, module, index, role, family.roles[role])
        for index, (name, module) in enumerate(_layers(model, family))
        for role in wanted
    )


def backbone(model: nn.Module) -> nn.Module:
    """The model without its task head: transformers' `base_model`; a bare backbone is its own."""
    base = getattr(model, "base_model", model)
    assert isinstance(base, nn.Module)
    return base


def embeddings(model: nn.Module) -> str:
    """Qualified name of the embeddings module (word, position and type embeddings with their layer norm).

    Raises:
        ConfigurationError: an architecture that `FAMILIES` lacks.
    """
    return _join(_name_of(model, backbone(model)), _family(model).embeddings)


def layer_norms(model: nn.Module) -> tuple[str, ...]:
    """Qualified names of the backbone's layer normalisations, the embeddings' first, in module order."""
    prefix = _name_of(model, backbone(model))
    return tuple(
        _join(prefix, name) for name, module in backbone(model).named_modules() if isinstance(module, nn.LayerNorm)
    )


def max_positions(model: nn.Module) -> int:
    """Tokens that an input may have.

    RoBERTa and MPNet count positions from after their padding index, so two of their embeddings are never a token's.
    """
    table = getattr(model.get_submodule(embeddings(model)), "position_embeddings", None)
    if not isinstance(table, nn.Embedding):  # DeBERTa's positions are relative.
        return int(model.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]
    return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


def head_modules(model: nn.Module) -> tuple[str, ...]:
    """Qualified names of the top-most modules that make up the task head, in module order.

    The head is what lies outside the base model, and the base model's own pooler where it has one: every
    method trains the pooler with the head. Modules without parameters (dropout, activations) are left out,
    since nothing in them is trained or stored.

    Raises:
        ConfigurationError: an architecture that `FAMILIES` lacks.
    """
    return tuple(_head(model, "", backbone(model), _family(model).pooler))


def _head(module: nn.Module, prefix: str, base: nn.Module, pooler: str | None) -> Iterator[str]:
    if module is base:
        # Models built without a pooler keep the attribute as None.
        if pooler is not None and getattr(base, pooler, None) is not None:
            yield _join(prefix, pooler)
        return
    for name, child in module.named_children():
        path = _join(prefix, name)
        if any(part is base for part in child.modules()):
            yield from _head(child, path, base, pooler)
        elif next(child.parameters(), None) is not None:
            yield path


def _family(model: nn.Module) -> Family:
    model_type = str(getattr(getattr(model, "config", None), "model_type", None))
    if model_type not in FAMILIES:
        near = did_you_mean(model_type, FAMILIES)
        raise ConfigurationError(
            f"architecture {model_type!r} is not supported{near}; supported: {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[model_type]


def _layers(model: nn.Module, family: Family) -> Iterator[tuple[str, nn.Module]]:
    base = backbone(model)
    path = _join(_name_of(model, base), family.layers)
    for name, layer in base.get_submodule(family.layers).named_children():
        yield _join(path, name), layer


def _site(layer_name: str, layer: nn.Module, index: int, role: str, pattern: str) -> Site:
    found = [
        (name, module)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and fnmatchcase(name, pattern)
    ]
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "none"
        raise RuntimeError(f"{layer_name}: expected one linear map {pattern!r} for {role}, found {names}")
    name, linear = found[0]
    return Site(_join(layer_name, name), index, role, linear.in_features, linear.out_features)


def _name_of(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
