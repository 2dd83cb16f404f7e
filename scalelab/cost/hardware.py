"""Devices: compute, bandwidth and memory, from the table with sources or a file of the user."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from scalelab.cost.runtime import AS_GIVEN, CLASSES, DeviceClass
from scalelab.errors import DataError, UsageError
from scalelab.yaml_text import load_yaml, read_yaml_text

# Precisions to fall back on, in order, if a device has no units for a precision.
WIDER: dict[str, tuple[str, ...]] = {
    "fp4": ("fp4", "fp8", "bf16", "fp32"),
    "int4": ("int4", "int8", "bf16", "fp32"),
    "int8": ("int8", "bf16", "fp32"),
    "fp8": ("fp8", "bf16", "fp32"),
    "bf16": ("bf16", "fp32"),
    "tf32": ("tf32", "fp32"),
    "fp32": ("fp32",),
}
_TERA, _GIGA, _GIB = 1e12, 1e9, 2**30
_MAX_SHARE = 2.0  # of the roofline; on busy cores a measured share can exceed 1
_REQUIRED = ("tflops", "bandwidth", "memory", "source")
_MIN_SIMILARITY = 0.6  # of a suggested name; 1: identical
_MAX_SUGGESTIONS = 4
_POSITIVE = {  # optional keys and their units
    "vector_tflops": _TERA,
    "attention_tflops": _TERA,
    "vector_bandwidth": _GIGA,
    "usable": _GIB,
    "watts": 1.0,
    "link": _GIGA,
    "price_per_hour": 1.0,
}
_OPTIONAL = ("class", "unconfirmed", "measured", "launch_us", "graph_launch_us", "row_shares", *_POSITIVE)


@dataclass(frozen=True)
class Hardware:
    """Device with its peak FLOP/s by precision, memory bandwidth and memory.

    `kind` is its class in `scalelab.cost.runtime`; without a class its figures are achieved ones. `launch_s` is the
    time to launch a kernel from a program, `graph_launch_s` that of one in a captured graph, which remains if kernels
    are launched ahead. None means the constant of the class, or 0 without a class.
    """

    name: str
    flops_per_s: Mapping[str, float] = field(hash=False)
    bytes_per_s: float
    memory_bytes: float
    source: str = ""
    unconfirmed: tuple[str, ...] = ()  # keys of the table
    measured: bool = False  # achieved figures, not the vendor's
    launch_s: float | None = None
    attention_flops_per_s: float | None = None  # None: as for matrices
    vector_bytes_per_s: float | None = None  # for norms, activations and so on; None: as `bytes_per_s`
    row_shares: tuple[tuple[float, float], ...] = ()  # `scalelab.cost.rates.Rates.row_shares`
    kind: str = ""
    graph_launch_s: float | None = None
    vector_flops_per_s: float | None = None  # fp32, without matrix units; None: as for matrices
    usable_bytes: float | None = None  # memory available to programs, if less than all
    watts: float | None = None
    link_bytes_per_s: float | None = None  # to other devices of the node, per direction
    price_per_hour: float | None = None  # US dollars

    @property
    def device_class(self) -> DeviceClass:
        """Constants of its class."""
        return CLASSES[self.kind] if self.kind else AS_GIVEN

    def units(self, precision: str) -> str:
        """Return the precision at which the device computes work in `precision`: the narrowest it has units for."""
        return next(name for name in WIDER[precision] if name in self.flops_per_s)

    def peak(self, precision: str) -> float:
        """Return FLOP/s at `precision`, or at the narrowest wider one that the device has units for."""
        return self.flops_per_s[self.units(precision)]


@cache
def builtin_devices() -> dict[str, Hardware]:
    """Return the devices of the package's table by name."""
    return _parse((files("scalelab.cost") / "data" / "hardware.yaml").read_text(encoding="utf-8"), "hardware.yaml")


