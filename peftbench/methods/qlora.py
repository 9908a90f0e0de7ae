"""QLoRA: low-rank adaptation of a 4-bit backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from peftbench.methods.base import Capabilities
from peftbench.methods.lora import LoRA
from peftbench.methods.registry import register
from peftbench.strict import bounded


@register("qlora")
@dataclass(frozen=True)
class QLoRA(LoRA):
    """QLoRA (Dettmers et al. 2023, NeurIPS, arXiv 2305.14314; code: artidoro/qlora).

    Idea: keep the frozen backbone in 4 bits, dequantise each map while it is used, train LoRA beside all of them.
    Maths: y = x doubleDequant(c1, c2, W_NF4) + (α/r) x Aᵀ Bᵀ (Eq. 5). NF4 has 16 levels, quantiles of N(0, 1) scaled
    to [-1, 1] with an exact zero, and one constant per 64 weights, their largest magnitude; double quantisation keeps
    the constants in 8 bits with one float32 per 256 of them: 4.127 bits per weight instead of 4.5
    (`model.double_quant=false`). The quantised products are computed in bfloat16 whatever `trainer.precision`.
    Parameters: r·(in + out) per site, as LoRA; the backbone's count is of weights, not of bytes.
    Defaults: the released code's r 64, α 16, dropout 0.1 and 2e-4 of its 7B and 13B models, on all linear maps, which
    the paper finds to matter more than r. The rest of its recipe is configuration: `optimizer=paged_adamw` (CUDA
    only) with a constant schedule, `trainer.max_grad_norm=0.3`.
    Deviations: the branch is in float32, not bfloat16, unless `trainer.precision=bf16`; embeddings, layer norms,
    biases and head stay float32.
    Merging dequantises to float32 and adds: lossless against the dequantised backbone, and the merged model is no
    longer in 4 bits. Nothing is quantised again.
    Traps: the adapter has learnt beside the rounded weights; beside the original ones, which the export names, its
    outputs differ a little. Weights of 4 bits make no activation smaller.
    """

    default_lr: ClassVar[float] = 2e-4
    capabilities: ClassVar[Capabilities] = Capabilities(mergeable=True, exports_peft=True, quantised_base="needed")

    rank: int = bounded(64, at_least=1)
    dropout: float = bounded(0.1, at_least=0, at_most=0.99)
