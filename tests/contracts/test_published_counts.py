"""Counts at the published sizes, from architectures without weights, through the console's own path."""

import pytest
import torch

from peftbench.assembly import attach, counts
from peftbench.backbones.loading import random_model
from peftbench.compose import compose_run

TOTALS = {
    "deberta_v3_base": 184_423_682,
    "roberta_base": 124_647_170,
    # Two labels' weights beside the generator's own: GPT-2's score has no bias.
    "gpt2_medium": 354_823_168 + 2 * 1024,
    "gpt2_large": 774_030_080 + 2 * 1280,
}
FACTORS = 1_327_104  # 8 ranks x 12 layers x (4 x (768 + 768) + 2 x (768 + 3072))


@pytest.mark.parametrize(
    ("words", "trained", "effective", "paper"),
    [
        (["method=lora", "method.rank=8", "model=deberta_v3_base"], FACTORS, FACTORS, None),
        (["method=sora", "method.rank=8", "model=deberta_v3_base"], FACTORS + 576, FACTORS, FACTORS),
        (["method=adalora", "method.rank=8", "model=deberta_v3_base"], FACTORS + 576, FACTORS, None),
        (["method=lora", "method.rank=8", "method.sites=[query,value]", "model=roberta_base"], 294_912, 294_912, None),
        # The paper prints 0.35M and 0.77M; rank 4 on query and value, as its code adapts the fused map, is this.
        (["method=lora", "method.rank=4", "method.sites=[query,value]", "model=gpt2_medium"], 393_216, 393_216, None),
        (["method=lora", "method.rank=4", "method.sites=[query,value]", "model=gpt2_large"], 737_280, 737_280, None),
    ],
)
def test_counts_at_published_sizes(words, trained, effective, paper):
    config = compose_run([*words, "preset=none"])
    with torch.device("meta"):
        model = random_model(config.model, 2)
    found = counts(*attach(config, model, "none", total_steps=1000, length=128))
    assert (found.trained, found.effective, found.paper) == (trained, effective, paper)
    assert found.backbone + found.head == TOTALS[config.model.name]
