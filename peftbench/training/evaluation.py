"""Predictions of a model over a tokenised split."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from peftbench.training.batching import Rows, evaluation_plan


@torch.no_grad()
def logits_of(
    model: nn.Module,
    rows: Rows,
    batch_size: int,
    accelerator: Accelerator,
) -> np.ndarray:
    """Logits of every row in the split's own order, shape (N, classes), float32. Leaves the model's mode as it was."""
    was_training = model.training
    model.eval()
    plan = evaluation_plan(rows.lengths, batch_size)
    pieces = []
    for which in plan:
        batch = rows.batch(which, accelerator.device)
        batch.pop("labels", None)
        with accelerator.autocast():
            pieces.append(model(**batch).logits.float())
    model.train(was_training)
    ordered = torch.cat(pieces).cpu().numpy()
    logits = np.empty_like(ordered)
    logits[np.concatenate(plan)] = ordered
    return logits


def predictions_of(logits: np.ndarray) -> np.ndarray:
    """Classes, shape (N,); for a head of one output, its values."""
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)
