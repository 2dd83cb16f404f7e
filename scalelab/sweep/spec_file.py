"""YAML of a spec: its keys and values, and the line of each key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from scalelab.bundled import bundled
from scalelab.errors import DataError, UsageError
from scalelab.yaml_text import compose_yaml, load_yaml, read_yaml_text


def spec_file(source: str | Path) -> Path:
    """Return the file of a spec: a path, or the name of a shipped spec, such as ``smoke``.

    A file of that name in the working directory takes precedence over a shipped spec.

    Raises:
        UsageError: `source` has no folder and no suffix, as names have, and is neither a file nor a shipped spec.
    """
    path = Path(source)
    if path.is_file() or path.suffix or path.name != str(path):
        return path
    shipped = {file.stem: file for file in sorted(bundled("sweeps").glob("*.yaml"))}
    if path.name not in shipped:
        raise UsageError(f"{path}: no such file or shipped spec; give a YAML file or one of {', '.join(shipped)}")
    return shipped[path.name]


def read_keys(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values by key, and the line numbers by key, with nested keys written as ``part: key``.

    Raises:
        UsageError: the file cannot be read.
        DataError: it is not a YAML mapping, a key appears twice, or a key has no value.
    """
    try:
        text = read_yaml_text(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    root, content = compose_yaml(text, str(path)), load_yaml(text, str(path))
    if not isinstance(root, yaml.MappingNode):
        raise DataError(f"{path}: not a sweep spec; write `key: value` lines")
    return content, _lines(path, root, "")


def _lines(path: Path, node: yaml.MappingNode, prefix: str) -> dict[str, int]:
    lines: dict[str, int] = {}
    for key, value in node.value:
        name, line = f"{prefix}{key.value}", key.start_mark.line + 1
        if name in lines:
            raise DataError(f"{path}, line {line}: {name} is already in line {lines[name]}; keep one of them")
        if value.tag == "tag:yaml.org,2002:null":
            raise DataError(f"{path}, line {line}: {name} has no value; give one, or leave it out")
        lines[name] = line
        if isinstance(value, yaml.MappingNode):
            lines |= _lines(path, value, f"{name}: ")
    return lines
