"""Validation loss with its standard error, and statistics of the streams."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from scalelab.errors import ScalelabError, UsageError
from scalelab.train.recipe import Recipe
from scalelab.train.streams import StreamProbe, StreamReport

MAX_ROWS = 64  # rows of a batch, streams included, on a CPU
_GPU_TOKENS = 2**16  # of a batch, streams included; with fewer a GPU waits for the host
_MAX_LOGITS = 2**26  # of a batch: 256 MiB in fp32


@dataclass(frozen=True)
class Evaluation:
    """Mean loss over the validation set, in nats per token, with its standard error."""

    loss: float
    loss_stderr: float
    n_tokens: int
    streams: StreamReport | None  # None for P = 1


class UnsoundModelError(ScalelabError):
    """The loss of a model is not a number."""


def rows_at_once(device: str, P: int, seq_len: int) -> int:
    """Return how many windows to evaluate at once on `device` with P streams."""
    if not device.startswith("cuda"):
        return max(1, MAX_ROWS // P)
    return max(1, _GPU_TOKENS // (P * seq_len))


@torch.no_grad()
def evaluate(
    model: Any, windows: np.ndarray, documents: np.ndarray, device: str, bf16: bool, max_rows: int = MAX_ROWS
) -> Evaluation:
    """Evaluate `model` on `windows` [w, seq_len + 1], which start in `documents` [w], at most `max_rows` at once.

    Complemented, thus negative, ids are context whose loss does not count (see `answers.signed_ids`).
    """
    training = model.training
    model.eval()
    probe = StreamProbe(model) if model.P > 1 else None
    rows = max(1, min(max_rows, _MAX_LOGITS // (model.config.vocab_size * windows.shape[1])))
    counted = windows[:, 1:] >= 0
    losses = []
    for first in range(0, len(windows), rows):
        some, counts = windows[first : first + rows], counted[first : first + rows]
        length = int(np.flatnonzero(counts.any(0))[-1]) + 1  # what follows changes nothing
        batch = torch.from_numpy(np.where(some < 0, ~some, some)[:, : length + 1]).to(device)
        inputs, labels = batch[:, :-1], batch[:, 1:]
        keep = None if counts.all() else torch.from_numpy(counts[:, :length]).to(device)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=bf16):
            logits = probe.forward(inputs, labels, keep) if probe else model(inputs, use_cache=False).logits
        token_losses = F.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
        losses.append(token_losses.mean(1) if keep is None else (token_losses * keep).sum(1) / keep.sum(1))
    model.train(training)
    loss, stderr = clustered_mean(torch.cat(losses).double().cpu().numpy(), documents, counted.sum(1))
    return Evaluation(loss, stderr, int(counted.sum()), probe.report() if probe else None)


def check_length(model: Any, n_tokens: int, what: str) -> None:
    """Raise `UsageError`, naming `what`, if the model has fewer learned positions than `n_tokens`."""
    most = getattr(model.config, "max_position_embeddings", None)
    if most and n_tokens > most and getattr(model.config, "rope_parameters", None) is None:
        raise UsageError(f"{what}: {n_tokens} tokens, but the model has positions for {most}; give fewer")


def loss_on(model: Any, windows: np.ndarray, documents: np.ndarray, recipe: Recipe, device: str) -> Evaluation:
    """Run `evaluate` on an existing model. Raises `UnsoundModelError` if the loss is not a number."""
    check_length(model, recipe.seq_len, "`seq_len`")
    return sound(model, evaluate(model, windows, documents, device, recipe.dtype == "bf16"))


def sound(model: Any, evaluation: Evaluation) -> Evaluation:
    """Return `evaluation`. Raises `UnsoundModelError` if its loss is not a number."""
    if not math.isfinite(evaluation.loss):
        raise UnsoundModelError(f"P = {model.P}: the loss is not a number; check the weights of the model")
    return evaluation


def clustered_mean(values: np.ndarray, clusters: np.ndarray, counts: np.ndarray | None = None) -> tuple[float, float]:
    """Return the mean of `values` [w] and its standard error, with values of the same cluster dependent.

    Windows of one file are similar, so treating them as independent would understate the error. Linearised ratio
    estimator; Cochran, Sampling Techniques (1977), section 9A.1. With `counts` [w], each value is a mean over as many.
    """
    weights = np.ones(len(values)) if counts is None else counts / counts.mean()
    mean = float((weights * values).mean())
    _, index = np.unique(clusters, return_inverse=True)
    deviations = np.bincount(index, weights=weights * (values - mean))
    m = len(deviations)
    if m < 2:
        return mean, float(values.std(ddof=1) / np.sqrt(len(values)))
    return mean, float(np.sqrt(m / (m - 1) * np.sum(deviations**2)) / len(values))
