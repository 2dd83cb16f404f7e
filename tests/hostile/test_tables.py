"""Random tables, most of them bad: each gives finite numbers or one clear line, and no warning."""

import math
import os
from decimal import Decimal
from typing import get_args
from unittest import mock

import numpy as np
import pandas as pd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalelab import records
from scalelab.errors import ScalelabError
from scalelab.fit import FitOptions, fit_group, group_records, load_fit, profile, save_fit, select
from scalelab.fit.data import COLUMNS, fit_data
from scalelab.fit.derived import compute_optimal, doubling_gain, extrapolation_notes, n_equivalent, predicted
from scalelab.fit.result import Status
from scalelab.laws import LAWS, Points
from tests.support.tables import fit_table

NASTY = [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1.0, 5e-324, 1e300, -1e300, 10**400, 2**63, 0.5, True, False]
NASTY += [None, pd.NA, pd.NaT, "", " ", "nan", "7B", "1", "1.0", "-3", "1e400", "inf", "two\nlines", "0x10", "1_000"]
NASTY += [Decimal("2.5"), 1 + 2j, [1.0], {"a": 1}, (2.0,), b"3", np.float32(2), np.int64(4), pd.Timestamp("2024-01-01")]
# What a column holds where it is not nasty: the same everywhere, few levels, a usual range, all there is.
USUAL = dict.fromkeys(["n_params", "n_params_backbone", "n_params_total"], (1e6, 1e11))
USUAL |= {"n_streams": (1, 8), "loss": (1.0, 6.0), "n_tokens": (1e8, 1e12), "weight": (0.1, 10.0)}
WHOLE = {"n_streams": (1, 1e6), "loss": (1e-6, 1e6), "weight": (1e-9, 1e9)}
# The laws of N, P and D; those with other variables have tests of their own in test_laws_of_others.py.
TRIED = ("parallel", "power", "diversity", "additive", "chinchilla", "joint", "joint-additive")
MANY = int(os.environ.get("SCALELAB_EXAMPLES", "1"))  # `make hostile` tries four times as many tables
quick = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def column(rng, name, kind, rows):
    low, high = USUAL[name] if kind != "all" else WHOLE.get(name, (1e-9, 1e18))
    if kind == "close":  # different in the last digits only
        values = low * 2 * (1 + rng.integers(0, 3, rows) * 2.0 ** -rng.integers(20, 52))
    else:
        values = np.exp(rng.uniform(np.log(low), np.log(high), rows))
    if kind == "same":
        values[:] = values[0]
    if kind == "levels":
        values = rng.choice(values[: rng.integers(1, 4)], rows)
    return np.round(values) if name == "n_streams" else values


