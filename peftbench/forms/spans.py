"""A pair of spans into a class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from peftbench.backbones.heads import Head
from peftbench.errors import ConfigurationError
from peftbench.forms.base import Form
from peftbench.tasks.base import Split
from peftbench.training.batching import Rows, TokenRows, collate, encode, spelled_out


@dataclass(frozen=True)
class SpanRows:
    """Token rows with two spans each.

    Attributes:
        tokens: the rows.
        spans: shape (N, 2, 2), of either span its first token and the one after its last.
    """

    tokens: TokenRows
    spans: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, shape (N,)."""
        return self.tokens.lengths

    def weight(self, which: np.ndarray) -> float:
        """Every row counts once."""
        return float(len(which))

    def batch(self, which: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """The rows, with `spans`, (B, 2, 2)."""
        return collate(self.tokens, which, device) | {"spans": torch.from_numpy(self.spans[which]).to(device)}


class Spans(Form):
    """Two marked spans in one or two texts, and a class for the pair (WiC, WSC)."""

    name: ClassVar[str] = "spans"
    head: ClassVar[Head] = "spans"

    def tokenise(self, split: Split) -> Rows:
        """The texts cut to `max_length`, and the tokens that the spans' characters became.

        Raises:
            ConfigurationError: a span lies beyond `max_length`.
        """
        length = self.task.max_length
        encoded = encode(split.texts, self.tokenizer, length)
        rows = TokenRows.encoded(encoded, split.labels, self.tokenizer.pad_token_id)
        spans = np.zeros((len(rows), 2, 2), np.int64)
        for row, pair in enumerate(split.columns["spans"]):
            for which, (text, start, end) in enumerate(pair):
                before = spelled_out([split.texts[text][row][:start]], self.tokenizer)[0]
                shift = len(before) - start  # Where an end token was spelled out, what follows stands further on.
                found = _tokens(encoded, row, text, start + shift, end + shift)
                if found is None:
                    marked = split.texts[text][row][start:end]
                    raise ConfigurationError(
                        f"{self.spec.name} {split.name}, row {row}: {marked!r} lies beyond {length} tokens;"
                        " use a larger task.max_length"
                    )
                spans[row, which] = found
        return SpanRows(rows, spans)


def _tokens(encoded: Any, row: int, text: int, start: int, end: int) -> tuple[int, int] | None:
    """First token of the characters from `start` to `end` of one of the row's texts, and the one after the last."""
    places = [encoded.char_to_token(row, place, sequence_index=text) for place in range(start, end)]
    found = [place for place in places if place is not None]
    return (found[0], found[-1] + 1) if found else None
