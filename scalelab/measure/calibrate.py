"""Achieved rates of this device, from a few matrix products, reads and vector operations.

`scalelab.cost.roofline` needs these figures. Each is measured with the kind of work that it stands for:

- FLOP/s: matrix products with as many rows as a prompt has tokens, and causal attention;
- bytes per second: products of one row with matrices too large for any cache, like the weights in a decode step;
- row shares: products of 1 to 512 rows, most of which do not reach the roofline;
- vector bandwidth: a norm, a gated activation and rotary positions, divided by the bytes that the roofline counts
  for them; the framework reads them several times;
- launch time: a decode step of a tiny model, divided by the number of kernels that the roofline counts in it. Eager
  frameworks launch several kernels for each of those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention, silu
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from scalelab.architecture import Architecture
from scalelab.cost.hardware import Hardware
from scalelab.cost.kernels import kernels
from scalelab.cost.rates import find_rates
from scalelab.cost.request import Device, Precision
from scalelab.cost.shape import as_served
from scalelab.measure.clock import run_in_subprocess
from scalelab.measure.decode import decoding, graph_s
from scalelab.measure.rounds import least_s
from scalelab.train.device import DTYPES, device_memory_bytes, device_model
from scalelab.units import plural

# Rows of the matrix products; the largest stand for a prompt.
_ROWS = {
    "cpu": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    "cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192),
}
# (outputs, inputs) of a decoder layer's matrices: queries, output, gate, up, down.
_LAYER = {
    "cpu": ((512, 512), (512, 512), (1536, 512), (1536, 512), (512, 1536)),
    "cuda": ((4096, 4096), (4096, 4096), (11008, 4096), (11008, 4096), (4096, 11008)),
}
_READ_BYTES = {"cpu": 2**28, "cuda": 2**31}  # more than most caches hold
_ROUND_FLOPS = {"cpu": 2e10, "cuda": 5e13}  # at most, in one round
_VECTOR_ROWS = {"cpu": 256, "cuda": 4096}
_ATTENTION = {"cpu": (1, 8, 256), "cuda": (64, 32, 1024)}  # sequences, heads, tokens
_HEAD_DIM = 64
_TINY = Architecture(
    hidden_size=64, intermediate_size=128, num_layers=8, num_heads=4, num_kv_heads=2, vocab_size=512, prefix_tokens=0
)
_TINY_CONTEXT, _TINY_STEPS = 8, 16


def calibrate(device: str = "cpu", dtype: str = "fp32", threads: int = 1, seconds: float = 0.4) -> Hardware:
    """Measure a profile of `device` in a separate process.

    Args:
        device: "cpu" or a CUDA device such as "cuda:0".
        dtype: Precision of the models, "fp32" or "bf16".
        threads: CPU threads.
        seconds: Time for each of about a dozen figures.

    Raises:
        MemoryShortError: The device has too little memory.
    """
    return run_in_subprocess(_calibrate, device, dtype, threads, seconds)


@torch.inference_mode()
def _calibrate(device: str, dtype: str, threads: int, each_s: float) -> Hardware:
    torch.set_num_threads(threads)
    products = product_seconds(device, dtype, each_s)
    flops_per_s, bytes_per_s = _of_rows(products, device, dtype)
    flops = {dtype: flops_per_s}
    if dtype != "fp32":  # required in a profile
        most = max(products)
        flops["fp32"] = _of_rows(product_seconds(device, "fp32", each_s, [most]), device, "fp32")[0]
    eager_s, graph_launch_s = launch_s(device, dtype, each_s)
    on = f", {plural(threads, 'thread')}" if device == "cpu" else ""
    return Hardware(
        name=device,
        flops_per_s=flops,
        bytes_per_s=bytes_per_s,
        memory_bytes=device_memory_bytes(device),
        source=f"measured on {device_model(device)}{on}, {dtype}, torch {torch.__version__}, {date.today()}",
        measured=True,
        launch_s=eager_s,
        graph_launch_s=graph_launch_s,
        attention_flops_per_s=attention_flops_per_s(device, dtype, each_s),
        vector_bytes_per_s=vector_bytes_per_s(device, dtype, each_s),
        row_shares=tuple(
            (rows, _roof_s(rows, flops_per_s, bytes_per_s, device, dtype) / s) for rows, s in products.items()
        ),
    )


def product_seconds(device: str, dtype: str, each_s: float, rows: Sequence[int] = ()) -> dict[int, float]:
    """Return the seconds of a layer's products for each number of rows.

    Enough layers are used that no cache holds them all.
    """
    kind = device.split(":")[0]
    shapes = _LAYER[kind]
    layers = [
        [_random(device, dtype, outputs, inputs) for outputs, inputs in shapes]
        for _ in range(max(2, int(_READ_BYTES[kind] / _layer_bytes(device, dtype))))
    ]
    seconds = {}
    for count in rows or _ROWS[kind]:
        given = {inputs: _random(device, dtype, count, inputs) for _, inputs in shapes}
        flops = sum(2 * count * outputs * inputs for outputs, inputs in shapes)
        used = layers[: max(2, int(_ROUND_FLOPS[kind] / flops))]

        def products(given: Mapping[int, Tensor] = given, used: Sequence[Sequence[Tensor]] = used) -> None:
            for layer in used:
                for weight in layer:
                    linear(given[weight.shape[1]], weight)

        seconds[count] = least_s(products, each_s, device) / len(used)
    return seconds


def _random(device: str, dtype: str, *shape: int) -> Tensor:
    return torch.randn(shape, device=device).to(DTYPES[dtype])


def _layer_bytes(device: str, dtype: str) -> int:
    shapes = _LAYER[device.split(":")[0]]
    return sum(outputs * inputs for outputs, inputs in shapes) * DTYPES[dtype].itemsize


def _of_rows(products: Mapping[int, float], device: str, dtype: str) -> tuple[float, float]:
    """Return FLOP/s with the most rows and bytes per second with the fewest."""
    most, fewest = max(products), min(products)
    weights = _layer_bytes(device, dtype)
    return 2 * most * weights / DTYPES[dtype].itemsize / products[most], weights / products[fewest]


def _roof_s(rows: int, flops_per_s: float, bytes_per_s: float, device: str, dtype: str) -> float:
    """Return the seconds of a layer's products by the roofline, inputs and outputs included."""
    size = DTYPES[dtype].itemsize
    return sum(
        max(2 * rows * o * i / flops_per_s, (o * i + rows * (o + i)) * size / bytes_per_s)
        for o, i in _LAYER[device.split(":")[0]]
    )


