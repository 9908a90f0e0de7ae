"""BLEU and chrF, which sacrebleu computes (Post, 2018), on a scale of 0 to 1."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

from peftbench.tasks.text_metrics.corpus import CONVENTIONS, Convention, Corpus


def bleu(corpus: Corpus) -> float:
    """Corpus BLEU of mteval-13a tokens, without smoothing: 0 where no four tokens in a row match."""
    return _score(_bleu(corpus.convention), corpus)


def bleu_settings(convention: Convention) -> str:
    """The signature, and what is scored."""
    return f"{_signature(_bleu(convention))}, on {CONVENTIONS[convention].text}"


def chrf(corpus: Corpus) -> float:
    """Corpus chrF2 (Popovic, 2015): characters up to 6-grams, no words, the best reference of each input."""
    return _score(_chrf(), corpus)


def chrf_settings(convention: Convention) -> str:
    """The signature, and what is scored."""
    return f"{_signature(_chrf())}, on {CONVENTIONS[convention].text}"


def _bleu(convention: Convention) -> Any:
    from sacrebleu.metrics.bleu import BLEU

    # `force` only silences a warning about text that is split already, as this convention's is.
    return BLEU(lowercase=convention == "e2e", tokenize="13a", smooth_method="none", force=True)


def _chrf() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def _signature(metric: Any) -> str:
    metric.num_refs = -1  # sacrebleu's own word for a number that varies
    # The version stands before.
    return "|".join(part for part in metric.get_signature().format().split("|") if not part.startswith("version:"))


def _score(metric: Any, corpus: Corpus) -> float:
    """Score with streams, one reference of every input, of which sacrebleu skips a None.

    To repeat a reference instead, as the published evaluations do, gives the same score in more time.
    """
    hypotheses, references = corpus.texts
    score = metric.corpus_score(hypotheses, [list(stream) for stream in zip_longest(*references)]).score / 100
    return min(score, 1.0)  # A perfect BLEU is a rounding above it.
