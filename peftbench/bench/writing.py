"""Tokens written per second: our decoding against `generate` called in the obvious way, merged against bare."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from peftbench.assembly import attach, make_accelerator
from peftbench.backbones.loading import Backbone, load_backbone
from peftbench.backbones.origin import locate
from peftbench.bench.measure import Ratio
from peftbench.compose import compose_run
from peftbench.config import RunConfig
from peftbench.errors import ConfigurationError
from peftbench.forms.decoding import Decoding, generate
from peftbench.tasks.protocols import load_task
from peftbench.tasks.registry import configured
from peftbench.training.batching import TokenRows
from peftbench.training.meter import Meter

AT_A_TIME = 12
"""Texts of a batch at most: there are two batches at least, so that their order counts."""
BEAMS = 5
NEW_TOKENS = 24
"""Of a text at most."""
ENOUGH = 100
"""Texts from which on the rates are judged."""
_SITES = r".*layers\.\d+\..*(q|k|v|o|gate|up|down)_proj"


def measure(rows: int, source: Sequence[str], progress: Callable[[], None] = lambda: None) -> list[Ratio]:
    """Ratios of tokens per second on E2E's meaning representations with SmolLM2, in float32.

    Each way writes all of them once, after a batch that does not count: where rates are judged that is many batches.

    Args:
        rows: meaning representations.
        source: overrides that say where the data are.
        progress: called after every way.
    """
    section = f"E2E, SmolLM2, beam {BEAMS}, {rows} texts of at most {NEW_TOKENS} tokens"
    try:
        config = compose_run(["task=e2e", "model=smollm2", "method=lora", f"data.max_eval_rows={rows}", *source])
        bare, adapted, merged = (load_backbone(config.model, 1, 0, "language") for _ in range(3))
    except ConfigurationError as error:
        return [Ratio(section, "not measured", "", float("nan"), detail=str(error))]
    _adapt(adapted, config, merge=False)
    _adapt(merged, config, merge=True)
    spec = configured(config.task)
    split = load_task(spec, config.task, config.data).evaluations["validation"]
    assert spec.text is not None
    texts = spec.text.sources(split)
    size = min(AT_A_TIME, -(-len(texts) // 2))
    ways: dict[str, Callable[[Sequence[str]], int]] = {
        name: lambda some, b=b: _ours(b, config, some, size)
        for name, b in {"bare": bare, "unmerged LoRA": adapted, "merged LoRA": merged}.items()
    }
    for name, model in {"stock model, generate": _hf(config, None), "HF PEFT LoRA, generate": _hf(config, 8)}.items():
        ways[name] = lambda some, m=model: _obvious(m, bare.tokenizer, some, size)
    for way in ways.values():
        way(texts[:size])
    rate = {}
    for name, way in ways.items():
        began = time.perf_counter()
        rate[name] = way(texts) / (time.perf_counter() - began)
        progress()

    def over(name: str, other: str, target: float) -> Ratio:
        told = f"{rate[name]:.0f} against {rate[other]:.0f} tokens/s"
        judged = target if rows >= ENOUGH else None
        return Ratio(section, name, other, rate[name] / rate[other], judged, at_least=True, detail=told)

    return [
        over("bare", "stock model, generate", 1.0),
        over("unmerged LoRA", "HF PEFT LoRA, generate", 1.0),
        over("merged LoRA", "bare", 0.95),  # Rates of equal work differ by a few hundredths from one time to the next.
    ]


def _adapt(backbone: Backbone, config: RunConfig, merge: bool) -> None:
    attachment, _ = attach(config, backbone.model, backbone.identity, 1, 200, backbone.tokenizer)
    if merge:
        attachment.merge()


def _ours(backbone: Backbone, config: RunConfig, texts: Sequence[str], at_a_time: int) -> int:
    tokenizer, meter = backbone.tokenizer, Meter(torch.device("cpu"))
    prompts = TokenRows.of(tokenizer(list(texts))["input_ids"], tokenizer.pad_token_id)
    decoding, size = Decoding(NEW_TOKENS, BEAMS), at_a_time * BEAMS
    generate(backbone.model, prompts, decoding, tokenizer, make_accelerator(config), size, meter)
    return meter.generated_tokens


def _hf(config: RunConfig, rank: int | None) -> Any:
    """The model as transformers loads it, in HF PEFT's LoRA of a rank; None: bare."""
    import peft
    from transformers import AutoModelForCausalLM

    where = str(locate(config.model).folder or config.model.repo)
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    if rank is None:
        return model.eval()
    lora = peft.LoraConfig(r=rank, lora_alpha=16, target_modules=_SITES, task_type="CAUSAL_LM")
    return peft.get_peft_model(model, lora).eval()


@torch.no_grad()
def _obvious(model: Any, tokenizer: Any, texts: Sequence[str], at_a_time: int) -> int:
    """As the documentation shows it: batches in the data's own order, padded on the left."""
    tokenizer.padding_side, written = "left", 0
    for begin in range(0, len(texts), at_a_time):
        batch = tokenizer(list(texts[begin : begin + at_a_time]), return_tensors="pt", padding=True)
        found = model.generate(**batch, num_beams=BEAMS, max_new_tokens=NEW_TOKENS, do_sample=False,
                               pad_token_id=tokenizer.pad_token_id)  # fmt: skip
        new = found[:, batch["input_ids"].shape[1] :]
        ended = new == tokenizer.eos_token_id
        written += int(torch.where(ended.any(1), ended.int().argmax(1) + 1, new.shape[1]).sum())
    return written
