"""FLOPs counted by torch."""

from torch.utils.flop_counter import FlopCounterMode


def counted_flops(counter: FlopCounterMode) -> int:
    """Return the FLOPs in `counter`, without those for the angles of rotary positions.

    Some versions of transformers compute them by a matrix product with one column, others by a multiplication.
    """
    modules = counter.get_flop_counts().items()
    angles = sum(
        sum(ops.values()) for name, ops in modules if "rotary" in name.rstrip("0123456789.").rpartition(".")[2]
    )
    return counter.get_total_flops() - angles
