"""The most requests that a device serves at once within limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scalelab.cost.request import MAX_COUNT, Cost, Workload

# What a limit may be set on: bytes and seconds of a `Cost`.
LIMITED: Mapping[str, Callable[[Cost], float]] = {
    "memory": lambda cost: cost.memory_bytes,
    "latency": lambda cost: cost.latency_s,
    "ttft": lambda cost: cost.ttft_s,
    "tpot": lambda cost: cost.tpot_s,
}


def most_requests(
    price: Callable[[Workload], Cost], workload: Workload, limits: Mapping[str, float]
) -> tuple[int, str | None]:
    """Return the most requests at once whose costs are within `limits`, and the limit that one more breaks.

    Args:
        price: the cost of a workload.
        workload: tokens in and out of each request; its batch has no part in it.
        limits: by the names of `LIMITED`; the device's memory is one in any case. 0 requests where none fits.
    """

    def broken(batch: int) -> str | None:
        cost = price(Workload(batch, workload.tokens_in, workload.tokens_out))
        bounds = {**limits, "memory": min(cost.device_bytes, limits.get("memory", cost.device_bytes))}
        used = {name: LIMITED[name](cost) / bound if bound else float("inf") for name, bound in bounds.items()}
        worst = max(used, key=lambda name: used[name])
        return worst if used[worst] > 1 else None

    fits, too_many = 0, 1
    while broken(too_many) is None:
        fits, too_many = too_many, 2 * too_many
        if too_many > MAX_COUNT:
            return fits, None
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if broken(middle) is None else (fits, middle)
    return fits, broken(too_many)
