"""Reading of a model's config.json, the same for loading models and for pricing them. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalelab.errors import DataError

CONFIG_FILE = "config.json"
STREAMS_SUFFIX = "_parscale"  # end of the model_type of a model with streams
MAX_BYTES = 16 * 2**20
MAX_DEPTH = 64  # of nested objects and lists; the configs of transformers have about five levels


def read_config_json(file: Path) -> dict[str, Any]:
    """Return the content of a config.json.

    Raises:
        FileNotFoundError: The file does not exist.
        DataError: The file cannot be read, is too large, is not JSON, does not hold an object, or is nested too deeply.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(file) from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from None
    if len(data) > MAX_BYTES:
        raise DataError(f"{file}: not a model's config: larger than {MAX_BYTES // 2**20} MiB")
    try:
        content = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise _too_deep(file) from None
    except ValueError as error:
        raise DataError(f"{file}: not a model's config: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: not a model's config: not a JSON object")
    if _depth(content) > MAX_DEPTH:
        raise _too_deep(file)
    return content


def plain_type(content: Mapping[str, Any]) -> str:
    """Return the model type of a config without the suffix for streams."""
    return str(content.get("model_type")).removesuffix(STREAMS_SUFFIX)


def _too_deep(file: Path) -> DataError:
    return DataError(f"{file}: not a model's config: nested more than {MAX_DEPTH} levels deep")


def _depth(content: Any) -> int:
    """Return the number of nested objects and lists, without recursion."""
    deepest, waiting = 0, [(content, 1)]
    while waiting:
        value, depth = waiting.pop()
        deepest = max(deepest, depth)
        parts = value.values() if isinstance(value, dict) else value
        waiting += [(part, depth + 1) for part in parts if isinstance(part, dict | list)]
    return deepest
