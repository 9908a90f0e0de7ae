"""Cheap dropout against torch's, by its law and by its gradient under the same draws."""

import pytest
import torch
from torch.nn import functional as F

from peftbench.layers import dropout as cheap

P = 0.1


def test_the_law_is_dropouts():
    torch.manual_seed(0)
    x = torch.ones(1_000_003)
    y = cheap.dropout(x, P)
    share = (y == 0).double().mean().item()
    assert abs(share - P) < 4 * (P * (1 - P) / len(x)) ** 0.5  # Four standard errors.
    torch.testing.assert_close(y.max().item(), 1 / (1 - P), rtol=1e-4, atol=0)
    assert set(y.unique().tolist()) == {0.0, y.max().item()}
    # Neighbours share a word of random bits and must not share a fate.
    for lag in (1, 2, 3, 4):
        pairs = ((y[lag:] == 0) & (y[:-lag] == 0)).double().mean().item()
        assert abs(pairs - P**2) < 5 * (P**2 / len(x)) ** 0.5


def test_the_seed_decides_and_the_state_moves_on():
    x = torch.randn(7, 33)
    torch.manual_seed(1)
    first, second = cheap.dropout(x, 0.5), cheap.dropout(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(cheap.dropout(x, 0.5), first)
    assert not torch.equal(first, second)


def test_the_gradient_is_the_masks():
    x = torch.randn(5, 13, dtype=torch.float64, requires_grad=True)

    def forward(x):
        torch.manual_seed(2)
        return cheap.dropout(x, 0.3)

    assert torch.autograd.gradcheck(forward, (x,))


def test_the_module_does_nothing_in_evaluation_and_torchs_is_left_for_certain_dropout():
    module, x = cheap.Dropout(0.5), torch.randn(4, 4)
    assert module.eval()(x) is x
    assert torch.equal(cheap.Dropout(1.0)(x), torch.zeros_like(x))
    assert cheap.Dropout(0.0)(x) is x


@pytest.mark.parametrize("masked", [False, True])
def test_attention_that_drops_nothing_is_torchs(masked):
    torch.manual_seed(3)
    q, k, v = (torch.randn(2, 3, n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 6, 6))
    mask = torch.rand(2, 1, 5, 6) > 0.3
    mask[..., 0] = True
    bias = torch.zeros((), dtype=torch.float64).masked_fill(~mask, torch.finfo(torch.float64).min) if masked else None
    ours = cheap.attention(q, k, v, bias, 1e-9, 0.5)
    theirs = F.scaled_dot_product_attention(q, k, v, mask if masked else None, scale=0.5)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    by = torch.randn_like(ours)
    torch.testing.assert_close(torch.autograd.grad(ours, (q, k, v), by), torch.autograd.grad(theirs, (q, k, v), by))


def test_attention_in_bfloat16_rounds_as_when_written_out():
    torch.manual_seed(5)
    q, k, v = (torch.randn(2, 4, 48, 32, dtype=torch.bfloat16) for _ in range(3))
    true = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), scale=0.2)
    written = (q @ k.transpose(2, 3) * 0.2).softmax(-1) @ v
    ours = cheap.attention(q, k, v, None, 1e-9, 0.2)
    error, usual = ((x.double() - true).abs().mean() for x in (ours, written))
    assert ours.dtype == torch.bfloat16
    assert 0 < error < 1.1 * usual < 0.01


def test_attention_that_drops_passes_gradcheck_and_its_mean_is_the_undropped():
    torch.manual_seed(4)
    q, k, v = (torch.randn(1, 2, n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 5, 5))

    def forward(q, k, v):
        torch.manual_seed(5)
        return cheap.attention(q, k, v, None, 0.4, 0.7)

    assert torch.autograd.gradcheck(forward, (q, k, v))
    torch.manual_seed(6)
    draws = torch.stack([cheap.attention(q, k, v, None, 0.4, 0.7).detach() for _ in range(4000)])
    whole = F.scaled_dot_product_attention(q, k, v, scale=0.7)
    assert ((draws.mean(0) - whole).abs() < 5 * draws.std(0) / 4000**0.5 + 1e-12).all()
