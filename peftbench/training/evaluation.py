"""Predictions of a model over a tokenised split."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from peftbench.training.batching import Rows, evaluation_plan
from peftbench.training.devices import Devices
from peftbench.training.guard import NotFinite, fitting


@torch.no_grad()
def logits_of(
    model: nn.Module,
    rows: Rows,
    batch_size: int,
    accelerator: Accelerator,
) -> np.ndarray:
    """Logits of every row in the split's own order, shape (N, classes), float32. Leaves the model's mode as it was.

    Raises:
        NotFinite: some are NaN or infinite.
        OutOfMemory: a forward pass did not fit.
    """
    was_training = model.training
    model.eval()
    lengths = rows.lengths
    plan, devices = evaluation_plan(lengths, batch_size), Devices(accelerator)
    pieces = []
    for which in devices.share(plan):
        batch = rows.batch(which, accelerator.device)
        batch.pop("labels", None)
        with accelerator.autocast(), fitting(len(which), int(lengths[which].max())):
            pieces.append(model(**batch).logits.float())
    model.train(was_training)
    own = [piece.numpy() for piece in torch.cat(pieces).cpu().split([len(piece) for piece in pieces])] if pieces else []
    ordered = np.concatenate(devices.together(own))
    logits = np.empty_like(ordered)
    logits[np.concatenate(plan)] = ordered
    if bad := int((~np.isfinite(logits)).any(1).sum()):
        raise NotFinite(bad, len(logits))
    return logits


def predictions_of(logits: np.ndarray) -> np.ndarray:
    """Classes, shape (N,); for a head of one output, its values."""
    return logits[:, 0] if logits.shape[1] == 1 else logits.argmax(1)
