"""Run an experiment and render its report: python scripts/reproduce.py sora_table1_small [overrides] [--to folder].

That is `peftbench -m +experiment=<name> [overrides]`, which finishes what is missing and skips what is done, and then
`peftbench report <outputs>/<name> to=<folder>`, also where some of the runs failed. Without a name it lists the
experiments.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

PEFTBENCH = [sys.executable, "-m", "peftbench"]


def commands(experiment: str, overrides: Sequence[str], to: str | None) -> tuple[list[str], list[str]]:
    """The sweep's command and the report's.

    Args:
        experiment: its name.
        overrides: of the sweep; `outputs` and `experiment_name` among them say where the runs are found.
        to: folder of the report; None: `report` beside the runs.
    """
    given = dict(word.split("=", 1) for word in overrides if "=" in word)
    runs = f"{given.get('outputs', 'outputs')}/{given.get('experiment_name', experiment)}"
    sweep = [*PEFTBENCH, "-m", f"+experiment={experiment}", *overrides]
    return sweep, [*PEFTBENCH, "report", runs, f"to={to or f'{runs}/report'}"]


def main() -> int:
    """Do what the command line says; the sweep's exit status, else the report's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", help="a name of conf/experiment; none: list them")
    parser.add_argument("overrides", nargs="*", help="of the sweep, e.g. data=folder data.root=<folder> seed=0")
    parser.add_argument("--to", help="folder of the report (<outputs>/<name>/report)")
    arguments = parser.parse_intermixed_args()
    if arguments.experiment is None:
        return subprocess.call([*PEFTBENCH, "list", "experiments"])
    sweep, report = commands(arguments.experiment, arguments.overrides, arguments.to)
    swept = subprocess.call(sweep)
    if swept == 2:  # The configuration is wrong: nothing was run.
        return swept
    reported = subprocess.call(report)
    return swept or reported


if __name__ == "__main__":
    sys.exit(main())
