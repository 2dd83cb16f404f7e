"""Our own cost model: a roofline over each kernel of what really runs, streams and all.

A kernel takes max(FLOPs / peak, bytes / bandwidth) (Williams, Waterman and Patterson, "Roofline", CACM
2009), with the shares of the peaks that engines reach, plus what its start adds, and a pass takes the sum over
its kernels: each needs the one before, so that memory and arithmetic overlap within a kernel and not between
two. Where a program starts kernels ahead, a pass takes no less than starting them. For decoding this is the
memory-bound picture of Pope et al. (arXiv 2211.05102, section 2): a step reads all weights once and
every row's cache. With P streams, batch B, prompt i and output o:

- the layers see P·B rows; a prefix is P·n keys and values a layer, read by attention and otherwise free;
- the prompt is one pass of i tokens a row and gives the first new token; o − 1 steps of one token give
  the others, and the step after t tokens reads min(t + 1, window) keys a row and layer and writes one;
- the aggregator mixes all tokens of a pass, and reads its weights in each; the output embedding sees the
  last token of B rows, and reads its weights in each pass, too; the input embedding reads rows only;
- T tokens that each choose k of E experts evenly touch E·(1 − (1 − k/E)^T) of them, whose weights are read; real
  routers prefer some, and T of their tokens touch about as many as T^0.83 of such;
  shared experts are one MLP that all tokens go through, read once; so is the gate that may weigh it;
- attention that chooses among keys, or hides some by its mask alone, is priced as it is run: over all of them;
- layers that keep a latent make keys and values of all tokens anew in each pass, as transformers does; engines
  that serve fold these matrices into queries and output in decode steps, and attend to the latent itself;
- where one key is kept for several tokens, each token counts as its part of one;
- layers that keep a state instead of keys and values move it once in each pass, and compute with it for each token;
- over t devices each matrix is split, and two all-reduces a layer add up its parts (arXiv 1909.08053);
- attention never writes its scores (arXiv 2205.14135) and skips what causality hides.

A device that was measured (`scalelab.measure`) may say that products of few rows reach neither roof, what
its attention reaches, and the speed of vector work; else the roofs stand for all of them.

Left out: softmax and other vector arithmetic, whose traffic is counted and whose FLOPs are few, copies
that joining prefix and cache costs some attention kernels, sampling, and traffic between host and device.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from scalelab.architecture import MIXTURE_PARAMS, Architecture
from scalelab.cost.model import BF16, GIB, Cost, Device, Precision, Workload
from scalelab.cost.rates import Kernel, Rates, find_rates
from scalelab.cost.runtime import ROWS_SPREAD
from scalelab.cost.shape import Block, Layer, ServedModel, as_served
from scalelab.errors import UsageError
from scalelab.units import format_bytes


def price(model: Architecture | ServedModel, workload: Workload, device: Device, precision: Precision = BF16) -> Cost:
    """Memory and latency of `workload`. Raises `UsageError` for a device that is not known.

    Memory is all weights, the prefixes at the cache's precision, the cache of i + o − 1 ordinary tokens
    and the peak of activations; all are taken to be held at once, which is an upper bound.
    """
    served, rates = as_served(model), find_rates(device, precision)
    _check_parallel(served, rates.parallel)
    hardware, device_class = device.found(), device.found().device_class
    B, i, o = workload.batch, workload.tokens_in, workload.tokens_out
    t = device.tensor_parallel
    return Cost(
        architecture=model,
        workload=workload,
        weight_bytes=weight_bytes(served, rates),
        kv_cache_bytes=cache_bytes(served, B, i + o - 1, rates),
        activation_bytes=activation_bytes(served, B, i, rates),
        aggregator_bytes=served.aggregator_params * rates.weight,
        prefill_s=prefill_s(served, B, i, rates),
        decode_s=decode_s(served, B, i, o - 1, rates),
        device_bytes=t * available_bytes(device),
        prefix_bytes=served.prefix_params * rates.kv,
        spread=device_class.spread,
        memory_spread=device_class.memory_spread,
        rows_spread=ROWS_SPREAD[precision.format.kernels] if hardware.kind else 0.0,
        watts=_times(t, hardware.watts if device.watts is None else device.watts),
        price_per_hour=_times(t, hardware.price_per_hour if device.price_per_hour is None else device.price_per_hour),
    )


def available_bytes(device: Device) -> float:
    """Return the bytes of one device that a model can have: what programs are given, less the reserve.

    Raises:
        UsageError: the reserve that was asked for leaves nothing.
    """
    hardware = device.found()
    usable = hardware.memory_bytes if hardware.usable_bytes is None else hardware.usable_bytes
    if device.reserve_bytes is None:  # never more than half of a small device
        return max(usable / 2, usable - hardware.device_class.reserve_gib * GIB)
    if device.reserve_bytes >= usable:
        raise UsageError(
            f"{device.gpu} gives programs {format_bytes(usable)} in all; reserve less",
            argument="reserve",
            value=format_bytes(device.reserve_bytes),
        )
    return usable - device.reserve_bytes


def _times(count: int, value: float | None) -> float | None:
    return None if value is None else count * value


def _check_parallel(model: ServedModel, devices: int) -> None:
    """Raises `UsageError` where the heads cannot be dealt to the devices."""
    for layer, _ in model.layers:
        if layer.heads % devices:
            raise UsageError(
                f"{model.name}: {layer.heads:g} heads cannot be dealt evenly to {devices} devices; choose a "
                "`tensor_parallel` that divides them"
            )


def weight_bytes(model: ServedModel, rates: Rates) -> float:
    """Bytes of all weights but the aggregator's and prefixes, each kind at the width its format gives it."""
    h = model.hidden_size
    experts = dense = 0.0
    for layer, count in model.layers:
        held = layer.num_experts * layer.expert_params(h)
        experts += held * count
        dense += (layer.params(h) - held) * count if layer.num_experts else 0.0
    rest = model.backbone_params - experts - dense
    ends = model.head_params * (rates.tied if model.tied_embeddings else rates.head + rates.embedding)
    others = model.embedding_params - model.head_params * (1 if model.tied_embeddings else 2)
    return (experts + rest) * rates.weight + dense * rates.dense + ends + others * rates.embedding


