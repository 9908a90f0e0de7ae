"""P-Tuning's encoder, template and what is kept, against torch's own modules put together in the test."""

import pytest
import torch
from conftest import TINY, tiny_generator, tiny_model
from contracts.test_methods import attached, logits, train
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close

from peftbench.backbones.anatomy import backbone
from peftbench.doors import Context
from peftbench.errors import ConfigurationError
from peftbench.layers.prompt_encoder import PromptEncoder
from peftbench.methods.p_tuning import PTuning
from peftbench.strict import build

KINDS = pytest.mark.parametrize("kind", ["lstm", "mlp"])


VOCABULARY = {"it": 40, "was": 41, "un": 43, "##real": 44}


class Pieces:
    """A tokenizer of three words, one of which is two pieces."""

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        return {"input_ids": [43, 44] if text == "unreal" else [1, 2] if text == "##real" else [VOCABULARY[text]]}

    def get_vocab(self):
        return VOCABULARY

    def convert_ids_to_tokens(self, ids):
        names = {v: k for k, v in VOCABULARY.items()}
        return [names.get(i, str(i)) for i in ids]


def start(model=None, seed=0, **settings):
    model = tiny_model() if model is None else model
    context = Context(torch.Generator().manual_seed(seed), 1, "tiny", (), Pieces(), ())
    return PTuning(**settings).attach(model.requires_grad_(False), context), model


