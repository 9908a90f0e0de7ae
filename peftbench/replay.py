"""A recorded run once more, and whether it says the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Table

from peftbench.config import RunConfig
from peftbench.console import paper, warned
from peftbench.errors import ConfigurationError, first_line
from peftbench.experiment import placed, run_experiment
from peftbench.kept import SWEEP, Kept
from peftbench.processes import processes
from peftbench.record import completed_record
from peftbench.typed import recorded_mapping, typed

EXPERIMENT = "replay"
TOLERANCE = 1e-3
"""Largest difference of a score that passes for another machine's rounding."""


@dataclass(frozen=True)
class Number:
    """Something that the record says and the replay says too; None: one does not."""

    what: str
    recorded: Any
    replayed: Any

    @property
    def difference(self) -> float | None:
        """Absolute; None where one of the two is no number."""
        pair = (self.recorded, self.replayed)
        return abs(pair[0] - pair[1]) if all(isinstance(value, (int, float)) for value in pair) else None


def replay(words: Sequence[str]) -> int:
    """Run a record's configuration again and compare: `<record.json> [key=value ...]`.

    Args:
        words: the record's path, then keys that say where things are (`outputs`, `data.root`, `model.path`, ...).

    Returns:
        0: the scores are the record's, to `TOLERANCE`. 1: they are not.

    Raises:
        ConfigurationError: no completed record, or data, weights or keys that make it another run.
    """
    if processes() > 1:
        raise ConfigurationError("replay: in one process; start it without a launcher")
    file = Path(words[0])
    file = file / "record.json" if file.is_dir() else file
    record, overrides = completed_record(file, "replay"), words[1:]
    config = _configured(record, overrides)
    kept = Kept(SWEEP)
    _, _, data, folder = placed(config, kept)
    if folder.path.name != record["run_id"]:
        _refuse(record, data.provenance)
    if folder.record.exists() and folder.record.samefile(file):
        raise ConfigurationError(f"replay: {file} is a replay itself; replay the run it is of, or give another outputs")
    with folder.claimed():  # What an earlier replay left.
        for path in folder.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()
    replayed, _ = run_experiment(config, kept)
    found = list(numbers(record, replayed))
    verdict = judged(found)
    _show(found, list(surroundings(record, replayed)), f"{record['task']} · {record['method']} · {verdict}")
    paper().print(f"record: {folder.record}")
    return int(verdict == "different")


def _configured(record: Mapping[str, Any], overrides: Sequence[str]) -> RunConfig:
    known = recorded_mapping(record)
    known |= {"outputs": "outputs", "experiment_name": EXPERIMENT}
    for word in overrides:
        if "=" not in word:
            raise ConfigurationError(f"replay: {word}: expected key=value after the record")
    try:
        whole = OmegaConf.merge(known, OmegaConf.from_dotlist(list(overrides)))
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigurationError(f"replay: {first_line(error)}") from error
    config = typed(OmegaConf.to_container(whole), {})  # type: ignore[arg-type]
    if config.experiment_name != EXPERIMENT:
        raise ConfigurationError(f"experiment_name: a replay's is {EXPERIMENT}; give another outputs instead")
    return config


def _refuse(record: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Say what makes it another run."""
    before = {name: split["fingerprint"] for name, split in record["data"]["splits"].items()}
    now = {name: split["fingerprint"] for name, split in data["splits"].items()}
    if before != now:
        others = ", ".join(sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name)))
        why = f"other rows of {others} (data.source={data['source']})"
    else:
        why = "weights, or keys of the configuration or of this version, that change the result"
    raise ConfigurationError(f"replay: this is not run {record['run_id']}: {why}; say where its own are, or leave keys")


def _scores(recorded: Mapping[str, Any], replayed: Mapping[str, Any], what: str = "") -> Iterator[Number]:
    for split in dict.fromkeys([*recorded, *replayed]):
        of, now = recorded.get(split, {}), replayed.get(split, {})
        for metric in dict.fromkeys([*of, *now]):
            yield Number(f"{what}{split} {metric}", of.get(metric), now.get(metric))


def numbers(record: Mapping[str, Any], replayed: Mapping[str, Any]) -> Iterator[Number]:
    """Scores, those of the untrained model and of every stage too, ranks and counts of both."""
    yield from _scores(record["metrics"], replayed["metrics"])
    yield from _scores(record.get("untrained") or {}, replayed.get("untrained") or {}, "untrained ")
    stages = zip_longest(record.get("stages") or [], replayed.get("stages") or [], fillvalue={})
    for number, (of, now) in enumerate(stages, 1):
        yield from _scores(of.get("metrics") or {}, now.get("metrics") or {}, f"stage {number} ")
    ranks = [sum(r["ranks"]["final"].values()) if r.get("ranks") else None for r in (record, replayed)]
    if ranks != [None, None]:
        yield Number("ranks left", *ranks)
    for key in ("trained", "effective"):
        yield Number(f"parameters {key}", record["parameters"][key], replayed["parameters"][key])
    yield Number("checkpoint of step", record["selection"]["step"], replayed["selection"]["step"])


def judged(found: Sequence[Number]) -> str:
    """`identical`, `equal to <largest difference of a score>`, or `different`."""
    other = [number for number in found if number.recorded != number.replayed]
    if not other:
        return "identical"
    counts = [number for number in other if number.what.split()[0] in _COUNTED]
    scores = [number.difference for number in other if number not in counts]
    largest = max((1.0 if size is None else size for size in scores), default=0.0)
    if largest > TOLERANCE:
        return "different"
    return f"equal to {largest:.1g}" + (f", other {counts[0].what}" if counts else "")


_COUNTED = ("ranks", "parameters", "checkpoint")


def surroundings(record: Mapping[str, Any], replayed: Mapping[str, Any]) -> Iterator[Number]:
    """What of machine and software is not as it was."""
    before, now = (_flat(r.get("environment") or {}) for r in (record, replayed))
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            yield Number(key, before.get(key), now.get(key))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return found


def _show(found: Sequence[Number], around: Sequence[Number], title: str) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("what")
    for name in ("recorded", "replayed", "difference"):
        table.add_column(name, justify="right")
    for number in found:
        size = "-" if number.difference is None else f"{number.difference:.2g}"
        table.add_row(number.what, _shown(number.recorded), _shown(number.replayed), size)
    paper().print(table)
    for number in around:
        warned(f"{number.what}: {number.recorded} then, {number.replayed} now")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6f}"
    return "not there" if value is None else f"{value:,}"
