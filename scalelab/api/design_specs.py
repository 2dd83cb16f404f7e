"""Specs of designs: sweep files with the chosen runs, and what an update needs to go on from them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from scalelab.errors import UsageError
from scalelab.later_options import with_later_options
from scalelab.units import plural

if TYPE_CHECKING:
    from scalelab.architecture import Architecture
    from scalelab.designs.result import Design

_KEPT = ("data", "where", "columns", "count", "target", "laws", "N", "P", "D", "candidates", "price", "seeds", "most")
_CLOSE = 0.02  # relative difference of N and D up to which a record is that of a point: D is a number of whole steps


@dataclass(frozen=True)
class EarlierDesign:
    """Arguments of the next design, and the intervals that the earlier one expected."""

    arguments: Mapping[str, Any]
    expected: Mapping[str, tuple[float, float]]
    missing: int  # runs without a record


def save_design(found: Design, path: str | Path, force: bool = False) -> Path:
    """Write a sweep spec of the chosen runs to a YAML file, and return its path.

    Raises:
        UsageError: The file exists, and `force` is false; or a sweep cannot train these runs.
    """
    from scalelab.atomic import write_text

    path = Path(path)
    check_spec(path, force)
    write_text(path, spec_text(found, path))
    return path


def check_spec(path: Path, force: bool) -> None:
    """Raise `UsageError` if a spec cannot be written to `path`."""
    if path.suffix not in (".yaml", ".yml"):
        raise UsageError("must end in .yaml", argument="out", value=str(path))
    if path.exists() and not force:
        raise UsageError("exists already: give another name, or `force`", argument="out", value=str(path))
    if not path.parent.is_dir():
        raise UsageError("its folder does not exist: create it first", argument="out", value=str(path))


def spec_text(found: Design, path: Path) -> str:
    """Return the YAML of a sweep over the chosen runs.

    Raises:
        UsageError: The runs have no N and D, or vary something that a sweep does not.
    """
    if found.replayed:
        raise UsageError("a replay chooses finished runs, which no sweep needs")
    if not {"N", "D"} <= {*found.variables} <= {"N", "P", "D"}:
        raise UsageError(f"a sweep trains runs of N, P and D, and these have {', '.join(found.variables)}")
    at = found.points
    N = found.asked or at.N.tolist()
    rows = [
        f"- {{N: {_number(n)}, P: {int(P)}, D: {_number(D)}}}"
        for n, P, D in zip(N, at.P.tolist(), [] if at.D is None else at.D.tolist(), strict=True)
    ]
    titles = "; ".join(outlook.target.title for outlook in found.outlooks) or "a pilot"
    head = [f"# Runs chosen by `scalelab design`: {titles}.", f"# Train them with: {sweep_command(found, path)}"]
    head += ["# Then go on: give this file to `scalelab design` or `sl.design` as its `update`."]
    seeds = found.meta.get("seeds") or (0,)
    body = ["points:", *rows, f"seeds: [{', '.join(map(str, seeds))}]", *_setup(found.meta.get("config"))]
    return "\n".join([*head, *body, "design:", *_section(found)]) + "\n"


def sweep_command(found: Design, path: Path) -> str:
    """Return the command that trains the chosen runs, into the folder of the known runs if that is where they are."""
    data = found.meta.get("data")
    return f"scalelab sweep {path}" + (f" -o {data}" if isinstance(data, str) and Path(data).is_dir() else "")


def _setup(config: Mapping[str, Any] | None) -> list[str]:
    """Return the lines that make the new runs comparable to the known ones."""
    if config is None:
        return []
    from scalelab.train.recipe import Recipe

    config = with_later_options(dict(config))
    text, shape = config["text"], config["architecture"]
    corpus = "stdlib" if str(text["corpus"]).startswith("stdlib-") else text["corpus"]
    lines = [f"corpus: {json.dumps(corpus)}"]
    size = re.fullmatch(r"bpe-([0-9]+)", str(text["tokenizer"]))
    lines.append(f"tokenizer: {size[1] if size else json.dumps(text['tokenizer'])}")
    lines.append(f"prefix_tokens: {shape['prefix_tokens']}")
    if shape["aggregation"] != "dynamic":
        lines.append(f"aggregation: {shape['aggregation']}")
    if shape["num_experts"]:
        lines += [f"num_experts: {shape['num_experts']}", f"experts_per_token: {shape['experts_per_token']}"]
    if not shape["qkv_bias"]:
        lines.append("qkv_bias: false")
    if shape["single_prefix"]:
        lines.append("single_prefix: true")
    if shape["loops"] > 1:
        lines.append(f"loops: {shape['loops']}")
    lines.append(f"ladder: {config['ladder']}")
    if config["plain_tokens"]:
        lines.append(f"plain_tokens: {config['plain_tokens']}")
    usual = {f.name: f.default for f in fields(Recipe)}
    other = {k: v for k, v in config["recipe"].items() if k in usual and v != usual[k]}
    return [*lines, *(["recipe:"] if other else []), *(f"  {k}: {json.dumps(v)}" for k, v in other.items())]


def _section(found: Design) -> list[str]:
    kept = {name: found.meta.get(name) for name in _KEPT}
    kept |= {"budget": found.meta.get("budget"), "prices": list(found.prices), "unit": found.budget.unit}
    kept["sizes"] = found.points.N.tolist()
    kept["expected"] = {
        one.target.title: [one.after.low, one.after.high] for one in found.outlooks if one.after is not None
    }
    return [
        f"  {name}: {json.dumps(_plain(value), ensure_ascii=False)}"
        for name, value in kept.items()
        if value is not None
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in cast("list[Any]", value)]
    return value if isinstance(value, str | int | float) or value is None else str(value)


def _number(value: float) -> str:
    return str(round(value))


def arguments_of(path: str | Path) -> EarlierDesign:
    """Return the arguments with which to go on from the spec of an earlier design, whose records are in its data.

    Raises:
        UsageError: The file is no spec of a design, or none of its runs has a record.
    """
    from scalelab.api.design_grid import shapes_of
    from scalelab.api.fitting import read
    from scalelab.designs.prices import parse_budget
    from scalelab.sweep.spec import DESIGN, load_spec
    from scalelab.sweep.spec_file import read_keys

    path = Path(path)
    spec = load_spec(path)
    section: dict[str, Any] = read_keys(path)[0].get(DESIGN) or {}
    if not {"target", "budget", "prices", "sizes"} <= {*section}:
        raise UsageError("is not a spec of `scalelab design`", argument="update", value=str(path))
    source: str = section.get("data") or f"results/{path.stem}"
    if not Path(source).exists():
        raise UsageError(
            f"{path}: its runs are not in {source}: train them with scalelab sweep {path}", argument="update"
        )
    records = read(source, section.get("columns"), section.get("where")).records
    asked = [point[0] for point in spec.points]
    shapes = shapes_of(records, asked) or dict(zip(asked, section["sizes"], strict=True))
    done = [_is_recorded(records, shapes[N], P, D) for N, P, D in spec.points]
    spent = sum(price for price, has in zip(section["prices"], done, strict=True) if has)
    if not any(done):
        raise UsageError(
            f"{path}: none of its runs is in {source}: train them with scalelab sweep {path}", argument="update"
        )
    budget = parse_budget(section["budget"])
    left = max(budget.amount - spent, 0.0)
    arguments = {name: section[name] for name in _KEPT if section.get(name) is not None} | {"data": source}
    arguments["budget"] = replace(budget, amount=left)
    ends: dict[str, list[float]] = section.get("expected") or {}
    expected = {title: (low, high) for title, (low, high) in ends.items()}
    return EarlierDesign(arguments, expected, done.count(False))


def _is_recorded(records: pd.DataFrame, shape: Architecture | float, P: int, D: float) -> bool:
    """Return true if there is a record with this shape, or N, and this P and D."""
    N = shape if isinstance(shape, int | float) else shape.with_streams(P).n_params
    close = (records["n_params"] / N - 1).abs() < _CLOSE
    close &= (records["n_tokens"] / D - 1).abs() < _CLOSE
    return bool((close & (records["n_streams"].fillna(1) == P)).any())


def with_earlier(found: Design, earlier: EarlierDesign) -> Design:
    """Return a design with what the earlier one expected, and a note if some of its runs are missing."""
    from scalelab.fit.result import Note

    notes = found.notes
    if earlier.missing:
        runs = plural(earlier.missing, "run of the earlier design has", "runs of the earlier design have")
        notes = (
            *notes,
            Note("design_missing", "warning", f"{runs} no record yet; the price is left in the budget", {}),
        )
    return replace(found, earlier=earlier.expected, notes=notes)
