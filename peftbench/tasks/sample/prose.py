"""Running text: invented reviews and news, one paragraph a row."""

from __future__ import annotations

from peftbench.tasks.sample.draw import Draw
from peftbench.tasks.sample.pairs import mrpc
from peftbench.tasks.sample.reviews import sst2
from peftbench.tasks.sample.task import Row


def lm(draw: Draw, split: str) -> Row:
    """A paragraph of three to five sentences of one kind."""
    source, column = draw.pick(((mrpc, "sentence1"), (sst2, "sentence")))
    sentences = [source(draw, split)[column] for _ in range(3 + draw.below(3))]
    return {
        "text": " ".join(sentence if sentence.endswith((".", "!", "?")) else f"{sentence}." for sentence in sentences)
    }
