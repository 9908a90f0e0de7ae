"""MAM and UniPELT: published counts, parts computed by hand, gates and what padding does to them."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from peftbench.assembly import checkpoint_activations
from peftbench.backbones.anatomy import head_modules
from peftbench.doors import Context
from peftbench.methods.registry import method_class


def attach(model, name, **changes):
    model.requires_grad_(False)
    context = Context(torch.Generator().manual_seed(0), 40, "tiny", head_modules(model))
    return replace(method_class(name)(), **changes).attach(model, context)


def base_size(**shape):
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**shape))


def test_unipelts_published_counts():
    # The paper prints 1.4M (APL) and 1.1M (AP) of BERT-base.
    assert attach(base_size(model_type="bert"), "unipelt").count().stored == 1_410_672
    assert attach(base_size(model_type="bert"), "unipelt", lora=False).count().stored == 1_097_304


def test_mams_published_counts():
    # Weights alone are what the paper's 0.5% and 6.7% count; biases come on top.
    assert attach(base_size(model_type="roberta"), "mam").count().stored == 589_824 + 9_408
    large = {f"{stack}_{key}": value for stack in ("encoder", "decoder")
             for key, value in (("layers", 12), ("ffn_dim", 4096), ("attention_heads", 16))}  # fmt: skip
    model = base_size(model_type="bart", d_model=1024, **large)
    counts = attach(model, "mam", prefix_length=30, size=512, scaling=4.0).count()
    assert counts.stored == 27_377_664 + 24 * (512 + 1024)


def rows(lengths=(10, 6)):
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.arange(7 + row, 7 + row + length)
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def randomise(attachment):
    torch.manual_seed(7)
    for group in attachment.parameter_groups():
        for parameter in group.parameters:
            torch.nn.init.normal_(parameter, std=0.3)


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "distilbert", "electra", "mpnet"])
def test_unipelts_gates_do_not_see_padding(family):
    model = tiny_model(family)
    randomise(attach(model, "unipelt", prefix_length=3, mlp_hidden=8, reduction=4, rank=2))
    together = model(**rows()).logits[1:]
    alone = model(**{k: v[1:, :6] for k, v in rows().items()}).logits
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-5)


def test_unipelts_parts_by_hand():
    """The first layer of a tiny BERT, every part written out."""
    model = tiny_model("bert")
    attachment = attach(model, "unipelt", prefix_length=3, mlp_hidden=8, reduction=4, rank=2)
    randomise(attachment)
    attachment.finalize()
    batch = rows()
    layer, x = model.bert.encoder.layer[0], model.bert.embeddings(batch["input_ids"])
    seen = []
    layer.register_forward_hook(lambda *a: seen.append(a[2] if torch.is_tensor(a[2]) else a[2][0]))
    model(**batch)
    real = batch["attention_mask"].unsqueeze(-1).float()

    def gate(module, of):
        return ((of @ module.linear.weight.T + module.linear.bias).sigmoid() * real).sum(1) / real.sum(1)

    attention = layer.attention.self

    def projected(linear):
        plain = x @ linear.weight.T + linear.bias
        if hasattr(linear, "lora"):
            plain = plain + gate(linear.lora.gate, x).unsqueeze(1) * (x @ linear.lora.lora_A.T @ linear.lora.lora_B.T)
        return plain.view(2, 10, 4, 8).transpose(1, 2)

    query, key, value = (projected(m) for m in (attention.query, attention.key, attention.value))
    table = attachment.stored()["bert.prefix.encoder_self.table"].view(3, 2, 2, 4, 8)[:, 0]
    weight = gate(attention.prefix_gate, x)[..., None, None]
    more_key, more_value = (weight * table[:, i].transpose(0, 1).unsqueeze(0) for i in (0, 1))
    scores = query @ torch.cat([more_key, key], 2).transpose(2, 3) / 8**0.5
    hidden = torch.cat([torch.zeros(2, 3), 1 - real[..., 0]], 1).bool()[:, None, None]
    context = scores.masked_fill(hidden, float("-inf")).softmax(-1) @ torch.cat([more_value, value], 2)
    attended = layer.attention.output(context.transpose(1, 2).flatten(2), x)
    y = layer.output.dense(layer.intermediate(attended)) + attended
    norm = layer.output.LayerNorm
    normed = torch.nn.functional.layer_norm(y, (32,), norm.weight, norm.bias, norm.eps)
    down, up = norm.adapter.down, norm.adapter.up
    adapter = torch.relu(normed @ down.weight.T + down.bias) @ up.weight.T + up.bias
    out = y + gate(norm.adapter.gate, normed).unsqueeze(1) * adapter
    expected = torch.nn.functional.layer_norm(out, (32,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(seen[0] * real, expected * real, rtol=0, atol=2e-5)


def test_gate_values_are_recorded_from_finalize_on():
    model = tiny_model("bert")
    attachment = attach(model, "unipelt", prefix_length=3, mlp_hidden=8, reduction=4, rank=2)
    model(**rows())
    attachment.finalize()
    values = []
    gate = attachment.gates["lora_query"][1]
    gate.register_forward_hook(lambda *a: values.append(a[2].flatten()))
    model(**rows())
    model(**rows((8, 8, 3)))
    gates = attachment.analysis()["gates"]
    assert set(gates) == {"adapter", "prefix", "lora_query", "lora_value"}
    assert all(len(layers) == 2 for layers in gates.values())
    values = torch.cat(values)
    assert len(values) == 5
    assert gates["lora_query"][1]["mean"] == pytest.approx(values.mean().item(), abs=1e-6)
    assert gates["lora_query"][1]["std"] == pytest.approx(values.std(correction=0).item(), abs=1e-5)


@pytest.mark.parametrize(("name", "family"), [("mam", "bart"), ("mam", "llama"), ("mam", "bert"), ("unipelt", "bert")])
def test_gradients_are_right_under_gradient_checkpointing(name, family):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(family)
        attachment = attach(model, name, prefix_length=3, mlp_hidden=8)
        randomise(attachment)
        if checkpointing:
            checkpoint_activations(model)
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = 0.0
        batch = rows()
        batch["input_ids"][0, 9] = batch["input_ids"][1, 5] = 3
        model(**batch, labels=torch.tensor([0, 1])).loss.backward()
        gradients.append([p.grad.clone() for g in attachment.parameter_groups() for p in g.parameters])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=1e-4, atol=1e-7)
