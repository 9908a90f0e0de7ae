"""Generated text against its references: which metrics there are, what computes each, and their values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from peftbench.errors import ConfigurationError
from peftbench.tasks.text_metrics import meteor, sacre
from peftbench.tasks.text_metrics.cider import cider
from peftbench.tasks.text_metrics.corpus import CONVENTIONS, Convention, Corpus
from peftbench.tasks.text_metrics.nist import nist
from peftbench.tasks.text_metrics.rouge import rouge_l
from peftbench.tasks.text_metrics.ter import ter


@dataclass(frozen=True)
class _Metric:
    """How one metric is computed; `package` is what its tokens or its values come from."""

    compute: Callable[[Corpus], float | None]
    package: str
    settings: Callable[[Convention], str]
    implementation: str = "peftbench"


def _words(convention: Convention) -> str:
    return CONVENTIONS[convention].words


def _thirteen_a(convention: Convention) -> str:
    return f"lower-cased 13a tokens of {CONVENTIONS[convention].text}"


_METRICS = {
    "bleu": _Metric(sacre.bleu, "sacrebleu", sacre.bleu_settings, "sacrebleu"),
    "nist": _Metric(lambda c: nist(c.tokens), "sacrebleu", lambda c: f"mteval-13a, n=5, {_thirteen_a(c)}"),
    "rouge_l": _Metric(
        lambda c: rouge_l(c.words), "nltk", lambda c: f"as coco-caption, beta 1.2, mean over inputs, {_words(c)}"
    ),
    "cider": _Metric(lambda c: cider(c.words), "nltk", lambda c: f"as coco-caption, n=4, sigma 6, x10, {_words(c)}"),
    "meteor": _Metric(
        lambda c: meteor.meteor(c.words), "nltk", lambda c: f"1.5 -l en -norm, {_words(c)}", "METEOR's jar"
    ),
    "ter": _Metric(
        lambda c: ter(c.words), "nltk", lambda c: f"as pyter, least over references, mean over inputs, {_words(c)}"
    ),
    "chrf": _Metric(sacre.chrf, "sacrebleu", sacre.chrf_settings, "sacrebleu"),
}

TEXT_METRICS: tuple[str, ...] = tuple(_METRICS)
"""Names of the metrics. BLEU, ROUGE-L, METEOR and chrF lie in 0 to 1, CIDEr in 0 to 10; NIST and TER have no bound."""


def compute_text_metrics(
    names: Sequence[str], hypotheses: Sequence[str], references: Sequence[Sequence[str]], convention: Convention
) -> dict[str, float | None]:
    """Score generated texts with the named metrics (of `TEXT_METRICS`), in the order of `names`.

    Args:
        names: of the metrics.
        hypotheses: one text per distinct input; it may be empty.
        references: one or more texts per input; their number may differ between inputs.
        convention: whose evaluation is followed; see `peftbench.tasks.text_metrics.corpus`.

    Returns:
        Name -> score; None where it cannot be computed here (METEOR without Java).

    Raises:
        ValueError: an unknown name or convention, no input, unequal lengths, an input without references.
        ConfigurationError: the packages that the metrics need are not installed.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}; known conventions: {', '.join(CONVENTIONS)}")
    if not hypotheses:
        raise ValueError("there is no text to score")
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses, but references of {len(references)} inputs")
    for position, texts in enumerate(references):
        # A string is a sequence of strings: scored, it would be that many references of one letter each.
        if isinstance(texts, str) or not texts:
            raise ValueError(f"input {position} needs a list of one or more references")
    require_text_metrics(names)
    corpus = Corpus(hypotheses, references, convention)
    return {name: _METRICS[name].compute(corpus) for name in names}


def describe_text_metrics(names: Sequence[str], convention: Convention) -> dict[str, str]:
    """State what computes each named metric: implementation, version and settings, or why it is not computed."""
    _known(names)
    return {name: _description(name, convention) for name in names}


def require_text_metrics(names: Sequence[str]) -> None:
    """Check that what the named metrics need is installed. METEOR's Java is not needed: the metric is left out.

    Raises:
        ValueError: an unknown name.
        ConfigurationError: a package is missing.
    """
    _known(names)
    missing = sorted({_METRICS[name].package for name in names if not _installed(_METRICS[name].package)})
    if missing:
        raise ConfigurationError(
            f"{' and '.join(missing)}, which the metrics of generated text need, "
            f"{'is' if len(missing) == 1 else 'are'} not installed; run pip install 'peftbench[generation]'"
        )


def _description(name: str, convention: Convention) -> str:
    metric = _METRICS[name]
    if not _installed(metric.package):
        return f"not computed: {metric.package} is not installed"
    if name == "meteor" and (reason := meteor.obstacle()):
        return f"not computed: {reason}"
    version = f"{metric.package} {metadata.version(metric.package)}"
    settings = metric.settings(convention)
    if metric.implementation == metric.package:
        return f"{version}, {settings}"
    return f"{metric.implementation}, {settings} ({version})"


def _known(names: Sequence[str]) -> None:
    for name in names:
        if name not in _METRICS:
            raise ValueError(f"unknown metric {name!r}; known metrics of generated text: {', '.join(TEXT_METRICS)}")


def _installed(package: str) -> bool:
    return find_spec(package) is not None
