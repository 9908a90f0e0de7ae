"""Batches: every row once, little padding, exact collation."""

import numpy as np
import torch

from peftbench.training.batching import (
    TokenRows,
    collate,
    evaluation_plan,
    micro_batches,
    plan_epoch,
)

RNG = np.random.default_rng(0)
LENGTHS = RNG.integers(5, 120, 1003)


def rows() -> TokenRows:
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    tokens = np.concatenate([np.full(n, 10 + i) for i, n in enumerate(LENGTHS)])
    return TokenRows(tokens, tokens % 2, starts, np.arange(len(LENGTHS)), pad=0)


def padded(batches) -> int:
    return sum(int(LENGTHS[b].max()) * len(b) for b in batches)


def test_rows_of_several_sequences_share_the_batch_size():
    sequences = np.array([3, 1, 9, 2, 2, 1])
    plan = evaluation_plan(np.array([30, 10, 90, 20, 21, 11]), 5, sequences)
    assert [rows.tolist() for rows in plan] == [[2], [0, 4], [3, 5, 1]]


def test_an_epoch_holds_every_row_once_in_full_batches():
    for bucket in (True, False):
        batches = plan_epoch(LENGTHS, 32, bucket, np.random.default_rng(1))
        assert sorted(np.concatenate(batches)) == list(range(1003))
        assert sorted(len(b) for b in batches) == [1003 % 32] + [32] * 31


def test_buckets_pad_little_and_stay_random():
    first = plan_epoch(LENGTHS, 32, True, np.random.default_rng(1))
    second = plan_epoch(LENGTHS, 32, True, np.random.default_rng(2))
    assert padded(first) < 1.06 * LENGTHS.sum()
    assert padded(plan_epoch(LENGTHS, 32, False, np.random.default_rng(1))) > 1.6 * LENGTHS.sum()
    means = np.array([LENGTHS[b].mean() for b in first])
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5
    assert [list(b) for b in first] != [list(b) for b in second]
    again = plan_epoch(LENGTHS, 32, True, np.random.default_rng(1))
    assert [list(b) for b in first] == [list(b) for b in again]


def test_collate_puts_every_token_in_its_row_and_pads_the_rest():
    which = np.array([7, 3, 500])
    batch = collate(rows(), which, torch.device("cpu"))
    width = LENGTHS[which].max()
    for i, row in enumerate(which):
        n = LENGTHS[row]
        expected = [10 + row] * n + [0] * (width - n)
        assert batch["input_ids"][i].tolist() == expected
        assert batch["attention_mask"][i].tolist() == [1] * n + [0] * (width - n)
        assert batch["token_type_ids"][i].tolist() == [(10 + row) % 2] * n + [0] * (width - n)
    assert batch["labels"].tolist() == which.tolist()


def test_collate_agrees_with_transformers_padding(tiny_folder):
    from transformers import AutoTokenizer

    from peftbench.tasks.sample import sample_split
    from peftbench.training.batching import tokenise

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    data = sample_split("mrpc", "validation")
    texts = (data["sentence1"][:40], data["sentence2"][:40])
    ours = collate(tokenise(texts, None, tokenizer, 24), np.arange(40), torch.device("cpu"))
    theirs = tokenizer(*texts, truncation=True, max_length=24, padding=True, return_tensors="pt")
    assert ours.keys() == set(theirs)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_micro_batches_are_the_batch():
    batch = np.arange(100, 132)
    pieces = list(micro_batches(batch, LENGTHS, 10))
    assert [len(p) for p in pieces] == [10, 10, 10, 2]
    assert sorted(np.concatenate(pieces)) == list(batch)
    assert len(list(micro_batches(batch, LENGTHS, None))) == 1


def test_evaluation_runs_longest_first():
    plan = np.concatenate(evaluation_plan(LENGTHS, 64))
    assert sorted(plan) == list(range(1003))
    assert (np.diff(LENGTHS[plan]) <= 0).all()
