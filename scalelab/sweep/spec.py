"""A sweep's spec: the grid over N, P, D and seeds, from YAML and the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from scalelab.aggregation import AGGREGATIONS
from scalelab.architecture import EXPERTS_PER_TOKEN, LADDER, LADDERS, check_experts
from scalelab.errors import DataError, UsageError
from scalelab.sweep.spec_file import read_keys, spec_file
from scalelab.train.recipe import Recipe
from scalelab.units import counts, format_count, whole_numbers
from scalelab.yaml_text import load_yaml

# What a sweep can have several values of: it trains every combination.
AXES = ("N", "P", "D", "seeds", "lr", "prefix_tokens", "aggregation", "plain_tokens")

MOST_RUNS = 100_000


@dataclass(frozen=True)
class SweepSpec:
    """What to run: every combination of `AXES`. The defaults are the demo: minutes on two CPU cores.

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
    prefix_tokens: tuple[int, ...] = (4,)
    aggregation: tuple[str, ...] = ("dynamic",)
    lr: tuple[float, ...] = ()  # the recipe's, unless there are several to try
    plain_tokens: tuple[float, ...] = (0,)  # of D, before the streams begin
    num_experts: int = 0
    experts_per_token: int = EXPERTS_PER_TOKEN
    ladder: int = LADDER  # of widths, see `scalelab.architecture`; 1 goes on with sweeps of before December 2026
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        for key in AXES:
            values = getattr(self, key)
            if not values and key != "lr":
                raise UsageError(f"{key} needs at least one value")
            if len(set(values)) < len(values):
                raise UsageError(f"{key} holds a value twice: {', '.join(map(str, values))}")
        if (runs := math.prod(max(1, len(getattr(self, key))) for key in AXES)) > MOST_RUNS:
            raise UsageError(f"the grid has {runs:,} runs; at most {MOST_RUNS:,} are laid out, so give fewer values")
        for key, least in (("N", 1), ("P", 1), ("D", 1), ("seeds", 0), ("prefix_tokens", 1), ("plain_tokens", 0)):
            if min(getattr(self, key)) < least:
                raise UsageError(f"{key}: {min(getattr(self, key)):g} is less than {least}")
        for kind in self.aggregation:
            if kind not in AGGREGATIONS:
                raise UsageError(f"aggregation {kind!r}: choose one of {', '.join(AGGREGATIONS)}")
        if self.lr and not all(math.isfinite(lr) and lr > 0 for lr in self.lr):
            raise UsageError(f"lr must be positive, not {', '.join(map(str, self.lr))}")
        if max(self.plain_tokens) >= min(self.D):
            raise UsageError(
                f"plain_tokens {format_count(max(self.plain_tokens))} must be less than the least D, "
                f"{format_count(min(self.D))}: the rest is for streams"
            )
        if self.ladder not in LADDERS:
            raise UsageError(f"ladder must be one of {', '.join(map(str, LADDERS))}, not {self.ladder}")
        check_experts(self.num_experts, self.experts_per_token)

    @property
    def recipes(self) -> list[Recipe]:
        """The recipe, once for each learning rate to try."""
        return [replace(self.recipe, lr=lr) for lr in self.lr or (self.recipe.lr,)]


def tokenizer_choice(value: str | int) -> str | int:
    """A vocabulary size where the text is a number, else a path."""
    return int(value) if re.fullmatch(r"[0-9]{1,9}", str(value)) else str(value)


def load_spec(source: str | Path) -> SweepSpec:
    """Return the spec of a YAML file, or the shipped spec of that name, such as ``smoke``.

    Raises `UsageError` or `DataError` naming the file, and line and key if it can.
    """
    path = spec_file(source)
    content, lines = read_keys(path)
    try:
        return replace(SweepSpec(name=path.stem), **parse(content))
    except UsageError as error:
        words = str(error).removeprefix("recipe: ").removeprefix("unknown key ").lstrip("'")
        named = [line for key, line in lines.items() if re.match(rf"{re.escape(key.split(': ')[-1])}\b", words)]
        raise UsageError(f"{path}{f', line {named[0]}' if named else ''}: {error}") from None


def parse(content: Mapping[str, Any], base: Recipe | None = None) -> dict[str, Any]:
    """Fields of a `SweepSpec` from the keys and values of YAML; recipe options go over `base`.

    Raises `UsageError` naming the key and what it may hold.
    """
    known = [f.name for f in fields(SweepSpec) if f.name != "name"]
    parsed: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise UsageError(f"unknown key {key!r}; use one of {', '.join(sorted(known))}")
        if key == "recipe":
            parsed[key] = _parse_recipe(value, base or Recipe())
            if "lr" in value and "lr" not in content:
                parsed["lr"] = ()  # it is to be this one
        elif key in ("N", "D"):
            parsed[key] = counts(_listed(value), key)
        elif key == "plain_tokens":
            parsed[key] = tuple(0.0 if v in (0, "0") else counts([v], key)[0] for v in _listed(value))
        elif key in ("P", "seeds", "prefix_tokens"):
            parsed[key] = whole_numbers(_listed(value), key, least=0 if key == "seeds" else 1)
        elif key in ("num_experts", "experts_per_token", "ladder"):
            parsed[key] = whole_numbers([value], key, least=0)[0]
        elif key == "lr":
            parsed[key] = tuple(_number(v, key) for v in _listed(value))
        elif key == "aggregation":
            parsed[key] = tuple(map(str, _listed(value)))
        elif key == "tokenizer":
            parsed[key] = tokenizer_choice(value)
        else:
            parsed[key] = str(value)
    return parsed


def assignments(words: Sequence[str] | None, flag: str) -> dict[str, Any]:
    """KEY=VALUE words as the keys and values of a spec: ``recipe.beta2=0.99``, ``N=50k,100k``.

    Values are read as YAML, several of them with commas between. Raises `UsageError` naming the word.
    """
    content: dict[str, Any] = {}
    for word in words or ():
        name, sign, text = word.partition("=")
        if not (name and sign and text):
            raise UsageError(f"{flag} {word}: give KEY=VALUE, such as recipe.lr=0.005 or N=50k,100k")
        try:
            value = load_yaml(f"[{text}]" if "," in text else text, word)
        except DataError:
            raise UsageError(f"{flag} {word}: {text!r} is no value") from None
        if name.startswith("recipe."):
            content.setdefault("recipe", {})[name.removeprefix("recipe.")] = value
        else:
            content[name] = value
    return content


def _parse_recipe(content: Any, base: Recipe) -> Recipe:
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
    return replace(base, **values)


def _number(value: Any, key: str) -> float:
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{key}: {value!r} is not a number") from None


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
