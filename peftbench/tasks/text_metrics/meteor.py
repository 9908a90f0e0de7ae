"""METEOR 1.5 (Denkowski and Lavie, 2014): the authors' Java program, where it can run."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from peftbench.tasks.text_metrics.corpus import Pairs, Tokens

TIME_LIMIT = 600.0
"""Seconds; the 630 inputs of E2E's test set take a few."""

_SEPARATOR = " ||| "

log = logging.getLogger("peftbench")


def obstacle() -> str | None:
    """Why METEOR cannot be computed here; None where it can."""
    if shutil.which("java") is None:
        return "METEOR 1.5 needs Java"
    if _jar() is None:
        return "METEOR 1.5's jar comes with pycocoevalcap; run pip install --no-deps pycocoevalcap==1.2"
    return None


def meteor(words: Pairs[Tokens]) -> float | None:
    """METEOR of the whole set, 0 to 1, by one process; None, with the reason in the log, where there is none."""
    reason = obstacle()
    if reason is None:
        try:
            return _run(words)
        except (OSError, ValueError) as error:
            reason = str(error)
    log.warning("meteor is not computed: %s", reason)
    return None


def _run(words: Pairs[Tokens]) -> float:
    """Raise OSError or ValueError, which say how it went, where no score comes back."""
    command = ["java", "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(_jar()), "-", "-", "-stdio", "-l", "en", "-norm"]
    program = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8"
    )
    assert program.stdin is not None
    assert program.stdout is not None
    stop = threading.Timer(TIME_LIMIT, program.kill)
    stop.start()
    try:
        return _converse(program.stdin, program.stdout, words)
    except (OSError, ValueError) as error:
        late = stop.finished.is_set()
        how = f"took more than {TIME_LIMIT:g} s" if late else f"failed ({error})"
        raise ValueError(f"METEOR 1.5 {how}") from error
    finally:
        stop.cancel()
        program.kill()
        with suppress(OSError):
            # What was not read by the program cannot be flushed.
            program.stdin.close()
        program.stdout.close()
        program.wait()


def _converse(questions: IO[str], answers: IO[str], words: Pairs[Tokens]) -> float:
    """Ask for the matches of each input, then for the score that they give together."""

    def ask(*parts: str) -> str:
        questions.write(_SEPARATOR.join(parts) + "\n")
        questions.flush()
        if not (answer := answers.readline().strip()):
            raise ValueError("it ended without an answer")
        return answer

    # Each question waits for its answer: with both pipes full, neither end could go on.
    matches = [
        ask("SCORE", *map(_line, references), _line(hypothesis))
        for hypothesis, references in zip(words.hypotheses, words.references, strict=True)
    ]
    # A score of each input comes first, and that of all last.
    scores = [ask("EVAL", *matches), *(answers.readline() for _ in matches)]
    return float(scores[-1])


def _line(words: Tokens) -> str:
    return " ".join(word for word in words if "|||" not in word)


def _jar() -> Path | None:
    package = find_spec("pycocoevalcap")
    folders = (package and package.submodule_search_locations) or []
    jars = [Path(folder, "meteor", "meteor-1.5.jar") for folder in folders]
    return next((jar for jar in jars if jar.is_file()), None)