def prefill_s(model: ServedModel, batch: int, tokens: int, rates: Rates) -> float:
    """Seconds from a prompt of `tokens` to the logits of the first new token."""
    return rates.pass_s(kernels(model, batch, tokens, 0, rates))


def decode_step_s(model: ServedModel, batch: int, cached: int, rates: Rates) -> float:
    """Seconds of one token a row when `cached` tokens came before it."""
    return rates.pass_s(kernels(model, batch, 1, cached, rates), step=True)


def decode_s(model: ServedModel, batch: int, cached: int, steps: int, rates: Rates) -> float:
    """Seconds of `steps` tokens a row after `cached` ones: the sum of `decode_step_s`, in closed form.

    Steps grow longer with what is cached: those that starting their kernels takes longer than come first.
    """
    if steps == 0:
        return 0.0
    host = rates.step_host_s * sum(kernel.times for kernel in kernels(model, batch, 1, 0, rates))
    if host == 0:
        return _device_s(model, batch, cached, steps, rates)
    waiting, alone = 0, steps + 1  # the first `waiting` steps wait for the host, that numbered `alone` does not
    while alone - waiting > 1:
        middle = (waiting + alone) // 2
        step = rates.pass_s(kernels(model, batch, 1, cached + middle - 1, rates))
        waiting, alone = (middle, alone) if step <= host else (waiting, middle)
    return waiting * host + _device_s(model, batch, cached + waiting, steps - waiting, rates)


