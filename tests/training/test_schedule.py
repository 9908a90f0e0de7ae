"""Learning-rate schedules against transformers' own."""

import pytest
import torch
import transformers

from peftbench.config import AdamW
from peftbench.training.schedule import lr_factor, warmup_steps

REFERENCES = {
    "linear": transformers.get_linear_schedule_with_warmup,
    "cosine": transformers.get_cosine_schedule_with_warmup,
    "constant": lambda optimizer, warmup, _: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
}


@pytest.mark.parametrize("schedule", REFERENCES)
@pytest.mark.parametrize("warmup", [0, 7])
def test_every_step_has_transformers_factor(schedule, warmup):
    config = AdamW(schedule=schedule, warmup_steps=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = REFERENCES[schedule](optimizer, warmup, 50)
    for step in range(51):
        assert lr_factor(config, step, 50) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        reference.step()


def test_a_share_of_warmup_is_rounded_up_and_a_number_wins():
    assert warmup_steps(AdamW(warmup_ratio=0.06), 345) == 21
    assert warmup_steps(AdamW(warmup_ratio=0.06, warmup_steps=0), 345) == 0


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_past_its_end_the_rate_stays_zero(schedule):
    config = AdamW(schedule=schedule, warmup_steps=0)
    assert [lr_factor(config, step, 50) for step in (50, 51, 80)] == pytest.approx([0, 0, 0], abs=1e-12)
