"""Which law do the data support? Information criteria, and losses predicted that were left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.fit.core import fit_optimum
from scalelab.fit.data import FitData
from scalelab.fit.options import FitOptions
from scalelab.laws import LAWS, Law
from scalelab.laws.base import Array, Variable
from scalelab.shown import Shown
from scalelab.units import format_count

if TYPE_CHECKING:
    import pandas as pd

CLEAR = 4.0  # AICc that a law must lead by: a likelihood ratio of about 7 (Burnham & Anderson 2002, section 2.6)
_STARTS = 100
_STARTS_HELD_OUT = 30


@dataclass(frozen=True)
class Candidate:
    """A law, some of whose parameters may be fixed, under a name of its own."""

    label: str
    law: Law
    fix: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """One candidate's case. `held_out` has RMSE in nats a token by what was left out; None if not possible."""

    label: str
    law: str
    n_free: int
    rmse: float  # nats a token, of the runs fitted
    aicc: float
    bic: float
    delta: float  # AICc above the best
    weight: float  # Akaike weight
    held_out: Mapping[Variable, float | None]


@dataclass(frozen=True)
class Comparison(Shown):
    """Candidates, best first, what they were compared on, and a paragraph that says what follows."""

    group: str
    rows: tuple[Row, ...]
    left_out: Mapping[Variable, float]  # the value of N, P or D that the hold-out leaves out
    verdict: str

    _report: ClassVar[str] = "scalelab.report.laws:comparison_report"
    _json: ClassVar[str] = "scalelab.report.laws:comparison_json"

    @property
    def best(self) -> Row:
        """The candidate with the lowest AICc."""
        return self.rows[0]

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each candidate, best first, with every digit."""
        import pandas as pd

        columns = {"n_free": "n_free", "rmse": "rmse", "aicc": "aicc", "delta": "over_best", "bic": "bic"}
        rows = []
        for row in self.rows:
            cells = {"law": row.label, **{name: getattr(row, of) for of, name in columns.items()}, "weight": row.weight}
            rows.append(cells | {f"rmse_without_largest_{name}": error for name, error in row.held_out.items()})
        return pd.DataFrame(rows).set_index("law")

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.rows)} laws, {self.group}: best {self.best.label}>"


def candidates(data: FitData, own: Sequence[Law] = ()) -> list[Candidate]:
    """The laws that these data can be fitted with, and the plain ones they must beat.

    Where D varies, laws without it are no candidates; where P varies, laws without it stand for
    "streams make no difference".
    """
    with_D, with_P = data.varies("D"), data.varies("P")
    found = []
    for law in (*LAWS.values(), *own):
        knows_P, knows_D = "P" in law.variables, "D" in law.variables
        if knows_D == with_D and (knows_P <= with_P):
            found.append(Candidate(law.name, law, {}))
    if not with_D:
        found.append(Candidate("no effect of P" if with_P else "power of N", LAWS["parallel"], {"k": 0.0}))
        if with_P:
            found.append(Candidate("additive, c = 1/2", LAWS["additive"], {"c": 0.5}))
    elif with_P:
        found.append(Candidate("joint-additive, c = 1/2", LAWS["joint-additive"], {"c": 0.5}))
    return found


def compare_laws(data: FitData, title: str, options: FitOptions | None = None, own: Sequence[Law] = ()) -> Comparison:
    """Fit every candidate by least squares on log losses and compare.

    The likelihood is that of normal errors in ln loss, whose variance is a parameter too; the same
    for all laws, whatever objective a fit uses. For the hold-outs the law is refitted without the runs of the
    largest N (its backbone's, where that is known), P or D. Raises `ScalelabError` if no candidate
    can be fitted. Repeated seeds count as one run, their mean: they are no new evidence about the
    law's form.
    """
    data = data.means()
    options = replace(options or FitOptions(), objective="log", starts=_STARTS, fix={}, bounds={}, draws=0)
    splits = _splits(data)
    cases = []
    for candidate in candidates(data, own):
        chosen = replace(options, fix=candidate.fix)
        fitted = _fit(candidate.law, data, chosen)
        if fitted is None:
            continue
        params, n_free = fitted
        held_out = {name: _held_out(candidate.law, data, keep, chosen) for name, (_, keep) in splits.items()}
        cases.append((candidate, n_free, params, held_out))
    if not cases:
        raise ScalelabError(f"{title}: {data.n_configs} configurations are too few for any law; add runs")
    rows = _rows(data, cases)
    left_out: dict[Variable, float] = {name: value for name, (value, _) in splits.items()}
    return Comparison(title, rows, left_out, _verdict(rows, left_out))


def _fit(law: Law, data: FitData, options: FitOptions) -> tuple[Array, int] | None:
    try:
        objective, optimum = fit_optimum(law, data, options)
    except ScalelabError:
        return None
    return objective.to_params(optimum.z), int(objective.free.sum())


def _splits(data: FitData) -> dict[Variable, tuple[float, np.ndarray]]:
    """For each variable that varies: its largest value and the runs without it."""
    splits: dict[Variable, tuple[float, np.ndarray]] = {}
    columns: dict[Variable, Array] = {"N": data.size, "P": data.P, "D": data.D}
    for name, values in columns.items():
        if data.varies(name):
            splits[name] = (float(values.max()), values < values.max())
    return splits


def _held_out(law: Law, data: FitData, keep: np.ndarray, options: FitOptions) -> float | None:
    """RMSE on the runs left out; None where the others could not determine the law."""
    rest = data.subset(keep)
    if rest.too_few(law, options.fix):
        return None
    fitted = _fit(law, rest, replace(options, starts=_STARTS_HELD_OUT))
    if fitted is None:
        return None
    away = data.subset(~keep)
    with np.errstate(all="ignore"):
        error = law.loss(fitted[0], away.points) - away.loss
    size = float(np.sqrt(np.average(error**2, weights=away.weight)))
    return size if np.isfinite(size) else None


def _rows(data: FitData, cases: list[tuple[Candidate, int, Array, dict[Variable, float | None]]]) -> tuple[Row, ...]:
    n = len(data.loss)
    scored = []
    for candidate, n_free, params, held_out in cases:
        fitted = candidate.law.loss(params, data.points)
        squares = float((data.weight * np.log(fitted / data.loss) ** 2).sum() / data.weight.mean())
        estimated = n_free + 1  # and the variance
        fit = n * np.log(max(squares / n, 1e-30))
        room = n - estimated - 1
        aicc = fit + 2 * estimated + (2 * estimated * (estimated + 1) / room if room > 0 else np.inf)
        bic = fit + estimated * np.log(n)
        rmse = float(np.sqrt(np.average((fitted - data.loss) ** 2, weights=data.weight)))
        scored.append((float(aicc), float(bic), rmse, candidate, n_free, held_out))
    scored.sort(key=lambda case: case[0])
    best = scored[0][0]
    deltas = np.array([case[0] - best if np.isfinite(best) else 0.0 for case in scored])
    weights = np.exp(-deltas / 2)
    weights /= weights.sum()
    return tuple(
        Row(c.label, c.law.name, n_free, rmse, aicc, bic, float(delta), float(weight), held_out)
        for (aicc, bic, rmse, c, n_free, held_out), delta, weight in zip(scored, deltas, weights, strict=True)
    )


def _verdict(rows: tuple[Row, ...], left_out: Mapping[Variable, float]) -> str:
    best = rows[0]
    if len(rows) == 1:
        return f"Only {best.label} can be fitted to these runs."
    if not np.isfinite(best.aicc):
        return "Too few runs to compare laws: not distinguishable."
    close = [row for row in rows if row.delta < CLEAR]
    others = [row for row in rows if row.delta >= CLEAR]
    names = _listed([row.label for row in close])
    if len(close) == 1:
        said = f"{names} is best supported"
    elif len({row.law for row in close}) == 1:
        said = f"{best.law} is best supported; between its forms ({names}) these runs do not decide"
    else:
        said = f"{names} are not distinguishable: their AICc lie within {CLEAR:g} of one another"
    if others:
        said += f"; the best of the other laws, {others[0].label}, has an AICc {others[0].delta:.1f} higher"
    else:
        said += "; these runs rule no law out"
    return " ".join([f"{said}.", *_held_out_sentences(rows, {row.label for row in close}, left_out)])


def _held_out_sentences(rows: tuple[Row, ...], close: set[str], left_out: Mapping[Variable, float]) -> list[str]:
    """Whether runs that were left out say the same as the criteria."""
    sentences = []
    for name, value in left_out.items():
        known = [(error, row.label) for row in rows if (error := row.held_out[name]) is not None]
        if len(known) < 2:
            continue
        error, winner = min(known)
        agrees = winner in close
        against = [pair for pair in known if (pair[1] in close) != agrees]
        text = f"The runs of the largest {name} ({format_count(value)}), left out, are predicted best by {winner} "
        text += f"(RMSE {error:.2g}"
        text += f", against {min(against)[0]:.2g} by {min(against)[1]})" if against else ")"
        sentences.append(text + ("." if agrees else ", which does not agree."))
    return sentences


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
