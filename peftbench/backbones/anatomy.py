"""Anatomy of a transformer: which module plays which role in which layer.

Architectures name the same linear maps differently (`query`, `query_proj`, `q_lin`, `q_proj`, `c_attn`). A method
names roles instead, so that one configuration serves every backbone. Everything here reads names and shapes only, so
it works on the meta device too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from peftbench.backbones.families import FAMILIES, ROLES, Family, Stack
from peftbench.errors import ConfigurationError
from peftbench.strict import did_you_mean


@dataclass(frozen=True)
class Site:
    """One linear map that a method can adapt.

    Attributes:
        name: qualified module name in the whole model, for `model.get_submodule`.
        layer: index of its transformer layer in its stack, from 0.
        role: one of `ROLES`.
        in_features: D, the map's input width.
        out_features: O, the map's output width.
        stack: `encoder` or `decoder`.
    """

    name: str
    layer: int
    role: str
    in_features: int
    out_features: int
    stack: str = "encoder"


@dataclass(frozen=True)
class Attention:
    """One attention of one layer, where keys and values of virtual tokens go in.

    Attributes:
        name: qualified name of the module that the model's attention function is called with.
        layer: index of its layer in its stack. stack: `encoder` or `decoder`.
        kind: `self` or `cross`.
    """

    name: str
    layer: int
    stack: str
    kind: str


def sites(model: nn.Module, roles: Sequence[str]) -> tuple[Site, ...]:
    """The linear maps that play `roles`, by layer, then in the order of `ROLES`.

    Read them before a method replaces modules: afterwards their names lead to the replacements.

    Args:
        model: a transformers model, with or without a task head, on any device.
        roles: some of `ROLES`, in any order.

    Raises:
        ConfigurationError: an unknown role, or an architecture that `FAMILIES` lacks.
        RuntimeError: a layer without one of the roles, or a map that plays two; the model is not built as its
            `model_type` says.
    """
    for role in roles:
        if role not in ROLES:
            raise ConfigurationError(
                f"{role!r} is not a role{did_you_mean(str(role), ROLES)}; known roles: {', '.join(ROLES)}"
            )
    wanted = [role for role in ROLES if role in roles]
    return tuple(
        site
        for stack, index, name, layer in _layers(model)
        for role in wanted
        for site in _sites(name, layer, index, role, stack)
    )


def same_input(model: nn.Module, chosen: Iterable[Site]) -> tuple[tuple[Site, ...], ...]:
    """Those of the chosen sites that a forward pass calls with one and the same tensor, two or more together.

    Query, key and value of a self-attention, and the two inner maps of a gated feed-forward block. Not DeBERTa's
    query, key and value, which project its relative positions too.
    """
    own = tuple(f"{attention.name}." for attention in attentions(model) if attention.kind == "self")
    relative = getattr(getattr(model, "config", None), "pos_att_type", None)
    groups: dict[tuple[str, int, str], list[Site]] = {}
    for site in chosen:
        if site.role == "ffn_in":
            groups.setdefault((site.stack, site.layer, "ffn"), []).append(site)
        elif site.role in ("query", "key", "value") and not relative and site.name.startswith(own):
            groups.setdefault((site.stack, site.layer, "attention"), []).append(site)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def attentions(model: nn.Module) -> tuple[Attention, ...]:
    """Every attention of every layer, the encoder's first; in a decoder layer self before cross.

    Raises:
        ConfigurationError: an architecture that `FAMILIES` lacks.
    """
    return tuple(
        Attention(_join(name, path), index, stack.kind, kind)
        for stack, index, name, _ in _layers(model)
        for kind, path in stack.attentions.items()
    )


def ffn_norms(model: nn.Module) -> dict[tuple[str, int], str]:
    """(stack, layer) -> name of the layer norm over residual plus feed-forward; empty in pre-norm architectures."""
    return {
        (stack.kind, index): _join(name, stack.ffn_norm)
        for stack, index, name, _ in _layers(model)
        if stack.ffn_norm is not None
    }


def backbone(model: nn.Module) -> nn.Module:
    """The model without its task head: transformers' `base_model`; a bare backbone is its own."""
    base = getattr(model, "base_model", model)
    assert isinstance(base, nn.Module)
    return base


