"""Where every supported architecture keeps its parts. A new architecture is one entry in `FAMILIES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["query", "key", "value", "attention_output", "ffn_in", "ffn_out"]
ROLES: tuple[Role, ...] = get_args(Role)
"""The linear maps of a transformer layer, in the order of its forward pass."""


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
    return (Stack("encoder", "encoder.layer", _BERT_ROLES | roles, {"self": attention}, ffn_norm="output.LayerNorm"),)


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
        _bert_like(query="attention.self.query_proj", key="attention.self.key_proj", value="attention.self.value_proj"),
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
