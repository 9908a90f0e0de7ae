"""Anatomy of a transformer: which module plays which role in which layer.

Architectures name the same linear maps differently (`query`, `query_proj`, `q_lin`, `q_proj`, `c_attn`). A method
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


@dataclass(frozen=True)
class Stack:
    """A list of alike transformer layers.

    Attributes:
        path: of the stack's module in the base model ("" where the base model is the stack).
        layers: path of the list of layers in the base model.
        roles: role -> pattern (`fnmatch`) of the linear maps' whole names inside one layer. The whole name is
            matched, never its end: BERT's `output.dense` is also the end of `attention.output.dense`. A pattern
            without a wildcard names one map; with one, several (self and cross attention, a gated feed-forward pair).
        attentions: kind -> path inside one layer.
        kind: `encoder` or `decoder`.
        ffn_norm: path inside one layer of the layer norm over residual plus feed-forward, in post-norm architectures.
    """

    path: str
    layers: str
    roles: Mapping[str, str]
    attentions: Mapping[str, str]
    kind: str = "encoder"
    ffn_norm: str | None = None


@dataclass(frozen=True)
class Family:
    """Where an architecture keeps its parts. Paths are relative to the base model.

    Attributes:
        stacks: one, or the encoder's and the decoder's.
        embeddings: path of the embeddings module.
        pooler: path of the pooler inside the base model, for models that have one.
        positions: path of the table of learned absolute positions, for models that have one.
    """

    stacks: tuple[Stack, ...]
    embeddings: str = "embeddings"
    pooler: str | None = None
    positions: str | None = None


_BERT_ROLES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "ffn_in": "intermediate.dense",
    "ffn_out": "output.dense",
}


def _bert_like(attention: str = "attention.self", **roles: str) -> tuple[Stack, ...]:
    return (
        Stack("encoder", "encoder.layer", _BERT_ROLES | roles, {"self": attention}, ffn_norm="output.LayerNorm"),
    )


_LLAMA = Family(
    stacks=(
        Stack(
            "",
            "layers",
            roles={
                "query": "self_attn.q_proj",
                "key": "self_attn.k_proj",
                "value": "self_attn.v_proj",
                "attention_output": "self_attn.o_proj",
                "ffn_in": "mlp.[gu]*_proj",
                "ffn_out": "mlp.down_proj",
            },
            attentions={"self": "self_attn"},
            kind="decoder",
        ),
    ),
    embeddings="embed_tokens",
)


def _t5(kind: str, feed_forward: int, attentions: Mapping[str, str]) -> Stack:
    roles = {
        "query": "layer.*Attention.q",
        "key": "layer.*Attention.k",
        "value": "layer.*Attention.v",
        "attention_output": "layer.*Attention.o",
        "ffn_in": f"layer.{feed_forward}.DenseReluDense.wi*",
        "ffn_out": f"layer.{feed_forward}.DenseReluDense.wo",
    }
    return Stack(kind, f"{kind}.block", roles, attentions, kind)


def _bart(kind: str, attentions: Mapping[str, str]) -> Stack:
    roles = {
        "query": "*attn.q_proj",
        "key": "*attn.k_proj",
        "value": "*attn.v_proj",
        "attention_output": "*attn.out_proj",
        "ffn_in": "fc1",
        "ffn_out": "fc2",
    }
    return Stack(kind, f"{kind}.layers", roles, attentions, kind, ffn_norm="final_layer_norm")


FAMILIES: Mapping[str, Family] = {
    "bert": Family(_bert_like(), pooler="pooler", positions="embeddings.position_embeddings"),
    "roberta": Family(_bert_like(), pooler="pooler", positions="embeddings.position_embeddings"),
    "electra": Family(_bert_like(), positions="embeddings.position_embeddings"),
    "deberta-v2": Family(
        _bert_like(
            query="attention.self.query_proj", key="attention.self.key_proj", value="attention.self.value_proj"
        ),
        positions="embeddings.position_embeddings",
    ),
    "distilbert": Family(
        (
            Stack(
                "transformer",
                "transformer.layer",
                roles={
                    "query": "attention.q_lin",
                    "key": "attention.k_lin",
                    "value": "attention.v_lin",
                    "attention_output": "attention.out_lin",
                    "ffn_in": "ffn.lin1",
                    "ffn_out": "ffn.lin2",
                },
                attentions={"self": "attention"},
                ffn_norm="output_layer_norm",
            ),
        ),
        positions="embeddings.position_embeddings",
    ),
    "mpnet": Family(
        _bert_like(
            "attention.attn",
            query="attention.attn.q",
            key="attention.attn.k",
            value="attention.attn.v",
            attention_output="attention.attn.o",
        ),
        pooler="pooler",
        positions="embeddings.position_embeddings",
    ),
    # The fused projection is split while loading: see `peftbench.backbones.projections`.
    "gpt2": Family(
        (
            Stack(
                "",
                "h",
                roles={
                    "query": "attn.c_attn.query",
                    "key": "attn.c_attn.key",
                    "value": "attn.c_attn.value",
                    "attention_output": "attn.c_proj",
                    "ffn_in": "mlp.c_fc",
                    "ffn_out": "mlp.c_proj",
                },
                attentions={"self": "attn"},
                kind="decoder",
            ),
        ),
        embeddings="wte",
        positions="wpe",
    ),
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "t5": Family(
        (
            _t5("encoder", 1, {"self": "layer.0.SelfAttention"}),
            _t5("decoder", 2, {"self": "layer.0.SelfAttention", "cross": "layer.1.EncDecAttention"}),
        ),
        embeddings="shared",
    ),
    "bart": Family(
        (
            _bart("encoder", {"self": "self_attn"}),
            _bart("decoder", {"self": "self_attn", "cross": "encoder_attn"}),
        ),
        embeddings="shared",
        positions="encoder.embed_positions",
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
    wanted = [role for role in ROLES if role in roles]
    return tuple(
        site
        for stack, index, name, layer in _layers(model)
        for role in wanted
        for site in _sites(name, layer, index, role, stack)
    )


def attentions(model: nn.Module) -> tuple[Attention, ...]:
    """Every attention of every layer, the encoder's first; in a decoder layer self before cross.

    Raises:
        ConfigurationError: an architecture that `FAMILIES` lacks.
    """
    return tuple(
        Attention(_join(name, path), index, stack.kind, kind)
        for stack, index, name, layer in _layers(model)
        for kind, path in stack.attentions.items()
        if layer.get_submodule(path) is not None
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
    """Qualified name of the embeddings module (word, position and type embeddings with their layer norm).

    Raises:
        ConfigurationError: an architecture that `FAMILIES` lacks.
    """
    return _join(_name_of(model, backbone(model)), _family(model).embeddings)


def layer_norms(model: nn.Module) -> tuple[str, ...]:
    """Qualified names of the backbone's layer normalisations (RMS ones too), the embeddings' first, in module order."""
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


def max_positions(model: nn.Module) -> int | None:
    """Tokens that an input may have; None where positions are relative without end (T5).

    RoBERTa, MPNet and BART leave the first rows of their tables to no token.
    """
    path = _family(model).positions
    holder = None if path is None else getattr(backbone(model).get_submodule(path.rpartition(".")[0]),
                                               path.rpartition(".")[2], None)  # fmt: skip
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
    pattern = stack.roles[role]
    found = [
        (name, module)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and fnmatchcase(name, pattern)
    ]
    if not found or (len(found) > 1 and not set("*[") & set(pattern)):
        names = ", ".join(name for name, _ in found) or "none"
        raise RuntimeError(f"{layer_name}: expected one linear map {pattern!r} for {role}, found {names}")
    for name, linear in found:
        yield Site(_join(layer_name, name), index, role, linear.in_features, linear.out_features, stack.kind)


def _name_of(model: nn.Module, part: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is part)


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
