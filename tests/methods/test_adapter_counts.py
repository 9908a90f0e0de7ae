"""Adapters' and (IA)³'s counts at BERT's published sizes, from architectures without weights."""

from dataclasses import replace

import pytest
import torch

from peftbench.backbones.anatomy import head_modules
from peftbench.doors import Context
from peftbench.methods.registry import method_class


def bert(layers, width, ffn):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.for_model(
        "bert", num_hidden_layers=layers, hidden_size=width, intermediate_size=ffn, num_attention_heads=width // 64
    )
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


BASE, LARGE = (12, 768, 3072), (24, 1024, 4096)


@pytest.mark.parametrize(
    ("name", "changes", "shape", "adapters", "norms"),
    [
        ("pfeiffer", {"size": 48}, BASE, 894_528, 0),
        ("pfeiffer", {}, BASE, 894_528, 0),
        # Published counts of two adapters per layer leave out the norms, 2D each, two per layer.
        ("houlsby", {"size": 64}, BASE, 2_379_264, 24 * 2 * 768),
        ("houlsby", {"size": 64}, LARGE, 6_343_680, 48 * 2 * 1024),
        ("houlsby", {"size": 8}, LARGE, 835_968, 48 * 2 * 1024),
        ("parallel_adapter", {"size": 16}, BASE, 294_912 + 9_408, 0),
        ("scaled_parallel_adapter", {"size": 16}, BASE, 294_912 + 9_408, 0),
        ("scaled_parallel_adapter", {"size": 16, "scaling": "learned"}, BASE, 294_912 + 9_408 + 12, 0),
        ("adapter_drop", {}, BASE, 894_528 * 7 // 12, 0),
        ("compacter", {}, BASE, 24 * (2 * (768 + 24) + 768 + 24) + 4**3, 25 * 2 * 768),
        ("compacter", {"placement": "ffn"}, BASE, 12 * (2 * (768 + 24) + 768 + 24) + 4**3, 25 * 2 * 768),
        ("compacter", {"rank": None, "n": 12}, BASE, 24 * (2 * 768 * 24 // 12 + 768 + 24) + 12**3, 25 * 2 * 768),
        ("ia3", {}, BASE, 55_296, 0),
        ("ia3", {}, LARGE, 147_456, 0),
    ],
)
def test_counts_are_the_published_ones(name, changes, shape, adapters, norms):
    model = bert(*shape).requires_grad_(False)
    context = Context(torch.Generator().manual_seed(0), 40, "bert", head_modules(model))
    attachment = replace(method_class(name)(), **changes).attach(model, context)
    counts = attachment.count()
    assert (counts.trained, counts.stored) == (adapters + norms, adapters + norms)
    own = [p for group in attachment.parameter_groups() if group.name != "layer_norm" for p in group.parameters]
    assert sum(p.numel() for p in own) == adapters
    assert not any(p.is_meta for p in own)
