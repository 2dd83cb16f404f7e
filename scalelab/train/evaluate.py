"""Validation loss with its standard error, and what the streams are doing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    """Nats a token over the validation set; diagnostics are None for P = 1."""

    loss: float
    loss_stderr: float
    n_tokens: int
    mixture_weights: list[float] | None  # mean weight of each stream, summing to 1
    stream_cosine: float | None  # mean cosine between two streams' final states; 1 = identical


@torch.no_grad()
def evaluate(model: Any, windows: np.ndarray, documents: np.ndarray, device: str, bf16: bool) -> Evaluation:
    """Loss of `model` on `windows` [w, seq_len + 1], which begin in `documents` [w]."""
    model.eval()
    probe = _StreamProbe()
    aggregator = model.get_decoder().mixture
    hook = aggregator.register_forward_hook(probe) if aggregator is not None else None
    losses = []
    for first in range(0, len(windows), _BATCH):
        batch = torch.from_numpy(windows[first : first + _BATCH]).to(device)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=bf16):
            logits = model(batch[:, :-1], use_cache=False).logits
        token_losses = F.cross_entropy(logits.float().transpose(1, 2), batch[:, 1:], reduction="none")
        losses.append(token_losses.mean(1).double().cpu().numpy())
    if hook is not None:
        hook.remove()
    loss, stderr = clustered_mean(np.concatenate(losses), documents)
    return Evaluation(loss, stderr, windows[:, 1:].size, *probe.summary())


def clustered_mean(values: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """Mean of `values` [w] and its standard error, with values of one cluster dependent.

    Windows of one file resemble each other, so treating them as independent would understate
    the error. Linearised ratio estimator; Cochran, Sampling Techniques (1977), section 9A.1.
    """
    mean = float(values.mean())
    _, index = np.unique(clusters, return_inverse=True)
    deviations = np.bincount(index, weights=values - mean)
    m = len(deviations)
    if m < 2:
        return mean, float(values.std(ddof=1) / np.sqrt(len(values)))
    return mean, float(np.sqrt(m / (m - 1) * np.sum(deviations**2)) / len(values))


class _StreamProbe:
    """A forward hook on the aggregator: means of its weights and of the streams' likeness."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []
        self.cosines: list[float] = []

    def __call__(self, aggregator: Any, inputs: tuple, output: torch.Tensor) -> None:
        streams = inputs[0].float()
        self.weights.append(aggregator.weights(inputs[0]).mean((0, 1)))
        unit = F.normalize(streams, dim=-1)
        P = len(unit)
        # Σ_{p≠q} cos(x_p, x_q) = |Σ_p x̂_p|² − P
        pairs = (unit.sum(0).pow(2).sum(-1) - P) / (P * (P - 1))
        self.cosines.append(float(pairs.mean()))

    def summary(self) -> tuple[list[float] | None, float | None]:
        if not self.weights:
            return None, None
        return torch.stack(self.weights).mean(0).tolist(), float(np.mean(self.cosines))
