"""Virtual tokens at the input, against the same model called with vectors that the test puts together itself."""

import copy

import pytest
import torch
from conftest import TINY, tiny_architecture, tiny_generator, tiny_model
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel

from peftbench.assembly import checkpoint_activations
from peftbench.backbones.anatomy import backbone
from peftbench.doors import Context
from peftbench.layers.prompt import RowPrompts
from peftbench.methods.prompt_tuning import PromptTuning

ENCODERS = ("bert", "roberta", "deberta-v2", "distilbert", "electra", "mpnet")
DECODERS = ("gpt2", "llama")
BOTH = ("t5", "bart")
LENGTHS = (9, 5, 12, 7)
each_family = pytest.mark.parametrize("family", TINY)
each_generator = pytest.mark.parametrize("family", DECODERS + BOTH)


def prompted(model, length=5, seed=0, std=1.0):
    """The hooks on `model`, with a prompt strong enough to show."""
    context = Context(torch.Generator().manual_seed(seed), 1, "tiny")
    attachment = PromptTuning(length=length).attach(model.requires_grad_(False), context)
    with torch.no_grad():
        weight = attachment.prompt.weight
        weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed)) * std)
    return attachment.inputs


def rows():
    generator = torch.Generator().manual_seed(4)
    return [torch.cat([torch.randint(5, 600, (n - 1,), generator=generator), torch.tensor([3])]) for n in LENGTHS]


def padded(tokens, side):
    width = max(map(len, tokens))
    ids = torch.zeros(len(tokens), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(tokens):
        where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, where], mask[i, where] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def hidden(model, family, inputs, **more):
    """Hidden states at the tokens of each row, in the base model: the encoder's where there are two stacks."""
    base = backbone(model)
    with torch.no_grad():
        if family in BOTH:
            # One decoder step whose cross-attention sees the prompt, and the encoder's own states.
            start = torch.full((len(inputs["input_ids"]), 1), 3)
            output = base(**inputs, decoder_input_ids=start, **more)
            encoded = output.encoder_last_hidden_state[:, -inputs["input_ids"].shape[1] :]
            return [
                torch.cat([e[m > 0], d]) for e, m, d in zip(encoded, inputs["attention_mask"], output[0], strict=True)
            ]
        output = base(**inputs, **more)[0]
        assert output.shape[1] == inputs["input_ids"].shape[1]
        return [states[m > 0] for states, m in zip(output, inputs["attention_mask"], strict=True)]


def check(left, right, atol=5e-6):
    for a, b in zip(left, right, strict=True):
        assert_close(a, b, rtol=0, atol=atol)


@each_family
def test_it_is_the_plain_model_on_prompt_and_words_put_together_by_hand(family):
    plain, model = tiny_model(family), tiny_model(family)
    inputs = prompted(model)
    batch = padded(rows(), "right")
    words = backbone(plain).get_input_embeddings()(batch["input_ids"])
    mine = {
        "inputs_embeds": torch.cat([inputs.provider().detach().expand(4, -1, -1), words], 1),
        "attention_mask": torch.cat([torch.ones(4, 5, dtype=torch.long), batch["attention_mask"]], 1),
    }
    with torch.no_grad():
        if family in BOTH:
            start = torch.full((4, 1), 3)
            expected = backbone(plain)(**mine, decoder_input_ids=start)
            expected = [
                torch.cat([e[5:][m > 0], d])
                for e, m, d in zip(
                    expected.encoder_last_hidden_state, batch["attention_mask"], expected[0], strict=True
                )
            ]
        else:
            expected = backbone(plain)(**mine)[0][:, 5:]
            expected = [states[m > 0] for states, m in zip(expected, batch["attention_mask"], strict=True)]
    check(hidden(model, family, batch), expected)
    without = hidden(plain, family, batch)
    assert all((a - b).abs().max() > 1e-3 for a, b in zip(hidden(model, family, batch), without, strict=True))


@each_family
def test_padding_and_company_change_nothing(family):
    model = tiny_model(family)
    prompted(model)
    tokens = rows()
    alone = [hidden(model, family, padded([row], "right"))[0] for row in tokens]
    check(hidden(model, family, padded(tokens, "right")), alone)
    check(hidden(model, family, padded(tokens, "left")), alone)


@each_family
def test_a_missing_mask_is_one_of_ones(family):
    model = tiny_model(family)
    prompted(model)
    batch = padded(rows()[2:3], "right")
    with torch.no_grad():
        assert_close(model(batch["input_ids"]).logits, model(**batch).logits, rtol=0, atol=5e-6)


