"""The console program: Hydra overrides, or a verb. Torch is imported only where a run or a model is needed."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from peftbench import __version__
from peftbench.environment import prepare_process
from peftbench.errors import ConfigurationError, PeftbenchError

_HYDRA_FLAGS = ("-m", "--multirun", "-c", "--cfg", "-i", "--info", "-sc", "--shell-completion", "--hydra-help")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console program and exit: 0 done, 1 a run failed, 2 the configuration is wrong."""
    # On import it tells at length of optional kernels that are not there.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    sys.exit(exit_status(list(sys.argv[1:] if argv is None else argv)))


def exit_status(words: list[str]) -> int:
    """What `main` exits with; errors are one line on standard error."""
    try:
        return _dispatch(words)
    except PeftbenchError as error:
        _complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        _complain("interrupted; the same command goes on from the last checkpoint")
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1


def _complain(message: str) -> None:
    print(f"peftbench: error: {' '.join(message.split())}", file=sys.stderr)


def _dispatch(words: list[str]) -> int:
    verbs: dict[str, Callable[[list[str]], int]] = {
        "list": _list,
        "doctor": _doctor,
        "inspect": _inspect,
        "mixed": _mixed,
        "fetch": _fetch,
        "report": _report,
        "replay": _replay,
    }
    if any(word in ("-h", "--help") for word in words):
        from peftbench.guide import help_text

        print(help_text(words[0]))
        return 0
    if words and words[0] in verbs:
        return verbs[words[0]](words[1:])
    if "--version" in words:
        print(f"peftbench {__version__}")
        return 0
    # An experiment may be a sweep, which Hydra finds out.
    if any(word.partition("=")[0] in (*_HYDRA_FLAGS, "+experiment") for word in words):
        overrides = _HydraWords(allow_abbrev=False).read(words)
        _refuse_unknown(overrides, {*verbs})
        # Hydra wants all overrides in one place.
        return _hydra([*overrides, *(word for word in words if word not in overrides)])
    _refuse_unknown(words, {*verbs})
    return _run(words)


class _HydraWords(argparse.ArgumentParser):
    """Hydra's options, read before Hydra reads them: its parser tells a mistake in ten lines."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        for flags in (("-m", "--multirun"), ("-sc", "--shell-completion"), ("--hydra-help",), ("--resolve",)):
            self.add_argument(*flags, action="store_true")
        self.add_argument("-cd", "--config-dir")
        self.add_argument("-c", "--cfg", choices=("job", "hydra", "all"))
        about = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
        self.add_argument("-i", "--info", nargs="?", const="all", choices=about)
        self.add_argument("overrides", nargs="*")

    def read(self, words: list[str]) -> list[str]:
        """The overrides among the words.

        Raises:
            ConfigurationError: an option is unknown, or does not go with another.
        """
        found = self.parse_intermixed_args(words)
        given = [flag for flag in ("multirun", "cfg", "info", "shell_completion", "hydra_help") if getattr(found, flag)]
        if len(given) > 1:
            told = " and ".join(f"--{flag.replace('_', '-')}" for flag in given)
            raise ConfigurationError(f"{told} do not go together; --cfg job shows one run, without -m (see --help)")
        if found.resolve and not found.cfg:
            raise ConfigurationError("--resolve goes with --cfg alone (see peftbench --help)")
        return found.overrides

    def error(self, message: str) -> NoReturn:
        """One line instead of the usage."""
        raise ConfigurationError(f"{message} (see peftbench --help)")


def _refuse_unknown(words: list[str], verbs: set[str]) -> None:
    from peftbench.strict import did_you_mean

    for word in words:
        if word.startswith("-"):
            raise ConfigurationError(f"{word}: unknown option (see peftbench --help)")
        if "=" not in word and not word.startswith("~"):
            if word in verbs:
                raise ConfigurationError(f"{word}: a verb comes first: peftbench {word} ...")
            raise ConfigurationError(
                f"{word or repr(word)}: neither a verb nor key=value{did_you_mean(word, verbs)} (see peftbench --help)"
            )


def _run(overrides: list[str]) -> int:
    from peftbench.compose import compose_run

    _carry_out(compose_run(overrides))
    return 0


def _carry_out(config) -> float:
    """One run, shown; its objective."""
    prepare_process()
    from peftbench.console import show_result
    from peftbench.experiment import run_experiment
    from peftbench.record import RunFolder

    record, path = run_experiment(config)
    show_result(record, str(RunFolder(path).record))
    return record["objective"]


def _hydra(words: list[str]) -> int:
    """Hydra's own entry: sweeps, `--cfg`, `--info`."""
    import hydra
    from hydra.core.hydra_config import HydraConfig

    from peftbench.compose import check_groups, conf_folder, from_hydra, hydra_errors, readable
    from peftbench.sweep.ledger import NOT_STUDIES

    words = _comparable(words)
    check_groups([word for word in readable(words) if "=" in word and not word.startswith("-")])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Exceptions reach us, to be told in one line.
    sys.argv = ["peftbench", *readable(words)]

    def job(node) -> float:
        own = HydraConfig.get()
        if (sweeper := own.runtime.choices["hydra/sweeper"]) not in NOT_STUDIES:
            job.jobs.ledger.sweeper = sweeper
        return job.jobs.carry_out(from_hydra(node, own), list(own.overrides.task))

    with hydra_errors(), _sweeping(words) as job.jobs:
        hydra.main(config_path=str(conf_folder()), config_name="config", version_base="1.3")(job)()
    return job.jobs.ledger.status


