"""A sweep's spec: the grid over N, P, D and seeds, from YAML and the command line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from scalelab.architecture import MIXTURE_PARAMS
from scalelab.errors import DataError, UsageError
from scalelab.train.recipe import Recipe
from scalelab.units import counts, whole_numbers


@dataclass(frozen=True)
class SweepSpec:
    """What to run. The defaults are the demo: minutes on two CPU cores.

    Raises `UsageError` on construction, naming the value that makes no sense.
    """

    name: str = "demo"
    N: tuple[float, ...] = (25e3, 50e3, 100e3)
    P: tuple[int, ...] = (1, 2, 4, 8)
    D: tuple[float, ...] = (1e6,)
    seeds: tuple[int, ...] = (0,)
    corpus: str = "stdlib"
    text_column: str = "text"
    tokenizer: str | int = 512  # a vocabulary size to train, or a path
    # The paper has 48 before 2048 tokens. Before 64 tokens, 48 draw most of the attention and make
    # streams worse than none (docs/LOG.md).
    prefix_tokens: int = 4
    aggregation: str = "dynamic"
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        for key in ("N", "P", "D", "seeds"):
            values = getattr(self, key)
            if not values:
                raise UsageError(f"{key} needs at least one value")
            least = 0 if key == "seeds" else 1
            if min(values) < least:
                raise UsageError(f"{key}: {min(values):g} is less than {least}")
            if len(set(values)) < len(values):
                raise UsageError(f"{key} holds a value twice: {', '.join(map(str, values))}")
        if self.prefix_tokens < 1:
            raise UsageError(f"prefix_tokens must be at least 1, not {self.prefix_tokens}")
        if self.aggregation not in MIXTURE_PARAMS:
            raise UsageError(f"aggregation {self.aggregation!r}: choose one of {', '.join(MIXTURE_PARAMS)}")


def tokenizer_choice(value: str | int) -> str | int:
    """A vocabulary size where the text is a number, else a path."""
    return int(value) if re.fullmatch(r"[0-9]{1,9}", str(value)) else str(value)


def load_spec(path: Path) -> SweepSpec:
    """A spec from a YAML file. Raises `UsageError` or `DataError` naming the file and key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise DataError(f"{path}{where}: not YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: a spec is a list of `key: value` lines")
    try:
        return replace(SweepSpec(name=path.stem), **_parse(content))
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _parse(content: dict[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(SweepSpec)} - {"name"}
    parsed: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise UsageError(f"unknown key {key!r}; use one of {', '.join(sorted(known))}")
        if key == "recipe":
            parsed[key] = _parse_recipe(value)
        elif key in ("N", "D"):
            parsed[key] = counts(_listed(value), key)
        elif key in ("P", "seeds"):
            parsed[key] = whole_numbers(_listed(value), key, least=1 if key == "P" else 0)
        elif key == "prefix_tokens":
            parsed[key] = whole_numbers([value], key)[0]
        elif key == "tokenizer":
            parsed[key] = tokenizer_choice(value)
        else:
            parsed[key] = str(value)
    return parsed


def _parse_recipe(content: Any) -> Recipe:
    kinds = {f.name: f.type for f in fields(Recipe)}
    if not isinstance(content, dict):
        raise UsageError("recipe must be a list of `key: value` lines")
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in kinds:
            raise UsageError(f"recipe: unknown key {key!r}; use one of {', '.join(kinds)}")
        kind = str(kinds[key])
        try:
            if isinstance(value, bool) or (kind == "int" and not isinstance(value, int)):
                raise TypeError
            # YAML reads 4e-3 as text: it wants 4.0e-3.
            values[key] = {"int": int, "float": float, "str": str}[kind](value)
        except (TypeError, ValueError):
            raise UsageError(f"recipe: {key}: {value!r} is not of type {kind}") from None
    return Recipe(**values)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
