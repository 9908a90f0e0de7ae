"""`--help` and `list`, read from the YAML files: no torch, no Hydra."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from peftbench.compose import conf_folder
from peftbench.errors import ConfigurationError
from peftbench.strict import did_you_mean

_KINDS = {"methods": "method", "tasks": "task", "models": "model", "experiments": "experiment"}

_HELP = """\
peftbench: fine-tune a pretrained language model with a parameter-efficient method, and leave a record of it.

  peftbench [key=value ...]           one run              peftbench method=sora task=mrpc
  peftbench -m key=a,b [...]          a sweep              peftbench -m method=lora,sora seed=0,21,42
  peftbench inspect [key=value ...]   what it would train  peftbench inspect method=sora model=deberta_v3_base
  peftbench list [{kinds}]
  peftbench mixed <run> <run> ...     several trained prompts in one batch, each row its own
  peftbench report <folder> ...       tables of what runs left; with to=<folder> written there, with figures and a page
  peftbench replay <record.json>      a recorded run once more, and whether it says the same
  peftbench fetch [<model> ...]       bring a model or, with data <task> ... root=<folder>, data here; alone: a list
  peftbench doctor                    versions, devices, data, models

Groups (group=choice picks a file of conf/<group>/)
{groups}

Keys people change
  seed=0                     outputs=outputs            experiment_name=default
  optimizer.lr=1e-3          trainer.epochs=3           trainer.max_steps=100
  trainer.batch_size=32      trainer.precision=bf16     trainer.selection=last
  method.rank=8              method.sites=[query,value] method.alpha=16
  sparsity.lambda=2          sparsity.xi=3e-4           sparsity.operator=official
  data.root=<folder>         data.max_train_rows=1000   task.protocol=sora

Examples
  peftbench method=sora task=mrpc data=sample                    no network, no files
  peftbench method=adalora task=rte data=folder data.root=<folder>
  peftbench method=sora task=cola sparsity=algorithm1 sparsity.lambda=4 sparsity.stage_epochs=2
  peftbench -m method=sora task=mrpc,rte sparsity.lambda=1,2,4 method.rank=4,8
  peftbench method=lora task=mrpc --cfg job                      the composed configuration

Precedence: command line > experiment > preset (conf/preset/<method>/<task>/<model>.yaml) > the group's own defaults.
preset=none turns presets off. Exit status: 0 done, 1 a run failed, 2 the configuration or the data are wrong."""


_REPORT_HELP = """\
peftbench report <folder> ... [key=value ...]: tables of what runs left; docs/report.md says what stands in them.

  to=<folder>            write tables, tidy rows, figures and a page there; without it tables go to the screen
  format=                screen: terminal (default), markdown, latex, html or csv;
                         with to= several of markdown,latex,html,csv,parquet,page, or all (default)
  layout=<name>          all runs as one paper's table; else each experiment's own, or one made of its runs
  metric=bleu,ter        only columns of these metrics
  method= task= model= seed= experiment= status=
                         only these runs; several by commas
  against=<row|method>   compare every row with this one
  test=                  permutation (default) or wilcoxon
  figures=<name>,...     with to=: only these figures, or none

Examples
  peftbench report outputs
  peftbench report outputs/sora_table1_small method=lora,sora to=tables format=latex,csv
  peftbench report outputs layout=sora_table2 to=report"""


def help_text(verb: str = "") -> str:
    """What `--help` prints: of `report` its options, else everything's."""
    if verb == "report":
        return _REPORT_HELP
    rows = [
        textwrap.fill(", ".join(_names(group)), 110, initial_indent=f"  {group:<10} ", subsequent_indent=" " * 13)
        for group in _groups()
    ]
    return _HELP.format(kinds="|".join(_KINDS), groups="\n".join(rows))


def listing(words: Sequence[str]) -> str:
    """What `list` prints: one line a choice, its name first.

    Raises:
        ConfigurationError: an unknown kind.
    """
    if len(words) > 1 or any(word not in _KINDS for word in words):
        near = did_you_mean(words[0], _KINDS)
        raise ConfigurationError(f"list {' '.join(words)}: unknown{near} (choose one of {', '.join(_KINDS)})")
    kinds = words or list(_KINDS)
    return "\n\n".join(_listed(kind, heading=len(kinds) > 1) for kind in kinds)


def _listed(kind: str, heading: bool) -> str:
    group = _KINDS[kind]
    names = _names(group)
    width = max((len(name) for name in names), default=0)
    lines = [f"{name:<{width}}  {_described(conf_folder() / group / f'{name}.yaml')}" for name in names]
    return "\n".join(([kind] if heading else []) + (lines or ["(none yet)"]))


def _described(file: Path) -> str:
    """What it is and, in brackets, what its second line says that it can."""
    with file.open(encoding="utf-8") as lines:
        can = [line.partition(":")[2].strip() for line in lines if line.startswith("# can:")]
    return first_comment(file) + "".join(f" [{words}]" for words in can)


def first_comment(file: Path) -> str:
    """A YAML file's first comment line that is not Hydra's own (`# @package ...`)."""
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.startswith("#"):
                return ""
            if not line.startswith("# @"):
                return line.lstrip("# ").strip()
    return ""


def _groups() -> list[str]:
    return [group.name for group in sorted(conf_folder().iterdir()) if group.is_dir() and _names(group.name)]


def _names(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_folder() / group).glob("*.yaml"))
