"""Kernels of one pass over a model: their arithmetic and memory traffic, priced by `scalelab.cost.roofline`."""

from __future__ import annotations

import math
from collections.abc import Iterator

from scalelab.aggregation import AGGREGATIONS
from scalelab.cost.rates import Kernel, Rates
from scalelab.cost.shape import Block, Layer, ServedModel


def kernels(model: ServedModel, batch: int, tokens: int, cached: int, rates: Rates) -> Iterator[Kernel]:
    """Yield the kernels of one pass over `tokens` new tokens of each of `batch` sequences after `cached` tokens."""
    h, a, w = model.hidden_size, rates.activation_bytes, rates.embedding_bytes
    rows = model.P * batch
    passed = rows * tokens  # tokens through the layers
    yield Kernel(0, passed * h * (w + a + (w if model.position_rows else 0)))  # rows of the embedding
    for layer, count in model.layers:
        for kernel in _layer(model, layer, batch, tokens, cached, rates):
            yield kernel._replace(times=count)
    yield _norm(passed, h, a)._replace(bytes=4 * passed * h * a + model.norm_params * rates.weight_bytes)
    if model.P > 1:
        yield from _aggregator(model, batch * tokens, rates)
    stored = rates.tied_bytes if model.tied_embeddings else rates.head_bytes
    head = _matrix(batch, model.head_params / model.vocab_size, model.vocab_size, rates, stored)
    yield head._replace(bytes=head.bytes + (model.vocab_size * stored if model.head_bias else 0))


def _layer(model: ServedModel, layer: Layer, batch: int, tokens: int, cached: int, rates: Rates) -> Iterator[Kernel]:
    h, a = model.hidden_size, rates.activation_bytes
    passed = model.P * batch * tokens
    stored = rates.dense_bytes if layer.num_experts else rates.weight_bytes
    norm = _norm(passed, h, a)
    yield norm._replace(bytes=norm.bytes + layer.vectors * rates.weight_bytes)
    yield norm
    for i, block in enumerate(layer.blocks(h)):
        for inputs, outputs in block:
            yield _matrix(passed, inputs, outputs, rates, stored)
        if layer.heads and i == 0:
            kept = layer.cache_width
            yield Kernel(0, passed * (2 * layer.queries * a + kept * (a + rates.kv_bytes)))  # rotated; into the cache
            pairs, read = _keys(layer, tokens, cached)
            yield attention(model, layer, batch, tokens, pairs, read, rates)
        elif len(block) > 1:
            yield Kernel(0, passed * between_matrices(block) * a)  # activation, and product with the gate
    if layer.state or layer.mixing_flops:  # computed for each token, moved once
        # A window's products are in mixing_flops. Other states cost at least an update and a read for each token.
        flops = layer.mixing_flops if layer.query_width else max(4 * layer.state, layer.mixing_flops)
        yield Kernel(passed * flops, 2 * model.P * batch * layer.state * a)
    if layer.num_experts:
        yield _matrix(passed, h, layer.num_experts, rates, stored)
        touched = experts_touched(layer.num_experts, layer.experts_per_token, passed**rates.routing_exponent)
        yield from _experts(layer, h, passed * layer.experts_per_token, touched, rates)
    if rates.devices > 1:
        t = rates.devices
        reduce = Kernel(0, 2 * (t - 1) / t * passed * h * a, kind="reduce")
        yield from (reduce, reduce)  # of attention and of the MLP


def _experts(layer: Layer, h: float, passed: float, touched: float, rates: Rates) -> Iterator[Kernel]:
    """Yield the kernels of `passed` tokens distributed over `touched` experts."""
    into, width = layer.mlp_matrices - 1, layer.mlp_width
    yield _matrix(passed, h, into * width, rates, rates.weight_bytes, copies=touched)
    yield Kernel(0, passed * (into + 1) * width * rates.activation_bytes)
    yield _matrix(passed, width, h, rates, rates.weight_bytes, copies=touched)


def experts_touched(num_experts: int, experts_per_token: int, tokens: float) -> float:
    """Return the expected number of distinct experts for `tokens` that each choose `experts_per_token` uniformly."""
    return num_experts * -math.expm1(tokens * _log_spared(num_experts, experts_per_token))


def _log_spared(num_experts: int, experts_per_token: int) -> float:
    """Return the log probability that a token does not choose a given expert."""
    return -math.inf if experts_per_token >= num_experts else math.log1p(-experts_per_token / num_experts)


