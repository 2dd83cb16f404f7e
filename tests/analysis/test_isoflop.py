"""IsoFLOP: minima and exponents of surfaces with known optima, their bias, and what is said about bad grids."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import scalelab as sl
from scalelab.analysis.envelope import Curve, envelope
from scalelab.analysis.parabolas import Cell, fit_parabolas, resample
from scalelab.analysis.runs import find_budgets, given_budgets
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.fit.derived import Estimate
from tests.analysis.surfaces import TRUE_A, best, grid, loss_of
from tests.support.paths import ROOT

BUDGETS = (1e19, 3e19, 1e20, 3e20, 1e21)
FAST = {"draws": 100, "starts": 20}
PUBLIC = Path(os.environ.get("SCALELAB_PUBLIC_DATA", ROOT.parent / "shared" / "reference")) / "scalebench"


def codes(found) -> dict[str, str]:
    return {note.code: note.severity for note in found.notes}


def test_exponents_and_minima_of_an_exact_surface():
    """The closed form is Hoffmann's equation 4: a = β/(α + β)."""
    found = sl.isoflop(grid(BUDGETS, decades=0.3), law="", draws=0)
    assert [row.flops for row in found.minima] == pytest.approx(BUDGETS)
    for row in found.minima:
        assert row.N.value == pytest.approx(best(row.flops)[0], rel=0.005)
        assert row.N.value * row.D.value * 6 == pytest.approx(row.flops, rel=1e-6)
        assert row.loss.value == pytest.approx(best(row.flops)[1], rel=1e-4)
    scaling = found.exponents()
    assert scaling.a.value == pytest.approx(TRUE_A, abs=1e-3)
    assert scaling.b.value == pytest.approx(1 - TRUE_A, abs=1e-3)


def test_wide_grids_are_biased_as_published_and_a_window_helps():
    """Exact losses over ±1.2 decades of N: N* is 5 to 6 % too high and D* too low, also at 1e24 FLOPs.

    The bias is the same at every budget, so the exponents do not show it (arXiv 2603.22339 has the phenomenon).
    """
    table = grid(BUDGETS, decades=1.2)
    wide = sl.isoflop(table, draws=0, starts=20)
    true_N = best(1e24)[0]
    at = wide.optimum("1e24").iloc[0]
    assert 0.05 < at["N"] / true_N - 1 < 0.07
    assert -0.065 < at["D"] / (1e24 / 6 / true_N) - 1 < -0.045
    assert wide.exponents().a.value == pytest.approx(TRUE_A, abs=2e-3)
    assert codes(wide)["isoflop_wide"] == "warning"
    assert wide.minima[0].bias == pytest.approx(0.061, abs=0.01)  # as the fitted law says without knowing the truth
    narrow = sl.isoflop(table, window=4, law="", draws=0).optimum(1e24).iloc[0]
    assert abs(narrow["N"] / true_N - 1) < 0.025


def test_the_law_gives_the_exponents_of_its_closed_form():
    found = sl.isoflop(grid(BUDGETS, noise=1e-3), **FAST)
    law = found.exponents("law")
    fit = found.fit.values
    assert law.a.value == pytest.approx(fit["beta"] / (fit["alpha"] + fit["beta"]), rel=1e-6)
    assert law.a.value + law.b.value == pytest.approx(1)
    allocation = found.fit.compute_optimal(1e22)[0]
    assert law.N.at(1e22).value == pytest.approx(allocation.N.value, rel=1e-6)
    assert law.D.at(1e22).value == pytest.approx(allocation.D.value, rel=1e-6)
    assert found.exponents().a.low < TRUE_A < found.exponents().a.high


def test_an_open_interval_of_the_gain_is_no_number():
    found = sl.isoflop(grid(BUDGETS[:2], P=(1, 2)), law="", draws=0)
    for low, high, says in (
        (-np.inf, np.inf, "open"),
        (-np.inf, 0.5, "below +0.5000"),
        (-0.25, 0.5, "-0.2500 to +0.5000"),
    ):
        rows = [row if row.gain is None else replace(row, gain=Estimate(0.1, low, high)) for row in found.minima]
        text = " ".join(replace(found, minima=tuple(rows)).summary().split())
        assert f"{says}): these runs do not tell whether streams pay" in text
        assert "-inf" not in text


