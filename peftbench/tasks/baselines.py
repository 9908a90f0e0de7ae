"""What a task scores without a model: the training labels' majority class, and choices drawn at random."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from peftbench.tasks.base import Predictions, Split, TaskSpec
from peftbench.tasks.mixture import parts
from peftbench.tasks.scores import Scores, score

DRAWS = 20
_SEED = 20190502


def all_baselines(
    spec: TaskSpec, train: Split, evaluations: Mapping[str, Split]
) -> dict[str, dict[str, Scores] | None]:
    """`baselines` of every split; of a mixture those of each of its tasks that has training rows, by its name."""
    found = {name: baselines(spec, train, split) for name, split in evaluations.items()}
    trained = {member.name: part for member, _, part in parts(spec.members, train)}
    for split in evaluations.values():
        for member, _, part in parts(spec.members, split):
            if member.name in trained:
                found[member.name] = baselines(member, trained[member.name], part)
    return found


def baselines(spec: TaskSpec, train: Split, split: Split) -> dict[str, Scores] | None:
    """The metrics of two predictions that read no text.

    `majority` gives every row the class that is most frequent in training (the lower of two equally frequent ones);
    for a task that chooses among candidates, the place that is most often right, as far as a row has so many.
    `random` gives every row one of the classes, or of its candidates, all equally likely; its metrics are the means
    over 20 seeded draws.

    Args:
        spec: the task.
        train: labelled rows.
        split: labelled rows, to be scored.

    Returns:
        Metrics by baseline; None for a task without classes and candidates (a number, a text, a mixture).
    """
    if spec.is_regression or spec.kind in ("generate", "lm", "mixture") or train.labels is None:
        return None
    counts = np.asarray([len(row) for row in split.columns["choices"]]) if spec.kind == "choose" else None
    if counts is None:
        counts = np.full(len(split), len(spec.labels))
    seen = Counter(train.labels.tolist())
    majority = max(sorted(seen), key=seen.__getitem__)
    draws = [np.random.default_rng([_SEED, draw]).integers(0, counts) for draw in range(DRAWS)]
    scored = [score(spec, split, _as_predicted(split, drawn))[split.name] for drawn in draws]
    return {
        "majority": score(spec, split, _as_predicted(split, np.minimum(majority, counts - 1)))[split.name],
        "random": {name: _mean([found[name] for found in scored]) for name in scored[0]},
    }


def _mean(scores: list[float | None]) -> float:
    return math.fsum(one for one in scores if one is not None) / len(scores)


def _as_predicted(split: Split, places: np.ndarray) -> Predictions:
    """Classes, or the words of the chosen candidates where those are what is scored."""
    if "entities" not in split.columns:
        return places
    return [entities[place] for entities, place in zip(split.columns["entities"], places, strict=True)]
