"""Which transformers class puts which head on a backbone."""

from __future__ import annotations

import inspect
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftbench.backbones.anatomy import is_decoder
from peftbench.errors import ConfigurationError

Head = Literal["classifier", "spans", "language"]
"""A class or a number for the whole input; a class for a pair of spans in it; the vocabulary at every position."""


def auto_class(head: Head, shape: Any) -> Any:
    """The class with `from_pretrained` and `from_config` that builds the head.

    Args:
        head: which.
        shape: the backbone's transformers configuration.

    Raises:
        ConfigurationError: the architecture has no such head.
    """
    import transformers

    if head == "classifier":
        return transformers.AutoModelForSequenceClassification
    if head == "spans":
        if shape.is_encoder_decoder:
            raise ConfigurationError(
                f"a head on spans needs one stack of layers; {shape.model_type} has two: use task.form=text"
            )
        return span_classifier(type(shape))
    if shape.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


@cache
def span_classifier(shape_class: type) -> type:
    """A span classifier over the architecture whose configuration class this is, as a transformers model.

    The head sees the first token's vector (of a decoder the last one's, which alone has seen the rest) and the mean
    vector of either span, and is one linear map of the three.
    SuperGLUE's baselines (Wang et al., 2019, §4.1) concatenate the first token's and the marked words' vectors for WiC
    and pool spans by self-attention for WSC; here both tasks share one head, and its pooling has no parameters.
    """
    from transformers import AutoModel, PreTrainedModel

    base: Any = AutoModel._model_mapping[shape_class]  # type: ignore[index]
    family: Any = next(c for c in base.__mro__[1:] if issubclass(c, PreTrainedModel) and c is not PreTrainedModel)
    prefix = family.base_model_prefix
    # Its pooler would be a layer that nothing reads.
    options = {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(base).parameters else {}

    class SpanClassifier(family):
        def __init__(self, config: Any):
            super().__init__(config)
            setattr(self, prefix, base(config, **options))
            dropout = getattr(config, "hidden_dropout_prob", None)
            self.dropout = nn.Dropout(0.1 if dropout is None else dropout)
            self.causal = is_decoder(self)
            self.classifier = nn.Linear(3 * config.hidden_size, config.num_labels)
            self.post_init()

        def forward(
            self, input_ids: Tensor, attention_mask: Tensor, spans: Tensor, labels: Tensor | None = None, **more: Any
        ) -> Any:
            hidden = getattr(self, prefix)(input_ids=input_ids, attention_mask=attention_mask, **more)
            vectors = span_vectors(hidden.last_hidden_state, attention_mask, spans, self.causal)
            logits = self.classifier(self.dropout(vectors))
            loss = None if labels is None else F.cross_entropy(logits, labels)
            return _output(loss, logits)

    SpanClassifier.__name__ = SpanClassifier.__qualname__ = (
        f"{family.__name__.removesuffix('PreTrainedModel')}SpanClassifier"
    )
    return SpanClassifier


def _output(loss: Tensor | None, logits: Tensor) -> Any:
    from transformers.modeling_outputs import SequenceClassifierOutput

    return SequenceClassifierOutput(loss=loss, logits=logits)  # type: ignore[arg-type]


def span_vectors(hidden: Tensor, attention_mask: Tensor, spans: Tensor, causal: bool = False) -> Tensor:
    """The first token's vector, or where `causal` the last one's, and the mean of either span's.

    Args:
        hidden: (B, S, D).
        attention_mask: (B, S), 1 where there is a token.
        spans: (B, 2, 2), of either span its first token and the one after its last.
        causal: whether a token has seen only those before it.

    Returns:
        (B, 3D).
    """
    places = torch.arange(hidden.shape[1], device=hidden.device)
    inside = (places >= spans[..., :1]) & (places < spans[..., 1:])  # (B, 2, S)
    weights = inside.to(hidden.dtype) / inside.sum(-1, keepdim=True)
    means = weights @ hidden  # (B, 2, D)
    last = hidden.shape[1] - 1 - attention_mask.flip(1).argmax(1)
    first = last if causal else attention_mask.argmax(1)
    rows = torch.arange(len(hidden), device=hidden.device)
    return torch.cat([hidden[rows, first], means[:, 0], means[:, 1]], dim=1)