def reference(encoder, width, kind):
    """The released code's modules, with our values."""
    lstm = nn.LSTM(width, width // 2, num_layers=2, bidirectional=True, batch_first=True)
    mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
    mlp.load_state_dict(encoder.mlp.state_dict())
    hidden = encoder.embedding[None]
    if kind == "lstm":
        lstm.load_state_dict(encoder.lstm.state_dict())
        hidden = lstm(hidden)[0]
    return mlp(hidden)[0], [*mlp.parameters(), *(lstm.parameters() if kind == "lstm" else [])]


@KINDS
def test_the_encoder_is_the_released_codes(kind):
    attachment, _ = start(encoder=kind, template=(4, 2))
    encoder = attachment.prompt.pseudo
    expected, parameters = reference(encoder, 32, kind)
    assert_close(encoder(), expected)
    counts = attachment.count()
    assert counts.trained == 6 * 32 + sum(p.numel() for p in parameters)
    assert counts.stored == counts.effective == 6 * 32
    by_card = 6 * 32 + 2 * (32**2 + 32) + (12 * 32**2 + 16 * 32 if kind == "lstm" else 0)
    assert counts.trained == by_card


def test_the_cards_numbers_are_right():
    encoder = PromptEncoder(9, 384, "lstm", torch.Generator(), torch.device("cpu"))
    assert "2,074,752 against 3,456" in (PTuning.__doc__ or "")
    assert sum(p.numel() for p in encoder.parameters()) == 2_074_752
    assert encoder().shape == (9, 384)
    assert PTuning().pseudo_tokens * 384 == 3456


@KINDS
def test_it_starts_as_torch_does_and_draws_from_its_own_generator(kind):
    before = torch.random.get_rng_state()
    encoder = PromptEncoder(200, 64, kind, torch.Generator().manual_seed(1), torch.device("cpu"))
    assert torch.equal(before, torch.random.get_rng_state())
    again = PromptEncoder(200, 64, kind, torch.Generator().manual_seed(1), torch.device("cpu"))
    other = PromptEncoder(200, 64, kind, torch.Generator().manual_seed(2), torch.device("cpu"))
    torch.manual_seed(0)
    expected = {"mlp.0.weight": nn.Linear(64, 64).weight}
    if kind == "lstm":
        expected |= {f"lstm.{n}": p for n, p in nn.LSTM(64, 32, 2, bidirectional=True).named_parameters()}
    own, same, differing = (dict(e.named_parameters()) for e in (encoder, again, other))
    assert all(torch.equal(own[n], same[n]) and not torch.equal(own[n], differing[n]) for n in own)
    for name, theirs in expected.items():
        assert own[name].abs().max() <= theirs.abs().max() * 1.05
        if theirs.ndim > 1:
            assert own[name].std().item() == pytest.approx(theirs.std().item(), rel=0.05)
    assert own["embedding"].std().item() == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_anchors_are_the_backbones_own_words_in_their_places(family):
    attachment, model = start(tiny_model(family), template=("it", 2, "was", "##real", 1))
    words = backbone(model).get_input_embeddings().weight.detach()
    prompt, pseudo = attachment.prompt(), attachment.prompt.pseudo()
    assert_close(prompt, torch.stack([words[40], pseudo[0], pseudo[1], words[41], words[44], pseudo[2]]))
    assert PTuning(template=("it", 2, "was", "##real", 1)).positions_taken(model) == attachment.prompt.length == 6
    assert attachment.count().stored == 3 * 32
    assert not any("anchor" in n for n, _ in model.named_parameters())


def test_an_anchor_of_several_tokens_is_refused_with_its_pieces():
    with pytest.raises(ConfigurationError, match=r"'unreal' is 2 tokens.*'un', '##real'"):
        start(template=(1, "unreal"))


@pytest.mark.parametrize("template", [[], ["word"], [0, 3], [3, ""], [-1], [True]])
def test_a_template_without_meaning_is_refused(template):
    with pytest.raises(ConfigurationError, match="template"):
        build(PTuning, {"template": template}, "method", "here")


def test_a_template_is_read_from_a_configuration():
    method = build(PTuning, {"template": [3, "it was", 1]}, "method", "here")
    assert method.template == (3, "it was", 1)
    assert (method.pseudo_tokens, method.positions_taken(tiny_model())) == (4, 5)


@KINDS
@pytest.mark.parametrize("family", TINY)
def test_the_encoder_is_dropped_and_the_outputs_stay(kind, family, tmp_path):
    model, attachment = attached("p_tuning", family, encoder=kind)
    train(model, attachment, steps=3)
    before, counts = logits(model), attachment.count()
    attachment.export(tmp_path / "before")
    attachment.finalize()
    attachment.export(tmp_path / "after")
    assert torch.equal(logits(model), before)
    assert not [m for m in model.modules() if isinstance(m, (PromptEncoder, nn.LSTM))]
    assert attachment.count().stored == counts.stored == 5 * 32 < counts.trained
    first, second = (load_file(tmp_path / x / "adapter_model.safetensors") for x in ("before", "after"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    fresh, other = attached("p_tuning", family, seed=7, encoder=kind)
    other.finalize()
    assert not fresh.load_state_dict(second, strict=False).unexpected_keys
    assert torch.equal(logits(fresh), before)


@KINDS
@pytest.mark.parametrize("family", TINY)
def test_every_part_of_the_encoder_learns_and_moves_the_output(kind, family):
    model, attachment = attached("p_tuning", family, encoder=kind)
    train(model, attachment, steps=1)
    before = logits(model)
    batch = torch.randint(5, 600, (2, 6), generator=torch.Generator().manual_seed(0))
    batch[:, -1] = 3
    model(input_ids=batch).logits.square().sum().backward()
    for parameter in attachment.prompt.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    with torch.no_grad():
        attachment.prompt.pseudo.mlp[2].weight *= -3
    assert (logits(model) - before).abs().max() > 1e-6


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_it_generates_the_same_before_and_after(family):
    attachment, model = start(tiny_generator(family), template=(2, "it", 2))
    ids = torch.randint(5, 600, (2, 6), generator=torch.Generator().manual_seed(0))
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    before = model.generate(ids, **settings)
    attachment.finalize()
    assert torch.equal(model.generate(ids, **settings), before)
    assert torch.equal(model.generate(ids, use_cache=False, **settings), before)


def test_autocast_leaves_the_encoder_in_full_precision():
    attachment, model = start()
    with torch.autocast("cpu", torch.bfloat16):
        assert attachment.prompt().dtype == torch.float32
        assert_close(attachment.prompt(), attachment.prompt().clone())
        model(input_ids=torch.tensor([[5, 6, 3]])).logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in attachment.prompt.parameters())


def test_on_the_meta_device_there_are_counts():
    from transformers import AutoModelForSequenceClassification

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(tiny_model().config)
    attachment = PTuning(template=(2, "any")).attach(model, Context(torch.Generator(), 1, "tiny"))
    assert attachment.count().stored == 2 * 32
    assert not any(p.is_meta for p in attachment.prompt.parameters())
    assert attachment.analysis() == {}


def test_decay_is_for_matrices():
    attachment, _ = start()
    decays = {id(p): g.decays for g in attachment.parameter_groups() for p in g.parameters}
    assert all(decays[id(p)] == (p.ndim > 1) for p in attachment.prompt.parameters())
