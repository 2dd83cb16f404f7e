"""Sweeps at equal training FLOPs: sizes, tokens, specs, and impossible budgets by name."""

from __future__ import annotations

import numpy as np
import pytest

from scalelab.api.sweep_request import spec_of
from scalelab.errors import UsageError
from scalelab.sweep.isoflop_grid import isoflop_points
from scalelab.sweep.resolve import resolve
from scalelab.sweep.spec import load_spec


def spec(**grid):
    return spec_of(None, {"isoflop": ["1e12", "1e13"], **grid}, {})


def test_every_size_meets_its_budget_and_surrounds_the_expected_optimum():
    points = list(isoflop_points(spec(P=[1, 2, 4]), 512))
    for budget in (1e12, 1e13):
        for P in (1, 2, 4):
            own = [p for p in points if p.budget == budget and p.shape.P == P]
            N = np.array([p.shape.backbone_params for p in own], dtype=float)
            D = np.array([p.n_tokens for p in own], dtype=float)
            assert 4 <= len(own) <= 7
            assert pytest.approx(np.full(len(own), budget), rel=0.025) == 6 * N * D * P  # half a step of 20
            middle = (budget / (6 * P * 20)) ** 0.5
            assert N.min() < 0.8 * middle
            assert N.max() > 1.25 * middle


def test_sizes_of_ones_own_and_keys_of_a_spec(tmp_path):
    own = list(isoflop_points(spec(N=["50k", "100k", "200k"], P=1), 512))
    assert len(own) == 6
    file = tmp_path / "iso.yaml"
    file.write_text("isoflop: [1e12, 3e12]\nP: [1, 2]\nisoflop_sizes: 5\nisoflop_ratio: 40\n")
    loaded = load_spec(file)
    assert (loaded.isoflop, loaded.isoflop_sizes, loaded.isoflop_ratio) == ((1e12, 3e12), 5, 40.0)
    assert (loaded.N, loaded.D) == ((), ())
    assert spec_of("smoke", {"isoflop": "1e12"}, {}).D == ()  # in place of the spec's


def test_the_same_grid_has_the_same_keys(text_folder):
    """So that the command resumes what it began."""
    grid = spec(corpus=str(text_folder), tokenizer=300, P=[1, 2], seeds=[0, 1])
    runs = resolve(grid).runs
    assert [run.key for run in runs] == [run.key for run in resolve(grid).runs]
    assert len({run.key for run in runs}) == len(runs)
    assert {run.seed for run in runs} == {0, 1}


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({"isoflop": "1e9", "P": 4}, r"1e9 FLOPs with P = 4 needs N from 510 to 4.08k: no architecture near"),
        (
            {"isoflop": "1e10", "N": ["20k", "40k", "80k"], "P": 2},
            r"1e10 FLOPs with P = 2 leaves N .* fewer than 20 steps",
        ),
        ({"isoflop": "1e12", "N": ["50k", "51k"]}, "1e12 FLOPs has 1 size of the ladder; a quadratic needs 3"),
        ({"isoflop": "1e12", "D": "1M"}, "sets D by N, P and each budget: leave D out"),
        ({"isoflop": "1e12", "plain_tokens": "100k"}, "cannot be combined with isoflop"),
        ({"isoflop": "-1"}, "not a positive count"),
        ({"isoflop": ["1e12", "1e12"]}, "has a value twice"),
    ],
)
def test_impossible_budgets_are_refused_by_name(grid, says):
    with pytest.raises(UsageError, match=says):
        spec_of(None, grid, {})
