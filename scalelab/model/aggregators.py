"""Aggregators: modules that combine P streams of hidden states into one. See `scalelab.aggregation`."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DynamicAggregator(nn.Sequential):
    """Weighted sum Σ w_p x_p with weights that depend on the token (arXiv 2505.10475, section 3).

    w = softmax(Linear(P·h→h) → SiLU → Linear(h→P)), smoothed to w(1−ε) + ε/P. As in the released checkpoints,
    parameters are named ``0.weight`` … ``2.bias``, and the first Linear's input index is h_index·P + p.
    """

    def __init__(self, hidden_size: int, P: int, smooth: float) -> None:
        super().__init__(nn.Linear(P * hidden_size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, P))
        self.P = P
        self.smooth = smooth

    def weights(self, streams: Tensor) -> Tensor:
        """Return the weights [B, T, P] in float32 for streams [P, B, T, h]."""
        scores = super().forward(streams.permute(1, 2, 3, 0).flatten(2))
        return torch.softmax(scores.float(), dim=-1) * (1 - self.smooth) + self.smooth / self.P

    def forward(self, streams: Tensor) -> Tensor:
        """Aggregate streams [P, B, T, h] into hidden states [B, T, h]."""
        return self.mix(streams, streams)

    def mix(self, streams: Tensor, final: Tensor) -> Tensor:
        """Aggregate streams of any layer with the weights of the final ones."""
        return torch.einsum("btp,pbth->bth", self.weights(final).to(streams.dtype), streams)

    @torch.no_grad()
    def reset_to_uniform(self) -> None:
        """Reset to equal weights for all streams."""
        self[2].weight.zero_()
        self[2].bias.zero_()


class MeanAggregator(nn.Module):
    """Mean over streams, without parameters."""

    def __init__(self, hidden_size: int, P: int, smooth: float) -> None:
        super().__init__()
        self.P = P

    def weights(self, streams: Tensor) -> Tensor:
        """Return 1/P for every token, [B, T, P]."""
        return torch.full((*streams.shape[1:3], self.P), 1 / self.P, device=streams.device)

    def forward(self, streams: Tensor) -> Tensor:
        """Aggregate streams [P, B, T, h] into hidden states [B, T, h]."""
        return streams.mean(0)

    def mix(self, streams: Tensor, final: Tensor) -> Tensor:
        """Aggregate streams of any layer."""
        return self.forward(streams)

    def reset_to_uniform(self) -> None:
        """Do nothing: the mean is always uniform."""


class ChannelAggregator(nn.Module):
    """Sum Σ_p d_p ⊙ x_p / P with a learned scale per stream and channel, the same for every token."""

    def __init__(self, hidden_size: int, P: int, smooth: float) -> None:
        super().__init__()
        self.P = P
        self.scale = nn.Parameter(torch.ones(P, hidden_size))

    def weights(self, streams: Tensor) -> Tensor:
        """Return each stream's share of the absolute scales, [B, T, P]."""
        share = self.scale.float().abs().sum(1)
        return (share / share.sum()).expand(*streams.shape[1:3], self.P)

    def forward(self, streams: Tensor) -> Tensor:
        """Aggregate streams [P, B, T, h] into hidden states [B, T, h]."""
        return torch.einsum("ph,pbth->bth", (self.scale / self.P).to(streams.dtype), streams)

    def mix(self, streams: Tensor, final: Tensor) -> Tensor:
        """Aggregate streams of any layer with the scales of the final ones."""
        return self.forward(streams)

    @torch.no_grad()
    def reset_to_uniform(self) -> None:
        """Reset to the mean over streams."""
        self.scale.fill_(1.0)
