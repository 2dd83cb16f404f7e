"""Cost of a run from its shape: floating-point operations and memory.

Symbols: h hidden size, a = heads·head_dim (= h), kv = KV heads·head_dim, m width of the gated MLP,
L layers, r loops through them, V vocabulary, P streams, n prefix tokens (0 for P = 1), T sequence length. A
multiply-add counts as two operations.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

from scalelab.aggregation import AGGREGATIONS
from scalelab.architecture import Architecture
from scalelab.train.recipe import RunConfig

# Forward, backward for weights and backward for inputs: three matrix products for each one.
_FORWARD_AND_BACKWARD = 3
_FP32 = 4  # bytes; of weights, gradients and AdamW's two moments, with bf16 autocast too

# By device: memory of the process per byte of working tensors, and bytes before it trains. On CUDA these are a context
# with kernels and workspaces, and autocast keeps up to 1.4 times what is counted here; measured on an H100
# (docs/gpu.md). A torch built for CUDA loads more libraries, on a CPU too.
_LIBRARIES = (400 if find_spec("nvidia") is None else 670) * 2**20
_PROCESS = {"cpu": (1.45, _LIBRARIES), "cuda": (1.4, 800 * 2**20)}
# On CUDA cross entropy is computed in chunks of so many logits (scalelab.train.loss). A chunk's logits, their softmax
# and its gradients in the precision of products exist at the same time.
_CHUNK_LOGITS = 2**27


def visible_tokens(shape: Architecture, seq_len: int) -> float:
    """Return the mean number of keys that a query sees in a causal sequence: (T + 1)/2 + n."""
    return (seq_len + 1) / 2 + _prefix_tokens(shape)


def forward_flops(shape: Architecture, seq_len: int, visible: float | None = None) -> float:
    """Return the operations of the forward pass for one token.

        P · r · (2·L·(2·h·a + 2·h·kv + mlp) + 4·a·L·visible) + aggregator + 2·V·h

    where mlp = 3·h·m, or k·3·h·m + h·E with E experts of width m of which a token uses k, and
    aggregator = 2·(P·h² + 2·P·h) for "dynamic", 2·P·h for "channel", 0 for "mean" and for P = 1.
    `visible` defaults to `visible_tokens`: masked scores are not counted, although a kernel that ignores causality
    computes them (its `visible` is T + n). Norms, activations, softmax and rotation are left out, as usual
    (arXiv 2001.08361, section 2.1).
    """
    h, kv, P = shape.hidden_size, shape.num_kv_heads * shape.head_dim, shape.P
    if visible is None:
        visible = visible_tokens(shape, seq_len)
    products = 2 * h * h + 2 * h * kv + _mlp_products(shape)
    layers = shape.num_layers * (2 * products + 4 * h * visible)
    return P * shape.loops * layers + _aggregator_flops(shape) + 2 * shape.vocab_size * h


def lora_params(shape: Architecture, rank: int) -> int:
    """Return the parameters of low-rank matrices for all linear layers of the backbone: rank · (inputs + outputs)."""
    h, kv, m = shape.hidden_size, shape.num_kv_heads * shape.head_dim, shape.intermediate_size
    return rank * shape.num_layers * (2 * (h + h) + 2 * (h + kv) + 3 * (h + m))


def trained_params(config: RunConfig) -> int:
    """Return the number of parameters that a run trains at its end."""
    shape = config.architecture
    return shape.stream_params + lora_params(shape, config.lora_rank) if config.frozen else shape.total_params


def train_flops(config: RunConfig, first: int = 0) -> float:
    """Return the operations of training from step `first` on, without validation.

    3 · `forward_flops` for each token, of a frozen backbone `frozen_flops`. The `plain_tokens` are counted with P = 1,
    even if they are trained once for several runs.
    """
    shape, seq_len = config.architecture, config.recipe.seq_len
    if config.frozen:
        return (config.n_tokens - first * config.step_tokens) * frozen_flops(shape, seq_len, config.lora_rank)
    trained = first * config.step_tokens
    plain = max(0, config.plain_tokens - trained)
    streams = config.n_tokens - max(config.plain_tokens, trained)
    plain_flops = plain * forward_flops(replace(shape, P=1, single_prefix=False), seq_len)
    return _FORWARD_AND_BACKWARD * (plain_flops + streams * forward_flops(shape, seq_len))


def frozen_flops(shape: Architecture, seq_len: int, lora_rank: int = 0, visible: float | None = None) -> float:
    """Return the operations of a training step on a frozen backbone for one token.

    Frozen weights need no gradients, so their products are done twice, not three times. The first layer's input needs
    none either: its queries, keys and values are computed once.
    """
    h, kv, P = shape.hidden_size, shape.num_kv_heads * shape.head_dim, shape.P
    products = shape.num_layers * (2 * h * h + 2 * h * kv + _mlp_products(shape))
    first = h * h + 2 * h * kv
    saved = P * 2 * (products + first) + 2 * shape.vocab_size * h
    lora = 2 * P * (_FORWARD_AND_BACKWARD * lora_params(shape, lora_rank) - 3 * h * lora_rank)
    return _FORWARD_AND_BACKWARD * forward_flops(shape, seq_len, visible) - saved + lora


def step_flops(shape: Architecture, seq_len: int, batch_size: int) -> float:
    """Return the operations of one training step on `batch_size` sequences."""
    return _FORWARD_AND_BACKWARD * forward_flops(shape, seq_len) * batch_size * seq_len


def evaluation_flops(config: RunConfig) -> float:
    """Return the operations of one validation: forward; with P > 1 also each stream's logits and the aggregator."""
    shape, recipe = config.architecture, config.recipe
    probe = 2 * shape.vocab_size * shape.hidden_size * shape.P + _aggregator_flops(shape) if shape.P > 1 else 0
    return (forward_flops(shape, recipe.seq_len) + probe) * recipe.val_tokens