def _comparable(words: list[str]) -> list[str]:
    """`hydra/sweeper=optuna` is the installed plugin's, else Optuna itself behind the same name; both maximise.

    Raises:
        ConfigurationError: the plugin's one study would give methods unequal trials, or look for the worst.
    """
    if "hydra/sweeper=optuna" not in words:
        return words
    # The plugin minimises where nothing is said.
    direction = "hydra.sweeper.direction="
    if any(word.startswith(direction) and word != f"{direction}maximize" for word in words):
        raise ConfigurationError(f"{direction}maximize is the only one: every run's objective grows with its quality")
    words = [word for word in words if not word.startswith(direction)]
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("hydra_plugins.hydra_optuna_sweeper")
        if any(re.match(r"(method|task|model)=.*[,(]", word) for word in words):
            raise ConfigurationError(
                "hydra/sweeper=optuna is one study: methods, tasks and models in it would get unequal trials; use"
                " hydra/sweeper=tpe, which gives each the same number, or name one of each"
            )
        return [f"{direction}maximize", *words]
    ours = {"sweeper=optuna": "sweeper=tpe", "sweeper.n_trials": "sweeper.trials"}
    return [re.sub("|".join(map(re.escape, ours)), lambda m: ours[m[0]], word) for word in words]


@contextlib.contextmanager
def _sweeping(words: list[str]) -> Iterator[Any]:
    """What carries the jobs of a sweep out."""
    from peftbench.processes import processes
    from peftbench.sweep.jobs import Jobs, Stopped
    from peftbench.sweep.ledger import Ledger

    if processes() > 1:
        raise ConfigurationError("a sweep of runs in several processes each: launch its runs one by one")
    prepare_process()
    with Ledger(words) as ledger, contextlib.suppress(Stopped):
        yield Jobs(ledger)


def _list(words: list[str]) -> int:
    from peftbench.guide import listing

    print(listing(words))
    return 0


def _doctor(words: list[str]) -> int:
    from peftbench.doctor import report

    if words:
        raise ConfigurationError(f"doctor takes no arguments, got {words[0]}")
    return report()


def _inspect(overrides: list[str]) -> int:
    from peftbench.compose import compose_run
    from peftbench.hub import settle_offline

    _refuse_unknown(overrides, set())
    config = compose_run(overrides)
    settle_offline()
    from peftbench.inspection import show

    show(config)
    return 0


def _mixed(words: list[str]) -> int:
    limit, folders = None, []
    for word in words:
        key, equals, value = word.partition("=")
        if key == "rows" and equals:
            if not value.isdigit() or not int(value):
                raise ConfigurationError(f"rows={value}: expected a number of rows, at least 1")
            limit = int(value)
        else:
            folders.append(word)
    from peftbench.hub import settle_offline

    settle_offline()
    from peftbench.mixed import show

    show(folders, limit)
    return 0


def _fetch(words: list[str]) -> int:
    from peftbench.fetch.verb import fetch

    return fetch(words)


def _report(words: list[str]) -> int:
    from peftbench.report.verb import report

    return report(words)


def _replay(words: list[str]) -> int:
    if not words:
        raise ConfigurationError("replay: give a run's record.json or its folder (see peftbench --help)")
    prepare_process()
    from peftbench.replay import replay

    return replay(words)
