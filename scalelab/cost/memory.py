"""Memory of a model for the roofline: weights, KV cache and activations, and the memory a device provides."""

from __future__ import annotations

from scalelab.cost.kernels import between_matrices, cache_copies
from scalelab.cost.rates import Rates
from scalelab.cost.request import GIB, Device
from scalelab.cost.shape import ServedModel
from scalelab.errors import UsageError
from scalelab.units import format_bytes


def available_bytes(device: Device) -> float:
    """Return the memory of one device for a model, in bytes: what programs can use minus the reserve.

    Raises:
        UsageError: The reserve is as large as the memory.
    """
    hardware = device.found()
    usable = hardware.memory_bytes if hardware.usable_bytes is None else hardware.usable_bytes
    if device.reserve_bytes is None:  # at most half of a small device
        return max(usable / 2, usable - hardware.device_class.reserve_gib * GIB)
    if device.reserve_bytes >= usable:
        raise UsageError(
            f"{device.gpu} has {format_bytes(usable)} for programs; reserve less",
            argument="reserve",
            value=format_bytes(device.reserve_bytes),
        )
    return usable - device.reserve_bytes


def weight_bytes(model: ServedModel, rates: Rates) -> float:
    """Return the bytes of all weights except aggregator and prefixes, each at the width of the format."""
    h = model.hidden_size
    experts = dense = 0.0
    for layer, count in model.layers:
        held = layer.num_experts * layer.expert_params(h)
        experts += held * count
        dense += (layer.params(h) - held) * count if layer.num_experts else 0.0
    rest = model.backbone_params - experts - dense
    ends = model.head_params * (rates.tied_bytes if model.tied_embeddings else rates.head_bytes + rates.embedding_bytes)
    others = model.embedding_params - model.head_params * (1 if model.tied_embeddings else 2)
    return (experts + rest) * rates.weight_bytes + dense * rates.dense_bytes + ends + others * rates.embedding_bytes


def cache_bytes(model: ServedModel, batch: int, tokens: int, rates: Rates) -> float:
    """Return the bytes of the KV cache of `tokens` ordinary tokens per row; layers with a window cache only that.

    States that layers cache instead have the precision of activations.
    """
    values = states = 0.0
    for layer, count in model.layers:
        values += (
            layer.cache_width
            * cache_copies(layer, rates)
            * count
            * (tokens if layer.window is None else min(tokens, layer.window))
        )
        states += layer.state * count
    return model.P * batch * (values * rates.kv_bytes + states * rates.activation_bytes)


def activation_bytes(model: ServedModel, batch: int, tokens: int, rates: Rates) -> float:
    """Return the peak bytes of activations during prefill, the largest of four moments.

    - Attention: residual, its normed copy, queries, output, and keys and values including the prefix.
    - MLP: residual, normed copy, and gate, up and their product for each shared or chosen expert of a token.
    - Aggregator: streams and their transposed copy, its input and output.
    - Output: logits of B rows.
    """
    h, rows = model.hidden_size, model.P * batch
    moments = [batch * model.vocab_size, (2 * rows + 2 * batch) * tokens * h if model.P > 1 else 0]
    for layer, _ in model.layers:
        blocks = [between_matrices(block) for block in layer.blocks(h)]
        prefix = model.prefix_length * layer.prefix_kv_width
        moments += [rows * (tokens * (2 * h + blocks[0]) + prefix)] if layer.heads else []
        mlps = max(blocks[1:] if layer.heads else blocks, default=0.0)
        mlps += layer.mlp_matrices * layer.mlp_width * layer.experts_per_token
        moments.append(rows * tokens * (2 * h + mlps))
    return max(moments) * rates.activation_bytes
