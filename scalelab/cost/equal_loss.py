"""Plain model (P = 1) of equal loss: its N, and its shape with real-valued widths.

An equal loss usually lies between sizes with whole widths. Parameter counts and prices are polynomials in the width, or
the larger of two, so they can be evaluated at a real-valued hidden size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from scalelab.architecture import MLP_RATIO, PREFIX_TOKENS, Architecture, expert_width, mlp_width
from scalelab.cost.request import PAPER_HEADS, PAPER_KV_HEADS, PAPER_LAYERS
from scalelab.errors import DataError, UsageError
from scalelab.units import format_count

if TYPE_CHECKING:
    import pandas as pd

_SHAPE = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads")
_NEAR = 0.01  # relative tolerance of a hidden size that was computed from N


class RealWidth(Architecture):
    """`Architecture` with real-valued widths, only for counts and prices."""

    def __post_init__(self) -> None:
        if not (self.hidden_size > 0 and self.intermediate_size > 0):
            raise UsageError(f"a hidden size must be positive, not {self.hidden_size}")

    @property
    def head_dim(self) -> Any:  # a float; `Architecture` has an int
        """Width of one head."""
        return self.hidden_size / self.num_heads


@dataclass(frozen=True)
class MeasuredRun:
    """One configuration of a sweep: its shape, recorded N, and loss (geometric mean over seeds)."""

    architecture: Architecture
    n_params: float
    loss: float

    @property
    def P(self) -> int:
        """Number of streams."""
        return self.architecture.P


def widened(family: Architecture, hidden_size: float) -> RealWidth:
    """Return `family` at another, real-valued hidden size, with its ratio of MLP width to hidden size.

    If the MLP width follows the rule of `scalelab.architecture`, the ratio is the rule's unrounded one (5.4 if dense).
    """
    values: dict[str, Any] = {f.name: getattr(family, f.name) for f in fields(Architecture)}
    if family.intermediate_size == _mlp_by_rule(family, family.hidden_size):
        ratio = MLP_RATIO / (family.experts_per_token if family.num_experts else 1)
    else:
        ratio = family.intermediate_size / family.hidden_size
    values |= {"hidden_size": hidden_size, "intermediate_size": ratio * hidden_size}
    return RealWidth(**values)


def _mlp_by_rule(family: Architecture, hidden_size: int) -> int:
    return expert_width(hidden_size, family.experts_per_token) if family.num_experts else mlp_width(hidden_size)


def decoder_of_size(family: Architecture, n_params: float, convention: str = "paper") -> RealWidth:
    """Return the decoder of `family` with the real-valued width for which N equals `n_params`.

    With fixed depth, heads and streams, N is a·h² + b·h + c in the hidden size h.

    Raises:
        UsageError: N is too small for any width.
    """
    at = [float(widened(family, h).count_params(convention)) for h in (1.0, 2.0, 3.0)]
    a = (at[2] - 2 * at[1] + at[0]) / 2
    b = at[1] - at[0] - 3 * a
    c = at[0] - a - b
    if not n_params > c:
        raise UsageError(f"N = {format_count(n_params)} is too small for {family.num_layers} layers of any width")
    # This form of the root is accurate if 4·a·N is small.
    hidden = 2 * (n_params - c) / (b + math.sqrt(b * b + 4 * a * (n_params - c)))
    return widened(family, hidden)


def measured_runs(records: pd.DataFrame, vocab_size: int) -> list[MeasuredRun]:
    """Return a `MeasuredRun` for each configuration in a table of records, sorted by P and N.

    The shape comes from the recorded config, or from the columns of the shape. A run that has neither is assumed to
    be of the paper's family, with the width that its N gives.

    Args:
        records: Runs with the columns of the record schema.
        vocab_size: Vocabulary size for runs that do not record it.
    """
    groups: dict[tuple[Architecture, float], list[tuple[float, float]]] = {}
    for row in records.to_dict("records"):
        key = (_shape(row, vocab_size), float(row["n_params"]))
        weight = float(_known(row, "weight", 1.0))
        groups.setdefault(key, []).append((math.log(row["loss"]), weight))
    runs = []
    for key, losses in groups.items():
        logs, weights = np.array(losses).T
        runs.append(MeasuredRun(*key, math.exp(np.average(logs, weights=weights))))
    return sorted(runs, key=lambda run: (run.P, run.n_params))


def _shape(row: dict[Any, Any], vocab_size: int) -> Architecture:
    P, vocab = int(_known(row, "n_streams", 1)), int(_known(row, "vocab_size", vocab_size))
    recorded = _recorded(row.get("config"))
    if recorded is not None:
        return recorded
    prefix = int(_known(row, "prefix_tokens", PREFIX_TOKENS))
    if all(_known(row, name, None) is not None for name in _SHAPE):
        shape: dict[str, Any] = {name: int(row[name]) for name in _SHAPE}
        return Architecture(**shape, vocab_size=vocab, P=P, prefix_tokens=prefix)
    return decoder_of_size(paper_decoder(1024, vocab, P, prefix), float(row["n_params"]))


def _known(row: Mapping[Any, Any], name: str, default: float | None) -> Any:
    """Return a value of a row; `default` if it is missing in any of pandas' ways."""
    import pandas as pd  # imported late: pricing alone does not need tables

    value = row.get(name)
    return default if pd.isna(value) else value


def _recorded(config: Any) -> Architecture | None:
    """Return the architecture in a sweep's config; None for a config of another program."""
    try:
        found = json.loads(config)["architecture"]
        return Architecture(**found)
    except (TypeError, ValueError, KeyError):
        return None


