"""Hypotheses and references in the forms in which two published evaluations compare them.

`e2e`: the E2E challenge's script (github.com/tuetschek/e2e-metrics, `measure_scores.py`). BLEU and NIST are
mteval-13a's, which ignores case unless told otherwise, and so does the script's Python port (`metrics/pymteval.py`,
`case_sensitive=False`). ROUGE-L, CIDEr and METEOR see lower-cased Penn Treebank tokens without punctuation.

`webnlg`: the evaluation of WebNLG and DART by Hu et al. (2021), `gpt2_decode.py --tokenize --lower --ref_num 6`, then
github.com/WebNLG/GenerationEval, `eval.py -nr 6`: text is lower-cased and split at every non-word character, which
stays as a token; of an input's references the first six count. BLEU is multi-bleu-detok's, which is mteval-13a's, on
this text. METEOR and TER see its nltk tokens, punctuation included.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Generic, Literal, NamedTuple, TypeVar

from peftbench.tasks.text_metrics.treebank import ptb_words, treebank_tokens

Convention = Literal["e2e", "webnlg"]
Tokens = list[str]
Text = TypeVar("Text")
Other = TypeVar("Other")


class Pairs(NamedTuple, Generic[Text]):
    """One hypothesis and one or more references per input, all in one form."""

    hypotheses: list[Text]
    references: list[list[Text]]

    def map(self, change: Callable[[Text], Other]) -> Pairs[Other]:
        """Both sides, every text changed."""
        return Pairs(
            [change(text) for text in self.hypotheses],
            [[change(text) for text in texts] for texts in self.references],
        )


class Rules(NamedTuple):
    """What a convention does to a text, and the words that say so."""

    clean: Callable[[str], str]
    split: Callable[[str], Tokens]
    most_references: int | None
    text: str
    words: str


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _split_at_non_words(text: str) -> str:
    return _one_line(" ".join(re.split(r"(\W)", text.lower())))


CONVENTIONS: dict[Convention, Rules] = {
    "e2e": Rules(
        clean=_one_line,
        split=ptb_words,
        most_references=None,
        text="the text",
        words="lower-cased Penn Treebank tokens without punctuation",
    ),
    "webnlg": Rules(
        clean=_split_at_non_words,
        split=treebank_tokens,
        most_references=6,
        text="the lower-cased text split at non-word characters, first 6 references",
        words="nltk tokens of the lower-cased text split at non-word characters, first 6 references",
    ),
}


class Corpus:
    """A set of inputs, in each form that some metric needs."""

    def __init__(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]], convention: Convention) -> None:
        self.convention: Convention = convention
        self._rules = CONVENTIONS[convention]
        kept = [list(texts)[: self._rules.most_references] for texts in references]
        self.texts = Pairs(list(hypotheses), kept).map(self._rules.clean)

    @cached_property
    def tokens(self) -> Pairs[Tokens]:
        """Lower-cased mteval-13a tokens, which NIST counts."""
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

        split = Tokenizer13a()
        return self.texts.map(lambda text: split(text.lower()).split())

    @cached_property
    def words(self) -> Pairs[Tokens]:
        """The convention's tokens, which ROUGE-L, CIDEr, METEOR and TER compare."""
        return self.texts.map(self._rules.split)
