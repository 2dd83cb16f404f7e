"""Shapes and parameter counts of Qwen2-style decoders with streams.

Pure arithmetic: training builds models from these shapes, analysis prices them.
Widths follow the paper (arXiv 2505.10475): gated MLP with intermediate = 128·round(5.4·hidden/128),
QKV bias, no output bias, 48 prefix tokens per stream and layer.

With experts the decoder is Mixtral-style (arXiv 2401.04088): a router and experts replace the MLP,
and QKV has no bias. Without `qkv_bias` a dense decoder is Llama-style, which compares with these.

With `loops` the layers run several times in a row on the same weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from scalelab.aggregation import AGGREGATIONS
from scalelab.conventions import CONVENTIONS
from scalelab.errors import UsageError
from scalelab.units import format_count

PREFIX_TOKENS = 48  # the paper's choice
EXPERTS_PER_TOKEN = 2  # Mixtral's choice
FAMILY = ("num_experts", "experts_per_token", "qkv_bias")  # what kind of decoder it is
MLP_RATIO = 5.4  # intermediate / hidden of all six sizes in the paper
WIDTH_PER_LAYER = 24  # hidden size a layer, of small shapes

# Versions of the ladder of widths. 1, until November 2026: multiples of 4, with head dimensions such as 18 and 26.
# 2: multiples of 8, with head dimensions in multiples of 8 as fused attention kernels and vector units need.
LADDERS = (1, 2)
MOST_OFF = 0.3
LADDER = 2


def check_experts(num_experts: int, experts_per_token: int, qkv_bias: bool = True) -> None:
    """Raise `UsageError` for numbers of experts that make no decoder, or a choice that changes nothing but keys."""
    if num_experts < 0:
        raise UsageError(f"num_experts must not be negative, not {num_experts}; 0 is a dense model")
    if num_experts == 0 and experts_per_token != EXPERTS_PER_TOKEN:
        # It would change nothing but the run's key.
        raise UsageError(f"experts_per_token {experts_per_token} needs num_experts; give it, or leave both out")
    if num_experts and experts_per_token < 2:
        # The weights of a token's experts sum to 1, so a single expert has weight 1 and its router gets no gradient.
        raise UsageError(f"experts_per_token must be at least 2 for the router to learn, not {experts_per_token}")
    if num_experts and experts_per_token > num_experts:
        raise UsageError(f"experts_per_token {experts_per_token} exceeds num_experts {num_experts}; give more experts")
    if num_experts and not qkv_bias:
        raise UsageError("models with experts have no QKV biases anyway: leave qkv_bias out")


@dataclass(frozen=True)
class Architecture:
    """Shape of a decoder with `P` streams; P = 1 is the plain model, without prefixes or aggregator.

    With `single_prefix` P = 1 has a prefix too: a control that tells what prefixes gain without streams.

    With `num_experts` each layer has a router and that many gated MLPs of `intermediate_size`, of which
    `experts_per_token` process each token; 0 is a dense model.

    Raises:
        UsageError: The numbers make no decoder, for example a hidden size that the heads do not divide.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int
    P: int = 1
    prefix_tokens: int = PREFIX_TOKENS
    tied_embeddings: bool = True
    aggregation: str = "dynamic"  # one of AGGREGATIONS
    num_experts: int = 0
    experts_per_token: int = EXPERTS_PER_TOKEN
    qkv_bias: bool = True  # of a dense model; with experts there is none
    loops: int = 1  # passes through the layers, with the same weights
    single_prefix: bool = False  # P = 1 has a prefix

    def __post_init__(self) -> None:
        for name in ("hidden_size", "intermediate_size", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("num_kv_heads", "vocab_size", "P", "loops"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.prefix_tokens < 0:
            raise UsageError(f"prefix_tokens must not be negative, not {self.prefix_tokens}")
        if self.aggregation not in AGGREGATIONS:
            raise UsageError(f"aggregation {self.aggregation!r}: choose one of {', '.join(AGGREGATIONS)}")
        if self.hidden_size % self.num_heads:
            raise UsageError(
                f"hidden size {self.hidden_size} does not divide into {self.num_heads} heads; "
                "give a multiple of the number of heads"
            )
        if self.num_heads % self.num_kv_heads:
            raise UsageError(
                f"{self.num_heads} heads do not divide among {self.num_kv_heads} KV heads; "
                "give a divisor of the number of heads"
            )
        check_experts(self.num_experts, self.experts_per_token, self.qkv_bias)
        if self.single_prefix and self.P > 1:
            raise UsageError(f"single_prefix is of P = 1, not of P = {self.P}")

    @property
    def has_prefixes(self) -> bool:
        """True if each layer has prefixes: with P > 1 or `single_prefix`."""
        return self.P > 1 or self.single_prefix

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def backbone_params(self) -> int:
        """Parameters of the layers (with all experts) and the final norm, without embeddings and streams."""
        return self._backbone(self.num_experts)

    @property
    def active_backbone_params(self) -> int:
        """The part of `backbone_params` that processes one token: routers, and only the token's own experts."""
        return self._backbone(self.experts_per_token)

    def _backbone(self, experts: int) -> int:
        """Return the parameters of the backbone with `experts` experts in each layer."""
        h, kv = self.hidden_size, self.num_kv_heads * self.head_dim
        attention, mlp = 2 * h * h + 2 * h * kv, 3 * h * self.intermediate_size  # Q, O, K, V; gate, up, down
        if self.num_experts:
            mlp = experts * mlp + self.num_experts * h  # experts and router
        elif self.qkv_bias:
            attention += h + 2 * kv
        return self.num_layers * (attention + mlp + 2 * h) + h

    @property
    def stream_params(self) -> int:
        """Parameters of the prefixes and the aggregator; 0 for the plain model."""
        if not self.has_prefixes:
            return 0
        prefixes = self.num_layers * 2 * self.P * self.num_kv_heads * self.prefix_tokens * self.head_dim
        if self.P == 1:
            return prefixes
        return prefixes + AGGREGATIONS[self.aggregation].params(self.hidden_size, self.P)

    @property
    def embedding_params(self) -> int:
        """Parameters of the embeddings, counted twice if the output layer has its own."""
        return self.vocab_size * self.hidden_size * (1 if self.tied_embeddings else 2)

    @property
    def n_params(self) -> int:
        """The paper's N: all parameters except embeddings, including streams and all experts."""
        return self.backbone_params + self.stream_params

    @property
    def active_params(self) -> int:
        """N with only the experts that process one token; equal to `n_params` for a dense model."""
        return self.active_backbone_params + self.stream_params

    @property
    def total_params(self) -> int:
        """All parameters, including embeddings."""
        return self.n_params + self.embedding_params

    def count_params(self, convention: str) -> int:
        """Return N by one of `scalelab.conventions.CONVENTIONS`."""
        return getattr(self, CONVENTIONS[convention].attribute)

    def with_streams(self, P: int) -> Architecture:
        """Return the same backbone with P streams."""
        return replace(self, P=P, single_prefix=self.single_prefix and P == 1)


def mlp_width(hidden_size: int) -> int:
    """Return the intermediate size for a hidden size: 5.4·hidden, rounded to a multiple of 128.

    Below hidden 512 the multiple shrinks to a quarter of the width (as a power of two, at least 8):
    at hidden 64 a step of 128 would be more than a third of the whole MLP.
    """
    multiple = 128
    while multiple > 8 and multiple * 4 > hidden_size:
        multiple //= 2
    return multiple * max(1, round(MLP_RATIO * hidden_size / multiple))


def expert_width(hidden_size: int, experts_per_token: int) -> int:
    """Return the intermediate size of one expert, a multiple of 8.

    The experts of one token are together about as wide as the dense MLP.
    """
    return 8 * max(1, round(mlp_width(hidden_size) / experts_per_token / 8))


def _heads(hidden_size: int, ladder: int) -> tuple[int, int]:
    """Return heads and KV heads for a width: head_dim grows with the width, 8 heads share a KV head."""
    if hidden_size >= 896:  # the paper's six sizes: 16 heads, 2 KV heads
        return 16, 2
    target = 16 if hidden_size < 128 else 32 if hidden_size < 512 else 64
    step = 2 if ladder == 1 else 8  # RoPE rotates pairs, so the head dimension is even
    dims = [d for d in range(8, hidden_size + 1, step) if hidden_size % d == 0]
    heads = hidden_size // min(dims, key=lambda d: abs(math.log(d / target)))
    kv_heads = max(d for d in range(1, max(1, heads // 8) + 1) if heads % d == 0)
    return heads, kv_heads


def _widths(ladder: int) -> list[int]:
    """Return the hidden sizes of a ladder."""
    small = range(16, 128, 4) if ladder == 1 else (16, 24, *range(32, 128, 16))
    return [*small, *range(128, 512, 32), *range(512, 896, 64), *range(896, 12289, 128)]


def _preferred_layers(hidden_size: int) -> int:
    """Return the usual depth for a width: small models are shallow, since layers cost more time than width.

    The paper has 36 layers at every width from 896 up.
    """
    return min(36, max(2, round(hidden_size / WIDTH_PER_LAYER)))


@cache
def _rungs(
    vocab_size: int, prefix_tokens: int, num_experts: int, experts_per_token: int, ladder: int, qkv_bias: bool
) -> tuple[Architecture, ...]:
    """Return every decoder of a ladder, from about 10 thousand to 100 billion active parameters."""
    rungs = []
    kind: dict[str, Any] = dict(num_experts=num_experts, experts_per_token=experts_per_token, qkv_bias=qkv_bias)
    for hidden in _widths(ladder):
        heads, kv_heads = _heads(hidden, ladder)
        widths = (hidden, expert_width(hidden, experts_per_token) if num_experts else mlp_width(hidden))
        centre = _preferred_layers(hidden)
        rungs += [
            Architecture(*widths, layers, heads, kv_heads, vocab_size, prefix_tokens=prefix_tokens, **kind)
            for layers in range(max(2, centre - 1), centre + 2)
        ]
    return tuple(rungs)


def architecture_for(
    n_params: float,
    vocab_size: int,
    prefix_tokens: int = PREFIX_TOKENS,
    num_experts: int = 0,
    experts_per_token: int = EXPERTS_PER_TOKEN,
    ladder: int = LADDER,
    qkv_bias: bool = True,
) -> Architecture:
    """Return the decoder of a ladder whose backbone has about `n_params` parameters; P = 1.

    The decoder minimises the distance in ln N plus half the distance in ln depth from the usual depth at
    its width, because a law over N needs models of one family. Its parameter count is within 30 %
    (`MOST_OFF`) of `n_params`; records hold the exact count.

    Args:
        n_params: Parameters of the backbone. With experts, those that process one token
            (`active_backbone_params`): a dense model and a mixture of experts for the same `n_params` cost
            about the same compute per token, while `backbone_params` grows with `num_experts`.
        vocab_size: Size of the vocabulary.
        prefix_tokens: Prefix length of each stream.
        num_experts: Experts in each layer; 0 is a dense model.
        experts_per_token: Experts that process one token.
        ladder: One of `LADDERS`.
        qkv_bias: Give queries, keys and values of a dense model their biases.

    Returns:
        A decoder with tied embeddings and one stream.

    Raises:
        UsageError: `n_params` is outside the ladder, or the numbers of experts make no decoder.
    """
    check_experts(num_experts, experts_per_token, qkv_bias)
    rungs = _rungs(vocab_size, prefix_tokens, num_experts, experts_per_token, ladder, qkv_bias)

    def distance(a: Architecture) -> float:
        off_depth = abs(math.log(a.num_layers / _preferred_layers(a.hidden_size)))
        off_size = a.active_backbone_params / n_params
        return abs(math.log(off_size)) + 0.5 * off_depth + (0 if abs(off_size - 1) <= MOST_OFF else math.inf)

    low, high = (f(a.active_backbone_params for a in rungs) for f in (min, max))
    if not low / 1.25 < n_params < high * 1.25:
        raise UsageError(
            f"no architecture near N = {format_count(n_params)}: "
            f"choose between {format_count(low)} and {format_count(high)}"
        )
    return min(rungs, key=lambda a: (distance(a), abs(a.active_backbone_params - n_params)))
