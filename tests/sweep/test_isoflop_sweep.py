"""A sweep at equal FLOPs, trained to the end and read by `isoflop`."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import scalelab as sl
from scalelab.cli.main import app

pytestmark = pytest.mark.slow

BUDGETS, SIZES = ("4e8", "6e8"), ("11k", "16k", "23k")
SMALL = ("--seq-len", "16", "--batch-size", "4", "--set", "recipe.val_tokens=4096")


def test_a_trained_sweep_gives_its_minima(text_folder, tmp_path):
    """Three sizes determine a quadratic, so each minimum must be that of the curve through its three losses."""
    out = tmp_path / "iso"
    words = ["sweep", "--isoflop", *BUDGETS, "--N", *SIZES, "--P", "1", "2", "--seed", "0", *SMALL]
    words += ["--corpus", str(text_folder), "--tokenizer", "300", "--workers", "1", "--out", str(out)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "validation loss, nats per token, 4e8 FLOPs" in done.output
    assert f"next: scalelab isoflop {out}" in done.stderr.replace("\n", "")

    found = sl.isoflop(out, law="", draws=20)
    runs = sl.read(out).records
    counted = 6 * runs["n_params_backbone"] * runs["n_tokens"] * runs["n_streams"]
    step = 6 * runs["n_params_backbone"] * 64 * runs["n_streams"]
    assert len(runs) == 12
    assert {(row.P, row.sizes) for row in found.minima} == {(1, 3), (2, 3)}
    for budget in map(float, BUDGETS):
        near = np.abs(np.log(counted / budget)) < 0.2
        assert (np.abs(counted - budget)[near] <= step[near]).all()
        for P in (1, 2):
            own = runs[near & (runs["n_streams"] == P)].sort_values("n_params")
            (minimum,) = [row for row in found.minima if row.P == P and abs(np.log(row.flops / budget)) < 0.2]
            order = np.argsort(minimum.x)
            assert np.exp(minimum.x[order]) == pytest.approx(own["n_params"])
            # Losses are moved from whole steps to exactly the budget.
            assert minimum.losses[order] == pytest.approx(own["loss"], abs=0.05)
            bend, slope, _ = np.polyfit(minimum.x, minimum.losses, 2)
            if bend <= 0:
                assert minimum.N is None
            else:
                assert np.log(minimum.N.value) == pytest.approx(-slope / (2 * bend), abs=1e-6)
