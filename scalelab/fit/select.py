"""Comparison of laws by information criteria and by predictions of held-out losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from scalelab.errors import ScalelabError
from scalelab.fit.bootstrap import freedom
from scalelab.fit.core import fit_group, fit_optimum
from scalelab.fit.data import COLUMNS, CONVENTIONS, FitData, fit_data
from scalelab.fit.descent import STEPS
from scalelab.fit.groups import Group
from scalelab.fit.options import FitOptions
from scalelab.fit.result import FitResult
from scalelab.fit.verdict import ENOUGH, support, verdict
from scalelab.laws import LAWS, Law
from scalelab.laws.base import Array, Variable
from scalelab.shown import Shown
from scalelab.units import plural

if TYPE_CHECKING:
    import pandas as pd

NEAR = 1.05  # ratio of held-out errors up to which laws are not distinguished
_MANY_VALUES = 8  # with more values of a variable, all within a factor of two of the largest are held out
_STARTS = 100
_STARTS_HELD_OUT = 30
_STARTS_FOR_WEIGHTS, _STEPS_FOR_WEIGHTS = 30, 40  # enough where only AICc is wanted: the best start is polished


@dataclass(frozen=True)
class CandidateLaw:
    """A law to compare, possibly with fixed parameters."""

    label: str
    law: Law
    fix: Mapping[str, float]


@dataclass(frozen=True)
class LawScore:
    """The results of one candidate. `held_out` has the held-out RMSE (nats per token) by variable, or None."""

    label: str
    law: str
    n_free: int
    rmse: float  # nats per token, of the fitted runs
    aicc: float
    bic: float
    delta: float  # AICc above the best
    weight: float  # Akaike weight
    held_out: Mapping[Variable, float | None]


@dataclass(frozen=True)
class LawComparison(Shown):
    """The candidates, best first, the hold-outs they were compared on, and a verdict in words."""

    group: str
    rows: tuple[LawScore, ...]
    left_out: Mapping[Variable, float]  # held-out largest N, P, D or compute (6·N·D if not in the table)
    verdict: str
    chosen: str = ""  # label of the law with the best held-out predictions
    unsupported: Mapping[str, int] = field(
        default_factory=dict
    )  # laws with too many parameters for the runs, and how many

    _report: ClassVar[str] = "scalelab.reports.laws:comparison_report"
    _json: ClassVar[str] = "scalelab.reports.laws:comparison_json"

    @property
    def best(self) -> LawScore:
        """The candidate with the lowest AICc."""
        return self.rows[0]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per candidate, best first, unrounded."""
        import pandas as pd

        columns = {"n_free": "n_free", "rmse": "rmse", "aicc": "aicc", "delta": "over_best", "bic": "bic"}
        rows = []
        for row in self.rows:
            cells = {"law": row.label, **{name: getattr(row, of) for of, name in columns.items()}, "weight": row.weight}
            rows.append(cells | {f"rmse_without_largest_{name}": error for name, error in row.held_out.items()})
        return pd.DataFrame(rows).set_index("law")

    def __repr__(self) -> str:
        return f"<Comparison of {plural(len(self.rows), 'law')}, {self.group}: best {self.best.label}>"


def candidates(data: FitData, own: Sequence[Law] = ()) -> list[CandidateLaw]:
    """Return the laws that suit these data, and simpler ones as baselines.

    A law must depend on N and D if they vary (else on compute), and may depend on P, unique tokens, experts, learning
    rate and batch size only if those vary; laws without them represent no effect.
    """
    varied = {v for v in data.known if data.varies(v)}
    must = varied & {"N", "D"} or varied & {"C"}
    with_P = "P" in varied
    found = []
    for law in (*LAWS.values(), *own):
        depends_on = {*law.variables}
        if law.name == "params" or (law.name == "broken-params" and with_P):
            continue  # the first is the power of N below; a break in N is independent of P
        if must <= depends_on and depends_on - {"P"} <= varied and ("P" not in depends_on or with_P):
            found.append(CandidateLaw(law.name, law, {}))
    if must == {"N"}:
        found.append(CandidateLaw("no effect of P" if with_P else "power of N", LAWS["parallel"], {"k": 0.0}))
    if must == {"N"} and with_P:
        found.append(CandidateLaw("additive, c = 1/2", LAWS["additive"], {"c": 0.5}))
    if must == {"N", "D"}:
        found.append(CandidateLaw("farseer, power floor", LAWS["farseer"], {"s_g": 0.0}))
        if with_P:
            found.append(CandidateLaw("joint-additive, c = 1/2", LAWS["joint-additive"], {"c": 0.5}))
    if "U" in varied:
        found.append(CandidateLaw("data-constrained, N in full", LAWS["data-constrained"], {"R_N": 1e6}))
    if "X" in varied:
        found.append(CandidateLaw("experts, the same at all N", LAWS["experts"], {"h": 0.0}))
    return found


