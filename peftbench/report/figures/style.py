"""How all figures look: one palette, one set of sizes, a method's own marks wherever each method is one series."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peftbench.errors import ConfigurationError

COLUMN, PAGE = 3.3, 6.9
"""Inches: widths of one printed column and of two."""

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
"""Okabe & Ito (2008), Color Universal Design, but for the yellow, which white paper swallows."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
LINES = ("-", "--", "-.", ":")
WARNING = "#B03A00"
GREY = "#555555"

_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "figure.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": False,
    "axes.unicode_minus": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "errorbar.capsize": 1.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "svg.fonttype": "none",
    "svg.hashsalt": "peftbench",
    "pdf.fonttype": 42,
}

_METHODS = (
    "lora", "sora", "adalora", "houlsby", "full", "bitfit", "prompt_tuning", "pfeiffer", "prefix_tuning", "unipelt",
    "mam", "linear_probe", "ia3", "p_tuning_v2", "p_tuning", "qlora", "compacter", "parallel_adapter",
    "scaled_parallel_adapter", "adapter_drop", "diff_pruning", "peft",
)  # fmt: skip
"""In the order of styles: those that share a table have different colours."""


@dataclass(frozen=True)
class Marks:
    """A series' colour, marker and line: each alone tells a few series apart, together all."""

    colour: str
    marker: str
    line: str


def series(index: int) -> Marks:
    """The marks of a figure's series number `index`."""
    # A colour that comes again comes with another marker and another line.
    colour, turn = index % len(PALETTE), index // len(PALETTE)
    return Marks(PALETTE[colour], MARKERS[index % len(MARKERS)], LINES[(colour + turn) % len(LINES)])


def method_marks(methods: list[str]) -> dict[str, Marks]:
    """Every method's marks: a known one's own, a stranger's after those."""
    known = {name: series(index) for index, name in enumerate(_METHODS)}
    strangers = sorted(set(methods) - known.keys())
    known |= {name: series(len(_METHODS) + index) for index, name in enumerate(strangers)}
    return {name: known[name] for name in methods}


@contextlib.contextmanager
def applied() -> Iterator[None]:
    """Matplotlib in this style while the context lasts.

    Raises:
        ConfigurationError: there is no matplotlib.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ConfigurationError("figures need matplotlib: pip install 'peftbench[report]'") from error
    with matplotlib.rc_context():
        # Whatever a user's own matplotlibrc says, the same data give the same picture.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_RC)  # type: ignore[call-overload, arg-type]
        yield


_UNSCALED = {
    "log_likelihood": "log-lik. (nats/token)",
    "perplexity": "perplexity",
    "nist": "NIST",
    "cider": "CIDEr",
}
"""Metrics that papers do not print times 100."""

_METRICS = {
    "matthews_correlation": "Matthews corr.", "pearson": "Pearson corr.",
    "spearman": "Spearman corr.", "f1": "F1", "macro_f1": "macro F1", "bleu": "BLEU", "rouge_l": "ROUGE-L",
    "ter": "TER", "meteor": "METEOR", "chrf": "chrF",
}  # fmt: skip


def metric_axis(metric: str) -> tuple[str, float]:
    """An axis label for a metric, and the factor that brings the record's scale to the axis's."""
    if metric in _UNSCALED:
        return _UNSCALED[metric], 1.0
    return f"{_METRICS.get(metric, metric.replace('_', ' '))} × 100", 100.0
