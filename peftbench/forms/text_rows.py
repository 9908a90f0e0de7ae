"""Sources and targets as tokens, for decoders and for encoder-decoders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from peftbench.errors import ConfigurationError
from peftbench.training.batching import TokenRows, collate, spelled_out


class Wording:
    """How a backbone's source and target are put together.

    A decoder reads source, separator, target, end. The separator is the token that both begins and ends texts where
    the tokenizer has one for both (GPT-2: Prefix-Tuning's and LoRA's code), else a line break.

    Args:
        model: a language model.
        tokenizer: the backbone's.

    Attributes:
        start: the token that an encoder-decoder's decoder starts from; None for a decoder.
        pad: the padding token.
    """

    def __init__(self, model: nn.Module, tokenizer: Any):
        shape: Any = model.config
        self._tokenizer, self.pad, self._end = tokenizer, tokenizer.pad_token_id, tokenizer.eos_token_id
        self.start: int | None = None
        self._separator, self._space = [], ""
        if shape.is_encoder_decoder:
            self.start = getattr(shape, "decoder_start_token_id", None)
            if self.start is None:
                raise ConfigurationError(
                    "model: its config.json has no decoder_start_token_id, which writing starts from"
                )
        else:
            special = tokenizer.bos_token_id is not None and tokenizer.bos_token_id == self._end
            self._separator = [self._end] if special else self.plain(["\n"])[0]
            # After the special token a text begins as it does inside a sentence, with its space.
            self._space = " " if special else ""

    def _ids(self, texts: Sequence[str], **options: Any) -> list[list[int]]:
        texts = spelled_out(texts, self._tokenizer)
        found = self._tokenizer(texts, return_attention_mask=False, verbose=False, **options) if texts else {}
        return found.get("input_ids", [])

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts without any special token."""
        return self._ids(texts, add_special_tokens=False)

    def prompts(
        self, sources: Sequence[str], max_length: int, side: Literal["left", "right"] = "right"
    ) -> tuple[list[list[int]], int]:
        """What a text is written after, N rows: the source cut to `max_length` tokens on a side, a decoder's separator.

        Returns:
            The rows, and how many sources were cut.
        """
        whole = self._ids(sources)
        cut = [i for i, row in enumerate(whole) if len(row) > max_length]
        before, self._tokenizer.truncation_side = self._tokenizer.truncation_side, side
        shorter = self._ids([sources[i] for i in cut], truncation=True, max_length=max_length)
        self._tokenizer.truncation_side = before
        rows = whole
        for i, row in zip(cut, shorter, strict=True):
            rows[i] = row
        if self.start is not None:
            return rows, len(cut)
        return [row[: -1 if row and row[-1] == self._end else None] + self._separator for row in rows], len(cut)

    def targets(self, texts: Sequence[str]) -> list[list[int]]:
        """Targets with their end token; whoever cuts one cuts its end off too, so that no stop is learned there."""
        if self.start is not None:
            return self._ids(texts)
        return [[*row, self._end] for row in self.plain([f"{self._space}{text}" for text in texts])]


@dataclass(frozen=True)
class TextRows:
    """A split's sources, and its examples.

    Attributes:
        prompts: one per row of the split.
        inputs: one per example: of a decoder prompt and target in one, of an encoder-decoder the prompt.
        targets: one per example, with its end token.
        start: see `Wording`.
    """

    prompts: TokenRows
    inputs: TokenRows
    targets: TokenRows
    start: int | None

    @classmethod
    def of(cls, wording: Wording, prompts: list[list[int]], row_of: np.ndarray, targets: list[list[int]]) -> TextRows:
        """Rows of token ids.

        Args:
            wording: the backbone's.
            prompts: N rows.
            row_of: the row of each of E examples.
            targets: E targets.
        """
        inputs = [prompts[row] for row in row_of]
        if wording.start is None:
            inputs = [prompt + target for prompt, target in zip(inputs, targets, strict=True)]
        tokens = (TokenRows.of(rows, wording.pad) for rows in (prompts, inputs, targets))
        return cls(*tokens, start=wording.start)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per example, source and target, shape (E,)."""
        return self.inputs.lengths + (0 if self.start is None else self.targets.lengths)

    def weight(self, which: np.ndarray) -> float:
        """Every target token counts once."""
        return float(self.targets.lengths[which].sum())

    def batch(self, which: np.ndarray, device: torch.device) -> dict[str, Tensor]:
        """The model's inputs; `positions`, (B, S), true where a target token is predicted; `target_ids`, (T,)."""
        batch = collate(self.inputs, which, device)
        counts = self.targets.lengths[which][:, None]
        if self.start is None:
            lengths = self.inputs.lengths[which][:, None]
            places = np.arange(batch["input_ids"].shape[1])
            positions = (places >= lengths - counts - 1) & (places < lengths - 1)
        else:
            positions = np.arange(counts.max()) < counts
        target_ids = np.concatenate([self.targets.row(i) for i in which])
        if self.start is not None:
            decoded = np.full(positions.shape, self.targets.pad, np.int64)
            decoded[positions] = target_ids
            shifted = np.concatenate([np.full((len(which), 1), self.start), decoded[:, :-1]], axis=1)
            batch["decoder_input_ids"] = torch.from_numpy(shifted).to(device)
        return batch | {
            "positions": torch.from_numpy(positions).to(device),
            "target_ids": torch.from_numpy(target_ids).to(device),
        }