@pytest.mark.parametrize("family", [*ENCODERS, *DECODERS])
def test_heads_pool_the_token_that_they_always_pool(family):
    """One row's logits from its hidden states: the first token's or the last one's, through the head by hand."""
    model = tiny_model(family)
    prompted(model)
    batch = padded(rows()[:1], "right")
    with torch.no_grad():
        output = model(**batch, output_hidden_states=True)
        states = output.hidden_states[-1]
        assert all(layer.shape[1] == 9 for layer in output.hidden_states)
        if family == "bert":
            expected = model.classifier(model.bert.pooler(states))
        elif family == "deberta-v2":
            expected = model.classifier(model.pooler(states))
        elif family == "distilbert":
            expected = model.classifier(model.pre_classifier(states[:, 0]).relu())
        elif family in DECODERS:
            expected = model.score(states[:, -1])
        else:
            expected = model.classifier(states)
    assert_close(output.logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta", "mpnet"])
def test_a_pooler_inside_the_base_model_reads_the_first_real_token(family):
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(**tiny_architecture(family), pad_token_id=0)).eval()
    prompted(model)
    with torch.no_grad():
        for side in ("right", "left"):
            output = model(**padded(rows(), side))
            assert_close(output.pooler_output, model.pooler(output.last_hidden_state), rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ENCODERS)
def test_tuples_and_hidden_states_are_narrowed_too(family):
    model = backbone(tiny_model(family))
    prompted(model)
    batch = padded(rows(), "left")
    with torch.no_grad():
        named = model(**batch, output_hidden_states=True)
        plain = model(**batch, output_hidden_states=True, return_dict=False)
    assert torch.equal(named[0], plain[0])
    assert all(states.shape == (4, 12, 32) for states in named.hidden_states)
    assert torch.equal(named.hidden_states[-1], named.last_hidden_state)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert", "mpnet", *DECODERS])
def test_positions_that_are_given_are_moved_by_the_prompt(family):
    model = tiny_model(family)
    prompted(model)
    batch = padded(rows(), "right")
    first = 2 if family == "mpnet" else 1 if family == "roberta" else 0
    given = torch.arange(first, first + 12).expand(4, -1)
    check(hidden(model, family, batch, position_ids=given), hidden(model, family, batch))
    check(hidden(model, family, batch, position_ids=given[:1]), hidden(model, family, batch))


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_token_types_go_with_their_tokens(family):
    config = tiny_model(family).config
    config.type_vocab_size = 2
    torch.manual_seed(0)
    model = type(tiny_model(family))(config).eval()
    prompted(model)
    tokens = rows()
    right, left = padded(tokens, "right"), padded(tokens, "left")
    for batch in (right, left):
        types = torch.zeros_like(batch["input_ids"])
        for i in range(4):
            types[i, torch.where(batch["attention_mask"][i] > 0)[0][3:]] = 1
        batch["token_type_ids"] = types
    check(hidden(model, family, left), hidden(model, family, right))
    plain = hidden(model, family, {k: v for k, v in right.items() if k != "token_type_ids"})
    assert (plain[0] - hidden(model, family, right)[0]).abs().max() > 1e-3


@each_family
def test_prompts_by_row_are_those_of_separate_passes(family):
    model = tiny_model(family)
    inputs = prompted(model)
    generator = torch.Generator().manual_seed(8)
    prompts = [torch.randn(n, 32, generator=generator) for n in (3, 6, 1)]
    tasks = torch.tensor([1, 0, 2, 1])
    tokens = rows()
    separate = []
    for row, task in zip(tokens, tasks.tolist(), strict=True):
        inputs.provider = RowPrompts(prompts[task][None])
        separate.append(hidden(model, family, padded([row], "right"))[0])
    inputs.provider = RowPrompts.by_task(prompts, tasks)
    for side in ("right", "left"):
        check(hidden(model, family, padded(tokens, side)), separate)
    with pytest.raises(ValueError, match="4 rows do not fit a batch of 3"):
        hidden(model, family, padded(tokens[:3], "right"))


def generated(model, batch, **settings):
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None} | settings
    with torch.no_grad():
        return model.generate(**batch, **settings)


def new_tokens(model, batch, **settings):
    ids = generated(model, batch, **settings)
    return ids if model.config.is_encoder_decoder else ids[:, batch["input_ids"].shape[1] :]


@each_generator
@pytest.mark.parametrize("beams", [1, 3])
def test_generating_with_a_cache_in_a_left_padded_batch_is_generating_alone_without(family, beams):
    model = tiny_generator(family)
    prompted(model)
    tokens = rows()
    together = new_tokens(model, padded(tokens, "left"), num_beams=beams)
    slow = new_tokens(model, padded(tokens, "left"), num_beams=beams, use_cache=False)
    assert torch.equal(together, slow)
    for row, expected in zip(tokens, together, strict=True):
        assert torch.equal(new_tokens(model, padded([row], "right"), num_beams=beams)[0], expected)
    assert not torch.equal(together, new_tokens(tiny_generator(family), padded(tokens, "left"), num_beams=beams))


