"""Metrics as local `evaluate` metrics: no download, no file, no lock.

`evaluate.load("glue")` fetches a script from the network and keeps predictions in a cache folder. The
classes here give the same numbers from numpy alone and keep everything in memory, so that a run can be
scored offline, on a read-only disk, and by several processes at once.
"""

import inspect
from typing import Any

import evaluate
import numpy as np
from datasets import Features, Value


class LocalMetric(evaluate.Metric):
    """What the metrics share: their `evaluate` card, and a way of working that never touches the disk."""

    version: str = "1"
    needs: tuple[str, ...] = ()
    """Columns of the rows that `_compute` takes beside predictions and references."""
    prediction_type: str = "float64"
    """What a prediction is: a class or a number (`float64`), or a text (`string`)."""

    def __init__(self, *args: Any, keep_in_memory: bool = True, **kwargs: Any):
        # evaluate's default is an Arrow file and a lock file under the user's cache.
        super().__init__(*args, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate creates this folder even for a metric that never writes in it.
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _info(self) -> evaluate.MetricInfo:
        definition, _, source = (inspect.getdoc(type(self)) or "").partition("Source: ")
        # Labels are declared as floats too: an integer feature would silently cut 0.7 down to class 0.
        # No `format="numpy"`, which would hand `_compute` the values rounded to 32 bits.
        return evaluate.MetricInfo(
            description=definition.strip(),
            citation=source,
            inputs_description=f"predictions ({self.prediction_type}), references: equally long sequences.",
            features=Features({"predictions": Value(self.prediction_type), "references": Value("float64")}),
        )


def numbers(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both inputs as float64 vectors, or ValueError if they cannot be scored against each other."""
    predicted, actual = _vector("predictions", predictions), _vector("references", references)
    if len(predicted) != len(actual):
        raise ValueError(f"{len(predicted)} predictions cannot be scored against {len(actual)} references")
    return predicted, actual


def _vector(what: str, values: Any) -> np.ndarray:
    vector = np.asarray(values, dtype=np.float64)
    if vector.ndim != 1:
        raise ValueError(f"{what} must be one number per row, but have shape {vector.shape}")
    if vector.size == 0:
        raise ValueError(f"{what} are empty: there is nothing to score")
    require("finite", np.isfinite(vector), what, vector)
    return vector


def class_numbers(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    """Like `_numbers`, for class numbers: a fraction means that scores were passed in their place."""
    predicted, actual = numbers(predictions, references)
    for what, vector in (("predictions", predicted), ("references", actual)):
        require("whole class numbers", vector == np.floor(vector), what, vector)
    return predicted, actual


def require(rule: str, fulfilled: np.ndarray, what: str, vector: np.ndarray) -> None:
    """Raise ValueError with the first row of `vector` that does not fulfil the rule."""
    if not fulfilled.all():
        row = int(np.argmin(fulfilled))
        raise ValueError(f"{what} must be {rule}, but row {row} is {vector[row]}")
