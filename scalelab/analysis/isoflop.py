"""IsoFLOP, Approach 2 of Hoffmann et al. (arXiv 2203.15556): the best N among runs of equal training FLOPs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scalelab.analysis.envelope import Curve, envelope
from scalelab.analysis.isoflop_notes import budget_notes, exponent_notes, grid_notes
from scalelab.analysis.isoflop_result import IsoFlops, Minimum, Scaling
from scalelab.analysis.lines import Line, fit_line, spread_of
from scalelab.analysis.parabolas import Cell, Parabolas, fit_parabolas, resample
from scalelab.analysis.runs import Basis, Runs, find_budgets, given_budgets, runs_of
from scalelab.errors import ScalelabError, UsageError
from scalelab.fit import FitOptions, FitResult, fit_group
from scalelab.fit.derived import Estimate, optimal_sizes
from scalelab.fit.groups import Group
from scalelab.fit.result import Note
from scalelab.laws import get_law
from scalelab.laws.base import Array
from scalelab.units import format_number, plural

LEAST_SIZES = 3  # of a budget
_BEYOND = 1.0  # ranges of ln N past its ends, at which minima of resamples are cut off for lines
_FINE = 2001  # points at which the law's own minimum is looked up


@dataclass(frozen=True)
class IsoOptions:
    """Options of IsoFLOP.

    Attributes:
        convention: How N is counted.
        basis: Training FLOPs: "6NDP" or "recorded"; None chooses.
        budgets: Training budgets; recognised if there are none.
        window: Use sizes within this factor of the minimum only.
        law: Law of Approach 3; None chooses by whether P varies, "" leaves it out.
        draws: Resamples.
        starts: Starts of the fit of the law.
        seed: Seed of all of them.
    """

    convention: str = "paper"
    basis: Basis | None = None
    budgets: tuple[float, ...] = ()
    window: float | None = None
    law: str | None = None
    draws: int = 1000
    starts: int = 100
    seed: int = 0


@dataclass(frozen=True, eq=False)
class _Grid:
    """Cells by budget and P, with ln D of their runs at exactly that budget and the ln FLOPs of each run."""

    keys: tuple[tuple[float, int], ...]
    cells: tuple[Cell, ...]
    log_tokens: tuple[Array, ...]
    off: tuple[Array, ...]  # ln FLOPs minus ln budget

    def subset(self, keep: Sequence[np.ndarray]) -> _Grid:
        """Return the grid with some runs of each cell."""
        cells = tuple(Cell(c.x[k], c.loss[k], c.weight[k]) for c, k in zip(self.cells, keep, strict=True))
        log_tokens, off = (
            tuple(a[k] for a, k in zip(arrays, keep, strict=True)) for arrays in (self.log_tokens, self.off)
        )
        return _Grid(self.keys, cells, log_tokens, off)


def isoflop(group: Group, options: IsoOptions, curves: Sequence[Curve] = (), asked: Sequence[float] = ()) -> IsoFlops:
    """Return the minima of `group` at equal training FLOPs, and the exponents of compute-optimal N and D.

    Args:
        group: Comparable runs with N, D and loss, and maybe P.
        options: Options.
        curves: Loss curves for the envelope.
        asked: Further training budgets to report N and D for.

    Raises:
        UsageError: an option does not suit the runs.
        ScalelabError: no budget has enough sizes.
    """
    if options.window is not None and not options.window > 1:
        raise UsageError("must be a factor above 1", argument="window", value=options.window)
    runs = runs_of(group.records, options.convention, group.title, options.basis)
    grid, notes = _grid(runs, options.budgets, group.title)
    if options.window is not None:
        grid = _windowed(grid, options.window)
    grid = _at_budgets(grid)
    fitted = fit_parabolas(grid.cells)
    sample = resample(fitted, options.draws, options.seed)
    fit, why = _law(group, runs, options)
    minima = _minima(grid, fitted, sample, fit)
    scaling = _scaling(grid, fitted, sample, notes)
    if fit is not None:
        scaling += _law_scaling(fit, grid, notes)
    scaling += _envelopes(curves, options)
    notes += [*grid_notes(minima), *exponent_notes(scaling, why)]
    usual = {"N": "n_params", "loss": "loss"}
    columns = {k: v for k, c in usual.items() if (v := group.columns.get(c, c)) != c}
    return IsoFlops(group.title, runs.basis, tuple(minima), tuple(scaling), tuple(notes), tuple(asked), fit, columns)


def _grid(runs: Runs, budgets: Sequence[float], title: str) -> tuple[_Grid, list[Note]]:
    labels, known = given_budgets(runs.flops, budgets) if budgets else find_budgets(runs.flops)
    keys, cells, log_tokens, off, used, few = [], [], [], [], np.zeros(len(runs), dtype=bool), 0
    for i, budget in enumerate(known.tolist()):
        for P in np.unique(runs.P[labels == i]).tolist():
            here = (labels == i) & (runs.P == P)
            if len(np.unique(runs.N[here])) < LEAST_SIZES:
                few += 1
                continue
            used |= here
            away = np.log(runs.flops[here] / budget)
            keys.append((budget, int(P)))
            cells.append(Cell(np.log(runs.N[here]), runs.loss[here], runs.weight[here]))
            log_tokens.append(np.log(runs.D[here]) - away)
            off.append(away)
    if not cells:
        ends = f"training FLOPs from {format_number(runs.flops.min(), 3)} to {format_number(runs.flops.max(), 3)}"
        if not len(known):
            raise ScalelabError(f"{title}: no budgets can be recognised in {ends}; give `budgets`")
        raise ScalelabError(
            f"{title}: none of {plural(len(known), 'budget')} has {LEAST_SIZES} sizes at one P ({ends}); give "
            "`budgets` that several N were trained with"
        )
    notes = budget_notes(int((~used).sum()), len(runs), few, off, keys)
    return _Grid(tuple(keys), tuple(cells), tuple(log_tokens), tuple(off)), list(notes)


def _windowed(grid: _Grid, window: float) -> _Grid:
    """Return the grid with the sizes within a factor of the minimum, found with all sizes and once more with those."""
    keep = [np.ones(len(cell.x), dtype=bool) for cell in grid.cells]
    for _ in range(2):
        part = grid.subset(keep)
        tops = fit_parabolas(part.cells).vertices[0]
        for i, (cell, top) in enumerate(zip(grid.cells, tops.tolist(), strict=True)):
            near = np.abs(cell.x - np.clip(top, cell.x.min(), cell.x.max()))
            wanted = near <= np.log(window) * (1 + 1e-9)
            closest = np.sort(np.unique(near))[: LEAST_SIZES + 1][-1]  # so that an error remains to be estimated
            keep[i] = wanted if len(np.unique(cell.x[wanted])) >= LEAST_SIZES else near <= closest
    return grid.subset(keep)


def _at_budgets(grid: _Grid) -> _Grid:
    """Return the grid with losses moved to exactly the budgets, along the slope of the lowest losses over ln FLOPs."""
    if max(float(np.abs(off).max()) for off in grid.off) < 1e-9:
        return grid
    lowest = np.array([cell.loss.min() for cell in grid.cells])
    cells = list(grid.cells)
    for P in {key[1] for key in grid.keys}:
        own = [i for i, key in enumerate(grid.keys) if key[1] == P]
        if len(own) < 2:
            continue
        slopes = np.gradient(lowest[own], np.log([grid.keys[i][0] for i in own]))
        for i, slope in zip(own, slopes.tolist(), strict=True):
            cell = cells[i]
            cells[i] = replace(cell, loss=cell.loss - min(slope, 0.0) * grid.off[i])
    return _Grid(grid.keys, tuple(cells), grid.log_tokens, grid.off)


def _tokens(grid: _Grid, i: int) -> tuple[float, float]:
    """Return intercept and slope of ln D over ln N at the budget of a cell."""
    slope, level = np.polyfit(grid.cells[i].x, grid.log_tokens[i], 1)
    return float(level), float(slope)


def _minima(grid: _Grid, fitted: Parabolas, sample: Parabolas, fit: FitResult | None) -> list[Minimum]:
    tops, draws, found = fitted.vertices[0], sample.vertices, []
    lowest, low_draws = fitted.minima[0], sample.minima
    plain = {key[0]: i for i, key in enumerate(grid.keys) if key[1] == 1}
    for i, ((flops, P), cell) in enumerate(zip(grid.keys, grid.cells, strict=True)):
        N = D = loss = gain = None
        if np.isfinite(tops[i]):
            level, slope = _tokens(grid, i)
            with np.errstate(over="ignore"):
                N = Estimate.of(float(np.exp(tops[i])), np.exp(draws[:, i]))
                D = Estimate.of(float(np.exp(level + slope * tops[i])), np.exp(level + slope * draws[:, i]))
            loss = Estimate.of(float(lowest[i]), low_draws[:, i])
            first = plain.get(flops)
            if P > 1 and first is not None and np.isfinite(tops[first]):
                with np.errstate(invalid="ignore"):
                    difference = low_draws[:, i] - low_draws[:, first]
                gain = Estimate.of(float(lowest[i] - lowest[first]), difference)
        a, b, c = fitted.coefficients[0, i].tolist()
        sizes = len(np.unique(cell.x))
        bias = _bias(fit, grid, i) if fit is not None and N is not None else None
        found.append(Minimum(flops, P, cell.x, cell.loss, (a, b, c), cell.centre, sizes, N, D, loss, gain, bias))
    return found


def _bias(fit: FitResult, grid: _Grid, i: int) -> float | None:
    """Return the relative error of N at the minimum that a quadratic at this cell's sizes has on the fitted law."""
    cell, P = grid.cells[i], grid.keys[i][1]
    level, slope = _tokens(grid, i)
    if "P" not in fit.law.variables and P != 1:
        return None

    def law(x: Array) -> Array:
        return fit.losses(np.exp(x), P, np.exp(level + slope * x))

    top = fit_parabolas((Cell(cell.x, law(cell.x), cell.weight),)).vertices[0, 0]
    width = np.ptp(cell.x)
    fine = np.linspace(cell.x.min() - width, cell.x.max() + width, _FINE)
    losses = law(fine)
    j = int(np.nanargmin(losses))
    if not (0 < j < _FINE - 1 and np.isfinite(top)):
        return None
    return float(np.exp(top - fine[j]) - 1)