def embeddings(model: nn.Module) -> str:
    """Qualified name of the embeddings module: the table of words, in BERT's kin with all that is added to it.

    Raises:
        ConfigurationError: an architecture that `FAMILIES` lacks.
    """
    return _join(_name_of(model, backbone(model)), _family(model).embeddings)


def layer_norms(model: nn.Module) -> tuple[str, ...]:
    """Qualified names of the backbone's layer normalisations in module order: RMS ones too, and Qwen3's of q and k."""
    prefix = _name_of(model, backbone(model))
    return tuple(
        _join(prefix, name)
        for name, module in backbone(model).named_modules()
        if isinstance(module, nn.LayerNorm) or type(module).__name__.endswith(("RMSNorm", "T5LayerNorm"))
    )


def stacks(model: nn.Module) -> dict[str, str]:
    """`encoder` and `decoder`, as far as the model has them, to the qualified name of the stack's module."""
    prefix = _name_of(model, backbone(model))
    return {stack.kind: _join(prefix, stack.path) for stack in _family(model).stacks}


def is_decoder(model: nn.Module) -> bool:
    """Whether a decoder is all that it has: source and target then share one row of tokens."""
    return set(stacks(model)) == {"decoder"}


def positions(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that turn a token's position into a vector or a rotation, called with position ids last.

    Empty where positions are relative, or are counted inside the table's module (BART).
    """
    base, family = backbone(model), _family(model)
    prefix = _name_of(model, base)
    found = family.positions if family.positions is not None else "rotary_emb"
    holder = dict(base.named_modules()).get(found)
    if holder is None or hasattr(holder, "offset"):
        return ()
    return (_join(prefix, found),)


def max_positions(model: nn.Module) -> int | None:
    """Tokens that an input may have; None where positions are relative without end (T5).

    RoBERTa, MPNet and BART leave the first rows of their tables to no token.
    """
    path = _family(model).positions
    # Models without absolute positions keep the attribute as None.
    holder = None if path is None else dict(backbone(model).named_modules()).get(path)
    if not isinstance(holder, nn.Embedding):  # DeBERTa's positions are relative, Llama's rotary.
        limit = getattr(model.config, "max_position_embeddings", None)  # type: ignore[union-attr]
        return None if limit is None else int(limit)
    unused = getattr(holder, "offset", 0) or (0 if holder.padding_idx is None else holder.padding_idx + 1)
    return holder.num_embeddings - unused


def head_modules(model: nn.Module) -> tuple[str, ...]:
    """Qualified names of the top-most modules that make up the task head, in module order.

    The head is what lies outside the base model, and the base model's own pooler where it has one: every
    method trains the pooler with the head. Modules without parameters (dropout, activations) are left out,
    since nothing in them is trained or stored. So is a language model's output projection: it came pretrained.

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
    output = getattr(module, "get_output_embeddings", lambda: None)()
    for name, child in module.named_children():
        path = _join(prefix, name)
        if child is output:
            continue
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


def _layers(model: nn.Module) -> Iterator[tuple[Stack, int, str, nn.Module]]:
    base = backbone(model)
    prefix = _name_of(model, base)
    for stack in _family(model).stacks:
        path = _join(prefix, stack.layers)
        for index, (name, layer) in enumerate(base.get_submodule(stack.layers).named_children()):
            yield stack, index, _join(path, name), layer


def _sites(layer_name: str, layer: nn.Module, index: int, role: str, stack: Stack) -> Iterator[Site]:
    found = [
        (name, module)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and fnmatchcase(name, stack.roles[role])
    ]
    if not found:
        raise RuntimeError(f"{layer_name}: expected a linear map {stack.roles[role]!r} for {role}, found none")
    for name, _ in found:
        played = [other for other in ROLES if fnmatchcase(name, stack.roles[other])]
        if len(played) > 1:
            raise RuntimeError(f"{layer_name}: {name} plays {' and '.join(played)}; a map has one role")
    for name, linear in found:
        yield Site(_join(layer_name, name), index, role, linear.in_features, linear.out_features, stack.kind)


def _name_of(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
