"""Reading of a checkpoint's `quantization_config` as a `Precision`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalelab.cost.config_file import read_config
from scalelab.cost.formats import FORMATS
from scalelab.cost.request import Precision
from scalelab.errors import DataError

_INTEGERS = {4: "gptq", 8: "gptq-int8"}
_PLAIN = {"awq": "awq", "mxfp4": "mxfp4", "fp8": "fp8", "fbgemm_fp8": "fp8"}
_MODELOPT = {"FP8": "fp8", "NVFP4": "nvfp4", "W4A16_AWQ": "awq"}
_NARROW = ("fp8", "fbgemm_fp8")


def checkpoint_precision(path: str | Path, kv: str | None = None, compute: str | None = None) -> Precision | None:
    """Return the precision declared in a model's config.json; None if it declares none.

    Args:
        path: A model's folder or config.json.
        kv: Storage format of the KV cache.
        compute: Precision of matrix products; by default fp8 if the checkpoint's activations are.

    Raises:
        UsageError: The path has no config.json.
        DataError: The quantization method is unknown.
    """
    content, where = read_config(path)
    found = content.get("quantization_config")
    if found is None:
        return None
    if not isinstance(found, dict):
        raise DataError(f"{where}: quantization_config: must be an object, not {found!r}")
    name, narrow = _format(found, f"{where}: quantization_config")
    return Precision(name, kv, compute or ("fp8" if narrow else None))


def _format(found: Mapping[str, Any], where: str) -> tuple[str, bool]:
    """Return a format of `scalelab.cost.formats`, and whether matrix products are in fp8."""
    method = str(found.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in found else "")).lower()
    if method in _PLAIN:
        return _PLAIN[method], method in _NARROW
    if method in ("gptq", "auto-round", "hqq"):
        return _integer(found.get("bits", 4), where), False
    if method == "bitsandbytes":
        return ("nf4" if found.get("load_in_4bit") else "llm-int8"), False
    if method == "modelopt":
        algorithm = str(found.get("quant_algo") or (found.get("quantization") or {}).get("quant_algo")).upper()
        if algorithm in _MODELOPT:
            return _MODELOPT[algorithm], algorithm == "FP8"
        raise _unknown(where, f"modelopt's {algorithm}")
    if method in ("compressed-tensors", "compressed_tensors"):
        return _compressed(found, where)
    raise _unknown(where, f"quant_method {method!r}")


def _compressed(found: Mapping[str, Any], where: str) -> tuple[str, bool]:
    """Return the format of the first group of layers, which has most of them."""
    groups = found.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    weights = group.get("weights") if isinstance(group, dict) else None
    if not isinstance(group, dict) or not isinstance(weights, dict):
        raise DataError(f"{where}: config_groups: must have a group with weights")
    bits = weights.get("num_bits")
    if weights.get("type") == "float":
        if bits == 8:
            return "fp8", group.get("input_activations") is not None
        if bits == 4:
            return "nvfp4", False
        raise _unknown(where, f"floats of {bits!r} bits")
    return _integer(bits, where), False


def _integer(bits: Any, where: str) -> str:
    if type(bits) is int and 2 <= bits <= 8:
        return _INTEGERS.get(bits, f"{bits + 0.15:g}")  # with a scale and a zero for each 128
    raise DataError(f"{where}: bits: must be a whole number from 2 to 8, not {bits!r}")


def _unknown(where: str, what: str) -> DataError:
    known = ", ".join(FORMATS)
    return DataError(f"{where}: {what} is not supported; give the format of the weights as `weights`: {known}")
