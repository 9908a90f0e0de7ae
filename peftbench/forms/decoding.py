"""Texts from a language model: greedy or by beam search, in batches of like lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList, NoRepeatNGramLogitsProcessor

from peftbench.training.batching import TokenRows, collate, evaluation_plan
from peftbench.training.devices import Devices
from peftbench.training.guard import fitting
from peftbench.training.meter import Meter


@dataclass(frozen=True)
class Decoding:
    """How a text is found.

    Attributes:
        max_new_tokens: its tokens at most.
        beams: 1: greedy.
        length_penalty: exponent of the length that a beam's log-likelihood is divided by.
        no_repeat_ngram: no n-gram of so many tokens twice in what is written; 0: any. The source does not count, as in
            LoRA's code: an attribute's value may be copied.
    """

    max_new_tokens: int
    beams: int = 1
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0


@torch.no_grad()
def generate(
    model: nn.Module,
    prompts: TokenRows,
    decoding: Decoding,
    tokenizer: Any,
    accelerator: Accelerator,
    batch_size: int,
    meter: Meter,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[list[str], int]:
    """One text per prompt, in the prompts' order, and how many of them reached no end. Leaves the model as it was.

    Args:
        model: a decoder or an encoder-decoder.
        prompts: N rows of tokens.
        decoding: how.
        tokenizer: the backbone's.
        accelerator: device and precision.
        batch_size: sequences that are scored at a time; of a beam search each beam is one.
        meter: counts tokens and seconds.
        progress: called with the number of rows done.
    """
    was_training = model.training
    model.eval()
    settings = _settings(model, tokenizer, decoding)
    own: Any = model.generation_config
    model.generation_config = settings  # type: ignore[assignment]  # Else its own fill whatever ours leaves open.
    ends = torch.tensor(settings.eos_token_id, device=accelerator.device)
    texts: dict[int, str] = {}
    unfinished = tokens_written = 0
    began, devices = meter.now(), Devices(accelerator)
    for which in devices.share(evaluation_plan(prompts.lengths, max(1, batch_size // decoding.beams))):
        batch = collate(prompts, which, accelerator.device)
        both = model.config.is_encoder_decoder  # type: ignore[union-attr]
        if not both:
            batch = _to_the_right(batch)
        begin = 1 if both else batch["input_ids"].shape[1]  # An encoder-decoder's text begins after its start token.
        with accelerator.autocast(), fitting(len(batch["input_ids"]) * decoding.beams, batch["input_ids"].shape[1]):
            tokens = model.generate(  # type: ignore[operator]
                **batch, generation_config=settings, logits_processor=_processors(decoding, begin)
            )
        written = tokens[:, begin:]
        ended = torch.isin(written, ends)
        counts = torch.where(ended.any(1), ended.int().argmax(1) + 1, written.shape[1])
        tokens_written += int(counts.sum())
        unfinished += int((~ended.any(1)).sum())
        found = tokenizer.batch_decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        texts |= dict(zip(which.tolist(), found, strict=True))
        progress(min(len(texts) * devices.size, len(prompts)))
    parts = devices.gathered((texts, unfinished, tokens_written))
    texts = {row: text for part, _, _ in parts for row, text in part.items()}
    meter.generated_tokens += sum(count for _, _, count in parts)
    meter.generation_s += meter.now() - began
    model.generation_config = own
    model.train(was_training)
    return [texts[row] for row in range(len(prompts))], sum(cut for _, cut, _ in parts)


class _NoRepeat(LogitsProcessor):
    """No n-gram twice after position `begin`."""

    def __init__(self, ngram: int, begin: int):
        self._ban, self._begin = NoRepeatNGramLogitsProcessor(ngram), begin

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        return self._ban(input_ids[:, self._begin :], scores)  # type: ignore[arg-type]


def _processors(decoding: Decoding, begin: int) -> LogitsProcessorList:
    ngram = decoding.no_repeat_ngram
    return LogitsProcessorList([_NoRepeat(ngram, begin)] if ngram else [])


def _to_the_right(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """A right-padded batch padded on the left: a decoder writes on after its last column."""
    lengths = batch["attention_mask"].sum(1, keepdim=True)
    width = batch["input_ids"].shape[1]
    places = (torch.arange(width, device=lengths.device) + lengths) % width
    return {key: values.gather(1, places) for key, values in batch.items()}


def _settings(model: Any, tokenizer: Any, decoding: Decoding) -> Any:
    """All of it ours: a checkpoint's own settings (BART's four beams, a chat model's temperature) do not count.

    Of those only the special tokens are kept, and not BART's forced end, with which a text that is cut off at the limit
    would pass for a finished one.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    special = {
        name: value
        for name in ("bos_token_id", "decoder_start_token_id", "forced_bos_token_id")
        if (value := getattr(own, name, None)) is not None
    }
    ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
    beam = {"length_penalty": decoding.length_penalty} if decoding.beams > 1 else {}
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        num_beams=decoding.beams,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=sorted({tokenizer.eos_token_id, *ends} - {None}),
        **special,
        **beam,
    )