def _device_s(model: ServedModel, batch: int, cached: int, steps: int, rates: Rates) -> float:
    """Seconds of the kernels of `steps` tokens a row.

    Only attention depends on the length, and its FLOPs and bytes are straight lines in the keys it sees:
    the steps fall into runs over which one of the two lines is the higher.
    """
    fixed = steps * sum(rates.seconds(k) for k in kernels(model, batch, 1, 0, rates) if k.kind != "attention")
    first, last = cached + 1, cached + steps  # keys seen, where no window hides any
    total = fixed
    for layer, count in model.layers:
        if not layer.heads:
            continue
        none, one = (_attention(model, layer, batch, 1, keys, keys, rates) for keys in (0, 1))
        flops = (none.flops / rates.attention_flops_per_s, (one.flops - none.flops) / rates.attention_flops_per_s)
        moved = (none.bytes / rates.bytes_per_s, (one.bytes - none.bytes) / rates.bytes_per_s)
        window = last if layer.window is None else layer.window
        within = _sum_of_higher(flops, moved, first, min(last, window))
        beyond = max(0, last - max(window, first - 1)) * max(f + s * window for f, s in (flops, moved))
        total += count * (within + beyond + steps * rates.launch_s)
    return total


def cache_bytes(model: ServedModel, batch: int, tokens: int, rates: Rates) -> float:
    """Bytes of keys and values of `tokens` ordinary tokens a row; a layer with a window keeps no more than that.

    States that layers keep instead are counted at the precision of activations.
    """
    values = states = 0.0
    for layer, count in model.layers:
        values += (
            layer.kept_width
            * _copies(layer, rates)
            * count
            * (tokens if layer.window is None else min(tokens, layer.window))
        )
        states += layer.state * count
    return model.P * batch * (values * rates.kv + states * rates.activation)


def _copies(layer: Layer, rates: Rates) -> float:
    """How often keys and values are kept: several devices may share a KV head, and each keeps a latent whole."""
    if rates.parallel == 1 or not layer.heads:
        return 1.0
    return rates.parallel if layer.unfolds else max(1.0, rates.parallel / layer.kv_heads)


def activation_bytes(model: ServedModel, batch: int, tokens: int, rates: Rates) -> float:
    """Peak bytes of what lives within the pass over the prompt, the largest of four moments.

    Attention: residual, its normed copy, queries, output, and keys and values, the prefix's among them.
    MLP: residual, normed copy and, for every expert that a token goes to, shared or chosen, gate, up and their
    product.
    Aggregator: the streams and their transposed copy, its input and output. Output: logits of B rows.
    """
    h, rows = model.hidden_size, model.P * batch
    moments = [batch * model.vocab_size, (2 * rows + 2 * batch) * tokens * h if model.P > 1 else 0]
    for layer, _ in model.layers:
        blocks = [_between(block) for block in layer.blocks(h)]
        prefix = model.prefix_length * layer.prefix_kv_width
        moments += [rows * (tokens * (2 * h + blocks[0]) + prefix)] if layer.heads else []
        mlps = max(blocks[1:] if layer.heads else blocks, default=0.0)
        mlps += layer.mlp_matrices * layer.mlp_width * layer.experts_per_token
        moments.append(rows * tokens * (2 * h + mlps))
    return max(moments) * rates.activation


def experts_touched(num_experts: int, experts_per_token: int, tokens: float) -> float:
    """Expected number of different experts that `tokens` go to, each to `experts_per_token` drawn evenly."""
    return num_experts * -math.expm1(tokens * _log_spared(num_experts, experts_per_token))


def _log_spared(num_experts: int, experts_per_token: int) -> float:
    """ln of the chance that one token leaves a given expert alone."""
    return -math.inf if experts_per_token >= num_experts else math.log1p(-experts_per_token / num_experts)


