"""Bytes and FLOPs of a pass, against a ledger kept by hand and against what real models read and compute."""

import json
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scalelab.cost import Device
from scalelab.cost.families import served_from_config
from scalelab.cost.hardware import Hardware
from scalelab.cost.request import Precision
from scalelab.cost.roofline import find_rates, kernels
from scalelab.model import add_streams
from tests.support.decoders import VARIANTS, make_variant
from tests.support.families import FAMILIES, tokens
from tests.support.flops import counted_flops
from tests.support.weights_read import WeightsRead

DENSE = {
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "num_key_value_heads": 3,
    "vocab_size": 1003,
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": False,
}
ROUTED = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 501,
    "sliding_window": 40,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
SHARED = {
    "model_type": "qwen2_moe",
    "hidden_size": 64,
    "intermediate_size": 200,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 501,
    "qkv_bias": False,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "shared_expert_intermediate_size": 72,
}
BOX = Device("box", 1.0, 1.0, Hardware("box", {"fp32": 1e12, "bf16": 1e13}, 1e11, 2**40))


def totals(model, batch, length, cached, precision):
    done = list(kernels(model, batch, length, cached, find_rates(BOX, precision)))
    return sum(k.times * k.flops for k in done), sum(k.times * k.bytes for k in done)


def ledger(c, P, batch, length, past, prefix):
    """FLOPs, and how many weights, cached values and activations are moved, of one pass of `length` tokens."""
    h, d = c["hidden_size"], c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
    q, kv, width = c["num_attention_heads"] * d, c["num_key_value_heads"] * d, c["intermediate_size"]
    width, shared = c.get("moe_intermediate_size", width), c.get("shared_expert_intermediate_size", 0)
    experts, chosen = c.get("num_local_experts", c.get("num_experts", 0)), c.get("num_experts_per_tok", 0)
    window = c.get("sliding_window", 10**9)
    rows = P * batch
    n = rows * length
    flops, weights, cache, moved = 0, n * h, 0, n * h  # looked up in the embedding, written to the residual
    seen = [range(max(0, past + t + 1 - window), past + t + 1) for t in range(length)]
    for _ in range(c["num_hidden_layers"]):
        for _ in range(2):  # norms: residual and update in, residual and normed out
            weights, moved = weights + h, moved + 4 * n * h
        flops += 2 * n * h * (q + 2 * kv)
        weights += h * (q + 2 * kv)
        moved += n * h + n * (q + 2 * kv)
        moved += 2 * n * q + 2 * n * kv  # rotated; keys and values on their way into the cache
        cache += 2 * n * kv
        flops += sum(2 * 2 * rows * q * (len(keys) + prefix) for keys in seen)  # scores, and sum over values
        moved += 2 * n * q
        cache += rows * 2 * kv * (len(set().union(*seen)) + prefix)
        flops, weights, moved = flops + 2 * n * q * h, weights + q * h, moved + n * q + n * h
        through, held = n, 1.0
        if experts:
            flops, weights, moved = flops + 2 * n * h * experts, weights + h * experts, moved + n * h + n * experts
            through, held = n * chosen, experts * (1 - ((experts - chosen) / experts) ** n)
        if shared:  # an MLP that all go through, and a gate that gives one number
            flops += 2 * n * 3 * h * shared + 2 * n * h
            weights += 3 * h * shared + h
            moved += n * (h + 2 * shared) + 3 * n * shared + n * (shared + h) + n * (h + 1)
        flops += 2 * through * 3 * h * width
        weights += held * 3 * h * width
        moved += through * (h + 2 * width) + through * 3 * width + through * (width + h)  # in, gated, out
        weights += q + 2 * kv + h if c.get("attention_bias") else 0
        weights += 2 * width + h if c.get("mlp_bias") else 0
    weights, moved = weights + h, moved + 4 * n * h
    if P > 1:
        mixed = batch * length
        flops += 2 * mixed * (P * h * h + h * P) + 2 * mixed * P * h
        weights += P * h * h + h * P
        moved += 2 * mixed * P * h  # side by side
        moved += mixed * P * h + mixed * h + 2 * mixed * h + mixed * h + mixed * P  # matrix, SiLU, matrix
        moved += mixed * P * h + mixed * P + mixed * h  # weighted sum
    flops += 2 * batch * h * c["vocab_size"]
    return flops, weights + h * c["vocab_size"], cache, moved + batch * h + batch * c["vocab_size"]


@pytest.mark.parametrize("content", [DENSE, ROUTED, SHARED], ids=["dense", "routed", "shared"])
@pytest.mark.parametrize("P", [1, 4])
@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize(("length", "past"), [(64, 0), (1, 64), (1, 20), (30, 25), (1, 0)])
def test_a_pass_moves_and_computes_what_a_ledger_says(content, P, batch, length, past):
    model = replace(served_from_config(content, "config.json"), P=P)
    flops, weights, cache, moved = ledger(content, P, batch, length, past, 48 if P > 1 else 0)
    for stored, width, kept, cache_width in (("bf16", 2, "bf16", 2), ("4", 0.5, "fp32", 4), ("fp32", 4, "fp8", 1)):
        real = totals(model, batch, length, past, Precision(stored, kept, "bf16"))
        expected = weights * width + cache * cache_width + moved * 2
        assert real == (flops, pytest.approx(expected, rel=1e-12))


# Those that streams are not tested on.
PLAIN = sorted(VARIANTS.keys() - FAMILIES.keys())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "P"),
    [
        (family, P)
        for family in [
            "llama",
            "qwen2",
            "phi3",
            "gpt_neox",
            "mistral",
            "gemma2",
            "gemma3",
            "smollm3",
            "qwen3_moe",
            "mixtral",
        ]
        for P in (1, 3)
    ]
    + [(family, 1) for family in PLAIN],
)
def test_real_models_read_and_compute_as_much(family, P):
    # All experts are chosen, so that chance has no part in which of them are read.
    changes = {"num_experts_per_tok": 4} if "num_experts_per_tok" in VARIANTS[family][1] else {}
    changes = {"num_local_experts": 2} if "phimoe" in family else changes  # whose routing always takes two
    model = make_variant(family, changes).requires_grad_(False)
    if changes:
        model.set_experts_implementation("eager")  # whose products the counter of FLOPs knows
    model = add_streams(model, P, prefix_tokens=5) if P > 1 else model
    served = served_from_config(json.loads(model.config.to_json_string()), "config.json")
    B, T, past = 2, 9, None
    for length, cached in ((T, 0), (1, T)):
        reads, counter = WeightsRead(model), FlopCounterMode(display=False)
        with torch.no_grad(), reads, counter:
            output = model(tokens(B, length), use_cache=True, logits_to_keep=1, past_key_values=past)
        past = output.past_key_values
        # Eager attention takes every query for every key; of those that a window hides a step has none left.
        hidden = 0
        for layer, count in served.layers:
            visible = [min(cached + t + 1, layer.window or 10**9) for t in range(length)]
            taken = length * (length if cached == 0 else max(visible))
            hidden += count * 4 * P * B * layer.heads * layer.head_dim * (taken - sum(visible))
        flops, moved = totals(served, B, length, cached, Precision("bf16"))
        assert counted_flops(counter) == flops + hidden
        biases = served.hidden_size + P if P > 1 else 0  # of the aggregator, which the engine leaves out
        one_byte_less = totals(served, B, length, cached, Precision("8"))[1]
        # Some look a position up once for all rows.
        shared = (B - 1) * length * served.hidden_size if family.startswith(("biogpt", "gpt_bigcode")) else 0
        assert reads.count - biases + shared == moved - one_byte_less
