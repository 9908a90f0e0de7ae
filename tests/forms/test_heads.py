"""Heads for choices and for spans, against the same numbers by hand."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import tiny_architecture
from torch.nn import functional as F
from transformers import AutoConfig

from peftbench.backbones.heads import auto_class, span_vectors
from peftbench.backbones.loading import load_backbone
from peftbench.compose import compose_run
from peftbench.config import ModelConfig
from peftbench.errors import ConfigurationError
from peftbench.forms.choice import Choice
from peftbench.forms.spans import Spans
from peftbench.task_config import TaskConfig
from peftbench.tasks.base import Split, TaskSpec
from peftbench.training.meter import Meter

CPU = torch.device("cpu")
COPA = TaskSpec("made_up", "made_up", ("premise",), ("first", "second"), ("accuracy",), {}, kind="choose")
WIC = TaskSpec("made_up", "made_up", ("sentence1", "sentence2"), ("no", "yes"), ("accuracy",), {}, kind="spans")
ENCODERS = ("bert", "roberta", "deberta-v2", "electra", "distilbert", "mpnet")


def choices() -> Split:
    columns = {
        "choices": [
            ["the museum opened", "a dog"],
            ["the minister", "dogs in Rome", "a report", "nobody"],
            ["yes", "no"],
        ],
        "correct": [[1], [0, 2], [0]],
    }
    texts = (["The reporter left.", "The minister stole a report from the museum.", "Is it so?"],)
    return Split("train", texts, np.array([1, 0, 0]), "", columns)


def made(form, spec, family, tiny_folder_of, length=32):
    folder = tiny_folder_of(family)
    backbone = load_backbone(ModelConfig("tiny", "tiny", path=str(folder)), spec.num_outputs, 0, form.head)
    found = form(spec, TaskConfig("made_up", max_length=length), backbone.model.eval(), backbone.tokenizer)
    found.ready(Accelerator(cpu=True), 2, Meter(CPU))
    return found


@pytest.mark.parametrize("family", [*ENCODERS, "gpt2", "llama", "t5"])
def test_a_choice_is_the_softmax_over_a_rows_own_candidates(family, tiny_folder_of):
    form, split = made(Choice, COPA, family, tiny_folder_of), choices()
    rows = form.tokenise(split)
    expected, losses = np.full((3, 4), -np.inf), []
    for i, candidates in enumerate(split.columns["choices"]):
        alone = [
            form.model(**form.tokenizer(split.texts[0][i], text, return_tensors="pt")).logits[0, 0]
            for text in candidates
        ]
        scores = torch.stack(alone)
        expected[i, : len(scores)] = scores.detach().numpy()
        losses.append(-F.softmax(scores, 0)[split.columns["correct"][i]].sum().log())
    np.testing.assert_allclose(form.numbers(rows), expected, rtol=1e-4, atol=1e-5)
    loss = form.loss(rows.batch(np.array([2, 0, 1]), CPU))
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(form.predict(split, rows), expected.argmax(1))


def test_a_choice_of_words_is_told_in_words(tiny_folder_of):
    form, split = made(Choice, COPA, "bert", tiny_folder_of), choices()
    split.columns["entities"] = split.columns["choices"]
    found = form.predict(split, form.tokenise(split), np.array([[0, 1, -np.inf, -np.inf], [0, 1, 3, 2], [2, 1, 0, 0]]))
    assert found == ["a dog", "a report", "yes"]


SENTENCES = (["The reporter left the museum.", "A dog stole it."], ["He left it at the museum door.", "Dogs steal."])
PAIRS = [[[0, 22, 28], [1, 18, 24]], [[0, 2, 5], [1, 0, 4]]]


@pytest.mark.parametrize("family", [*ENCODERS, "gpt2", "llama"])
def test_spans_are_the_tokens_of_their_characters(family, tiny_folder_of):
    form = made(Spans, WIC, family, tiny_folder_of)
    rows = form.tokenise(Split("train", SENTENCES, np.array([0, 1]), "", {"spans": PAIRS}))
    for row, pair in enumerate(PAIRS):
        ids = rows.tokens.row(row)
        for (text, start, end), (first, after) in zip(pair, rows.spans[row], strict=True):
            marked = SENTENCES[text][row][start:end]
            written = form.tokenizer.decode(ids[first:after]).replace(" ", "").replace("##", "")
            assert marked.lower() in written.lower(), (marked, written)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_span_behind_a_spelled_end_token_is_still_its_own(family, tiny_folder_of):
    form = made(Spans, WIC, family, tiny_folder_of)
    end = form.tokenizer.eos_token
    text = f"A {end} and {end} the museum closed."
    start = text.index("museum")
    split = Split("train", ([text], ["Dogs."]), np.array([0]), "", {"spans": [[[0, start, start + 6], [1, 0, 4]]]})
    rows = form.tokenise(split)
    ids = rows.tokens.row(0)
    first, after = rows.spans[0, 0]
    assert form.tokenizer.decode(ids[first:after]).strip() == "museum"
    assert form.tokenizer.eos_token_id not in ids


@pytest.mark.parametrize("family", [*ENCODERS, "gpt2", "llama"])
def test_the_span_head_is_one_map_of_a_token_that_saw_all_and_either_spans_mean(family, tiny_folder_of):
    form = made(Spans, WIC, family, tiny_folder_of)
    split = Split("train", SENTENCES, np.array([0, 1]), "", {"spans": PAIRS})
    rows = form.tokenise(split)
    logits = form.numbers(rows)
    for row in range(2):
        inputs = form.tokenizer(SENTENCES[0][row], SENTENCES[1][row], return_tensors="pt")
        if family not in ENCODERS:  # The form leaves the end token out.
            inputs = {"input_ids": torch.tensor([rows.tokens.row(row)])}
        with torch.no_grad():
            hidden = form.model.base_model(**inputs).last_hidden_state[0]
            spans = [hidden[first:after].mean(0) for first, after in rows.spans[row]]
            expected = form.model.classifier(torch.cat([hidden[0 if family in ENCODERS else -1], *spans])).numpy()
        np.testing.assert_allclose(logits[row], expected, rtol=1e-4, atol=1e-5)
    loss = form.loss(rows.batch(np.arange(2), CPU))
    torch.testing.assert_close(
        loss, F.cross_entropy(torch.from_numpy(logits), torch.tensor([0, 1])), rtol=1e-4, atol=1e-5
    )


def test_span_vectors_do_not_see_padding_on_either_side():
    hidden = torch.randn(1, 5, 3)
    alone = span_vectors(hidden, torch.ones(1, 5, dtype=torch.long), torch.tensor([[[1, 3], [4, 5]]]))
    wider = torch.cat([torch.full((1, 2, 3), 9.0), hidden, torch.full((1, 1, 3), 9.0)], 1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 0]])
    torch.testing.assert_close(span_vectors(wider, mask, torch.tensor([[[3, 5], [6, 7]]])), alone)


def test_a_span_that_is_cut_off_is_told(tiny_folder_of):
    form = made(Spans, WIC, "bert", tiny_folder_of, length=8)
    with pytest.raises(
        ConfigurationError, match=r"row 0: 'museum' lies beyond 8 tokens; use a larger task\.max_length"
    ):
        form.tokenise(Split("train", SENTENCES, np.array([0, 1]), "", {"spans": PAIRS}))


def test_two_stacks_have_no_head_on_spans():
    with pytest.raises(ConfigurationError, match=r"use task\.form=text"):
        auto_class("spans", AutoConfig.for_model(**tiny_architecture("t5")))


def test_the_same_span_head_is_drawn_for_every_method_and_none_from_elsewhere(tiny_folder_of):
    config = ModelConfig("tiny", "tiny", path=str(tiny_folder_of("bert")))
    first, second = (load_backbone(config, 2, seed, "spans").model for seed in (0, 0))
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    other = load_backbone(config, 2, 1, "spans").model
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(
        first.base_model.embeddings.word_embeddings.weight, other.base_model.embeddings.word_embeddings.weight
    )


def test_an_encoder_does_not_write(tiny_folder_of):
    from peftbench.forms.registry import form_class

    with pytest.raises(ConfigurationError, match="is an encoder"):
        form_class(compose_run(["task=e2e", "model=minilm"]))
    with pytest.raises(ConfigurationError, match="asks for a text"):
        form_class(compose_run(["task=e2e", "model=gpt2", "task.form=head"]))
    assert form_class(compose_run(["task=boolq", "model=gpt2"])).name == "text"
    assert form_class(compose_run(["task=boolq", "model=gpt2", "task.form=head"])).name == "classification"
    assert form_class(compose_run(["task=copa"])).name == "choice"
    assert form_class(compose_run(["task=wic"])).name == "spans"
