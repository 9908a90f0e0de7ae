"""Tokens that are kept on disk: the same as made anew, and made anew wherever anything differs."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from peftbench.training import batching, token_cache


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(token_cache, "FEWEST", 3)
    return tmp_path / "tokens"


@pytest.fixture
def tiny_tokenizer(tiny_folder):
    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture
def counted(monkeypatch):
    """How often something was tokenised."""
    calls, encode = [], batching.encode
    monkeypatch.setattr(batching, "encode", lambda *args: calls.append(1) or encode(*args))
    return calls


TEXTS = [["a b c", "the cat sat", "on"], ["x", "a mat", "b"]]


def the_same(left, right):
    return all(
        np.array_equal(getattr(left, name), getattr(right, name)) for name in ("tokens", "types", "starts")
    ) and (left.tokens.dtype == right.tokens.dtype == np.int64)


def test_a_second_process_finds_the_same_tokens(tiny_tokenizer, counted, small):
    labels = np.array([0, 1, 0])
    first = batching.tokenise(TEXTS, labels, tiny_tokenizer, 8)
    tiny_tokenizer("something else", truncation=True, max_length=3)  # Leaves a mark in the tokenizer.
    second = batching.tokenise(TEXTS, labels, tiny_tokenizer, 8)
    assert len(counted) == 1
    assert len(list(small.iterdir())) == 1
    assert the_same(first, second)
    assert second.labels is labels


def test_what_differs_is_tokenised_anew(tiny_tokenizer, counted, small):
    batching.tokenise(TEXTS, None, tiny_tokenizer, 8)
    batching.tokenise(TEXTS, None, tiny_tokenizer, 4)
    batching.tokenise([TEXTS[0], ["x", "a mat", "c"]], None, tiny_tokenizer, 8)
    batching.tokenise([TEXTS[0]], None, tiny_tokenizer, 8)
    tiny_tokenizer.add_tokens(["sat"])
    batching.tokenise(TEXTS, None, tiny_tokenizer, 8)
    tiny_tokenizer.model_input_names = ["input_ids"]  # No token types.
    batching.tokenise(TEXTS, None, tiny_tokenizer, 8)
    assert len(counted) == len(list(small.iterdir())) == 6
    batching.tokenise([["few"]], None, tiny_tokenizer, 8)
    assert len(list(small.iterdir())) == 6


def test_a_damaged_file_is_made_again(tiny_tokenizer, counted, small):
    first = batching.tokenise(TEXTS, None, tiny_tokenizer, 8)
    (file,) = small.iterdir()
    for damage in (b"", b"PK\x03\x04", file.read_bytes()[:-40]):
        file.write_bytes(damage)
        assert the_same(batching.tokenise(TEXTS, None, tiny_tokenizer, 8), first)
    assert len(counted) == 4


def test_the_oldest_goes_and_a_folder_that_cannot_be_written_stops_nothing(tiny_tokenizer, counted, small, monkeypatch):
    monkeypatch.setattr(token_cache, "MOST", 2)
    for length in (4, 5, 6):
        batching.tokenise(TEXTS, None, tiny_tokenizer, length)
    assert len(list(small.iterdir())) == 2
    monkeypatch.setenv("PEFTBENCH_CACHE", "/dev/null/cache")
    assert len(batching.tokenise(TEXTS, None, tiny_tokenizer, 8)) == 3
