"""Prefix tuning and P-Tuning v2: against HF PEFT, against attention computed by hand, and under padding and caching."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY, tiny_generator, tiny_model
from contracts.test_methods import ALIKE

from peftbench.assembly import checkpoint_activations
from peftbench.backbones.anatomy import backbone, head_modules, stacks
from peftbench.backbones.injection import KeyValues
from peftbench.doors import Context
from peftbench.errors import ConfigurationError
from peftbench.methods.registry import method_class

GENERATORS = ("gpt2", "llama", "t5", "bart")
P = 5


class Words:
    """A tokenizer of three-piece texts."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [7, 8, 9] if text else []}


def with_prefix(model, tokenizer=None, name="prefix_tuning", **changes):
    model.requires_grad_(False)
    context = Context(torch.Generator().manual_seed(0), 40, "tiny", head_modules(model), tokenizer)
    settings = {"length": P, "mlp": False} if name == "prefix_tuning" else {"length": P}
    return replace(method_class(name)(), **settings | changes).attach(model, context)


def rows(lengths=(12, 7, 9), left=False, seed=0):
    """Token rows that end in the end token, padded to the left or to the right."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if left else slice(0, length)
        ids[row, place] = torch.randint(5, 600, (length,), generator=generator)
        ids[row, place.stop - 1] = 3
        mask[row, place] = 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "llama"])
def test_logits_are_pefts_on_self_attention(family):
    peft = pytest.importorskip("peft")
    model, twin = tiny_model(family), tiny_model(family)
    attachment = with_prefix(model)
    config = peft.PrefixTuningConfig(num_virtual_tokens=P, task_type="SEQ_CLS", prefix_projection=False)
    theirs = peft.get_peft_model(twin, config).eval()
    ((_, table),) = attachment.stored().items()
    with torch.no_grad():
        # PEFT's table has the official code's layout, and so has ours.
        theirs.prompt_encoder["default"].embedding.weight.copy_(table)
        ours, expected = model(**rows()).logits, theirs(**rows()).logits
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("name", ["prefix_tuning", "p_tuning_v2"])
def test_the_output_changes_with_the_prefix_and_all_of_it_gets_gradients(family, name):
    model = tiny_model(family)
    plain = tiny_model(family)(**rows()).logits
    attachment = with_prefix(model, name=name)
    logits = model(**rows()).logits
    assert not torch.allclose(logits, plain, atol=1e-6)
    logits.square().sum().backward()
    for table in attachment.tables.values():
        assert table.table.grad.abs().sum(1).min() > 0
        live = table.table.grad.view(P, table.attentions, 2, -1).abs().sum((0, 3))
        assert live.min() > 0


@pytest.mark.parametrize("family", TINY)
def test_a_row_alone_is_the_row_in_a_batch(family):
    model = tiny_model(family)
    with_prefix(model)
    batch = rows()
    together = model(**batch).logits
    for row, length in enumerate((12, 7, 9)):
        alone = model(**{k: v[row : row + 1, :length] for k, v in batch.items()}).logits
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", GENERATORS)
def test_left_and_right_padding_give_the_same(family):
    model = tiny_generator(family)
    with_prefix(model)
    right, left = rows(), rows(left=True)
    extra = {"decoder_input_ids": torch.full((3, 4), 9)} if family in ("t5", "bart") else {}
    right_logits, left_logits = model(**right, **extra).logits, model(**left, **extra).logits
    if family == "bart":  # Its positions are counted inside the table, by column: rows of one length must agree.
        whole = rows(lengths=(12, 12))
        torch.testing.assert_close(model(**whole, decoder_input_ids=extra["decoder_input_ids"][:2]).logits[0],
                                   model(**{k: v[:1] for k, v in whole.items()},
                                         decoder_input_ids=extra["decoder_input_ids"][:1]).logits[0],
                                   rtol=0, atol=2e-6)  # fmt: skip
    elif family == "t5":
        torch.testing.assert_close(right_logits, left_logits, rtol=0, atol=2e-6)
    else:
        for row, length in enumerate((12, 7, 9)):
            torch.testing.assert_close(right_logits[row, :length], left_logits[row, -length:], rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", GENERATORS)
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_the_same_with_a_cache_without_one_and_row_by_row(family, beams):
    model = tiny_generator(family)
    with_prefix(model)
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "num_beams": beams, "do_sample": False}
    batch = rows(left=family not in ("t5", "bart"))
    cached = model.generate(**batch, **settings)
    plain = model.generate(**batch, **settings, use_cache=False)
    assert torch.equal(cached, plain)
    assert not torch.equal(cached, tiny_generator(family).generate(**batch, **settings))
    for row, length in enumerate((12, 7, 9)):
        whole = {k: v[row : row + 1] for k, v in batch.items()}
        cut = {k: v[:, -length:] if family not in ("t5", "bart") else v[:, :length] for k, v in whole.items()}
        assert torch.equal(model.generate(**cut, **settings)[0, -6:], cached[row, -6:])


@pytest.mark.parametrize("family", TINY)
def test_gradients_are_right_under_gradient_checkpointing(family):
    if family == "mpnet":
        pytest.skip("transformers has no gradient checkpointing for MPNet")
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(family)
        attachment = with_prefix(model, mlp=True, mlp_hidden=8)
        if checkpointing:
            checkpoint_activations(model)
        for module in model.modules():
            module.p = 0.0 if isinstance(module, torch.nn.Dropout) else getattr(module, "p", None)
            module.dropout = 0.0 if isinstance(getattr(module, "dropout", None), float) else getattr(
                module, "dropout", None)  # fmt: skip
        model.train()
        model(**rows(), labels=torch.tensor([0, 1, 0])).loss.backward()
        gradients.append([p.grad.clone() for p in attachment.parameter_groups()[0].parameters])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(recomputed, plain, rtol=1e-5, atol=1e-8)


def by_hand(scores, more_scores, mask, value, more_value):
    """softmax over virtual and real keys, written out; all (B, H, ...)."""
    scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.cat([more_scores, scores], -1).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    length = more_scores.shape[-1]
    return weights[..., :length] @ more_value + weights[..., length:] @ value


def random_prefix(heads, width):
    torch.manual_seed(3)
    return KeyValues(torch.randn(1, heads, P, width), torch.randn(1, heads, P, width))


def test_debertas_virtual_keys_have_content_scores_and_no_position_terms():
    model = tiny_model("deberta-v2")
    with_prefix(model)
    attention = model.deberta.encoder.layer[0].attention.self
    virtual = attention.virtual_tokens = random_prefix(4, 8)
    x = torch.randn(2, 6, 32)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mask[1, ..., 4:] = False
    encoder = model.deberta.encoder
    relative = encoder.get_rel_pos(x)
    embeddings = encoder.get_rel_embedding()
    ours = attention(x, mask, relative_pos=relative, rel_embeddings=embeddings)[0]
    heads = [p(x).view(2, 6, 4, 8).transpose(1, 2) for p in
             (attention.query_proj, attention.key_proj, attention.value_proj)]  # fmt: skip
    query, key, value = heads
    flat = [t.flatten(0, 1) for t in (query, key)]
    bias = attention.disentangled_attention_bias(*flat, relative, embeddings, 3).view(2, 4, 6, 6)
    scale = (3 * 8) ** 0.5
    scores = query @ key.transpose(2, 3) / scale + bias
    more = query @ virtual.key.transpose(2, 3) / scale
    expected = by_hand(scores, more, mask, value, virtual.value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_t5s_virtual_keys_have_no_relative_bias():
    model = tiny_model("t5")
    with_prefix(model)
    attention = model.transformer.encoder.block[0].layer[0].SelfAttention
    virtual = attention.virtual_tokens = random_prefix(4, 8)
    x = torch.randn(2, 6, 32)
    query, key, value = (p(x).view(2, 6, 4, 8).transpose(1, 2) for p in (attention.q, attention.k, attention.v))
    scores = query @ key.transpose(2, 3) + attention.compute_bias(6, 6)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mixed = by_hand(scores, query @ virtual.key.transpose(2, 3), mask, value, virtual.value)
    expected = attention.o(mixed.transpose(1, 2).flatten(2))
    torch.testing.assert_close(attention(x, mask=mask)[0], expected, rtol=0, atol=1e-5)


def test_each_row_can_have_a_prefix_of_its_own_and_of_its_own_length():
    model = tiny_model("bert")
    attachment = with_prefix(model)
    batch = rows((9, 9))
    torch.manual_seed(0)
    first, second = torch.randn(2, 4, P, 8), torch.randn(2, 4, 3, 8)
    modules = list(attachment.modules.values())

    def lay(*key_values):
        for hook in list(model.bert.encoder._forward_pre_hooks):
            model.bert.encoder._forward_pre_hooks.pop(hook)
        for module in modules:
            module.virtual_tokens = key_values[0]

    padded = torch.nn.functional.pad(second, (0, 0, 0, 2))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    lay(KeyValues(torch.stack([first[0], padded[0]]), torch.stack([first[1], padded[1]]), mask))
    together = model(**batch).logits
    for row, own in enumerate((first, second)):
        lay(KeyValues(own[:1], own[1:]))
        alone = model(**{k: v[row : row + 1] for k, v in batch.items()}).logits
        torch.testing.assert_close(alone, together[row : row + 1], rtol=0, atol=2e-6)


@pytest.mark.parametrize("family", [pytest.param(f, marks=pytest.mark.long if f in ALIKE else ()) for f in TINY])
@pytest.mark.parametrize("mlp", [False, True])
def test_it_can_start_from_the_activations_of_words(family, mlp):
    model = tiny_model(family)
    attachment = with_prefix(
        model, Words(), init_words="three pieces here", mlp=mlp, mlp_hidden=64, init_lr=1e-2, init_steps=400
    )
    # Read again what the attentions compute for the words, at positions that the prefix does not shift.
    from peftbench.backbones.injection import recorded

    for hooks in [m._forward_pre_hooks for m in model.modules()]:
        hooks.clear()
    for module in attachment.modules.values():
        module.virtual_tokens = None
    ids = torch.tensor([[7, 8, 9]])
    both = {"decoder_input_ids": ids} if len(stacks(model)) == 2 else {}
    with recorded(attachment.modules) as seen, torch.no_grad():
        backbone(model)(input_ids=ids, **both)
    for kind, places in attachment.places.items():
        values = attachment.tables[kind]().detach()
        for place, (key, value) in zip(places, values, strict=True):
            for ours, theirs in ((key, seen[place.name][0]), (value, seen[place.name][1])):
                expected = theirs[0].transpose(0, 1).flatten(1)[[0, 1, 2, 0, 1]]
                torch.testing.assert_close(ours, expected, rtol=0, atol=0.15 if mlp else 1e-6)


def test_words_without_a_token_are_refused():
    with pytest.raises(ConfigurationError, match="init_words"):
        with_prefix(tiny_model(), Words(), init_words="")


def test_positions_shift_only_where_asked_and_where_there_are_any():
    batch = rows()
    shifted, plain = tiny_model("bert"), tiny_model("bert")
    with_prefix(shifted)
    with_prefix(plain, shift_positions=False)
    assert not torch.allclose(shifted(**batch).logits, plain(**batch).logits, atol=1e-5)
    moved = batch | {"position_ids": torch.arange(12).expand(3, -1) + P}
    torch.testing.assert_close(plain(**moved).logits, shifted(**batch).logits)
    for family in ("t5", "bart", "deberta-v2"):
        one, other = tiny_model(family), tiny_model(family)
        with_prefix(one)
        with_prefix(other, shift_positions=False)
        assert torch.equal(one(**batch).logits, other(**batch).logits)


@pytest.mark.parametrize(
    ("shape", "length", "stored", "trained"),
    [
        # Footnote 7 of the paper: "250K" (E2E, WebNLG) and "500K" (DART) of GPT-2 medium; with the MLP 25.7M.
        ({"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16}, 5, 245_760,
         5 * 1024 + 1025 * 512 + 513 * 49_152),
        ({"model_type": "gpt2", "n_embd": 1024, "n_layer": 24, "n_head": 16}, 10, 491_520, None),
        ({"model_type": "gpt2", "n_embd": 1280, "n_layer": 36, "n_head": 20}, 5, 460_800, None),
        # UniPELT's "184K" of BERT-base; P-Tuning v2's BERT-large at length 20.
        ({"model_type": "bert"}, 10, 184_320, None),
        ({"model_type": "bert", "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
              "intermediate_size": 4096}, 20, 983_040, None),
    ],
)  # fmt: skip
def test_published_counts(shape, length, stored, trained):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from peftbench.backbones.projections import split_fused

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**shape))
        split_fused(model)
    counts = with_prefix(model, length=length, mlp=trained is not None).count()
    assert counts.stored == counts.effective == stored
    assert counts.trained == (trained or stored)


@pytest.mark.parametrize("family", TINY)
def test_a_deep_copy_has_a_prefix_of_its_own(family):
    import copy

    model = tiny_model(family)
    with_prefix(model)
    before = model(**rows()).logits
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for table in backbone(twin).prefix.values():
            table.table.add_(1.0)
    assert not torch.allclose(twin(**rows()).logits, before, atol=1e-6)
    assert torch.equal(model(**rows()).logits, before)


def test_a_decoder_may_have_other_heads_than_its_encoder():
    from transformers import AutoConfig, AutoModelForSequenceClassification

    shape = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 32}
    config = AutoConfig.for_model("bart", vocab_size=600, encoder_attention_heads=4, decoder_attention_heads=8,
                                  bos_token_id=2, eos_token_id=3, pad_token_id=0, **shape)  # fmt: skip
    model = AutoModelForSequenceClassification.from_config(config)
    with_prefix(model)
    assert model(**rows()).logits.shape == (3, 3)


def test_dropout_falls_on_each_row_apart_and_only_in_training():
    model = tiny_model("bert")
    with_prefix(model, dropout=0.5)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    same = {k: v[:1].expand(4, -1) for k, v in rows().items()}
    assert model.train()(**same).logits.std(0).min() > 1e-5
    assert model.eval()(**same).logits.std(0).max() < 1e-7


def test_what_is_folded_is_what_was_trained_under_autocast():
    model = tiny_model("bert")
    attachment = with_prefix(model, mlp=True, mlp_hidden=64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        trained = attachment.tables["encoder_self"].values()
    attachment.finalize()
    assert torch.equal(trained, attachment.tables["encoder_self"].values())


def test_the_two_starts():
    official = with_prefix(tiny_model("bert"), length=50).tables["encoder_self"].table
    language = with_prefix(tiny_model("bert"), name="p_tuning_v2", length=50).tables["encoder_self"].table
    assert official.std().item() == pytest.approx(1, rel=0.05)
    assert language.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("family", ["deberta-v2", "bart", "t5"])
def test_a_prefix_takes_no_position_where_none_is_shifted(family):
    assert method_class("prefix_tuning")(length=7).positions_taken(tiny_model(family)) == 0
    assert method_class("prefix_tuning")(length=7).positions_taken(tiny_model("roberta")) == 7
    assert method_class("p_tuning_v2")(length=7, shift_positions=False).positions_taken(tiny_model("gpt2")) == 0