@st.composite
def hostile_tables(draw, needs=(), nasty=(0.0, 0.0, 0.05, 0.4)):
    """Tables that hold at least the columns `needs`; with `needs` they have rows enough for some law."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, share = int(rng.integers(10 if needs else 1, 31)), draw(st.sampled_from(nasty))
    columns = {}
    for name in dict.fromkeys(["n_params", "loss", *needs, *rng.choice(list(USUAL), 3)]):
        kind = rng.choice(["usual", "usual", "usual", "levels", "levels", "same", "close", "all"])
        # Each number of tokens is a group of its own for laws that do not know it.
        kind = rng.choice(["levels", "same", "same"]) if name == "n_tokens" and name not in needs else kind
        values = column(rng, name, kind, n).tolist()
        for i in np.flatnonzero(rng.random(n) < share):
            values[i] = NASTY[rng.integers(len(NASTY))]
        columns[name] = pd.Series(values, dtype=object) if share and rng.random() < 0.5 else values
    if rng.random() < 0.8:  # else rows whose counts of parameters contradict each other are left out
        for name, factor in (("n_params_backbone", 0.9), ("n_params_total", 1.3)):
            if name in columns:
                numbers = [value if type(value) is float else 1e9 for value in columns["n_params"]]
                columns[name] = (np.array(numbers) * factor).tolist()
    table = pd.DataFrame(columns)
    if rng.random() < 0.2:
        table["key"] = rng.permutation(n).astype(str)
    if rng.random() < 0.3:  # some runs stand there twice
        table = table.iloc[rng.integers(0, n, n)].reset_index(drop=True)
    if "key" in table and rng.random() < 0.1:
        table.loc[0, "key"] = table["key"].iloc[-1]
    return table


@st.composite
def all_options(draw, law):
    words = {"objective": ["huber", "log", "raw"], "bootstrap": ["residual", "wild", "pairs"]}
    chosen = {name: draw(st.sampled_from(values)) for name, values in words.items()}
    chosen["convention"] = draw(st.sampled_from([*["paper"] * 8, "backbone", "total"]))
    chosen["delta"] = draw(st.sampled_from([1e-3, 1e-3, 1e-8, 1e3]))
    values = st.sampled_from([0.0, 0.3, -0.5, 1.0, 1e-300, 1e12, 1e300, -1e300, math.nan, math.inf])
    names = st.sampled_from([*law.names, *law.names, "nothing"])
    seldom = st.sampled_from([*[False] * 5, True])
    if draw(seldom):
        chosen["fix"] = draw(st.dictionaries(names, values, max_size=3))
    if draw(seldom):
        pairs = st.tuples(values, values).map(lambda pair: tuple(sorted(pair)))
        chosen["bounds"] = draw(st.dictionaries(names, pairs, max_size=2))
    return chosen | {"starts": 10, "draws": draw(st.sampled_from([0, 20, 20])), "seed": draw(st.integers(0, 9))}


def check_error(error):
    assert str(error)
    assert "\n" not in str(error), error


def check_finite(*values):
    for value in values:
        assert np.isfinite(np.asarray(value, dtype=float)).all(), value


def check_fit(fit):
    assert fit.status in get_args(Status)
    check_finite(fit.params, fit.objective, fit.r_squared, fit.agreement, fit.start_spread, fit.log_residuals)
    check_finite(fit.covariance, fit.draws if fit.draws else 0.0)
    assert fit.objective >= 0
    assert 0 <= fit.agreement <= 1
    for note in fit.notes:
        assert note.message
        assert "\n" not in note.message
        check_finite(list(note.figures.values()))
    data = fit.data
    at = {"P": data.P} if "P" in fit.law.variables else {}
    at |= {"D": data.D} if "D" in fit.law.variables else {}
    check_finite(fit.losses(data.N, **at))
    low, high = fit.band(data.N, **at)
    assert (low <= high).all()
    assert fit.equation()


def ask(function, *args, **options):
    """An answer; None for one clear line."""
    try:
        return function(*args, **options)
    except ScalelabError as error:
        return check_error(error)


def read_table(table):
    """The usable records: every row is used, refused with the reason, or a copy."""
    read = ask(records.read, table)
    if read is None:
        return None
    copies = table["key"].duplicated().sum() if "key" in table else 0
    assert len(table) - copies <= len(read.records) + len(read.rejected) <= len(table)
    assert all("\n" not in str(row) for row in read.rejected)
    assert len({row.row for row in read.rejected}) == len(read.rejected)
    return read.records


@st.composite
def hostile_fits(draw, **kinds):
    """A law and its fits to the first groups of a hostile table."""
    law = LAWS[draw(st.sampled_from(TRIED))]
    needs = [COLUMNS[variable] for variable in law.variables] if kinds or draw(st.sampled_from([True, False])) else ()
    table = read_table(draw(hostile_tables(needs, **kinds)))
    options = ask(FitOptions, **draw(all_options(law)))
    if table is None or options is None:
        return law, []
    groups = group_records(table, by_tokens="D" not in law.variables)
    assert sum(len(group.records) for group in groups) == len(table)
    return law, [fit for group in groups[:3] if (fit := ask(fit_group, group, law, options)) is not None]


@settings(quick, max_examples=400 * MANY)
@given(hostile_tables(nasty=(0.1, 0.5)))
def test_every_row_is_used_refused_or_a_copy(table):
    read_table(table)


@settings(quick, max_examples=150 * MANY)
@given(hostile_fits())
def test_every_table_gives_finite_numbers_or_one_clear_line(tmp_path_factory, fits):
    path = tmp_path_factory.getbasetemp() / "hostile.json"
    for fit in fits[1]:
        check_fit(fit)
        save_fit(fit, path)
        assert load_fit(path) == fit


def known_table(rng, law, noise=2e-3, repeats=1):
    """Runs on a grid that determine every parameter of `law`, and the true parameters."""
    sizes = np.geomspace(1e7, 1e7 * rng.uniform(100, 1000), 6)
    tokens = np.geomspace(1e9, 1e9 * rng.uniform(100, 1000), 5) if "D" in law.variables else np.array([1e9])
    N, P, D = (a.ravel() for a in np.meshgrid(sizes, [1.0, 2.0, 4.0, 8.0] if "P" in law.variables else [1.0], tokens))
    truth = {"E": rng.uniform(0.5, 2), "k": rng.uniform(0.2, 1.5), "gamma": rng.uniform(0.1, 0.6)}
    truth |= {"rho": rng.uniform(0.2, 0.9), "S": rng.uniform(0.2, 0.6), "c": rng.uniform(0.5, 1.5)}
    truth |= {"alpha": rng.uniform(0.25, 0.6), "beta": rng.uniform(0.25, 0.6)}
    truth["A"] = sizes[0] * rng.uniform(0.5, 2) ** (1 / truth["alpha"])
    of_tokens = tokens[0] * rng.uniform(0.5, 2) ** (1 / truth["beta"])
    truth["B"] = of_tokens if "D" in law.variables else rng.uniform(0.2, 0.6)
    params = np.array([truth[name] for name in law.names])
    loss = law.loss(params, Points(N, P, D)) * np.exp(noise * rng.standard_normal((repeats, len(N))))
    table = pd.DataFrame({"n_params": N, "n_streams": P, "n_tokens": D}).loc[np.tile(np.arange(len(N)), repeats)]
    return table.assign(loss=loss.ravel()).reset_index(drop=True)


@st.composite
def known(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    law = LAWS[draw(st.sampled_from(TRIED))]
    return rng, law, known_table(rng, law)


def values_of(table, law, **options):
    mapped = {"weight": "weight"} if "weight" in table else None  # a column of anyone's counts only where mapped
    return fit_table(records.load(table, mapped), law.name, **({"starts": 30, "draws": 0} | options))


@settings(quick, max_examples=15)
@given(known(), st.sampled_from(["huber", "log", "raw"]), st.sampled_from(["residual", "wild", "pairs"]))
def test_order_and_spelling_change_nothing(case, objective, bootstrap):
    rng, law, table = case
    options = {"objective": objective, "bootstrap": bootstrap, "draws": 20, "starts": 10}
    first = values_of(table, law, **options)
    assert values_of(table.iloc[rng.permutation(len(table))], law, **options) == first
    for spelled in (table["n_streams"].astype(int), table["n_streams"].astype(str), table["n_streams"].astype(object)):
        assert values_of(table.assign(n_streams=spelled), law, **options) == first
    assert values_of(table.astype(str), law, **options) == first


@settings(quick, max_examples=60)
@given(known(), st.sampled_from(["huber", "log", "raw"]), st.tuples(*[st.floats(-1, 1)] * 3))
def test_units_and_scales_change_nothing(case, objective, powers):
    """N from 1e-3 to 1e15, losses from 1e-5 to 1e5."""
    _, law, table = case
    of_N, of_D, of_loss = 10.0 ** (np.array(powers) * [7.5, 5.5, 4.5])
    scaled = table.assign(
        n_params=table["n_params"] * of_N, n_tokens=table["n_tokens"] * of_D, loss=table["loss"] * of_loss
    )
    before, after = values_of(table, law, objective=objective), values_of(scaled, law, objective=objective)
    exponent = before.values
    factors = {"E": of_loss, "S": of_loss, "A": of_N * of_loss ** (1 / exponent["alpha"])}
    factors["B"] = of_D * of_loss ** (1 / exponent["beta"]) if "beta" in exponent else of_loss
    for name, value in before.values.items():
        assert math.isclose(after.values[name], value * factors.get(name, 1.0), rel_tol=1e-4), name
    assert math.isclose(after.r_squared, before.r_squared, abs_tol=1e-6)
    assert math.isclose(after.objective, before.objective * (of_loss**2 if objective == "raw" else 1), rel_tol=1e-6)
    assert after.status == before.status


@settings(quick, max_examples=50)
@given(known(), st.sampled_from(["huber", "log", "raw"]), st.integers(2, 5))
def test_a_weight_counts_as_so_many_runs(case, objective, times):
    rng, law, table = case
    row = int(rng.integers(len(table)))
    repeated = pd.concat([table, *[table.iloc[[row]]] * (times - 1)], ignore_index=True)
    weighted = table.assign(weight=np.where(np.arange(len(table)) == row, times, 1.0))
    one, other = (values_of(t, law, objective=objective) for t in (repeated, weighted))
    assert math.isclose(one.objective, other.objective, rel_tol=1e-6)
    np.testing.assert_allclose(one.params, other.params, rtol=1e-5)


def check_estimate(estimate):
    ends = [end for end in (estimate.low, estimate.high) if end is not None]
    assert not np.isnan([estimate.value, *ends]).any(), estimate
    assert ends == sorted(ends)


@settings(quick, max_examples=150)
@given(hostile_fits(nasty=(0.0,)), st.data())
def test_what_follows_from_any_fit_is_a_number_or_one_clear_line(fits, data):
    law, fits = fits
    counts = st.sampled_from([1e-300, 1e-9, 1.0, 1e6, 1e9, 1e15, 1e300, 0.0, -1.0, math.nan, math.inf])
    P, N, D = data.draw(st.sampled_from([1, 2, 3, 8, 1000, 10**6])), data.draw(counts), data.draw(counts)
    if law.name == "chinchilla":
        P = data.draw(st.sampled_from([1, 1, 1, P]))
    for fit in fits:
        near = data.draw(st.sampled_from(fit.runs))
        for n, p, d in ((N, P, D), (near[0], P, near[2]), (near[0], near[1], D), (N, near[1], near[2])):
            at = (n, p, d if "D" in law.variables else None)
            for function in (predicted, n_equivalent, doubling_gain):
                if (answer := ask(function, fit, *at)) is not None:
                    check_estimate(answer)
                    assert all(note.message for note in extrapolation_notes(fit, *at))
            if (band := ask(fit.band, *at)) is not None:
                assert not np.isnan(band).any()
            best = ask(compute_optimal, fit, n, p)
            for estimate in (best.N, best.D, best.loss) if best is not None else ():
                check_estimate(estimate)


@settings(quick, max_examples=25)
@given(hostile_tables(["n_streams"], nasty=(0.0,)))
def test_laws_are_compared_on_any_table_or_one_clear_line_says_why_not(table):
    table = read_table(table)
    numbers = None if table is None else ask(fit_data, table)
    with mock.patch.object(select, "_STARTS", 5):
        compared = None if numbers is None else ask(select.compare_laws, numbers, "these")
    if compared is None:
        return
    assert compared.verdict
    assert "\n" not in compared.verdict
    assert math.isclose(sum(row.weight for row in compared.rows), 1.0)
    for row in compared.rows:
        check_finite(row.rmse, row.bic, row.weight, [error for error in row.held_out.values() if error is not None])
        assert not math.isnan(row.aicc)
        assert row.delta >= 0


@settings(quick, max_examples=30)
@given(hostile_fits(nasty=(0.0,)), st.data())
def test_profiles_of_any_fit_are_numbers_with_open_ends(fits, data):
    law, fits = fits
    for fit in fits[:1]:
        name = data.draw(st.sampled_from(law.names))
        with mock.patch.object(profile, "_CALIBRATION", 20):
            found = ask(profile.profile_fit, fit, name)
        if found is None:
            continue
        check_finite(found.threshold, found.values, [end for end in found.interval if end is not None])
        assert not np.isnan(found.rise).any()
        low, high = (fit.values[name] if end is None else end for end in found.interval)
        rounding = 1e-9 * abs(fit.values[name])
        assert low - rounding <= fit.values[name] <= high + rounding
