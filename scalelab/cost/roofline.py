"""Roofline cost model of scalelab: prices each kernel that runs, including those of streams.

A kernel takes max(FLOPs / peak, bytes / bandwidth) (Williams, Waterman and Patterson, "Roofline", CACM 2009), with the
shares of the peaks that engines achieve, plus its launch time. A pass takes the sum over its kernels: each depends on
the previous one, so memory and arithmetic overlap only within a kernel. If a program launches kernels ahead, a pass
takes at least the time to launch them. For decoding this is the memory-bound model of Pope et al. (arXiv 2211.05102,
section 2): a step reads all weights once, and the cache of every row. With P streams, batch B, prompt i and output o:

- Layers process P·B rows. A prefix is P·n keys and values per layer, which only attention reads.
- Prefill is one pass of i tokens per row and gives the first new token; o − 1 steps of one token give the others. The
  step after t tokens reads min(t + 1, window) keys per row and layer and writes one.
- The aggregator processes all tokens of a pass, the output embedding the last token of B rows; both read their weights
  in each pass. The input embedding reads only rows.
- T tokens that each choose k of E experts uniformly use E·(1 − (1 − k/E)^T) of them, whose weights are read. Real
  routers prefer some experts: T tokens use about as many as T^0.83 uniform tokens. Shared experts are one MLP for all
  tokens, read once, and so is their gate.
- Attention that selects keys, or hides some with a mask, is priced as it runs: over all keys.
- Layers with a cached latent compute keys and values of all tokens in each pass, as transformers does. Serving engines
  fold these matrices into queries and output in decode steps, and attend to the latent.
- If several tokens share one key, each token has its fraction of it.
- Layers with a state instead of keys and values move it once per pass, and compute with it for each token.
- With t devices each matrix is split, and two all-reduces per layer add up the parts (arXiv 1909.08053).
- Attention does not write its scores (arXiv 2205.14135) and skips the masked half.

A measured device (`scalelab.measure`) may have achieved shares for products of few rows, a rate for attention and a
bandwidth for vector work. Otherwise the peaks apply to all of them.

Not included: FLOPs of softmax and other vector work, which are few (their traffic is counted); copies that some
attention kernels need to concatenate prefix and cache; sampling; traffic between host and device.
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
    """Return the memory and latency of `workload`.

    Memory is all weights, prefixes at the precision of the cache, the cache of i + o − 1 ordinary tokens, and the peak
    of activations. It is an upper bound, since the peaks do not coincide.

    Raises:
        UsageError: The device is unknown, or `tensor_parallel` does not divide the heads.
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
    """Raise `UsageError` if the heads cannot be divided among the devices."""
    for layer, _ in model.layers:
        if layer.heads % devices:
            raise UsageError(
                f"{model.name}: {layer.heads:g} heads cannot be divided among {devices} devices; choose a "
                "`tensor_parallel` that divides the heads"
            )


def prefill_s(model: ServedModel, batch: int, tokens: int, rates: Rates) -> float:
    """Return the seconds from a prompt of `tokens` to the logits of the first new token."""
    return rates.pass_s(kernels(model, batch, tokens, 0, rates))


def decode_step_s(model: ServedModel, batch: int, cached: int, rates: Rates) -> float:
    """Return the seconds of one token per row after `cached` tokens."""
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
    # Bisection: the first `waiting` steps are limited by the host, step number `free` is not.
    waiting, free = 0, steps + 1
    while free - waiting > 1:
        middle = (waiting + free) // 2
        step = rates.pass_s(kernels(model, batch, 1, cached + middle - 1, rates))
        waiting, free = (middle, free) if step <= host else (waiting, middle)
    return waiting * host + _device_s(model, batch, cached + waiting, steps - waiting, rates)


def _device_s(model: ServedModel, batch: int, cached: int, steps: int, rates: Rates) -> float:
    """Return the seconds of the kernels of `steps` tokens per row.

    Only attention depends on the length. Its FLOPs and bytes are linear in the number of keys, so that the steps form
    ranges in which one of the two lines is higher.
    """
    fixed = steps * sum(rates.seconds(k) for k in kernels(model, batch, 1, 0, rates) if k.kind != "attention")
    first, last = cached + 1, cached + steps  # keys seen without a window
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
    """Return Σ max(one₀ + one₁·s, two₀ + two₁·s) over integers s from `first` to `last`; 0 if there are none."""
    if last < first:
        return 0.0
    slope = one[1] - two[1]
    crossing = (two[0] - one[0]) / slope if slope else math.inf
    middle = last if not first <= crossing < last else math.floor(crossing)  # last s before the lines cross

    def run(start: int, end: int) -> float:
        """Sum a range in which the same line is higher; its middle decides which."""
        return (end - start + 1) * max(line[0] + line[1] * (start + end) / 2 for line in (one, two))

    return run(first, middle) + (run(middle + 1, last) if middle < last else 0.0)
