"""From P streams of hidden states to one: the modules of `scalelab.aggregation`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DynamicAggregator(nn.Sequential):
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

    @torch.no_grad()
    def reset_to_uniform(self) -> None:
        """Equal weights for all streams, whatever they hold, until training moves them."""
        self[2].weight.zero_()
        self[2].bias.zero_()


class MeanAggregator(nn.Module):
    """The plain average: no parameters, and no stream can be left behind."""

    def __init__(self, hidden_size: int, P: int, smooth: float) -> None:
        super().__init__()
        self.P = P

    def weights(self, streams: Tensor) -> Tensor:
        """1/P for every token, [B, T, P]."""
        return torch.full((*streams.shape[1:3], self.P), 1 / self.P, device=streams.device)

    def forward(self, streams: Tensor) -> Tensor:
        """Mixed hidden states [B, T, h] of streams [P, B, T, h]."""
        return streams.mean(0)

    def reset_to_uniform(self) -> None:
        """Nothing to do: it is uniform."""


class ChannelAggregator(nn.Module):
    """Σ_p d_p ⊙ x_p / P: a learned scale for each stream and channel, the same for every token."""

    def __init__(self, hidden_size: int, P: int, smooth: float) -> None:
        super().__init__()
        self.P = P
        self.scale = nn.Parameter(torch.ones(P, hidden_size))

    def weights(self, streams: Tensor) -> Tensor:
        """Each stream's share of the absolute scales, [B, T, P]."""
        share = self.scale.float().abs().sum(1)
        return (share / share.sum()).expand(*streams.shape[1:3], self.P)

    def forward(self, streams: Tensor) -> Tensor:
        """Mixed hidden states [B, T, h] of streams [P, B, T, h]."""
        return torch.einsum("ph,pbth->bth", (self.scale / self.P).to(streams.dtype), streams)

    @torch.no_grad()
    def reset_to_uniform(self) -> None:
        """The plain average."""
        self.scale.fill_(1.0)