def compare_laws(
    data: FitData, title: str, options: FitOptions | None = None, own: Sequence[Law] = ()
) -> LawComparison:
    """Fit every candidate by least squares on log losses and compare them.

    The likelihood is that of normal errors in ln loss, whose variance is a parameter too, for all laws and whatever
    the objective of a fit. For the hold-outs the law is refitted without the runs of the largest N (the backbone's if
    known), P, D or compute; with many values, without all within a factor of two of the largest. Repeated seeds are
    averaged to one run, since they are not evidence about the law's form; curves with several rows are one run each.
    A law with more than one parameter per three runs is reported as unsupported and not compared, since a flexible
    law fits few runs whether or not it predicts others.

    Raises:
        ScalelabError: no candidate can be fitted.
    """
    data, options = _comparable(data, options)
    splits = _splits(data)
    ranked, few, supported = _ranked(data, title, options, own)
    rows = _rows(data, ranked, [_held_outs(case.candidate, data, splits, options) for case in ranked])
    left_out: dict[Variable, float] = {name: value for name, (value, _) in splits.items()}
    sentences = [verdict(rows, left_out, bool(few)), *support(few, supported, data.n_configs)]
    return LawComparison(title, rows, left_out, " ".join(sentences), _chosen(rows).label, few)


def weigh_laws(
    data: FitData, title: str, options: FitOptions | None = None, own: Sequence[Law] = ()
) -> list[tuple[CandidateLaw, LawScore]]:
    """Return the candidates of `compare_laws` with the same AICc and weights, best first, without hold-outs.

    Empty if no law has enough runs to be compared.

    Raises:
        ScalelabError: no candidate can be fitted.
    """
    data, options = _comparable(data, options)
    options = replace(options, starts=_STARTS_FOR_WEIGHTS)
    ranked, _, supported = _ranked(data, title, options, own, _STEPS_FOR_WEIGHTS)
    if not supported:
        return []
    by_label = {case.candidate.label: case.candidate for case in ranked}
    return [(by_label[row.label], row) for row in _rows(data, ranked, [{} for _ in ranked])]


def _comparable(data: FitData, options: FitOptions | None) -> tuple[FitData, FitOptions]:
    """Return one row per configuration, and the options of least squares on log losses."""
    data = data.best() if options and options.best else data.means()
    options = replace(options or FitOptions(), objective="log", starts=_STARTS, fix={}, bounds={}, tie={}, draws=0)
    return data, options


def _ranked(
    data: FitData, title: str, options: FitOptions, own: Sequence[Law], steps: int = STEPS
) -> tuple[list[_Case], dict[str, int], bool]:
    """Return the laws to compare, those with too many parameters for the runs, and false if all of them have."""
    cases = []
    for candidate in candidates(data, own):
        fitted = _fit(candidate.law, data, replace(options, fix=candidate.fix), steps)
        if fitted is not None:
            cases.append(_Case(candidate, *fitted))
    # A law with nearly as many parameters as configurations has no AICc; it is used only if no law has one.
    judged = [case for case in cases if case.room > 0] or cases
    if not judged:
        raise ScalelabError(f"{title}: {data.n_configs} configurations are too few for any law; add runs")
    supported = [case for case in judged if case.units >= ENOUGH * case.n_free]
    few = {case.candidate.label: case.n_free for case in cases if supported and case not in supported}
    return supported or judged, few, bool(supported)


@dataclass(frozen=True, eq=False)
class _Case:
    """A fitted candidate: parameters, the number of free ones, and the units of evidence for them."""

    candidate: CandidateLaw
    params: Array
    n_free: int
    units: int

    @property
    def room(self) -> int:
        """Denominator of the AICc correction; the variance is a parameter too."""
        return self.units - self.n_free - 2


def fit_chosen(group: Group, options: FitOptions | None = None) -> tuple[LawComparison, FitResult]:
    """Compare the laws that suit `group` and fit the one with the best held-out predictions.

    Raises:
        ScalelabError: no law can be fitted.
    """
    options = options or FitOptions()
    data = comparison_data(group, options)
    comparison = compare_laws(data, group.title, options)
    label = comparison.chosen
    candidate = next(c for c in candidates(data.best() if options.best else data.means()) if c.label == label)
    fit = fit_group(group, candidate.law, replace(options, fix={**candidate.fix, **options.fix}))
    return comparison, fit