def kernels(model: ServedModel, batch: int, tokens: int, cached: int, rates: Rates) -> Iterator[Kernel]:
    """All kernels of one pass over `tokens` of each of `batch` sequences, of which `cached` came before."""
    h, a, w = model.hidden_size, rates.activation, rates.embedding
    rows = model.P * batch
    passed = rows * tokens  # tokens through the layers
    yield Kernel(0, passed * h * (w + a + (w if model.position_rows else 0)))  # rows of the embedding
    for layer, count in model.layers:
        for kernel in _layer(model, layer, batch, tokens, cached, rates):
            yield kernel._replace(times=count)
    yield _norm(passed, h, a)._replace(bytes=4 * passed * h * a + model.norm_params * rates.weight)
    if model.P > 1:
        yield from _aggregator(model, batch * tokens, rates)
    stored = rates.tied if model.tied_embeddings else rates.head
    head = _matrix(batch, model.head_params / model.vocab_size, model.vocab_size, rates, stored)
    yield head._replace(bytes=head.bytes + (model.vocab_size * stored if model.head_bias else 0))


def _layer(model: ServedModel, layer: Layer, batch: int, tokens: int, cached: int, rates: Rates) -> Iterator[Kernel]:
    h, a = model.hidden_size, rates.activation
    passed = model.P * batch * tokens
    stored = rates.dense if layer.num_experts else rates.weight
    norm = _norm(passed, h, a)
    yield norm._replace(bytes=norm.bytes + layer.vectors * rates.weight)
    yield norm
    for i, block in enumerate(layer.blocks(h)):
        for inputs, outputs in block:
            yield _matrix(passed, inputs, outputs, rates, stored)
        if layer.heads and i == 0:
            kept = layer.kept_width
            yield Kernel(0, passed * (2 * layer.queries * a + kept * (a + rates.kv)))  # rotated; into the cache
            pairs, read = _keys(layer, tokens, cached)
            yield _attention(model, layer, batch, tokens, pairs, read, rates)
        elif len(block) > 1:
            yield Kernel(0, passed * _between(block) * a)  # activation, and product with the gate
    if layer.state or layer.mixing_flops:  # updated and read for each token, and moved once
        # Those of a window are counted as products; of other states, only where they are products.
        flops = layer.mixing_flops if layer.query_width else max(4 * layer.state, layer.mixing_flops)
        yield Kernel(passed * flops, 2 * model.P * batch * layer.state * a)
    if layer.num_experts:
        yield _matrix(passed, h, layer.num_experts, rates, stored)
        touched = experts_touched(layer.num_experts, layer.experts_per_token, passed**rates.routing)
        yield from _experts(layer, h, passed * layer.experts_per_token, touched, rates)
    if rates.parallel > 1:
        t = rates.parallel
        reduce = Kernel(0, 2 * (t - 1) / t * passed * h * a, kind="reduce")
        yield from (reduce, reduce)  # of attention and of the MLP


def _between(block: Block) -> float:
    """Numbers of a token that lie between the first matrix of a block and its last."""
    return sum(outputs for _, outputs in block[:-1]) + block[-1][0]


def _experts(layer: Layer, h: float, passed: float, touched: float, rates: Rates) -> Iterator[Kernel]:
    """`passed` tokens through the experts that are touched, among which they are dealt."""
    into, width = layer.mlp_matrices - 1, layer.mlp_width
    yield _matrix(passed, h, into * width, rates, rates.weight, copies=touched)
    yield Kernel(0, passed * (into + 1) * width * rates.activation)
    yield _matrix(passed, width, h, rates, rates.weight, copies=touched)


def _keys(layer: Layer, tokens: int, cached: int) -> tuple[float, float]:
    """(query, key) pairs seen by `tokens` queries of one row after `cached` others, and keys read for them."""
    window = math.inf if layer.window is None else layer.window
    short = min(max(window - cached, 0), tokens)  # queries that the window hides nothing from
    pairs = short * cached + short * (short + 1) / 2 + ((tokens - short) * window if tokens > short else 0)
    return pairs, min(cached, window - 1) + tokens


