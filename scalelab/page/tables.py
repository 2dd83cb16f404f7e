"""Devices, weight formats and constants of the roofline as data for roofline.js."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from scalelab.architecture import WIDTH_PER_LAYER
from scalelab.cost import rates, runtime
from scalelab.cost.formats import FORMATS, KV_BITS
from scalelab.cost.hardware import WIDER, Hardware, builtin_devices
from scalelab.cost.request import GIB
from scalelab.plan.shapes import MAX_WIDTH, MIN_WIDTH, Shapes

_ONLY_FOR_READERS = ("name", "source", "unconfirmed", "measured", "watts", "price_per_hour")


def cost_tables(devices: Mapping[str, Hardware] | None = None) -> dict[str, Any]:
    """Return what roofline.js needs to price: the package's devices and `devices`, their classes, formats, constants.

    Names are those of the dataclasses in `scalelab.cost`. A device without a class has the class "".
    """
    known = builtin_devices() | dict(devices or {})
    return {
        "devices": {name: _device(hardware) for name, hardware in known.items()},
        "classes": {name: asdict(kind) for name, kind in {**runtime.CLASSES, "": runtime.AS_GIVEN}.items()},
        "formats": {name: asdict(stored) for name, stored in FORMATS.items()},
        "kv_bits": KV_BITS,
        "wider": WIDER,
        "row_costs": runtime.ROW_COSTS,
        "kernel_flops": runtime.KERNEL_FLOPS,
        "constants": {
            "eager_launch_s": runtime.EAGER_LAUNCH_S,
            "prefill_launch_s": runtime.PREFILL_LAUNCH_S,
            "link_efficiency": rates.LINK_EFFICIENCY,
            "default_link_bytes_per_s": rates.LINK_BYTES_PER_S,
            "reduce_s": rates.REDUCE_S,
            "gib": GIB,
        },
    }


def family_data(shapes: Shapes) -> dict[str, Any]:
    """Return the decoders that N and P stand for: dense ones of any width, with the aggregator of the paper."""
    base = shapes.base
    return {
        "layers": base.num_layers,
        "heads": base.num_heads,
        "kv_heads": base.num_kv_heads,
        "vocab": base.vocab_size,
        "prefix_tokens": base.prefix_tokens,
        "mlp_ratio": shapes.of_width(1.0, 1).intermediate_size,
        "deepening": shapes.deepening,
        "width_per_layer": WIDTH_PER_LAYER,
        "min_width": MIN_WIDTH,
        "max_width": MAX_WIDTH,
    }


def _device(hardware: Hardware) -> dict[str, Any]:
    found = {name: value for name, value in vars(hardware).items() if name not in _ONLY_FOR_READERS}
    return found | {"flops_per_s": dict(hardware.flops_per_s)}
