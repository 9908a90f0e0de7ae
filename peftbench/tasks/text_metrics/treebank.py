"""Penn Treebank tokens in Python alone, so that a score does not depend on whether Java is here."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

_DROPPED = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
"""Of the punctuation that coco-caption drops, what a lower-cased text has: its brackets' names are upper-case."""

_PLAIN = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "–": " - ", "—": " - ", "…": " ... ", "£": " # ", "€": " $ "}
)
"""Stanford's tokenizer writes currencies so; quotation marks and dashes of any kind are dropped."""

_ABBREVIATIONS = frozenset({"mr.", "mrs.", "ms.", "dr.", "st.", "rd.", "etc.", "vs.", "prof.", "jr.", "sr.", "ltd."})

_FULL_STOP = re.compile(r"(\S+?)(\.+)(?=[\"')\]]*(?:\s|$))")
_EDGE = re.compile(r"(?<!\S)[-.]+(?=[^\s\d])|-+(?!\S)")
_QUOTE = re.compile(r"(?<!\w)'(?!(?:s|m|d|t|n|ll|re|ve|em|tis|twas)\b)|(?<=\w)'(?!\w)")


def treebank_tokens(text: str) -> list[str]:
    """What nltk's `word_tokenize` gives for one sentence."""
    return _nltk_word_tokenizer().tokenize(text)


def ptb_words(text: str) -> list[str]:
    """Split a text as coco-caption's `PTBTokenizer` does: lower-cased Penn Treebank tokens without punctuation.

    nltk's Treebank tokenizer takes a single sentence with straight quotes; what goes before it makes that of a text.
    """
    plain = _FULL_STOP.sub(_apart, text.lower().translate(_PLAIN))
    plain = _QUOTE.sub(" ", _EDGE.sub(" ", plain))
    # The last full stop is always split off: one more leaves an abbreviation at the end whole.
    tokens = _nltk_treebank_tokenizer().tokenize(f"{plain} .", convert_parentheses=True)
    return [token.lower() for token in tokens if token not in _DROPPED]


def _apart(found: re.Match[str]) -> str:
    """A full stop is a token of its own, except an abbreviation's."""
    word, stops = found.groups()
    bare = word.lstrip("\"'([")
    if len(stops) == 1 and (f"{bare}." in _ABBREVIATIONS or re.fullmatch(r"(?:[a-z]\.)*[a-z]", bare)):
        return found[0]
    return f"{word} {stops}"


@cache
def _nltk_treebank_tokenizer() -> Any:
    from nltk.tokenize.treebank import TreebankWordTokenizer

    return TreebankWordTokenizer()


@cache
def _nltk_word_tokenizer() -> Any:
    from nltk.tokenize.destructive import NLTKWordTokenizer

    return NLTKWordTokenizer()
