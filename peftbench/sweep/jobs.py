"""The runs of a sweep, one after another in this process."""

from __future__ import annotations

import functools
import gc
import math
import time
from typing import Any

from peftbench.config import RunConfig
from peftbench.errors import BusyError, ConfigurationError, PeftbenchError
from peftbench.kept import SWEEP, Kept
from peftbench.record import RunFolder, read_record
from peftbench.sweep.ledger import Ledger, Outcome


class Stopped(BaseException):
    """A sweep ends before its end. No `Exception`, for Hydra takes those for a job's own and goes on."""


class Jobs:
    """Carries runs out and enters how they ended. What one has loaded the next has too.

    Args:
        ledger: is told.
    """

    def __init__(self, ledger: Ledger):
        self.ledger = ledger
        self._kept = Kept(SWEEP)

    def carry_out(self, config: RunConfig, overrides: list[str]) -> float:
        """One run; its objective, or NaN where it has none. Failures are told at once.

        Raises:
            Stopped: the run failed and the sweep is to end at that.
        """
        outcome = self.ledger.begin(overrides, config)
        from peftbench.experiment import run_experiment  # Torch comes with it: what Hydra refuses does not wait for it.

        _set_modules_aside()
        began = time.monotonic()
        try:
            record, path = run_experiment(config, self._kept, again=config.sweep.retry, brief=True)
            _enter(outcome, record, str(RunFolder(path).record))
        except BusyError as error:
            outcome.status, outcome.message = "elsewhere", str(error)
        except Exception as error:  # One broken job does not take the others with it.
            self._failed(outcome, error)
        except BaseException:
            outcome.status = "interrupted"
            raise
        finally:
            outcome.seconds = round(time.monotonic() - began, 1)
        self.ledger.end(outcome)
        failed = outcome.status not in ("completed", "elsewhere") and not outcome.reused
        if failed and config.sweep.on_error == "stop":
            raise Stopped
        return float("nan") if outcome.objective is None else outcome.objective

    def _failed(self, outcome: Outcome, error: Exception) -> None:
        outcome.status = "refused" if isinstance(error, ConfigurationError) else "failed"
        outcome.message = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, PeftbenchError) and error.folder is not None:
            file = RunFolder(error.folder).record
            if (record := read_record(file)) is not None:
                _enter(outcome, record, str(file))
        self.ledger.tell(outcome.message)


@functools.cache
def _set_modules_aside() -> None:
    """Once torch is imported: every run collects garbage, and would look through all modules' objects, which stay."""
    gc.collect()
    gc.freeze()


def _enter(outcome: Outcome, record: dict[str, Any], file: str) -> None:
    """What the record says."""
    outcome.status, outcome.run_id, outcome.record = record["status"], record["run_id"], file
    outcome.reused = record.get("reused", False)
    if outcome.status == "completed":
        outcome.metric = record["selection"]["metric"]
        outcome.objective = record["objective"] if math.isfinite(record["objective"]) else None
    elif outcome.reused and record["error"]:
        outcome.message = record["error"]["message"]