def comparison_data(group: Group, options: FitOptions) -> FitData:
    """Return the rows of `group` with every variable that all of them have and that varies apart from the others."""
    known: list[Variable] = [
        v
        for v, column in COLUMNS.items()
        if v not in ("N", "P", "D") and column in group.records and group.records[column].notna().all()
    ]
    with_N = group.records[CONVENTIONS[options.convention].column].notna().any()
    variables: list[Variable] = ["N", "P", "D"] if with_N else ["P", "D"]
    varied: list[Variable] = [v for v in known if group.records[COLUMNS[v]].nunique() > 1]
    if "N" in variables or group.records["n_tokens"].notna().any():
        varied = [v for v in varied if v != "C"]  # N and D determine it
    if not {"lr", "B"} <= {*varied}:
        varied = [v for v in varied if v not in ("lr", "B")]  # no law has only one of them
    if "U" in varied and (group.records["n_tokens_unique"] >= group.records["n_tokens"]).all():
        varied = [v for v in varied if v != "U"]  # nothing was repeated, so D says it all
    return fit_data(group.records, options.convention, group.title, (*variables, *varied))


def _chosen(rows: tuple[LawScore, ...]) -> LawScore:
    """Return the law for predictions: that with the smallest held-out error over all shared hold-outs.

    Errors are averaged geometrically, so that no hold-out dominates by its size. Among laws within `NEAR` of the
    best, that with the lowest AICc is chosen.
    """
    names = rows[0].held_out
    shared: list[Variable] = [name for name in names if sum(row.held_out[name] is not None for row in rows) > 1]
    full = [row for row in rows if all(row.held_out[name] is not None for name in shared)]
    if not (shared and full):
        return rows[0]
    score = {row.label: float(np.mean([np.log(max(row.held_out[n] or 0.0, 1e-12)) for n in shared])) for row in full}
    best = min(score.values())
    return next(row for row in rows if score.get(row.label, np.inf) <= best + np.log(NEAR))


def _fit(law: Law, data: FitData, options: FitOptions, steps: int = STEPS) -> tuple[Array, int, int] | None:
    """Return parameters, number of free ones and units of evidence; None if the law cannot be fitted."""
    try:
        objective, optimum = fit_optimum(law, data, options, steps)
    except ScalelabError:
        return None
    n_free = int(objective.free.sum())
    return objective.to_params(optimum.z), n_free, freedom(objective, data) + n_free


def _splits(data: FitData) -> dict[Variable, tuple[float, np.ndarray]]:
    """Return for each hold-out the largest value and the mask of runs to keep, bool [n]."""
    splits: dict[Variable, tuple[float, np.ndarray]] = {}
    columns: dict[Variable, Array] = {"N": data.size, "P": data.P, "D": data.D}
    columns |= {"C": data.others["C"]} if "C" in data.others else {}
    if data.varies("N") and data.varies("D"):
        columns["C"] = 6 * data.N * data.D
    for name, values in columns.items():
        if name == "C" or data.varies(name):
            many = len(np.unique(values)) > _MANY_VALUES
            keep = values < values.max() / 2 if many else values < values.max()
            if keep.any():
                splits[name] = (float(values.max()), keep)
    return splits


def _held_outs(
    candidate: CandidateLaw, data: FitData, splits: Mapping[Variable, tuple[float, np.ndarray]], options: FitOptions
) -> dict[Variable, float | None]:
    chosen = replace(options, fix=candidate.fix)
    return {name: _held_out(candidate.law, data, keep, chosen) for name, (_, keep) in splits.items()}


def _held_out(law: Law, data: FitData, keep: np.ndarray, options: FitOptions) -> float | None:
    """Return the RMSE on the held-out runs; None if the others cannot determine the law."""
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


def _rows(
    data: FitData, cases: Sequence[_Case], held_outs: Sequence[Mapping[Variable, float | None]]
) -> tuple[LawScore, ...]:
    scored = []
    for case, held_out in zip(cases, held_outs, strict=True):
        law, n = case.candidate.law, case.units
        fitted = law.loss(case.params, data.points)
        squares = float(np.average(np.log(fitted / data.loss) ** 2, weights=data.weight))
        estimated = case.n_free + 1  # with the variance
        fit = n * np.log(max(squares, 1e-30))
        aicc = fit + 2 * estimated + (2 * estimated * (estimated + 1) / case.room if case.room > 0 else np.inf)
        bic = fit + estimated * np.log(max(n, 1))
        rmse = float(np.sqrt(np.average((fitted - data.loss) ** 2, weights=data.weight)))
        scored.append((float(aicc), float(bic), rmse, case.candidate, case.n_free, held_out))
    scored.sort(key=lambda case: case[0])
    best = scored[0][0]
    deltas = np.array([case[0] - best if np.isfinite(best) else 0.0 for case in scored])
    weights = np.exp(-deltas / 2)
    weights /= weights.sum()
    return tuple(
        LawScore(c.label, c.law.name, n_free, rmse, aicc, bic, float(delta), float(weight), held_out)
        for (aicc, bic, rmse, c, n_free, held_out), delta, weight in zip(scored, deltas, weights, strict=True)
    )