def read_hardware(file: str | Path) -> dict[str, Hardware]:
    """Return the devices of a YAML file in the format of the package's table, by name.

    Raises:
        UsageError: The file cannot be read.
        DataError: An entry is invalid; the message names file, device and key.
    """
    try:
        text = read_yaml_text(Path(file))
    except OSError as error:
        raise UsageError(f"cannot be read ({error.strerror or error})", argument="hardware", value=str(file)) from None
    return _parse(text, str(file))


def find_hardware(name: str, file: str | Path | None = None) -> Hardware:
    """Return the device `name` from `file`, or else from the table. Raises `UsageError` for an unknown name."""
    devices = builtin_devices() | (read_hardware(file) if file is not None else {})
    if name not in devices:
        raise unknown_device_error(name, devices)
    return devices[name]


def unknown_device_error(name: str, devices: Iterable[str], argument: str = "gpu") -> UsageError:
    """Return an error for an unknown device that suggests the most similar names."""
    similar = _similar_names(name, devices)
    hint = f"did you mean {' or '.join(similar)}? " if similar else ""
    return UsageError(
        f"unknown; {hint}`list_hardware` lists all (`engine='roofline'` prices each of them, llm-analysis some), "
        "`hardware=FILE` adds your own",
        argument=argument,
        value=name,
    )


def _similar_names(name: str, devices: Iterable[str]) -> list[str]:
    """Return the names most similar to `name`, best first, comparing whole names and their beginnings and ends."""
    wanted = _letters(name)
    n = len(wanted)

    def similarity(device: str) -> float:
        letters = _letters(device)
        return max(SequenceMatcher(None, wanted, part).ratio() for part in (letters, letters[:n], letters[-n:]))

    scores = {device: similarity(device) for device in devices}
    enough = max(_MIN_SIMILARITY, max(scores.values(), default=0.0) - 0.1)
    return sorted((d for d in scores if scores[d] >= enough), key=lambda d: -scores[d])[:_MAX_SUGGESTIONS]


def _letters(name: str) -> str:
    """Return only the letters and digits of a name, in lower case."""
    return "".join(c for c in name.lower() if c.isalnum())


def profile_text(hardware: Hardware) -> str:
    """Return `hardware` as YAML in the format of the table."""
    import yaml

    entry: dict[str, Any] = {
        "tflops": {name: _short(flops / _TERA) for name, flops in hardware.flops_per_s.items()},
        "bandwidth": _short(hardware.bytes_per_s / _GIGA),
        "memory": _short(hardware.memory_bytes / _GIB),
        "source": hardware.source,
        "measured": hardware.measured,
    }
    for key, value, unit in (
        ("launch_us", hardware.launch_s, 1e-6),
        ("graph_launch_us", hardware.graph_launch_s, 1e-6),
        ("attention_tflops", hardware.attention_flops_per_s, _TERA),
        ("vector_bandwidth", hardware.vector_bytes_per_s, _GIGA),
    ):
        if value is not None:
            entry[key] = _short(value / unit)
    if hardware.row_shares:
        entry["row_shares"] = {_short(rows): _short(share) for rows, share in hardware.row_shares}
    return yaml.safe_dump({hardware.name: entry}, sort_keys=False, allow_unicode=True, width=110)


def _short(value: float) -> float:
    """Round to four significant digits, the precision of measurements."""
    return float(f"{value:.4g}")


def _parse(text: str, file: str) -> dict[str, Hardware]:
    content = load_yaml(text, file)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{file}: give a mapping of device names to their figures")
    return {str(name): _device(str(name), entry, f"{file}: {name}") for name, entry in content.items()}