def train_memory_bytes(config: RunConfig, micro_batch: int | None = None, device: str = "cpu") -> int:
    """Return the bytes of tensors in training on `device`, with `micro_batch` sequences (default: the whole batch).

        4 per parameter + 12 per trained one (gradient, two moments) + `activation_bytes` per token + logits

    Three copies of the logits in fp32 (logits, log-probabilities, gradients) exist at the same time, on CUDA of one
    chunk. With bf16, autocast keeps copies of weights and logits. `resident_bytes` adds the rest of the process.
    """
    return _state_bytes(config) + _working_bytes(config, micro_batch, device)


def resident_bytes(config: RunConfig, device: str, micro_batch: int | None = None) -> int:
    """Return the memory in bytes of a process that trains this run: host memory on a CPU, else memory of the GPU.

    On a CPU it includes holes in the heap. Compared with runs on a CPU (0.1M to 12M parameters, P 1 to 8, experts, 64
    to 1024 tokens, vocabulary 512 to 8192) it is off by −5 to +9 %, and by −15 and −18 % in two runs with micro-batches
    of a quarter of the batch. On CUDA it includes the context and everything that the allocator holds, while
    `peak_memory_bytes` counts only tensors; measured in training of 1M to 300M parameters on one H100, P 1 to 8.
    """
    heap, base = _PROCESS["cpu" if device == "cpu" else "cuda"]
    return base + _state_bytes(config) + round(heap * _working_bytes(config, micro_batch, device))


def _state_bytes(config: RunConfig) -> int:
    """Return the bytes of weights, and of gradients and moments of those that are trained."""
    held = config.architecture.total_params + lora_params(config.architecture, config.lora_rank)
    return (4 + (2 if config.recipe.dtype == "bf16" else 0)) * held + 12 * trained_params(config)


def _working_bytes(config: RunConfig, micro_batch: int | None, device: str) -> int:
    shape, recipe = config.architecture, config.recipe
    bf16 = recipe.dtype == "bf16"
    tokens = (micro_batch or recipe.batch_size) * recipe.seq_len
    each = 3 * _FP32 + (2 if bf16 else 0)
    logits, slopes = tokens * shape.vocab_size, 0
    if device.startswith("cuda") and not shape.num_experts:
        logits, slopes = min(logits, _CHUNK_LOGITS), _FP32 * shape.vocab_size * shape.hidden_size
    return logits * each + slopes + tokens * activation_bytes(shape, recipe.seq_len, bf16)


def activation_bytes(shape: Architecture, seq_len: int, bf16: bool = False) -> int:
    """Return the bytes that autograd keeps for the backward pass of one token of all P streams, without logits.

    Per layer and stream in fp32: two norms with 3·h + 1 numbers each, attention 2·a + 2·kv·(1 + n/T) and one per head,
    MLP 4·m. With bf16 all is halved except the input and the scaled input of a norm; its output is kept once for each
    product that uses it, since autocast makes a copy for each. Experts: `_mlp_kept_bytes`. The attention kernel is
    assumed to keep no scores.
    """
    h, kv, P = shape.hidden_size, shape.num_kv_heads * shape.head_dim, shape.P
    size = 2 if bf16 else _FP32
    norm = _FP32 * (2 * h + 1)
    outputs = size * h * (_products_after_norms(shape) if bf16 else 2)
    attention = size * (2 * h + 2 * kv * (1 + _prefix_tokens(shape) / seq_len)) + _FP32 * shape.num_heads
    layers = shape.loops * shape.num_layers * (2 * norm + outputs + attention + _mlp_kept_bytes(shape, size))
    last = norm + (size * h if P == 1 else 0)  # the aggregator keeps the last norm's output
    aggregator = 0 if P == 1 else size * (AGGREGATIONS[shape.aggregation].kept(h, P) + h)
    return round(P * (layers + last) + aggregator)


def _products_after_norms(shape: Architecture) -> int:
    """Return the number of products after norms: Q, K, V, and gate and up or the router."""
    return 3 + (1 if shape.num_experts else 2)


def _prefix_tokens(shape: Architecture) -> int:
    return shape.prefix_tokens if shape.has_prefixes else 0


def _mlp_products(shape: Architecture) -> int:
    """Return the number of weights of a layer's MLP and router that one token uses."""
    one = 3 * shape.hidden_size * shape.intermediate_size
    if not shape.num_experts:
        return one
    return shape.experts_per_token * one + shape.hidden_size * shape.num_experts


def _mlp_kept_bytes(shape: Architecture, size: int) -> int:
    """Return the bytes that a layer's MLP keeps for one token, with numbers of `size` bytes.

    Experts stay in fp32 with autocast; each one that the token uses keeps 4·m + 2·h numbers and its routing.
    """
    if not shape.num_experts:
        return size * 4 * shape.intermediate_size
    each = 4 * shape.intermediate_size + 2 * shape.hidden_size + 6
    return _FP32 * (shape.experts_per_token * each + 3 * shape.num_experts)


def _aggregator_flops(shape: Architecture) -> int:
    return AGGREGATIONS[shape.aggregation].flops(shape.hidden_size, shape.P) if shape.P > 1 else 0