def _attention(
    model: ServedModel, layer: Layer, batch: int, tokens: int, pairs: float, read: float, rates: Rates
) -> Kernel:
    """Scores and their sum over values: `pairs` and the whole prefix for each query; `read` keys a row.

    Where a latent is kept, keys and values are made of it first; or, where that is folded into queries and output,
    each query attends to the latent, whose part without the rotated key is also the value.
    """
    heads, rows, n = layer.heads * layer.head_dim, model.P * batch, model.prefix_length
    flops = 4 * rows * (heads * pairs + layer.queries * tokens * n)
    moved = 2 * rows * tokens * layer.queries * rates.activation + rows * n * layer.prefix_kv_width * rates.kv
    if not layer.unfolds:
        kept = layer.kv_width * _copies(layer, rates)
        return Kernel(flops, moved + rows * read * kept * rates.kv, kind="attention")
    unfolded = sum(inputs * outputs for inputs, outputs in layer.unfolds)
    if rates.folds and tokens == 1:
        latent = layer.unfolds[0][0]
        flops += rows * (2 * layer.heads * pairs * (layer.kept_width + latent) - 4 * heads * pairs + 2 * unfolded)
        kept = layer.kept_width * _copies(layer, rates)
        return Kernel(flops, moved + unfolded * rates.weight + rows * read * kept * rates.kv, kind="attention")
    each = layer.kept_width * rates.kv + 2 * layer.kv_width * rates.activation  # written, and read again
    moved += unfolded * rates.weight + rows * read * each
    return Kernel(flops + 2 * rows * read * unfolded, moved, kind="attention")


def _aggregator(model: ServedModel, tokens: float, rates: Rates) -> Iterator[Kernel]:
    """The mixture of P streams of `tokens`: weights by two matrices where it is dynamic, then the sum."""
    h, P, a = model.hidden_size, model.P, rates.activation
    streams = P * tokens * h * a
    if model.aggregation == "dynamic":
        yield Kernel(0, 2 * streams)  # the streams of a token side by side
        yield _matrix(tokens, P * h, h, rates, rates.weight)
        yield Kernel(0, 2 * tokens * h * a)
        yield _matrix(tokens, h, P, rates, rates.weight)
        yield Kernel(2 * streams / a, streams + tokens * (h + P) * a)
    else:
        weights = MIXTURE_PARAMS[model.aggregation](h, P) * rates.weight  # type: ignore[arg-type]
        yield Kernel(2 * streams / a, streams + tokens * h * a + weights)


def _norm(tokens: float, width: float, activation: float) -> Kernel:
    """Residual sum and norm in one: two rows in, two out."""
    return Kernel(0, 4 * tokens * width * activation)


def _matrix(tokens: float, inputs: float, outputs: float, rates: Rates, stored: float, copies: float = 1.0) -> Kernel:
    """`tokens` rows through a matrix of `stored` bytes a weight, or dealt among `copies` of it."""
    moved = copies * inputs * outputs * stored + tokens * (inputs + outputs) * rates.activation
    return Kernel(2 * tokens * inputs * outputs, moved, kind="matrix", rows=tokens / copies)


def _sum_of_higher(one: tuple[float, float], two: tuple[float, float], first: int, last: int) -> float:
    """Σ max(one₀ + one₁·s, two₀ + two₁·s) over whole s from `first` to `last`; 0 if there are none."""
    if last < first:
        return 0.0
    slope = one[1] - two[1]
    crossing = (two[0] - one[0]) / slope if slope else math.inf
    middle = last if not first <= crossing < last else math.floor(crossing)  # the last s before they swap

    def run(start: int, end: int) -> float:
        """Over a run in which one line stays the higher, which its middle tells."""
        return (end - start + 1) * max(line[0] + line[1] * (start + end) / 2 for line in (one, two))

    return run(first, middle) + (run(middle + 1, last) if middle < last else 0.0)
