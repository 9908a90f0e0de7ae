"""One head over the whole input: a class, or a number."""

from __future__ import annotations

from typing import ClassVar

from peftbench.backbones.heads import Head
from peftbench.forms.base import Form
from peftbench.tasks.base import Split
from peftbench.training.batching import Rows, tokenise


class Classification(Form):
    """Texts in, a class or a number out, by the architecture's own classification head."""

    name: ClassVar[str] = "classification"
    head: ClassVar[Head] = "classifier"

    def tokenise(self, split: Split) -> Rows:
        """One or two texts a row, cut to `max_length`."""
        return tokenise(split.texts, split.labels, self.tokenizer, self.task.max_length)