def test_streams_at_equal_compute():
    """With k = 1.2 two streams pay and with k = 0.1 they do not; truths by SciPy."""
    for k, pays in ((2.5, True), (0.1, False)):
        found = sl.isoflop(grid(BUDGETS[:3], P=(1, 2), k=k, noise=2e-4), law="", draws=200)
        for flops in BUDGETS[:3]:
            true = best(flops, 2, k)[1] - best(flops, 1, k)[1]
            (row,) = [m for m in found.minima if m.P == 2 and m.flops == pytest.approx(flops)]
            assert row.gain.low < true < row.gain.high
            assert (true < 0) is pays
        assert ("streams pay" in found.summary()) is pays
        assert ("do not pay" in found.summary()) is not pays
        found.plot("streams")


def test_one_outlier_does_not_move_a_minimum():
    x = np.linspace(-1, 1, 9)
    loss = 3 + 0.2 * (x - 0.1) ** 2 + 1e-4 * np.random.default_rng(0).standard_normal(9)
    spoilt = loss + np.where(np.arange(9) == 8, 0.1, 0)
    cells = tuple(Cell(x, values, np.ones(9)) for values in (loss, spoilt))
    clean, robust = fit_parabolas(cells).vertices[0]
    slope, bend = np.polyfit(x, spoilt, 2)[1], np.polyfit(x, spoilt, 2)[0]
    least_squares = -slope / 2 / bend
    assert abs(robust - clean) < 0.3 * abs(least_squares - clean)
    assert clean == pytest.approx(0.1, abs=0.01)


def test_resamples_spread_as_the_delta_method_says():
    """Var(x*) by first derivatives of −b/2c, with the true noise."""
    rng, x, noise = np.random.default_rng(1), np.linspace(-1, 1, 9), 5e-4
    loss = [3 * np.exp(noise * rng.standard_normal(9)) + 0.2 * x**2 for _ in range(12)]
    fitted = fit_parabolas(tuple(Cell(x, values, np.ones(9)) for values in loss))
    spread = resample(fitted, 400, 0).vertices.std(axis=0).mean()
    X = np.stack([np.ones(9), x, x**2], axis=1)
    covariance = (3 * noise) ** 2 * np.linalg.inv(X.T @ X)
    slope = np.array([0, -1 / (2 * 0.2), 0.0])
    assert spread == pytest.approx(float(np.sqrt(slope @ covariance @ slope)), rel=0.25)


def test_budgets_are_recognised_or_given():
    flops = np.array([1e18, 1.03e18, 3e18, 2.95e18, 9e18, 9.1e18])
    labels, budgets = find_budgets(flops)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert budgets == pytest.approx([1.015e18, 2.975e18, 9.05e18], rel=1e-3)
    assert (find_budgets(np.geomspace(1e18, 1e20, 60))[0] == -1).all()  # no gap, so no budget
    assert given_budgets(flops, [3e18])[0].tolist() == [-1, -1, 0, 0, -1, -1]
    with pytest.raises(UsageError, match="closer than"):
        given_budgets(flops, [1e18, 1.1e18])
    with pytest.raises(ScalelabError, match=r"no run is within 16% of a given budget; the runs have 1e18 to 9\.1e18"):
        given_budgets(flops, [1e21])
    found = sl.isoflop(grid(BUDGETS), budgets=["1e20", 3e20], law="", draws=0)
    assert [row.flops for row in found.minima] == [1e20, 3e20]
    assert codes(found)["isoflop_left_out"] == "info"


def test_recorded_flops_and_a_column_of_budgets():
    """A budget that 6·N·D does not show, as with embeddings in the FLOPs."""
    rows = []
    for flops in (1e19, 1e20):
        for N in best(flops)[0] * np.geomspace(0.4, 2.5, 7):
            D = flops / (6 * (N + 5e8))
            rows.append({"n_params": N, "n_tokens": D, "loss": loss_of(N, D), "budget": flops})
    table = pd.DataFrame(rows)
    found = sl.isoflop(table, budgets="budget", law="", draws=0)
    assert found.basis == "recorded"
    assert [row.flops for row in found.minima] == pytest.approx([1e19, 1e20])
    assert sl.isoflop(table.rename(columns={"budget": "train_flops"}), law="", draws=0).basis == "recorded"
    with pytest.raises(DataError, match="'train_flops'"):
        sl.isoflop(table, basis="recorded")


@pytest.mark.parametrize(
    ("table", "code"),
    [
        (grid(BUDGETS, off=0.3), "isoflop_off_centre"),
        (grid(BUDGETS, off=1.0, decades=0.4), "isoflop_outside"),
        (grid(BUDGETS, sizes=4), "isoflop_few_sizes"),
        (grid(BUDGETS[:2]), "isoflop_few_budgets"),
        (grid(BUDGETS[:1]), "isoflop_no_exponents"),
        (grid(BUDGETS, noise=0.02, decades=0.2), "isoflop_flat"),
    ],
)
def test_bad_grids_are_named(table, code):
    found = sl.isoflop(table, law="", draws=100)
    assert code in codes(found)
    assert sl.isoflop(grid(BUDGETS, noise=1e-4), law="", draws=100).notes == ()


