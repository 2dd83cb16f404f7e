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

from scalelab.architecture import Architecture
from scalelab.cost.kernels import attention, kernels
from scalelab.cost.memory import activation_bytes, available_bytes, cache_bytes, weight_bytes
from scalelab.cost.rates import Rates, find_rates
from scalelab.cost.request import BF16, Cost, Device, Precision, Workload
from scalelab.cost.runtime import ROWS_SPREAD
from scalelab.cost.shape import ServedModel, as_served
from scalelab.errors import UsageError


def price(model: Architecture | ServedModel, workload: Workload, device: Device, precision: Precision = BF16) -> Cost:
    """Memory and latency of `workload`. Raises `UsageError` for a device that is not known.

    Memory is all weights, the prefixes at the cache's precision, the cache of i + o − 1 ordinary tokens
    and the peak of activations; all are taken to be held at once, which is an upper bound.
    """
    served, rates = as_served(model), find_rates(device, precision)
    _check_parallel(served, rates.devices)
    hardware, device_class = device.found(), device.found().device_class
    B, i, o = workload.batch, workload.tokens_in, workload.tokens_out
    t = device.tensor_parallel
    return Cost(
        architecture=model,
        workload=workload,
        weight_bytes=weight_bytes(served, rates),
        kv_cache_bytes=cache_bytes(served, B, i + o - 1, rates),
        activation_bytes=activation_bytes(served, B, i, rates),
        aggregator_bytes=served.aggregator_params * rates.weight_bytes,
        prefill_s=prefill_s(served, B, i, rates),
        decode_s=decode_s(served, B, i, o - 1, rates),
        device_bytes=t * available_bytes(device),
        prefix_bytes=served.prefix_params * rates.kv_bytes,
        spread=device_class.spread,
        memory_spread=device_class.memory_spread,
        rows_spread=ROWS_SPREAD[precision.format.kernels] if hardware.kind else 0.0,
        watts=_times(t, hardware.watts if device.watts is None else device.watts),
        price_per_hour=_times(t, hardware.price_per_hour if device.price_per_hour is None else device.price_per_hour),
    )


def _times(count: int, value: float | None) -> float | None:
    return None if value is None else count * value


def _check_parallel(model: ServedModel, devices: int) -> None:
    """Raise `UsageError` where the heads cannot be dealt to the devices."""
    for layer, _ in model.layers:
        if layer.heads % devices:
            raise UsageError(
                f"{model.name}: {layer.heads:g} heads cannot be dealt evenly to {devices} devices; choose a "
                "`tensor_parallel` that divides them"
            )


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
        none, one = (attention(model, layer, batch, 1, keys, keys, rates) for keys in (0, 1))
        flops = (none.flops / rates.attention_flops_per_s, (one.flops - none.flops) / rates.attention_flops_per_s)
        moved = (none.bytes / rates.bytes_per_s, (one.bytes - none.bytes) / rates.bytes_per_s)
        window = last if layer.window is None else layer.window
        within = _sum_of_higher(flops, moved, first, min(last, window))
        beyond = max(0, last - max(window, first - 1)) * max(f + s * window for f, s in (flops, moved))
        total += count * (within + beyond + steps * rates.launch_s)
    return total


def _sum_of_higher(one: tuple[float, float], two: tuple[float, float], first: int, last: int) -> float:
    """Σ max(one₀ + one₁·s, two₀ + two₁·s) over whole s from `first` to `last`; 0 if there are none."""
    if last < first:
        return 0.0
    slope = one[1] - two[1]
    crossing = (two[0] - one[0]) / slope if slope else math.inf
    middle = last if not first <= crossing < last else math.floor(crossing)  # the last s before they swap

    def run(start: int, end: int) -> float:
        """Sum a run in which one line stays the higher, which its middle tells."""
        return (end - start + 1) * max(line[0] + line[1] * (start + end) / 2 for line in (one, two))

    return run(first, middle) + (run(middle + 1, last) if middle < last else 0.0)
