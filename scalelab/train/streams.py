"""Report on the streams of a model on a text: their weights, how similar they are, and warnings.

In small models streams tend to become copies of each other, or the aggregator uses only one of them. Then P streams
cost P times the computation without a gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

# Thresholds of the warnings; docs/LOG.md has values of healthy runs. The cosine has none: final states of a pretrained
# model are so similar that streams with a cosine of 0.99 can still gain from each other.
COLLAPSED_CORRELATION = 0.99
MONOCULTURE_WEIGHT = 0.8


@dataclass(frozen=True)
class StreamReport:
    """Statistics of P streams over the tokens of a validation set."""

    mixture_weights: list[float]  # mean weight of each stream, summing to 1
    mixture_entropy: float  # of the weights at a token, mean over tokens, in nats; ln P if uniform
    cosine: float  # between the final states of two streams, mean over pairs and tokens; 1 = identical
    correlation: float  # ρ of two streams' own losses over tokens, mean over pairs
    losses: list[float]  # of each stream alone, in nats per token

    @property
    def effective_streams(self) -> float:
        """Effective number of streams, exp of the entropy of the mean weights: P if they are uniform, 1 for one."""
        weights = np.asarray(self.mixture_weights)
        return float(np.exp(-np.sum(weights * np.log(np.maximum(weights, 1e-300)))))

    @property
    def warnings(self) -> list[str]:
        """Names of the warnings that apply; `explain` describes them."""
        P, names = len(self.mixture_weights), []
        if self.correlation > COLLAPSED_CORRELATION:
            names.append("stream_collapse")
        if max(self.mixture_weights) > MONOCULTURE_WEIGHT or self.effective_streams < 1 + (P - 1) / 4:
            names.append("weight_monoculture")
        return names

    def explain(self, name: str) -> str:
        """Return a sentence that describes the warning `name`."""
        if name == "stream_collapse":
            return (
                f"the streams are nearly copies (cosine of final states {self.cosine:.3f}, correlation of losses "
                f"{self.correlation:.4f}): they can gain little over one; start prefixes with a larger spread, or "
                "train longer"
            )
        return (
            f"the aggregator relies on one stream (largest mean weight {max(self.mixture_weights):.2f}, "
            f"{self.effective_streams:.1f} of {len(self.mixture_weights)} streams in effect): lower its learning "
            "rate, raise its smoothing, or choose the mean aggregation"
        )


class StreamProbe:
    """Collector of statistics on the streams in use while batches pass through a model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.decoder = model.get_decoder()
        self._weights: list[torch.Tensor] = []  # sums over tokens [P]
        self._entropies: list[torch.Tensor] = []  # sums over tokens; all stay on the device until the report
        self._cosines: list[torch.Tensor] = []
        self._tokens = 0
        self._losses: list[torch.Tensor] = []  # [P, tokens]

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """Return the logits [B, T, vocab] of `inputs` [B, T] and add to the statistics, of `keep` [B, T] if given."""
        seen: list[torch.Tensor] = []
        hook = self.decoder.aggregator.register_forward_hook(lambda module, args, output: seen.append(args[0]))
        with self.decoder.kept_outputs():
            try:
                logits = self.model(inputs, use_cache=False).logits
            finally:
                hook.remove()
            self._add(seen[0], inputs, labels, keep)
        return logits

    def _add(
        self, streams: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor, keep: torch.Tensor | None
    ) -> None:
        def kept(values: torch.Tensor) -> torch.Tensor:  # [B, T, …], or [1, n, …] of the n tokens to keep
            return values if keep is None else values[keep][None]

        weights = kept(self.decoder.aggregator.weights(streams)).double()
        self._weights.append(weights.sum((0, 1)))
        self._entropies.append(torch.special.entr(weights).sum())
        unit = torch.stack([kept(stream) for stream in F.normalize(streams.float(), dim=-1)])
        P = len(unit)
        # Σ_{p≠q} cos(x_p, x_q) = |Σ_p x̂_p|² − P
        self._cosines.append(((unit.sum(0).pow(2).sum(-1) - P) / (P * (P - 1))).sum())
        self._tokens += weights.shape[0] * weights.shape[1]
        alone = []
        for hidden in streams:
            with self.decoder.replay(hidden):
                logits = self.model(inputs, use_cache=False).logits
            losses = F.cross_entropy(kept(logits).float().transpose(1, 2), kept(labels), reduction="none")
            alone.append(losses.flatten())
        self._losses.append(torch.stack(alone))

    def report(self) -> StreamReport:
        """Return the statistics of all batches so far."""
        losses = torch.cat(self._losses, 1).double().cpu().numpy()
        P = len(losses)
        # Streams with constant losses have no correlation; they are copies.
        constant = losses.std(1).min() == 0
        correlations = np.ones(1) if constant else np.corrcoef(losses)[np.triu_indices(P, 1)]
        weights = torch.stack(self._weights).sum(0) / self._tokens
        cosine, entropy = (sum(map(float, sums)) / self._tokens for sums in (self._cosines, self._entropies))
        return StreamReport(
            weights.tolist(), min(entropy, math.log(P)), cosine, float(correlations.mean()), losses.mean(1).tolist()
        )


@torch.no_grad()
def weights_over_tokens(model: Any, ids: torch.Tensor) -> np.ndarray:
    """Return the weights of the streams [T, P] at each of the tokens `ids` [T]."""
    seen: list[torch.Tensor] = []
    mixture = model.get_decoder().aggregator
    hook = mixture.register_forward_hook(lambda module, args, output: seen.append(mixture.weights(args[0])))
    try:
        model(ids[None].to(model.device), use_cache=False)
    finally:
        hook.remove()
    return seen[0][0].float().cpu().numpy()
