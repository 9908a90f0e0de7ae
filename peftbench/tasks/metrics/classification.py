"""Metrics of predicted classes; the prediction -1 names no class and is wrong wherever it stands."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from peftbench.tasks.metrics.base import LocalMetric, class_numbers, numbers, require


class Accuracy(LocalMetric):
    """Share of predictions that equal their reference, for any number of classes.

    accuracy = (number of i with prediction_i = reference_i) / n; as `sklearn.metrics.accuracy_score`.

    Source: Wang et al., GLUE: A Multi-Task Benchmark and Analysis Platform, ICLR 2019.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predicted, actual = class_numbers(predictions, references)
        return {"accuracy": float(np.mean(predicted == actual))}


class F1(LocalMetric):
    """Harmonic mean of precision and recall of class 1, for labels 0 and 1.

    F1 = 2 TP / (2 TP + FP + FN), and 0.0 where that is 0 / 0 (class 1 neither predicted nor present);
    as `sklearn.metrics.f1_score` with `zero_division=0`.

    Source: van Rijsbergen, Information Retrieval, 2nd edition, 1979, chapter 7.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"f1": _positive_f1(predictions, references)}


class F1a(LocalMetric):
    """F1 of class 1 over all answers of all questions, MultiRC's F1a.

    F1a = 2 TP / (2 TP + FP + FN) over the answers, each a row; as F1.

    Source: Khashabi et al., Looking Beyond the Surface, NAACL 2018, section 5; Wang et al., SuperGLUE, NeurIPS 2019.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"f1a": _positive_f1(predictions, references)}


class MacroF1(LocalMetric):
    """Unweighted mean of the classes' F1.

    macro F1 = sum over classes of F1_c / number of classes, over the classes that are predicted or present (-1 is
    none); as `sklearn.metrics.f1_score` with `average="macro"` and those labels.

    Source: Wang et al., SuperGLUE, NeurIPS 2019, section 3.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predicted, actual = class_numbers(predictions, references)
        classes = set(np.union1d(predicted, actual)) - {-1.0}
        scores = [_f1(predicted == one, actual == one) for one in classes]
        return {"macro_f1": math.fsum(scores) / len(scores) if scores else 0.0}


class ExactMatch(LocalMetric):
    """Share of groups of which every row is right: MultiRC's questions with all of their answers.

    exact match = (number of groups g with prediction_i = reference_i for all i in g) / (number of groups).

    Source: Wang et al., SuperGLUE, NeurIPS 2019, section 3.
    """

    needs = ("group",)

    def _compute(self, predictions: Any, references: Any, group: Sequence) -> dict[str, float]:
        predicted, actual = class_numbers(predictions, references)
        right: dict[Any, bool] = {}
        for name, hit in zip(group, (predicted == actual).tolist(), strict=True):
            right[name] = right.get(name, True) and hit
        return {"exact_match": sum(right.values()) / len(right)}


class GenderParity(LocalMetric):
    """Share of pairs, alike but for a pronoun's gender, that are given one and the same class.

    gender parity = (number of pairs with prediction_1 = prediction_2, neither of them -1) / (number of pairs).

    Source: Rudinger et al., Gender Bias in Coreference Resolution, NAACL 2018; Wang et al., SuperGLUE, NeurIPS 2019.
    """

    needs = ("group",)

    def _compute(self, predictions: Any, references: Any, group: Sequence) -> dict[str, float]:
        predicted, _ = class_numbers(predictions, references)
        pairs: dict[Any, list[float]] = {}
        for name, prediction in zip(group, predicted.tolist(), strict=True):
            pairs.setdefault(name, []).append(prediction)
        odd = next((name for name, found in pairs.items() if len(found) != 2), None)
        if odd is not None:
            raise ValueError(f"gender parity compares the two rows of a pair, but pair {odd} has {len(pairs[odd])}")
        return {"gender_parity": sum(one == two != -1 for one, two in pairs.values()) / len(pairs)}


class MatthewsCorrelation(LocalMetric):
    """Correlation of predicted with actual classes, at most 1, for any number of classes.

    MCC = (c s - sum_k p_k t_k) / sqrt((s^2 - sum_k p_k^2) (s^2 - sum_k t_k^2)) for s rows, c of them right, class k
    predicted p_k times and present t_k times; -1 is a class that is never present. For two classes that is
    (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)). 0.0 where a factor of the root is 0 (all
    predictions, or all references, of one class); as `sklearn.metrics.matthews_corrcoef`.

    Source: Matthews, Biochimica et Biophysica Acta 405 (2), 1975, pages 442-451; Gorodkin, Computational Biology and
    Chemistry 28, 2004, pages 367-374.
    """

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        predicted, actual = class_numbers(predictions, references)
        # Python integers: on a set as large as QQP's the product of the sums exceeds 64 bits.
        rows, right = len(actual), int(np.count_nonzero(predicted == actual))
        counts = [
            (int(np.count_nonzero(predicted == one)), int(np.count_nonzero(actual == one)))
            for one in np.union1d(predicted, actual)
        ]
        covariance = right * rows - sum(p * t for p, t in counts)
        product = (rows**2 - sum(p * p for p, _ in counts)) * (rows**2 - sum(t * t for _, t in counts))
        return {"matthews_correlation": covariance / math.sqrt(product) if product else 0.0}


def _positive_f1(predictions: Any, references: Any) -> float:
    predicted, actual = numbers(predictions, references)
    require("-1, 0 or 1 for a two-class metric", np.isin(predicted, (-1, 0, 1)), "predictions", predicted)
    require("0 or 1 for a two-class metric", np.isin(actual, (0, 1)), "references", actual)
    # No class at all is the wrong one wherever it stands, as T5's f1_score_with_invalid has it.
    predicted = np.where(predicted == -1, 1 - actual, predicted)
    return _f1(predicted == 1, actual == 1)


def _f1(predicted: np.ndarray, actual: np.ndarray) -> float:
    """F1 of two masks, shape (N,): where a class is predicted and where it is present."""
    both, either = int(np.count_nonzero(predicted & actual)), int(predicted.sum()) + int(actual.sum())
    return 2 * both / either if either else 0.0
