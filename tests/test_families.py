"""Whole runs on every family of backbone, and the tokens that their classifiers pool at."""

import json
import sys

import numpy as np
import pytest
import torch
from conftest import TINY
from contracts.test_methods import ALIKE

from peftbench import cli
from peftbench.backbones.loading import load_backbone
from peftbench.compose import compose_run
from peftbench.training.batching import collate, tokenise

POOLS_AT_END = ("t5", "bart")
DECODERS = ("gpt2", "llama")


@pytest.fixture
def words(tiny_run, tiny_folder_of):
    """Family -> the command line of a run of seconds."""

    def line(family):
        return [f"model.path={tiny_folder_of(family)}" if w.startswith("model.path=") else w for w in tiny_run]

    return line


def load(words, outputs=2):
    return load_backbone(compose_run(words).model, outputs, seed=0)


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.long if f in ALIKE else ()) for f in sorted(TINY)]
)
def test_a_run_through_the_console_completes(family, words, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["peftbench"])
    assert cli.exit_status([*words(family), "task=mrpc", "task.form=head", "method=lora", "trainer.merge=true"]) == 0
    (path,) = (tmp_path / "outputs").rglob("record.json")
    record = json.loads(path.read_text())
    assert record["status"] == "completed"
    assert record["checks"]["finalize_max_logit_difference"] < 1e-5
    assert 0 <= record["metrics"]["validation"]["accuracy"] <= 1

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    merged, info = AutoModelForSequenceClassification.from_pretrained(path.parent / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    tokenizer = AutoTokenizer.from_pretrained(path.parent / "merged")
    assert merged.config.pad_token_id == tokenizer.pad_token_id
    assert merged.config.id2label == {0: "not_equivalent", 1: "equivalent"}
    inputs = tokenizer(
        ["one text", "another one"], ["a longer text of words", "two"], padding=True, return_tensors="pt"
    )
    assert merged(**inputs).logits.shape == (2, 2)


@pytest.mark.parametrize("family", DECODERS)
def test_a_decoder_pads_with_its_end_token_and_pools_before_the_padding(family, words):
    backbone = load(words(family))
    model, tokenizer = backbone.model.eval(), backbone.tokenizer
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == model.config.pad_token_id == 3
    texts = [["a short text", "a much longer text of many more words than the other has"]]
    rows = tokenise(texts, None, tokenizer, 64)
    with torch.no_grad():
        together = model(**collate(rows, np.array([0, 1]), torch.device("cpu"))).logits
        alone = [model(**collate(rows, np.array([i]), torch.device("cpu"))).logits for i in (0, 1)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", [*POOLS_AT_END, *DECODERS])
@pytest.mark.parametrize("length", [64, 12])
def test_rows_are_classified_alike_alone_and_together_even_where_a_text_spells_the_end_token(family, length, words):
    """T5 and BART count the end tokens of a row, cut ones too; decoders take theirs for padding."""
    backbone = load(words(family))
    model, tokenizer = backbone.model.eval(), backbone.tokenizer
    end, pad = tokenizer.eos_token, tokenizer.pad_token
    assert end == "</s>"
    first = ["plain words", f"the {end} is near", f"{end}{pad} {end}", end, "many words " * 20]
    second = ["more plain words", end * 2, end, pad, f"other {end} " * 20]
    rows = tokenise([first, second], None, tokenizer, length)
    assert rows.lengths.max() == length
    ends = [row.tolist().count(3) for row in np.split(rows.tokens, rows.starts[1:-1])]
    assert ends == [{"gpt2": 0, "llama": 0, "t5": 2, "bart": 3}[family]] * len(first)
    if family in POOLS_AT_END:
        assert all(rows.tokens[end - 1] == 3 for end in rows.starts[1:])
    which = np.arange(len(first))
    with torch.no_grad():
        together = model(**collate(rows, which, torch.device("cpu"))).logits
        alone = [model(**collate(rows, which[i : i + 1], torch.device("cpu"))).logits for i in which]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)
