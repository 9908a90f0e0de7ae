"""One run, told once: configuration, data, backbone, method, training, pruning, record."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from peftbench.assembly import (
    HEAD,
    TokenisedSplits,
    attach,
    check_examples,
    check_machine,
    make_accelerator,
    stream_seed,
)
from peftbench.backbones.anatomy import is_decoder
from peftbench.backbones.loading import load_backbone
from peftbench.backbones.origin import origin
from peftbench.backbones.quantisation import backbone_megabytes
from peftbench.config import RunConfig
from peftbench.console import warned
from peftbench.environment import multiplies_bf16
from peftbench.errors import ConfigurationError, PeftbenchError, RunError, first_line, is_out_of_memory
from peftbench.forms.base import Form
from peftbench.forms.registry import form_class
from peftbench.kept import Kept
from peftbench.placing import run_folder
from peftbench.processes import is_main
from peftbench.record import RunFolder, utc_now
from peftbench.run import Run, opening
from peftbench.stages import plan_stages
from peftbench.tasks.base import TaskData, TaskSpec
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import configured
from peftbench.training.devices import Devices
from peftbench.training.guard import failure, is_of_the_disk
from peftbench.training.meter import Meter, reset_peak_memory

log = logging.getLogger("peftbench")


def run_experiment(
    config: RunConfig, kept: Kept | None = None, again: bool = True, brief: bool = False
) -> tuple[dict[str, Any], Path]:
    """Do what `config` says, or find it done; the record and its folder either way.

    Args:
        config: the run's.
        kept: what earlier runs of this process have loaded.
        again: whether a run that failed before is tried once more; else its record is returned.
        brief: whether it opens with one line on the screen.

    Raises:
        ConfigurationError: data, weights or settings do not fit; nothing was written.
        RunError: training failed; the record says how.
    """
    began = time.perf_counter()
    reset_peak_memory()
    check_machine(config)
    accelerator, kept = make_accelerator(config), kept or Kept()
    with _writing(config) as config:
        spec, form, data, folder = placed(config, kept)
        done = Devices(accelerator).agreed(folder.finished() if again else folder.ended())
        if done is not None:
            return done | {"reused": True}, folder.path
        try:
            run = _assemble(config, spec, form, data, folder, accelerator, kept)
        except ConfigurationError:
            raise
        except Exception as error:
            weights = kept.get("origin", repr(config.model), lambda: origin(config.model))
            raise _recorded(error, folder, opening(config, folder, weights, form.name, data)) from error
        run.brief = brief
        with folder.claimed(), folder.logged():
            done = run.devices.agreed(folder.finished())  # Another process may have finished it meanwhile.
            if done is not None:
                return done | {"reused": True}, folder.path
            if accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu" and not multiplies_bf16():
                _warn_of_bf16()
            return _carried_out(run, began)


@functools.cache
def _warn_of_bf16() -> None:
    """Once in a process, not for every run of a sweep."""
    warned("trainer.precision=bf16 is many times slower than fp32 on this processor, which has no instructions for it")


@contextlib.contextmanager
def _writing(config: RunConfig) -> Iterator[RunConfig]:
    """The main process's configuration; the others' has outputs that are thrown away."""
    if is_main():
        yield config
    else:
        with tempfile.TemporaryDirectory() as outputs:
            yield dataclasses.replace(config, outputs=Path(outputs))


def _recorded(error: Exception, folder: RunFolder, record: dict[str, Any]) -> RunError:
    """What to raise of an error before training, once it has left a record."""
    # What another process is at, or has finished meanwhile, is not this failure's; what was interrupted can go on.
    with contextlib.suppress(PeftbenchError, OSError), folder.claimed(), folder.logged():
        log.error("%s", "".join(traceback.format_exception(error)))
        if folder.finished() is None and not folder.checkpoint.exists():
            folder.write_record(record | failure(error) | {"ended": utc_now()})
    return _told(error, folder)


def _carried_out(run: Run, began: float) -> tuple[dict[str, Any], Path]:
    """The run's record and folder; its errors know the folder too."""
    try:
        return run.carry_out(began), run.folder.path
    except PeftbenchError as error:
        error.folder = run.folder.path
        raise
    except Exception as error:
        raise _told(error, run.folder) from error


def _told(error: Exception, folder: RunFolder) -> RunError:
    """One line of an error that is not ours; it knows the folder, where the traceback is."""
    if is_of_the_disk(error):
        told = RunError(
            f"outputs: cannot write to {folder.path} ({first_line(error)}); make room there, and the same command"
            " goes on"
        )
    else:
        what = "out of memory" if is_out_of_memory(error) else type(error).__name__
        where = f" (traceback in {folder.path / 'run.log'})" if is_main() else ""
        told = RunError(f"{what}: {first_line(error)}{where}")
    told.folder = folder.path
    return told


def placed(config: RunConfig, kept: Kept) -> tuple[TaskSpec, type[Form], TaskData, RunFolder]:
    """The run's task, form and data, and the folder that these and the configuration name.

    Raises:
        ConfigurationError: data or weights are not there, or do not fit.
    """
    spec, form = configured(config.task), form_class(config)
    wanted = (config.task, config.data, config.trainer.predictions)
    data = kept.get("data", repr(wanted), lambda: load_task(spec, *wanted))
    weights = kept.get("origin", repr(config.model), lambda: origin(config.model))
    return spec, form, data, run_folder(config, data, weights, form)


def _assemble(
    config: RunConfig,
    spec: TaskSpec,
    form_class: type[Form],
    data: TaskData,
    folder: RunFolder,
    accelerator: Accelerator,
    kept: Kept,
) -> Run:
    """Load the backbone, attach the method, tokenise. Raises ConfigurationError; writes nothing."""
    backbone = load_backbone(config.model, spec.num_outputs, stream_seed(config.seed, HEAD), form_class.head, kept)
    model = backbone.model.to(accelerator.device)
    meter = Meter(accelerator.device)
    form = form_class(spec, config.task, model, backbone.tokenizer)
    form.ready(accelerator, config.trainer.eval_batch_size, meter)
    tokenised = TokenisedSplits(data, form, repr(config.model), kept)
    plans = plan_stages(config, check_examples(len(tokenised["train"]), len(data.train), spec.name, form.name))
    memory = backbone_megabytes(model) | {"shared_weights_mb": backbone.shared_mb}
    length, steps = form.positions(config.task, is_decoder(model)), plans[0].total_steps
    attachment, groups = attach(config, model, backbone.identity, steps, length, backbone.tokenizer)
    loaded = (accelerator, model, memory, attachment, groups, tokenised, plans, meter)
    return Run(config, spec, data, folder, backbone.origin, *loaded)
