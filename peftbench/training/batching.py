"""Token rows into batches: tokenised once, planned once per epoch, padded as little as possible."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from peftbench.training.token_cache import remembered

_POOL_BATCHES = 50


class Rows(Protocol):
    """A split as the loop sees it: examples that come in padded batches."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, shape (E,): what batches are planned by."""
        ...

    def __len__(self) -> int: ...

    def batch(self, which: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """The examples at positions `which`, padded."""
        ...

    def weight(self, which: np.ndarray) -> float:
        """How much the mean loss of these examples counts within that of a larger batch."""
        ...


@dataclass(frozen=True)
class TokenRows:
    """A tokenised split.

    Attributes:
        tokens: token ids of all rows, end to end. types: token type ids alike, or None.
        starts: shape (N + 1,), where each row begins in `tokens`.
        labels: shape (N,), int64 or float32; None where hidden.
        pad: the padding token.
    """

    tokens: np.ndarray
    types: np.ndarray | None
    starts: np.ndarray
    labels: np.ndarray | None
    pad: int
    _lengths: np.ndarray = field(init=False, repr=False)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __post_init__(self):
        object.__setattr__(self, "_lengths", np.diff(self.starts))  # Every batch asks for it.

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, shape (N,)."""
        return self._lengths

    def batch(self, which: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """See `collate`."""
        return collate(self, which, device)

    def weight(self, which: np.ndarray) -> float:
        """Every row counts once."""
        return float(len(which))

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], pad: int) -> TokenRows:
        """Rows of token ids as they are."""
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        tokens = np.fromiter((token for row in rows for token in row), np.int64, count=int(starts[-1]))
        return cls(tokens, None, starts, None, pad)

    @classmethod
    def encoded(cls, encoding: Any, labels: np.ndarray | None, pad: int) -> TokenRows:
        """Rows as `encode` has them."""
        starts = np.concatenate([[0], np.cumsum([len(row) for row in encoding["input_ids"]])])
        flat = {k: np.concatenate([np.asarray(row, np.int64) for row in encoding[k]]) for k in encoding}
        return cls(flat["input_ids"], flat.get("token_type_ids"), starts, labels, pad)

    def row(self, index: int) -> np.ndarray:
        """One row's token ids."""
        return self.tokens[self.starts[index] : self.starts[index + 1]]


def tokenise(texts: Sequence[list[str]], labels: np.ndarray | None, tokenizer: Any, max_length: int) -> TokenRows:
    """Tokenise N rows of one or two texts, see `encode`; of many rows the tokens are kept on disk.

    Args:
        texts: one list of N strings per text column.
        labels: shape (N,) or None.
        tokenizer: a transformers tokenizer.
        max_length: tokens per row, special ones counted.
    """

    def make() -> dict[str, np.ndarray]:
        rows = TokenRows.encoded(encode(texts, tokenizer, max_length), None, tokenizer.pad_token_id)
        types = {} if rows.types is None else {"types": rows.types}
        return {"tokens": rows.tokens, "starts": rows.starts, **types}

    found = remembered(texts, tokenizer, max_length, make)
    return TokenRows(found["tokens"], found.get("types"), found["starts"], labels, tokenizer.pad_token_id)


def encode(texts: Sequence[list[str]], tokenizer: Any, max_length: int) -> Any:
    """The tokenizer's own encoding of N rows of one or two texts; longer rows are cut, the longer text first.

    A text that spells the end token stays a text: T5 and BART want as many end tokens in one row as in the next, and
    decoders may pad with it.
    """
    columns = [spelled_out(column, tokenizer) for column in texts]
    return tokenizer(*columns, truncation=True, max_length=max_length, return_attention_mask=False, verbose=False)


def spelled_out(texts: Sequence[str], tokenizer: Any) -> list[str]:
    """The texts with a space inside the end token, where one spells it: it stays a text.

    A space does what no option does, for unigram vocabularies hold the end token as a word.
    """
    end = tokenizer.eos_token
    return list(texts) if end is None else [text.replace(end, f"{end[0]} {end[1:]}") for text in texts]


def collate(rows: TokenRows, which: np.ndarray, device: torch.device) -> dict[str, Tensor]:
    """The rows at positions `which` as one padded batch.

    Returns:
        `input_ids`, `attention_mask` (and `token_type_ids`), shape (B, S); `labels`, shape (B,), where known.
    """
    lengths = rows.lengths[which]
    width = int(lengths.max())
    mask = np.arange(width) < lengths[:, None]
    source = (rows.starts[which][:, None] + np.arange(width))[mask]
    ids = np.full(mask.shape, rows.pad, np.int64)
    ids[mask] = rows.tokens[source]
    batch = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
    if rows.types is not None:
        types = np.zeros(mask.shape, np.int64)
        types[mask] = rows.types[source]
        batch["token_type_ids"] = types
    if rows.labels is not None:
        batch["labels"] = rows.labels[which]
    return {k: torch.from_numpy(v).to(device, non_blocking=True) for k, v in batch.items()}


def plan_epoch(lengths: np.ndarray, batch_size: int, bucket: bool, rng: np.random.Generator) -> list[np.ndarray]:
    """One epoch's batches: every row once, in random order, the last batch smaller where rows do not divide.

    With `bucket`, rows are shuffled, cut into pools of fifty batches, sorted by length within each pool and cut into
    batches, whose order is shuffled again: batches stay random, padding becomes small.

    Args:
        lengths: tokens per row, shape (N,).
        batch_size: rows per optimizer step.
        bucket: sort within pools.
        rng: the data order's own generator.
    """
    order = rng.permutation(len(lengths))
    if not bucket:
        return _cut(order, batch_size)
    batches = []
    for pool in _cut(order, batch_size * _POOL_BATCHES):
        batches += _cut(pool[np.argsort(lengths[pool], kind="stable")], batch_size)
    return [batches[i] for i in rng.permutation(len(batches))]


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    return [order[i : i + size] for i in range(0, len(order), size)]


def micro_batches(batch: np.ndarray, lengths: np.ndarray, size: int | None) -> Iterator[np.ndarray]:
    """A batch in pieces of at most `size` rows, alike in length; of none, none."""
    if not len(batch):
        return
    if size is None or len(batch) <= size:
        yield batch
    else:
        yield from _cut(batch[np.argsort(lengths[batch], kind="stable")], size)


def evaluation_plan(lengths: np.ndarray, batch_size: int, sequences: np.ndarray | None = None) -> list[np.ndarray]:
    """Every row once, longest first, so that the largest batch meets memory first and little is padded.

    Args:
        lengths: tokens per row, shape (N,).
        batch_size: sequences at a time.
        sequences: how many each row is, shape (N,); None: one each. A row is never divided.
    """
    order = np.argsort(-lengths, kind="stable")
    if sequences is None:
        return _cut(order, batch_size)
    plan, begin = [], 0
    while begin < len(order):
        ends = np.cumsum(sequences[order[begin : begin + batch_size]])
        size = max(1, int(np.searchsorted(ends, batch_size, side="right")))
        plan.append(order[begin : begin + size])
        begin += size
    return plan
