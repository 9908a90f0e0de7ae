"""Predictions on GLUE's hidden test sets, in the files its leaderboard accepts."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

# Class numbers follow the order of the names in GLUE's data sets.
_MNLI = ("entailment", "neutral", "contradiction")
_PAIR = ("entailment", "not_entailment")
_BINARY = ("0", "1")

# None stands for STS-B's similarity, the one task that is not a choice between labels.
_SETS: dict[str, tuple[str, tuple[str, ...] | None]] = {
    "cola": ("CoLA.tsv", _BINARY),
    "sst2": ("SST-2.tsv", _BINARY),
    "mrpc": ("MRPC.tsv", _BINARY),
    "stsb": ("STS-B.tsv", None),
    "qqp": ("QQP.tsv", _BINARY),
    "mnli_matched": ("MNLI-m.tsv", _MNLI),
    "mnli_mismatched": ("MNLI-mm.tsv", _MNLI),
    "qnli": ("QNLI.tsv", _PAIR),
    "rte": ("RTE.tsv", _PAIR),
    "wnli": ("WNLI.tsv", _BINARY),
    "ax": ("AX.tsv", _MNLI),
}


def write_submission(folder: Path, set_name: str, predictions: Sequence[float | int]) -> Path:
    r"""Write one test set's predictions, in the order of its rows, as GLUE's submission file.

    The file has the header `index\tprediction` and one row per prediction: a class name for MNLI, AX, QNLI
    and RTE, a class number for CoLA, SST-2, MRPC, QQP and WNLI, and for STS-B a number clipped to [0, 5]
    with three decimals. It appears whole or not at all, replacing an older one.

    Source: the submission format of the GLUE benchmark (Wang et al., 2019).

    Args:
        folder: where the file goes; created if need be.
        set_name: cola, sst2, mrpc, stsb, qqp, mnli_matched, mnli_mismatched, qnli, rte, wnli or ax.
        predictions: class numbers, or similarities for stsb.

    Returns:
        The path of the file.

    Raises:
        ValueError: the set is unknown, there are no predictions, or one of them is not a label of the set.
    """
    if set_name not in _SETS:
        raise ValueError(f"unknown test set {set_name!r}; known test sets: {', '.join(_SETS)}")
    file_name, labels = _SETS[set_name]
    rows = [
        f"{index}\t{_rendered(value, labels, f'{set_name}, row {index}')}\n" for index, value in enumerate(predictions)
    ]
    if not rows:
        raise ValueError(f"{set_name}: there are no predictions to write")
    return _write_atomically(Path(folder) / file_name, "index\tprediction\n" + "".join(rows))


def _rendered(value: float | int, labels: tuple[str, ...] | None, where: str) -> str:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{where}: prediction {value!r} cannot be read as a number") from None
    if labels is None:
        if not math.isfinite(number):
            raise ValueError(f"{where}: a similarity must be finite, but the prediction is {value!r}")
        return f"{min(5.0, max(0.0, number)):.3f}"
    # The range comes first, for it turns away nan and infinity, of which int() makes nothing.
    if not 0 <= number < len(labels) or number != int(number):
        last = len(labels) - 1
        raise ValueError(f"{where}: a label must be a whole number from 0 to {last}, but is {value!r}")
    return labels[int(number)]


def _write_atomically(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, for a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path