def _keys(layer: Layer, tokens: int, cached: int) -> tuple[float, float]:
    """Return the (query, key) pairs of `tokens` queries of one row after `cached` tokens, and the keys read."""
    window = math.inf if layer.window is None else layer.window
    short = min(max(window - cached, 0), tokens)  # queries that see all earlier keys
    pairs = short * cached + short * (short + 1) / 2 + ((tokens - short) * window if tokens > short else 0)
    return pairs, min(cached, window - 1) + tokens


def attention(
    model: ServedModel, layer: Layer, batch: int, tokens: int, pairs: float, read: float, rates: Rates
) -> Kernel:
    """Return the attention kernel: scores, and the weighted sum of values.

    With a cached latent, keys and values are computed from it first. If those matrices are folded into queries and
    output, each query attends to the latent itself, which without its rotated key is also the value.

    Args:
        model: Model with streams.
        layer: One of its layers.
        batch: Sequences.
        tokens: Queries per row.
        pairs: (query, key) pairs per row; each query also sees the whole prefix.
        read: Keys read per row.
        rates: Rates of the device.
    """
    heads, rows, n = layer.heads * layer.head_dim, model.P * batch, model.prefix_length
    flops = 4 * rows * (heads * pairs + layer.queries * tokens * n)
    moved = (
        2 * rows * tokens * layer.queries * rates.activation_bytes + rows * n * layer.prefix_kv_width * rates.kv_bytes
    )
    if not layer.kv_expansion:
        kept = layer.kv_width * cache_copies(layer, rates)
        return Kernel(flops, moved + rows * read * kept * rates.kv_bytes, kind="attention")
    unfolded = sum(inputs * outputs for inputs, outputs in layer.kv_expansion)
    if rates.folds_latent and tokens == 1:
        latent = layer.kv_expansion[0][0]
        flops += rows * (2 * layer.heads * pairs * (layer.cache_width + latent) - 4 * heads * pairs + 2 * unfolded)
        kept = layer.cache_width * cache_copies(layer, rates)
        return Kernel(
            flops, moved + unfolded * rates.weight_bytes + rows * read * kept * rates.kv_bytes, kind="attention"
        )
    each = layer.cache_width * rates.kv_bytes + 2 * layer.kv_width * rates.activation_bytes  # written and read again
    moved += unfolded * rates.weight_bytes + rows * read * each
    return Kernel(flops + 2 * rows * read * unfolded, moved, kind="attention")


def cache_copies(layer: Layer, rates: Rates) -> float:
    """Return the copies of the cache over all devices: KV heads may be shared, and a latent is on every device."""
    if rates.devices == 1 or not layer.heads:
        return 1.0
    return rates.devices if layer.kv_expansion else max(1.0, rates.devices / layer.kv_heads)


def _aggregator(model: ServedModel, tokens: float, rates: Rates) -> Iterator[Kernel]:
    """Yield the kernels of the aggregator: weights from two matrices if it is dynamic, and the weighted sum."""
    h, P, a = model.hidden_size, model.P, rates.activation_bytes
    streams = P * tokens * h * a
    if model.aggregation == "dynamic":
        yield Kernel(0, 2 * streams)  # the streams of a token side by side
        yield _matrix(tokens, P * h, h, rates, rates.weight_bytes)
        yield Kernel(0, 2 * tokens * h * a)
        yield _matrix(tokens, h, P, rates, rates.weight_bytes)
        yield Kernel(2 * streams / a, streams + tokens * (h + P) * a)
    else:
        weights = AGGREGATIONS[model.aggregation].params(h, P) * rates.weight_bytes  # type: ignore[arg-type]
        yield Kernel(2 * streams / a, streams + tokens * h * a + weights)


def _norm(tokens: float, width: float, activation: float) -> Kernel:
    """Return the kernel of residual sum and norm: two rows in, two rows out."""
    return Kernel(0, 4 * tokens * width * activation)


def _matrix(tokens: float, inputs: float, outputs: float, rates: Rates, stored: float, copies: float = 1.0) -> Kernel:
    """Return the product of `tokens` rows with a matrix of `stored` bytes per weight, or with `copies` of it."""
    moved = copies * inputs * outputs * stored + tokens * (inputs + outputs) * rates.activation_bytes
    return Kernel(2 * tokens * inputs * outputs, moved, kind="matrix", rows=tokens / copies)


def between_matrices(block: Block) -> float:
    """Return the numbers per token between the first and the last matrix of a block."""
    return sum(outputs for _, outputs in block[:-1]) + block[-1][0]
