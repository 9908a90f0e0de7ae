"""Runs of several methods in each process of a launcher: `<folder> <override> ... -- <method words> -- ...`.

Every process leaves the digest of its gates and trained parameters after every step in `<folder>/rank<r>.json`; with
KILLED_AFTER each is gone after so many steps.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

from peftbench.compose import compose_run
from peftbench.experiment import run_experiment
from peftbench.training.loop import Loop


def main() -> None:
    folder, *words = sys.argv[1:]
    groups = " ".join(words).split(" -- ")
    shared, runs = groups[0].split(), groups[1:]
    digests: dict[str, list[str]] = {}
    step = Loop._step

    def watched(self, plan, batch, lengths):
        loss = step(self, plan, batch, lengths)
        digest = hashlib.sha256()
        for parameter in self.optimizers.parameters:
            digest.update(parameter.detach().float().numpy().tobytes())
        digests.setdefault(current[0], []).append(digest.hexdigest())
        if len(digests[current[0]]) == int(os.environ.get("KILLED_AFTER", "0")):
            os.kill(os.getpid(), signal.SIGKILL)
        return loss

    Loop._step = watched
    current = [""]
    for run in runs:
        current[0] = run
        run_experiment(compose_run([*shared, *run.split()]), brief=True)
    Path(folder, f"rank{os.environ.get('RANK', '0')}.json").write_text(json.dumps(digests))


if __name__ == "__main__":
    main()
