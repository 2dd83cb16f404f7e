"""Checks that loading a downloaded model folder does not fetch code or read files outside the folder.

Weights are read as safetensors and no code of the folder is run. But a config can name an attention or expert
implementation of the form ``owner/name``, which transformers would download and run as a kernel, and an index can name
weight files outside the folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scalelab.errors import DataError

_INDEX = "model.safetensors.index.json"


def refuse_kernels(content: Mapping[str, Any], where: str) -> None:
    """Raise `DataError` if a config names an implementation that transformers would download."""
    for key, value in _entries(content):
        if "implementation" in key and "/" in value:
            raise DataError(f"{where}: {key} {value!a:.100} would download and run a kernel; remove the key")


def refuse_files_elsewhere(folder: Path) -> None:
    """Raise `DataError` if the index of a model's weights names a file that is not in `folder`."""
    file = folder / _INDEX
    if not file.exists():
        return
    try:
        names = json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()
        outside = next((name for name in names if Path(name).name != name or name in ("..", "")), None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file}: not a valid index of weights ({type(error).__name__})") from None
    if outside is not None:
        raise DataError(f"{file}: names {outside!a:.100}, which is outside this folder; move the file into the folder")


def _entries(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string in nested mappings and lists with the path of its keys."""
    waiting = [(key, content)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, Mapping):
            waiting += [(f"{key}.{name}" if key else str(name), item) for name, item in value.items()]
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