def paper_decoder(hidden: int, vocab: int, P: int = 1, prefix_tokens: int = PREFIX_TOKENS) -> Architecture:
    """Return the decoder of the paper's family with this hidden size."""
    shape = (hidden, mlp_width(hidden), PAPER_LAYERS, PAPER_HEADS, PAPER_KV_HEADS)
    return Architecture(*shape, vocab, P, prefix_tokens)


def find_run(runs: Sequence[MeasuredRun], hidden_size: int, P: int, title: str) -> MeasuredRun:
    """Return the run with this hidden size and P.

    Raises:
        UsageError: There is no such run, or several; the message lists them.
    """
    found = [r for r in runs if r.P == P and _same_width(r, hidden_size)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(
            f"{title}: no run with hidden size {hidden_size} and P = {P}; choose among hidden sizes {_widths(runs)} "
            f"and P {', '.join(str(p) for p in sorted({r.P for r in runs}))}, or give a `law`"
        )
    raise UsageError(
        f"{title}: {len(found)} configurations have hidden size {hidden_size} and P = {P}, with N = "
        f"{', '.join(format_count(r.n_params, 4) for r in found)}; choose one with `where`"
    )


def plain_loss(runs: Sequence[MeasuredRun], streams: Architecture) -> float | None:
    """Return the measured loss of `streams` at P = 1; None if it was not measured."""
    plain = [r for r in runs if r.P == 1 and _same_width(r, streams.hidden_size)]
    if not isinstance(streams, RealWidth):
        plain = [r for r in plain if r.architecture == streams.with_streams(1)]
    return plain[0].loss if len(plain) == 1 else None


def family_of(runs: Sequence[MeasuredRun], hidden_size: int, title: str) -> Architecture:
    """Return the plain decoder of the runs' family with this hidden size, measured or not.

    If no run has a known shape, it is of the paper's family.

    Raises:
        UsageError: The runs differ in more than width, so the shape is not unique.
    """
    if all(isinstance(r.architecture, RealWidth) for r in runs):
        any_of = runs[0].architecture
        return paper_decoder(hidden_size, any_of.vocab_size, prefix_tokens=any_of.prefix_tokens)
    same = {replace(r.architecture, P=1) for r in runs if _same_width(r, hidden_size)}
    if not same:
        rest = {replace(with_hidden_size(r.architecture, hidden_size), P=1) for r in runs}
        if len(rest) == 1:
            return rest.pop()
        raise UsageError(
            f"{title}: no run has hidden size {hidden_size}, and the runs differ in more than width; choose one of "
            f"{_widths(runs)}"
        )
    if len(same) > 1:
        raise UsageError(f"{title}: runs with hidden size {hidden_size} differ in shape; select runs with `where`")
    return same.pop()


def with_hidden_size(family: Architecture, hidden_size: int) -> Architecture:
    """Return `family` at another whole hidden size, with the MLP width by rule if the family follows the rule."""
    if family.intermediate_size == _mlp_by_rule(family, family.hidden_size):
        intermediate = _mlp_by_rule(family, hidden_size)
    else:
        intermediate = round(family.intermediate_size / family.hidden_size * hidden_size)
    return replace(family, hidden_size=hidden_size, intermediate_size=intermediate)


def _same_width(run: MeasuredRun, hidden_size: float) -> bool:
    near = _NEAR if isinstance(run.architecture, RealWidth) else 0.0
    return abs(run.architecture.hidden_size - hidden_size) <= near * hidden_size


def _widths(runs: Sequence[MeasuredRun]) -> str:
    return ", ".join(f"{h:g}" for h in sorted({round(r.architecture.hidden_size, 1) for r in runs}))


def equal_loss_size(runs: Sequence[MeasuredRun], loss: float, title: str) -> tuple[float, tuple[float, float]]:
    """Return N of a plain model with this loss, and the two measured N around it.

    Losses of runs with P = 1 are interpolated linearly over ln N.

    Raises:
        DataError: The loss is outside the measured range, or is passed more than once.
    """
    plain = [r for r in runs if r.P == 1]
    if len({r.n_params for r in plain}) < 2:
        raise DataError(f"{title}: fewer than two sizes with P = 1; interpolation of equal loss needs at least two")
    if len({r.n_params for r in plain}) < len(plain):
        raise DataError(f"{title}: several configurations with P = 1 have the same N; choose one with `where`")
    found: list[tuple[float, tuple[float, float]]] = []
    for a, b in pairwise(plain):
        if min(a.loss, b.loss) <= loss <= max(a.loss, b.loss):
            share = (a.loss - loss) / (a.loss - b.loss) if a.loss != b.loss else 0.0
            ln_N = math.log(a.n_params) + share * (math.log(b.n_params) - math.log(a.n_params))
            found.append((math.exp(ln_N), (a.n_params, b.n_params)))
    if not found:
        losses = [r.loss for r in plain]
        raise DataError(
            f"{title}: loss {loss:.4f} is outside the losses with P = 1, {min(losses):.4f} to {max(losses):.4f} for N "
            f"{format_count(plain[0].n_params)} to {format_count(plain[-1].n_params)}; extrapolate with a law, such as "
            "`law='parallel'`"
        )
    if not math.isclose(found[0][0], found[-1][0], rel_tol=1e-9):  # a measured loss itself is on two lines
        raise DataError(
            f"{title}: the losses with P = 1 do not decrease steadily with N and cross {loss:.4f} {len(found)} times; "
            "smooth them with a law, such as `law='parallel'`"
        )
    return found[0]