def attention_flops_per_s(device: str, dtype: str, each_s: float) -> float:
    """Measure FLOP/s of causal attention, not counting the masked half."""
    kind = device.split(":")[0]
    rows, heads, context = _ATTENTION[kind]
    q, k, v = (_random(device, dtype, rows, heads, context, _HEAD_DIM) for _ in range(3))
    seconds = least_s(lambda: scaled_dot_product_attention(q, k, v, is_causal=True), each_s, device)
    return 2 * rows * heads * _HEAD_DIM * context * (context + 1) / seconds


def vector_bytes_per_s(device: str, dtype: str, each_s: float) -> float:
    """Measure the bandwidth of a residual sum with norm, a gated activation and rotary positions.

    Bytes are those that the roofline counts.
    """
    kind = device.split(":")[0]
    tokens, width = _VECTOR_ROWS[kind], _LAYER[kind][0][0]
    x, y = (_random(device, dtype, 1, tokens, width) for _ in range(2))
    heads = x.view(1, tokens, -1, _HEAD_DIM).transpose(1, 2)
    cos, sin = (_random(device, dtype, 1, tokens, _HEAD_DIM) for _ in range(2))
    norm = LlamaRMSNorm(width).to(device, DTYPES[dtype])

    def work() -> None:
        norm(x + y)
        silu(x) * y  # pyright: ignore[reportUnusedExpression]
        apply_rotary_pos_emb(heads, heads, cos, sin)

    rows_moved = 4 + 3 + 4  # per token, each of `width` numbers
    return rows_moved * tokens * width * DTYPES[dtype].itemsize / least_s(work, each_s, device)


def launch_s(device: str, dtype: str, each_s: float) -> tuple[float, float | None]:
    """Return the seconds of an almost empty kernel of the roofline: eager, and captured as a CUDA graph.

    The second is None on a CPU and if the step cannot be captured.
    """
    config = LlamaConfig(
        hidden_size=_TINY.hidden_size,
        intermediate_size=_TINY.intermediate_size,
        num_hidden_layers=_TINY.num_layers,
        num_attention_heads=_TINY.num_heads,
        num_key_value_heads=_TINY.num_kv_heads,
        vocab_size=_TINY.vocab_size,
    )
    model: Any = LlamaForCausalLM(config)
    model = model.to(device, DTYPES[dtype]).eval()
    ids = torch.zeros(1, _TINY_CONTEXT, dtype=torch.long, device=device)
    rates = find_rates(Device(), Precision(dtype))
    started = _TINY_STEPS * sum(kernel.times for kernel in kernels(as_served(_TINY), 1, 1, 0, rates))
    eager = least_s(decoding(model, ids, _TINY_STEPS), each_s, device)
    captured = graph_s(model, ids, _TINY_STEPS, each_s)
    return eager / started, None if captured is None else captured / started