def _scaling(grid: _Grid, fitted: Parabolas, sample: Parabolas, notes: list[Note]) -> list[Scaling]:
    """Return the exponents at each P, from the budgets whose minimum lies between their sizes."""
    from scalelab.analysis.isoflop_notes import scatter_note

    tops, found = fitted.vertices[0], []
    for P in sorted({key[1] for key in grid.keys}):
        own = [
            i
            for i, (key, cell) in enumerate(zip(grid.keys, grid.cells, strict=True))
            if key[1] == P and cell.x.min() <= tops[i] <= cell.x.max()
        ]
        if len(own) < 2:
            continue
        ln_C = np.log([grid.keys[i][0] for i in own])
        draws = sample.vertices[:, own]
        spread = spread_of(draws) if len(draws) else np.ones(len(own))
        ends = [(grid.cells[i].x.min(), grid.cells[i].x.max()) for i in own]
        reach = np.array([[low - _BEYOND * (high - low), high + _BEYOND * (high - low)] for low, high in ends])
        cut = np.clip(draws, reach[:, 0], reach[:, 1])
        N, wider = fit_line(ln_C, tops[own], cut, spread)
        pairs = [_tokens(grid, i) for i in own]
        level, slope = np.array(pairs).T
        D, _ = fit_line(ln_C, level + slope * tops[own], level + slope * cut, spread * np.abs(slope))
        found.append(Scaling("isoflop", P, N, D, plural(len(own), "budget")))
        if wider > 1:
            notes.append(scatter_note(P, wider))
    return found