def _device(name: str, entry: Any, where: str) -> Hardware:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: give a mapping with {', '.join(_REQUIRED)}")
    for key in entry:
        if key not in _REQUIRED + _OPTIONAL:
            raise DataError(f"{where}: {key}: unknown key; use {', '.join(_REQUIRED + _OPTIONAL)}")
    for key in _REQUIRED:
        if key not in entry:
            raise DataError(f"{where}: {key} is missing")
    tflops = entry["tflops"]
    if not isinstance(tflops, dict):
        raise DataError(f"{where}: tflops: give a mapping of precisions to figures, such as {{fp32: 19.5, bf16: 312}}")
    for key in tflops:
        if key not in WIDER:
            raise DataError(f"{where}: tflops: {key}: unknown; choose among {', '.join(reversed(WIDER))}")
    flops = {key: _TERA * _number(v, f"{where}: tflops: {key}") for key, v in tflops.items() if v is not None}
    if "fp32" not in flops:
        raise DataError(f"{where}: tflops: fp32 is missing; precisions without units are computed at fp32")
    if not isinstance(entry["source"], str) or not entry["source"].strip():
        raise DataError(f"{where}: source: give the source of the figures as text")
    unconfirmed = entry.get("unconfirmed") or []
    known = (*flops, "bandwidth", "memory", *(key for key in _POSITIVE if entry.get(key) is not None))
    if not isinstance(unconfirmed, list) or any(key not in known for key in unconfirmed):
        raise DataError(f"{where}: unconfirmed: give a list of keys among {', '.join(known)}")
    measured = entry.get("measured", False)
    if not isinstance(measured, bool):
        raise DataError(f"{where}: measured: give true or false, not {measured!r}")
    kind = entry.get("class", "" if measured else "other")
    if kind not in CLASSES and not (measured and kind == ""):
        raise DataError(f"{where}: class: {kind!r} is unknown; choose among {', '.join(CLASSES)}")
    given = {
        key: unit * _number(entry[key], f"{where}: {key}") if entry.get(key) is not None else None
        for key, unit in _POSITIVE.items()
    }
    memory = _GIB * _number(entry["memory"], f"{where}: memory")
    if (given["usable"] or 0.0) > memory:
        raise DataError(f"{where}: usable: must not exceed memory")
    return Hardware(
        name=name,
        flops_per_s=flops,
        bytes_per_s=_GIGA * _number(entry["bandwidth"], f"{where}: bandwidth"),
        memory_bytes=memory,
        source=" ".join(entry["source"].split()),
        unconfirmed=tuple(unconfirmed),
        measured=measured,
        launch_s=_launch_s(entry, "launch_us", where),
        graph_launch_s=_launch_s(entry, "graph_launch_us", where),
        attention_flops_per_s=given["attention_tflops"],
        vector_flops_per_s=given["vector_tflops"],
        vector_bytes_per_s=given["vector_bandwidth"],
        row_shares=_row_shares(entry.get("row_shares", {}), f"{where}: row_shares"),
        kind=kind,
        usable_bytes=given["usable"],
        watts=given["watts"],
        link_bytes_per_s=given["link"],
        price_per_hour=given["price_per_hour"],
    )


def _launch_s(entry: Mapping[str, Any], key: str, where: str) -> float | None:
    return None if entry.get(key) is None else 1e-6 * _number(entry[key], f"{where}: {key}", least=0.0)


def _row_shares(given: Any, where: str) -> tuple[tuple[float, float], ...]:
    if not isinstance(given, dict):
        raise DataError(f"{where}: give a mapping of rows to shares of the roofline, such as {{1: 1, 8: 0.5}}")
    pairs = [(_number(rows, f"{where}: rows"), _number(share, f"{where}: {rows}")) for rows, share in given.items()]
    if any(share > _MAX_SHARE for _, share in pairs):
        raise DataError(f"{where}: give fractions, not percentages")
    return tuple(sorted(pairs))


def _number(value: Any, where: str, least: float | None = None) -> float:
    """Return a finite number above 0, or of at least `least`. Raises `DataError`."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or (number <= 0 if least is None else number < least):
        shown = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "a longer one"
        hint = " (YAML wants 1.0e+2)" if isinstance(value, str) and re.fullmatch(r"[\d.]+e\d+", value) else ""
        raise DataError(
            f"{where}: must be a number {'above 0' if least is None else f'of at least {least:g}'}, "
            f"not {shown[:40]}{hint}"
        )
    return number
