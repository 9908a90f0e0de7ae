"""Time one training step of every method on one backbone, side by side: python scripts/step_times.py [--repeats 10].

All methods are attached to copies of the same pretrained MiniLM and take their steps in turn, so that whatever the
machine does meanwhile falls on all alike. A step is forward, penalty, backward, optimizer and the method's own door, on
one batch of 32 rows of 64 tokens. Prints JSON: medians in seconds and as a ratio to LoRA's.
"""

from __future__ import annotations

import argparse
import json

import torch

from peftbench.bench.measure import in_turn
from peftbench.bench.models import Batch, Trained, trained
from peftbench.compose import conf_folder
from peftbench.errors import ConfigurationError

ROWS, TOKENS = 32, 64


def main() -> None:
    """Time the methods in turn and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("methods", nargs="*", help="default: every method of conf/method")
    arguments = parser.parse_args()
    names = arguments.methods or sorted(file.stem for file in (conf_folder() / "method").glob("*.yaml"))
    batch = Batch.of(ROWS, TOKENS)
    models: dict[str, Trained] = {}
    for name in names:
        try:
            models[name] = trained(f"method={name}")
        except ConfigurationError as error:
            print(f"{name}: {error}")
    cases = {name: lambda m=model: m.step(batch, False) for name, model in models.items()}
    medians = in_turn(cases, arguments.repeats)
    reference = medians.get("lora", min(medians.values()))
    result = {name: {"step_s": round(m, 4), "over_lora": round(m / reference, 3)} for name, m in medians.items()}
    threads = torch.get_num_threads()
    print(json.dumps({"rows": ROWS, "tokens": TOKENS, "threads": threads, "methods": result}, indent=1))


if __name__ == "__main__":
    main()
