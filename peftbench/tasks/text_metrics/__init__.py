"""Metrics of texts written at length, without network: BLEU, NIST, ROUGE-L, CIDEr, METEOR, TER and chrF.

Of classes, numbers and short answers see `tasks.metrics`.
"""

from peftbench.tasks.text_metrics.entry import (
    TEXT_METRICS,
    compute_text_metrics,
    describe_text_metrics,
    require_text_metrics,
)

__all__ = [
    "TEXT_METRICS",
    "compute_text_metrics",
    "describe_text_metrics",
    "require_text_metrics",
]
