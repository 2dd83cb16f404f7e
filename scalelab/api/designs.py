"""Design of the next runs: which lower the doubt of a target most for their price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.conventions import CONVENTIONS
from scalelab.errors import DataError, ScalelabError, UsageError

if TYPE_CHECKING:
    import pandas as pd

    from scalelab.designs.designer import DesignOptions
    from scalelab.designs.pool import Pool
    from scalelab.designs.prices import Budget as BudgetType
    from scalelab.designs.result import Design
    from scalelab.designs.targets import Target
    from scalelab.fit.data import FitData
    from scalelab.fit.select import CandidateLaw
    from scalelab.laws import Law
    from scalelab.laws.base import Variable
    from scalelab.records import RunTable

__all__ = ["design"]


def design(
    data: str | Path | pd.DataFrame | RunTable | None = None,
    target: str | Sequence[str] | pd.DataFrame | None = None,
    budget: str | float | None = None,
    *,
    N: Any = None,
    P: Any = None,
    D: Any = None,
    candidates: str | Path | pd.DataFrame | None = None,
    price: str | None = None,
    laws: str | Law | Sequence[str | Law] | None = None,
    seeds: Any = 0,
    most: int = 24,
    columns: Mapping[str, str] | None = None,
    where: str | None = None,
    count: str = "paper",
    update: str | Path | None = None,
    draws: int = 400,
    seed: int = 0,
) -> Design:
    """Choose the runs that most lower the doubt of a target within a budget.

    What is known is a set of draws of the parameters of every plausible law, from all optima of its fit. Runs are
    chosen by how much their losses would narrow the target over these draws. Without known runs, the design is a pilot:
    cheap runs that fill the space.

    Args:
        data: Known runs: a folder of records, a table, or a saved fit; None for a pilot. With a budget in per cent,
            `data` are finished runs to choose from: a loss is read only once its run is chosen, and the result predicts
            the target.
        target: What to learn: a loss ("N=7B,P=8"), a difference of losses ("N=7B,P=8 vs N=9B"), a parameter ("k"),
            "laws" for which law holds, several of these, or a table of points.
        budget: Training FLOPs ("1e15FLOP"), compute time ("2h", as measured on the known runs), or a share of the price
            of all rows of `data` ("5%").
        N: Parameters of the candidates; by default a range around the known runs.
        P: Streams of the candidates; by default those of the known runs.
        D: Training tokens of the candidates; by default those of the known runs, and twice the largest.
        candidates: A table of candidates instead of the grid over N, P and D.
        price: Column with the price of each candidate, in the unit of the budget. By default 6·N·D·P.
        laws: Laws to consider; by default all that suit the runs.
        seeds: Seeds with which each chosen run is trained.
        most: Number of runs at most.
        columns: Map from field to column or expression, as for `read`.
        where: Condition that selects known runs.
        count: Definition of N: "paper", "backbone" or "total".
        update: Spec of an earlier design, whose runs are finished: go on with what is left of its budget. Replaces
            `data`, `target` and `budget`; other candidates may be given.
        draws: Draws of the parameters.
        seed: Seed of the draws.

    Returns:
        The runs in order of their worth, the targets' intervals now and as expected after them, and `save` for a spec
        that `scalelab sweep` trains.

    Raises:
        UsageError: An argument is wrong; `argument` names it.
        DataError: A file cannot be read, or a column is missing.
        ScalelabError: No law is defined at the known runs.
    """
    from scalelab.designs.designer import DesignOptions
    from scalelab.designs.prices import Budget

    if update is not None:
        from scalelab.api.design_specs import arguments_of, with_earlier

        if data is not None or target is not None or budget is not None:
            raise UsageError("replaces known runs, `target` and `budget`: leave them out", argument="update")
        earlier = arguments_of(update)
        own = {"N": N, "P": P, "D": D, "candidates": candidates, "price": price}
        more: dict[str, Any] = {
            **earlier.arguments,
            **{name: value for name, value in own.items() if value is not None},
        }
        return with_earlier(design(**more, draws=draws, seed=seed), earlier)
    if target is None or budget is None:
        raise UsageError("is missing", argument="target" if target is None else "budget")
    if most < 1:
        raise UsageError("must be 1 or more", argument="most", value=most)
    from scalelab.units import whole_numbers

    chosen = whole_numbers(seeds, "seeds", least=0)
    meta = {
        "data": str(data) if isinstance(data, str | Path) else None,
        "target": target,
        "budget": budget.written() if isinstance(budget, Budget) else budget,
    }
    meta |= {"where": where, "columns": dict(columns or {}) or None, "count": count, "price": price, "laws": laws}
    meta |= {"N": N, "P": P, "D": D, "candidates": candidates, "seeds": chosen, "most": most}
    options = DesignOptions(draws, seed, len(chosen), most, may_be_empty=isinstance(budget, Budget), meta=meta)
    return _design(data, target, budget, (N, P, D), candidates, price, laws, columns, where, count, options)


def _design(
    data: Any,
    target: Any,
    budget: Any,
    grid: tuple[Any, Any, Any],
    candidates: Any,
    price: str | None,
    laws: Any,
    columns: Mapping[str, str] | None,
    where: str | None,
    count: str,
    options: DesignOptions,
) -> Design:
    from scalelab.api.design_grid import sweep_config
    from scalelab.designs.designer import design_pilot, design_replay, design_runs
    from scalelab.designs.prices import Budget, parse_budget

    amount = parse_budget(budget)
    if amount.unit == "share":
        if data is None or candidates is not None or any(v is not None for v in grid):
            raise UsageError(
                "a share is for a table of finished runs: leave out `N`, `P`, `D` and `candidates`, or give FLOPs",
                argument="budget",
                value=budget,
            )
        table, pool = _finished(data, columns, where, count, price)
        total = float(pool.prices.sum())
        found, aim = _laws_and_targets(laws, pool, target, columns)
        return design_replay(table, found, pool, aim[0], Budget(amount.amount * total, "price"), options)
    group, known, records = _known(data, columns, where, count)
    options = replace(options, meta={**options.meta, "config": sweep_config(records)})
    pool = _pool(known, records, grid, candidates, price, amount, columns, count)
    found, aim = _laws_and_targets(laws, pool, target, columns)
    if known is None:
        return design_pilot(found, pool, amount, options)
    return design_runs(group, found, pool, aim, amount, options)


def _known(
    data: Any, columns: Mapping[str, str] | None, where: str | None, count: str
) -> tuple[str, FitData | None, pd.DataFrame | None]:
    """Return title, data and records of the known runs; of a saved fit only its data."""
    if data is None:
        return "no runs", None, None
    if isinstance(data, str | Path) and Path(data).suffix == ".json":
        from scalelab.fit import load_fit

        try:
            fit = load_fit(data)
        except DataError:
            pass  # a table in JSON
        else:
            return fit.group, fit.data, None
    from scalelab.api.fitting import read
    from scalelab.api.grouping import groups_of, one_group
    from scalelab.fit.options import FitOptions
    from scalelab.fit.select import comparison_data

    table = read(data, columns, where)
    groups = groups_of(table, None, None, None, False, "final")
    group = one_group(groups, str(data) if isinstance(data, str | Path) else "")
    return group.title, comparison_data(group, FitOptions(convention=count)).means(), group.records


def _finished(
    data: Any, columns: Mapping[str, str] | None, where: str | None, count: str, price: str | None
) -> tuple[str, Pool]:
    """Return title and pool of a table of finished runs, all of them candidates."""
    from scalelab.api.fitting import read
    from scalelab.api.grouping import groups_of, one_group
    from scalelab.designs.pool import Pool
    from scalelab.designs.prices import flops_of
    from scalelab.fit.options import FitOptions
    from scalelab.fit.select import comparison_data

    table = read(data, _with_price(columns, price), where)
    group = one_group(groups_of(table, None, None, None, False, "final"), str(data) if isinstance(data, str) else "")
    known = comparison_data(group, FitOptions(convention=count))
    if price is not None:
        known = _sorted_prices(group.records, known, count)
        return group.title, Pool(known[0], 0, known[1])
    D = known.D if "D" in known.known else None
    prices = known.others["C"] if "C" in known.others and D is None else flops_of(known.N, known.P, D)
    return group.title, Pool(known, 0, prices)


def _with_price(columns: Mapping[str, str] | None, price: str | None) -> dict[str, str] | None:
    """Return the mapping with the price as training FLOPs, a field that no law needs beside N and D."""
    mapped = {**(columns or {}), **({"train_flops": price} if price else {})}
    return mapped or None


def _sorted_prices(records: pd.DataFrame, data: FitData, count: str) -> tuple[FitData, Any]:
    from scalelab.fit.data import fit_data

    others_too: list[Variable] = [v for v in data.known if v in data.others]
    with_price = fit_data(records, count, variables=("N", "P", "D", "C", *others_too))
    others = {k: v for k, v in with_price.others.items() if k != "C"}
    known = tuple(v for v in with_price.known if v != "C")
    return replace(with_price, others=others, known=known), with_price.others["C"]


def _pool(
    known: FitData | None,
    records: pd.DataFrame | None,
    grid: tuple[Any, Any, Any],
    candidates: Any,
    price: str | None,
    budget: BudgetType,
    columns: Mapping[str, str] | None,
    count: str,
) -> Pool:
    from scalelab.api.design_grid import grid_of
    from scalelab.designs.pool import make_pool
    from scalelab.designs.prices import flops_of, seconds_model, seconds_of
    from scalelab.designs.tables import columns_of, read_points

    asked = None
    if candidates is not None:
        if any(v is not None for v in grid):
            raise UsageError("give either `candidates` or a grid of `N`, `P` and `D`", argument="candidates")
        table = read_points(candidates, _with_price(columns, price))
        found = columns_of(table)
        if price is not None:
            return make_pool(known, {k: v for k, v in found.items() if k != "C"}, found["C"])
    elif price is not None:
        raise UsageError("names a column of `candidates`: give that table", argument="price", value=price)
    else:
        found, asked = grid_of(known, records, grid, count)
    N, P, D = found.get("N"), found["P"], found.get("D")
    if budget.unit == "seconds":
        if records is None or N is None or D is None:
            raise UsageError("compute time needs known runs with recorded times: give FLOPs", argument="budget")
        seconds = records["train_seconds"].to_numpy(dtype=float)
        names = (CONVENTIONS[count].column, "n_streams", "n_tokens")
        size, streams, tokens = (records[name].to_numpy(dtype=float) for name in names)
        prices = seconds_of(seconds_model(size, streams, tokens, seconds), N, P, D)
    elif "C" in found and (N is None or D is None):
        prices = found["C"]
    elif N is None:
        raise UsageError("the candidates have neither N and D nor compute: give their `price`", argument="candidates")
    else:
        prices = flops_of(N, P, D)
    return make_pool(known, found, prices, asked)


def _laws_and_targets(
    laws: Any, pool: Pool, target: Any, columns: Mapping[str, str] | None
) -> tuple[list[CandidateLaw], list[Target]]:
    import pandas as pd

    from scalelab.designs.tables import points_of
    from scalelab.designs.targets import check_known, parse_target, table_target
    from scalelab.fit.select import candidates
    from scalelab.laws import Law, get_law

    data = pool.data
    if laws is None:
        found = candidates(data)
    else:
        named = [laws] if isinstance(laws, str | Law) else list(laws)
        suitable = {c.label: c for c in candidates(data)}
        found = [suitable.get(str(one)) or _candidate(get_law(one)) for one in named]
    for law in found:
        lacking = [v for v in law.law.variables if v not in data.known and v != "P"]
        if lacking:
            raise UsageError(f"the runs have no {lacking[0]}", argument="laws", value=law.label)
    if not found:
        raise ScalelabError("no law suits what these runs vary; give `laws`, or candidates that vary N, D or compute")
    parameters = list(dict.fromkeys(p for law in found for p in law.law.names if p not in law.fix))
    if isinstance(target, pd.DataFrame):
        aims = [table_target(points_of(target, columns))]
    else:
        words = [target] if isinstance(target, str) else list(target)
        aims = [parse_target(word, parameters) for word in words]
    varied = [v for v in data.known if data.varies(v)]
    for aim in aims:
        check_known(aim, varied)
    return found, aims


def _candidate(law: Law) -> CandidateLaw:
    from scalelab.fit.select import CandidateLaw

    return CandidateLaw(law.name, law, {})