def test_the_envelope_of_curves():
    """Each run passes through all of the surface's D, so the envelope is its optimum."""
    curves = [Curve(N, N, 1.0, D := np.geomspace(1e9, 3e12, 300), loss_of(N, D)) for N in np.geomspace(1e8, 3e10, 25)]
    lines = envelope(curves, 20, 0)
    assert lines is not None
    assert lines[0].slope == pytest.approx(TRUE_A, abs=0.02)
    assert lines[1].slope == pytest.approx(1 - TRUE_A, abs=0.02)
    assert lines[0].at(1e21).value == pytest.approx(best(1e21)[0], rel=0.1)
    assert envelope(curves[:3], 20, 0) is None


def test_tables_with_curves_have_three_approaches():
    rows = [
        {"n_params": N, "n_tokens": D, "loss": loss_of(N, D), "run": f"{flops:g} {N:g}"}
        for flops in BUDGETS[1:4]
        for N in best(flops)[0] * np.geomspace(0.35, 2.8, 7)
        for D in np.geomspace(0.02, 1, 25) * flops / 6 / N
    ]
    found = sl.isoflop(pd.DataFrame(rows), columns={"run": "run"}, **FAST)
    assert [s.approach for s in found.scaling] == ["isoflop", "law", "envelope"]
    assert found.exponents("envelope").a.value == pytest.approx(TRUE_A, abs=0.06)
    assert "envelope (1)" in found.summary()
    assert codes(found)["isoflop_envelope"] == "info"


def test_one_line_for_what_cannot_be_done(scalelab):
    grid(BUDGETS[:1], sizes=2).to_csv("two.csv", index=False)
    code, _, line = scalelab("isoflop", "two.csv")
    assert code == 1
    assert line.startswith("scalelab: two, D ")
    assert line.endswith(
        "none of 1 budget has 3 sizes at one P (training FLOPs from 1e19 to 1e19); give --budgets that several N were "
        "trained with"
    )
    grid(BUDGETS).drop(columns="n_tokens").to_csv("no_d.csv", index=False)
    code, _, line = scalelab("isoflop", "no_d.csv")
    assert (code, "without 'n_tokens'" in line) == (1, True)
    grid(BUDGETS).to_csv("iso.csv", index=False)
    for words, says in (
        (["--window", "1"], "--window 1: must be a factor above 1"),
        (["--law", "parallel"], "--law parallel: does not depend on both N and D"),
        (["--basis", "flops"], "--basis flops:"),
        (["--budgets", "1e30"], "no run is within"),
        (["--budgets", "nope"], "nope"),
    ):
        code, _, line = scalelab("isoflop", "iso.csv", *words)
        assert code in (1, 2)
        assert says in line


def test_command_report_json_and_figure(scalelab, tmp_path):
    grid(BUDGETS[:3], P=(1, 2), k=0.4, noise=5e-4).to_csv("iso.csv", index=False)
    words = ("isoflop", "iso.csv", "--draws", "100", "--starts", "20", "--flops", "1e24")
    code, text, _ = scalelab(*words, "--figure", "iso.png", "-o", "iso.json", "-q")
    assert code == 0
    assert "streams do not pay at equal training compute" in text
    assert (tmp_path / "iso.png").stat().st_size > 10_000
    saved = json.loads((tmp_path / "iso.json").read_text())
    assert {row["P"] for row in saved["minima"]} == {1, 2}
    assert saved["exponents"][0]["at"][0]["flops"] == 1e24
    found = sl.isoflop("iso.csv", **FAST)
    assert "<table" in found._repr_html_()
    assert len(found.to_frame()) == 6
    assert found.plot() is not None
    with pytest.raises(UsageError, match="no exponents by envelope"):
        found.exponents("envelope")


@pytest.mark.slow
@pytest.mark.skipif(not PUBLIC.is_dir(), reason="needs the public tables, see SCALELAB_PUBLIC_DATA")
def test_the_public_farseer_table_agrees_with_its_joint_law():
    """404 runs (arXiv 2506.10972): 24 budgets are recognised, and both approaches give N ∝ C^0.52."""
    found = sl.isoflop(PUBLIC / "farseer" / "train.parquet", window=4, draws=100, starts=20)
    assert len(found.minima) == 24
    own, law = found.exponents(), found.exponents("law")
    assert own.a.value == pytest.approx(0.522, abs=0.01)
    assert law.a.low < own.a.value < law.a.high
    assert "isoflop_disagrees" not in codes(found)