def _law(group: Group, runs: Runs, options: IsoOptions) -> tuple[FitResult | None, str]:
    """Return the fitted law of Approach 3, or the reason why there is none."""
    if options.law == "":
        return None, ""
    law = get_law(options.law or ("joint" if len(np.unique(runs.P)) > 1 else "chinchilla"))
    if not {"N", "D"} <= {*law.variables}:
        raise UsageError(
            "does not depend on both N and D; choose one that does, such as chinchilla", argument="law", value=law.name
        )
    fit_options = FitOptions(options.convention, starts=options.starts, draws=options.draws, seed=options.seed)
    try:
        fit = fit_group(group, law, fit_options)
    except UsageError:
        raise
    except ScalelabError as error:
        return None, str(error)
    if fit.failure:
        return None, fit.failure
    return fit, ""


def _law_scaling(fit: FitResult, grid: _Grid, notes: list[Note]) -> list[Scaling]:
    """Return the exponents of the fitted law between the smallest and the largest budget, at each P."""
    from scalelab.analysis.isoflop_notes import law_note

    found = []
    budgets = np.array([key[0] for key in grid.keys])
    low, high = float(budgets.min()), float(budgets.max())
    if low == high:
        low, high = low / 2, high * 2
    levels = sorted({key[1] for key in grid.keys}) if "P" in fit.law.variables else [1]
    for P in levels:
        params = np.array([fit.params, *fit.draws])
        with np.errstate(all="ignore"):
            first, last = (np.log(optimal_sizes(fit, params, flops, P)) for flops in (low, high))
        ok = np.isfinite(first) & np.isfinite(last)
        if not ok[0]:
            notes.append(law_note(fit.law.name))
            break
        centre = float(np.log(low * high)) / 2
        slope = (last - first) / np.log(high / low)
        rows = np.stack([(first + last) / 2, slope], axis=1)
        N = Line(centre, float(rows[0, 0]), float(rows[0, 1]), rows[1:][ok[1:]])
        found.append(Scaling("law", P, N, N.rest(float(np.log(6.0 * P))), f"{fit.law.name} law"))
    return found


def _envelopes(curves: Sequence[Curve], options: IsoOptions) -> list[Scaling]:
    found = []
    for P in sorted({curve.P for curve in curves}):
        own = [curve for curve in curves if curve.P == P]
        lines = envelope(own, min(options.draws, 300), options.seed)
        if lines is not None:
            found.append(Scaling("envelope", int(P), *lines, plural(len(own), "curve")))
    return found
