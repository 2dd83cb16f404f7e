"""Capacity: the largest number of concurrent requests that a device can serve within limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scalelab.cost.request import MAX_COUNT, Cost, Workload

# Quantities of a `Cost` that can be limited, in bytes and seconds.
LIMITABLE: Mapping[str, Callable[[Cost], float]] = {
    "memory": lambda cost: cost.memory_bytes,
    "latency": lambda cost: cost.latency_s,
    "ttft": lambda cost: cost.ttft_s,
    "tpot": lambda cost: cost.tpot_s,
}


def most_requests(
    price: Callable[[Workload], Cost], workload: Workload, limits: Mapping[str, float]
) -> tuple[int, str | None]:
    """Return the largest number of concurrent requests within `limits`, and the limit that one more exceeds.

    The number is 0 if not even one request fits. The limit is None if there is no bound.

    Args:
        price: Cost of a workload.
        workload: Prompt and generated tokens of each request; its batch size is ignored.
        limits: Limits by the names in `LIMITABLE`. The device's memory is always a limit.
    """

    def exceeded(batch: int) -> str | None:
        cost = price(Workload(batch, workload.tokens_in, workload.tokens_out))
        bounds = {**limits, "memory": min(cost.device_bytes, limits.get("memory", cost.device_bytes))}
        used = {name: LIMITABLE[name](cost) / bound if bound else float("inf") for name, bound in bounds.items()}
        worst = max(used, key=lambda name: used[name])
        return worst if used[worst] > 1 else None

    fits, too_many = 0, 1
    while exceeded(too_many) is None:
        fits, too_many = too_many, 2 * too_many
        if too_many > MAX_COUNT:
            return fits, None
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if exceeded(middle) is None else (fits, middle)
    return fits, exceeded(too_many)
