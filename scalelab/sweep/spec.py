"""Spec of a sweep: the grid over N, P, D and seeds, from YAML or from key-value arguments."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from scalelab.aggregation import AGGREGATIONS
from scalelab.architecture import EXPERTS_PER_TOKEN, FAMILY, LADDER, LADDERS, check_experts
from scalelab.errors import DataError, UsageError
from scalelab.sweep.frozen_spec import check_frozen, frozen_defaults
from scalelab.sweep.spec_file import read_keys, spec_file
from scalelab.train.recipe import Recipe
from scalelab.units import counts, format_count, whole_numbers
from scalelab.yaml_text import load_yaml

# Keys that can have several values; a sweep trains every combination.
AXES = (
    *("N", "P", "D", "seeds", "lr", "prefix_tokens", "aggregation", "plain_tokens"),
    *("loops", "smooth", "decorrelation", "lora_rank"),
)
RECIPE_AXES = ("lr", "smooth", "decorrelation")  # options of the recipe, whose value counts where these are empty

MAX_RUNS = 100_000
DESIGN = "design"  # key of a spec that `scalelab design` wrote, which sweeps do not read


@dataclass(frozen=True)
class SweepSpec:
    """Grid of runs: every combination of the values of `AXES`.

    The defaults are the demo, which takes minutes on two CPU cores.

    Raises:
        UsageError: a value is not valid.
    """

    name: str = "demo"
    N: tuple[float, ...] = (16e3, 40e3)
    P: tuple[int, ...] = (1, 2, 4, 8)
    D: tuple[float, ...] = (600e3,)
    seeds: tuple[int, ...] = (0, 1)
    corpus: str = "stdlib"
    text_column: str = "text"
    tokenizer: str | int = 512  # vocabulary size of a tokenizer to train, or a path
    # The paper uses 48 prefix tokens with sequences of 2048. With sequences of 64, 48 draw most of the attention, and
    # streams are worse than none (docs/LOG.md).
    prefix_tokens: tuple[int, ...] = (4,)
    aggregation: tuple[str, ...] = ("dynamic",)
    lr: tuple[float, ...] = ()  # empty: the recipe's
    plain_tokens: tuple[float, ...] = (0,)  # the part of D before the streams start
    loops: tuple[int, ...] = (1,)  # passes through the layers
    smooth: tuple[float, ...] = ()  # ε of the aggregator; empty: the recipe's
    decorrelation: tuple[float, ...] = ()  # empty: the recipe's
    backbone: str = ""  # folder of a model to freeze, in place of N
    lora_rank: tuple[int, ...] = (0,)  # of LoRA matrices for a frozen backbone
    num_experts: int = 0
    experts_per_token: int = EXPERTS_PER_TOKEN
    qkv_bias: bool = True  # of dense models
    single_prefix: bool = False  # of P = 1, as a control
    isoflop: tuple[float, ...] = ()  # training budgets in FLOPs, which set D: see `scalelab.sweep.isoflop_grid`
    isoflop_sizes: int = 7  # of each budget, unless N is given
    isoflop_ratio: float = 20.0  # D/N around which they lie; Hoffmann et al., arXiv 2203.15556
    points: tuple[tuple[float, int, float], ...] = ()  # single (N, P, D) instead of their grid
    ladder: int = LADDER  # of widths, see `scalelab.architecture`; 1 for sweeps started before December 2026
    eval: tuple[str, ...] = ()  # tasks for the final models
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        for key in AXES:
            values = getattr(self, key)
            given = (self.isoflop and key in ("N", "D")) or (self.points and key in ("N", "P", "D"))
            given = given or (self.backbone and key == "N")
            if not values and key not in RECIPE_AXES and not given:
                raise UsageError(f"{key} needs at least one value")
            if len(set(values)) < len(values):
                raise UsageError(f"{key} has a value twice: {', '.join(map(str, values))}")
        if (runs := math.prod(max(1, len(getattr(self, key))) for key in (*AXES, "points"))) > MAX_RUNS:
            raise UsageError(f"the grid has {runs:,} runs, more than {MAX_RUNS:,}; give fewer values")
        for key, least in (
            ("N", 1),
            ("P", 1),
            ("D", 1),
            ("seeds", 0),
            ("prefix_tokens", 1),
            ("plain_tokens", 0),
            ("loops", 1),
            ("lora_rank", 0),
        ):
            if min(getattr(self, key), default=least) < least:
                raise UsageError(f"{key}: {min(getattr(self, key)):g} is less than {least}")
        for kind in self.aggregation:
            if kind not in AGGREGATIONS:
                raise UsageError(f"aggregation {kind!r}: choose one of {', '.join(AGGREGATIONS)}")
        list(self.recipes)  # checks their options
        check_frozen(self)
        if self.points:
            self._check_points()
        elif self.isoflop:
            self._check_isoflop()
        elif max(self.plain_tokens) >= min(self.D):
            raise UsageError(
                f"plain_tokens {format_count(max(self.plain_tokens))} must be less than the smallest D, "
                f"{format_count(min(self.D))}: the streams train on the rest"
            )
        if self.ladder not in LADDERS:
            raise UsageError(f"ladder must be one of {', '.join(map(str, LADDERS))}, not {self.ladder}")
        check_experts(**self.family)
        if len(set(self.eval)) < len(self.eval):
            raise UsageError(f"eval has a value twice: {', '.join(self.eval)}")

    def _check_points(self) -> None:
        if self.N or self.P or self.D or self.isoflop:
            raise UsageError("points are single runs: leave N, P, D and isoflop out")
        if len(set(self.points)) < len(self.points):
            raise UsageError("points has a run twice; leave one out")
        for N, P, D in self.points:
            if max(self.plain_tokens) >= D:
                raise UsageError(
                    f"plain_tokens must be less than D {format_count(D)} of points: N {format_count(N)}, P {P}"
                )

    def _check_isoflop(self) -> None:
        if self.D:
            raise UsageError("isoflop sets D by N, P and each budget: leave D out")
        if any(self.plain_tokens):
            raise UsageError("plain_tokens cannot be combined with isoflop, whose budgets are of streams throughout")
        if self.loops != (1,):
            raise UsageError("loops cannot be combined with isoflop, whose budgets are of one pass through the layers")
        if self.isoflop_sizes < 3 or not 0 < self.isoflop_ratio < math.inf:
            raise UsageError("isoflop_sizes must be 3 or more, and isoflop_ratio positive")
        if len(set(self.isoflop)) < len(self.isoflop):
            raise UsageError("isoflop has a value twice; leave one out")

    @property
    def family(self) -> dict[str, Any]:
        """Experts and biases of the models, as arguments of `architecture_for`."""
        return {name: getattr(self, name) for name in FAMILY}

    @property
    def recipes(self) -> list[Recipe]:
        """The recipe with each combination of the options in `RECIPE_AXES`."""
        values = [getattr(self, name) or (getattr(self.recipe, name),) for name in RECIPE_AXES]
        return [replace(self.recipe, **dict(zip(RECIPE_AXES, row, strict=True))) for row in product(*values)]


def tokenizer_choice(value: str | int) -> str | int:
    """Return a vocabulary size if `value` is a number, else a path."""
    return int(value) if re.fullmatch(r"[0-9]{1,9}", str(value)) else str(value)


def load_spec(source: str | Path, backbone: str | None = None) -> SweepSpec:
    """Return the spec of a YAML file or the shipped spec of that name, such as ``smoke``, with `backbone` if given.

    Raises `UsageError` or `DataError` naming the file, and line and key if it can.
    """
    path = spec_file(source)
    content, lines = read_keys(path)
    try:
        more = {"backbone": backbone} if backbone else {}
        return replace(SweepSpec(name=path.stem), **parse({**content, **more}))
    except UsageError as error:
        words = str(error).removeprefix("recipe: ").removeprefix("unknown key ").lstrip("'")
        named = [line for key, line in lines.items() if re.match(rf"{re.escape(key.split(': ')[-1])}\b", words)]
        raise UsageError(f"{path}{f', line {named[0]}' if named else ''}: {error}") from None


def parse(content: Mapping[str, Any], base: Recipe | None = None) -> dict[str, Any]:
    """Return the fields of a `SweepSpec` from keys and values of YAML; recipe options replace those of `base`.

    Raises:
        UsageError: a key is unknown or its value is not valid.
    """
    known = [f.name for f in fields(SweepSpec) if f.name != "name"]
    base, parsed = base or Recipe(), dict[str, Any]()
    if content.get("backbone"):
        parsed = frozen_defaults(str(content["backbone"]), base.dtype)
    usual: Recipe = parsed.get("recipe", base)
    for key, value in content.items():
        if key == DESIGN:  # for `scalelab design --update`
            continue
        if key not in known:
            raise UsageError(f"unknown key {key!r}; use one of {', '.join(sorted(known))}")
        if key == "recipe":
            parsed[key] = _parse_recipe(value, usual)
            parsed |= {
                name: () for name in RECIPE_AXES if name in value and name not in content
            }  # the recipe's applies
        elif key in ("N", "D", "isoflop"):
            parsed[key] = counts(_listed(value), key)
        elif key == "plain_tokens":
            parsed[key] = tuple(0.0 if v in (0, "0") else counts([v], key)[0] for v in _listed(value))
        elif key in ("P", "seeds", "prefix_tokens", "loops", "lora_rank"):
            parsed[key] = whole_numbers(_listed(value), key, least=0 if key in ("seeds", "lora_rank") else 1)
        elif key in ("num_experts", "experts_per_token", "ladder", "isoflop_sizes"):
            parsed[key] = whole_numbers([value], key, least=0)[0]
        elif key in ("qkv_bias", "single_prefix"):
            if not isinstance(value, bool):
                raise UsageError(f"{key}: {value!r}: give true or false")
            parsed[key] = value
        elif key == "isoflop_ratio":
            parsed[key] = _number(value, key)
        elif key in RECIPE_AXES:
            parsed[key] = tuple(_number(v, key) for v in _listed(value))
        elif key in ("aggregation", "eval"):
            parsed[key] = tuple(map(str, _listed(value)))
        elif key == "points":
            parsed[key] = tuple(_point(v) for v in _listed(value))
        elif key == "tokenizer":
            parsed[key] = tokenizer_choice(value)
        else:
            parsed[key] = str(value)
    if parsed.get("isoflop"):  # in place of the N and D of the default, or of a spec that is overridden
        parsed.setdefault("N", ())
        parsed.setdefault("D", ())
    if parsed.get("points"):
        for key in ("N", "P", "D"):
            parsed.setdefault(key, ())
    return parsed


def _point(value: Any) -> tuple[float, int, float]:
    """Return N, P and D of one run of `points`."""
    if not isinstance(value, Mapping) or not {"N", "D"} <= set(value) <= {"N", "P", "D"}:
        raise UsageError(f"points: {value!r}: give {{N: 50k, P: 2, D: 1M}}")
    N, D = (counts([value[name]], f"points: {name}")[0] for name in ("N", "D"))
    return N, whole_numbers([value.get("P", 1)], "points: P")[0], D


def assignments(words: Sequence[str] | None, flag: str) -> dict[str, Any]:
    """Parse KEY=VALUE words such as ``recipe.beta2=0.99`` and ``N=50k,100k`` into keys and values of a spec.

    Values are read as YAML; commas separate several. `flag` is the option that error messages name.

    Raises:
        UsageError: a word is not of this form, or its value is not valid YAML.
    """
    content: dict[str, Any] = {}
    for word in words or ():
        name, sign, text = word.partition("=")
        if not (name and sign and text):
            raise UsageError(f"{flag} {word}: give KEY=VALUE, such as recipe.lr=0.005 or N=50k,100k")
        try:
            value = load_yaml(f"[{text}]" if "," in text else text, word)
        except DataError:
            raise UsageError(f"{flag} {word}: {text!r} is not a value") from None
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
            # YAML reads 4e-3 as text and only 4.0e-3 as a number.
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
