"""What activation checkpointing and a 4-bit backbone save, and what the first costs."""

from __future__ import annotations

from collections.abc import Callable

from peftbench.backbones.loading import load_backbone
from peftbench.backbones.quantisation import backbone_megabytes
from peftbench.bench.measure import Ratio, in_turn, saved_megabytes
from peftbench.bench.models import Batch, configured, loss, ours, step
from peftbench.compose import compose_run
from peftbench.config import RunConfig
from peftbench.errors import ConfigurationError
from peftbench.forms.registry import form_class

ROWS, LENGTH = 16, 128
METHODS = ("lora", "houlsby")


def measure(repeats: int, progress: Callable[[], None] = lambda: None) -> list[Ratio]:
    """Memory kept for the backward pass and seconds of a step with checkpointing; megabytes of NF4 weights."""
    section, batch = f"activation checkpointing, MiniLM, {ROWS} x {LENGTH} tokens, float32", Batch.of(ROWS, LENGTH)
    found = []
    for name in METHODS:
        models = {word: ours(f"method={name}", *words)[0] for word, words in
                  {"with": ["trainer.gradient_checkpointing=true"], "without": []}.items()}  # fmt: skip
        held = {word: saved_megabytes(lambda m=model: loss(m, batch, False)) for word, model in models.items()}
        seconds = in_turn({word: step(model, batch, False) for word, model in models.items()}, repeats, warmup=1)
        told = f"{held['with']:.0f} against {held['without']:.0f} MB kept besides the block at work"
        found.append(Ratio(section, f"memory of {name}", "without", held["with"] / held["without"], detail=told))
        told = f"{1e3 * seconds['with']:.0f} against {1e3 * seconds['without']:.0f} ms"
        found.append(Ratio(section, f"a step of {name}", "without", seconds["with"] / seconds["without"], detail=told))
        progress()
    wanted = {"MiniLM": configured("method=qlora"), "SmolLM2": _smollm2()}
    return found + [_quantised(name, config) for name, config in wanted.items()]


def _smollm2() -> RunConfig:
    return compose_run(["task=e2e", "data=sample", "model=smollm2", "method=qlora"])


def _quantised(name: str, config: RunConfig) -> Ratio:
    section = "a backbone's weights in NF4 (QLoRA)"
    try:
        size = backbone_megabytes(load_backbone(config.model, 1, 0, form_class(config).head).model)
    except ConfigurationError as error:
        return Ratio(section, name, "not measured", float("nan"), detail=str(error))
    packed, whole = size["backbone_weights_mb"], size["backbone_weights_mb_fp32"]
    told = f"{packed:.1f} against {whole:.1f} MB, embeddings and norms unquantised"
    return Ratio(section, name, "float32", packed / whole, detail=told)
