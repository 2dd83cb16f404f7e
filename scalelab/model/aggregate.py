"""From P streams of hidden states to one: a learned, smoothed mixture per token."""

# torch types every attribute of a module as Tensor | Module, so these rules say nothing here.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# pyright: reportOptionalMemberAccess=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

import torch
from torch import Tensor, nn


class Aggregator(nn.Sequential):
    """w = softmax(Linear(P·h→h) → SiLU → Linear(h→P)), smoothed to w(1−ε) + ε/P; Σ w_p x_p.

    Parameters are named ``0.weight`` … ``2.bias`` as in the released checkpoints, and the first
    Linear's input index is h_index·P + p, as there. Source: arXiv 2505.10475, section 3.
    """

    def __init__(self, hidden_size: int, P: int, smooth: float) -> None:
        super().__init__(nn.Linear(P * hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, P))
        self.P = P
        self.smooth = smooth

    def weights(self, streams: Tensor) -> Tensor:
        """Mixture weights [B, T, P] in float32 of streams [P, B, T, h]."""
        scores = super().forward(streams.permute(1, 2, 3, 0).flatten(2))
        return torch.softmax(scores.float(), dim=-1) * (1 - self.smooth) + self.smooth / self.P

    def forward(self, streams: Tensor) -> Tensor:
        """Mixed hidden states [B, T, h] of streams [P, B, T, h]."""
        weights = self.weights(streams).to(streams.dtype)
        return torch.einsum("btp,pbth->bth", weights, streams)