@each_generator
def test_generated_scores_are_those_of_one_forward_pass(family):
    """Greedy scores with a cache, against logits of the whole sequence in one pass."""
    model = tiny_generator(family)
    prompted(model)
    batch = padded(rows(), "left")
    output = generated(model, batch, output_logits=True, return_dict_in_generate=True)
    stepwise = torch.stack(output.logits, 1)
    with torch.no_grad():
        if family in BOTH:
            whole = model(**batch, decoder_input_ids=output.sequences).logits[:, :-1]
        else:
            grown = torch.cat([batch["attention_mask"], torch.ones(4, 8, dtype=torch.long)], 1)
            whole = model(input_ids=output.sequences, attention_mask=grown).logits[:, 11:-1]
    assert_close(stepwise, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", DECODERS)
@pytest.mark.parametrize("masked", [True, False])
def test_a_step_behind_a_cache_is_the_last_step_of_the_whole(family, masked):
    """Called by hand, without position ids; without a mask the prompts of the rows differ in length."""
    model = tiny_generator(family)
    inputs = prompted(model)
    batch = padded(rows(), "left")
    if not masked:
        inputs.provider = RowPrompts.by_task([torch.randn(3, 32), torch.randn(6, 32)], torch.tensor([1, 0, 1, 0]))
        batch = {"input_ids": torch.cat([row[:5][None] for row in rows()])}
    heads = {k: v[:, :-2] for k, v in batch.items()}
    with torch.no_grad():
        cache = model(**heads, use_cache=True).past_key_values
        assert cache.get_seq_length() == inputs.provider.length + heads["input_ids"].shape[1]
        step = model(**(batch | {"input_ids": batch["input_ids"][:, -2:]}), past_key_values=cache, use_cache=True)
        assert_close(step.logits, model(**batch).logits[:, -2:], rtol=0, atol=5e-6)


@each_generator
def test_sampling_is_the_same_with_and_without_a_cache(family):
    model = tiny_generator(family)
    prompted(model)
    batch = padded(rows(), "left")
    drawn = []
    for cached in (True, False):
        torch.manual_seed(3)
        drawn.append(new_tokens(model, batch, do_sample=True, use_cache=cached, num_return_sequences=2))
    assert torch.equal(*drawn)


@each_generator
@pytest.mark.parametrize("beams", [1, 3])
def test_a_mixed_batch_generates_what_each_row_would_alone(family, beams):
    model = tiny_generator(family)
    inputs = prompted(model)
    generator = torch.Generator().manual_seed(8)
    prompts = [torch.randn(n, 32, generator=generator) for n in (3, 6, 1)]
    tasks = torch.tensor([1, 0, 2, 1])
    inputs.provider = RowPrompts.by_task(prompts, tasks)
    together = new_tokens(model, padded(rows(), "left"), num_beams=beams)
    for row, task, expected in zip(rows(), tasks.tolist(), together, strict=True):
        inputs.provider = RowPrompts(prompts[task][None])
        assert torch.equal(new_tokens(model, padded([row], "left"), num_beams=beams)[0], expected)


@pytest.mark.parametrize("family", DECODERS)
def test_a_static_cache_is_refused_in_words(family):
    model = tiny_generator(family)
    prompted(model)
    with pytest.raises(ValueError, match="without a static cache"):
        generated(model, padded(rows(), "left"), cache_implementation="static", disable_compile=True)


@pytest.mark.parametrize("family", DECODERS)
def test_logits_and_labels_of_a_language_model_stay_aligned(family):
    model = tiny_generator(family)
    inputs = prompted(model)
    batch = padded(rows(), "right")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    output = model(**batch, labels=labels)
    assert output.logits.shape == (4, 12, 600)
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert_close(output.loss, expected, rtol=0, atol=1e-5)
    output.loss.backward()
    assert inputs.provider.weight.grad.abs().sum() > 0


@each_family
def test_gradient_checkpointing_changes_no_gradient(family):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(family)
        inputs = prompted(model)
        if checkpointing:
            if not model.supports_gradient_checkpointing:
                pytest.skip("the architecture has none")
            checkpoint_activations(model)
            layers = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
            assert layers
        torch.manual_seed(1)
        model.train()(**padded(rows(), "right"), labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        gradients.append(inputs.provider.weight.grad)
    assert gradients[0].abs().min() > 0
    assert_close(*gradients, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("halves", ["autocast", "weights"])
def test_half_precision_runs_with_a_prompt_in_full(family, halves):
    model = tiny_model(family)
    inputs = prompted(model if halves == "autocast" else model.to(torch.bfloat16))
    assert inputs.provider.weight.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16, enabled=halves == "autocast"):
        loss = model(**padded(rows(), "left"), labels=torch.tensor([0, 1, 1, 0])).loss
    loss.backward()
    assert inputs.provider.weight.grad.dtype == torch.float32
    assert inputs.provider.weight.grad.abs().sum() > 0


def test_a_deep_copy_of_the_model_has_a_prompt_of_its_own():
    model = tiny_model("bert")
    inputs = prompted(model)
    batch = padded(rows(), "left")
    twin = copy.deepcopy(model)
    before = hidden(model, "bert", batch)
    with torch.no_grad():
        inputs.provider.weight.zero_()
    check(hidden(twin, "bert", batch), before, atol=0)
    assert (hidden(model, "bert", batch)[0] - before[0]).abs().max() > 1e-3
