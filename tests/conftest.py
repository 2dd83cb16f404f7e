"""Tables and a command line for tests."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def scalelab(tmp_path, monkeypatch, capsys):
    """Run a command in a folder of its own: (exit code, output with notes below it, the error line)."""
    from scalelab.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*args):
        code = main([str(a) for a in args])
        out, errors = capsys.readouterr()
        *notes, last = [*errors.splitlines(), ""] if not code else errors.splitlines()
        assert last.startswith("scalelab: ") == bool(code), errors
        assert not [line for line in notes if line.startswith(("scalelab: ", "Traceback"))], errors
        return code, out + "".join(f"{line}\n" for line in notes), last

    return run


@pytest.fixture
def make_records():
    """Records whose losses follow the parallel law with known parameters, and maybe noise."""

    def make(
        E=0.7, A=1.1e7, k=0.4, alpha=0.2, N=(5e8, 7e8, 1.1e9, 1.6e9, 2.8e9, 4.4e9), P=(1, 2, 4, 8), noise=0.0, seed=0
    ) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        rows = [
            {
                "n_params": int(n),
                "n_streams": p,
                "loss": (E + (A / (n * (k * np.log(p) + 1))) ** alpha) * np.exp(noise * rng.standard_normal()),
                "n_tokens": 10**9,
                "corpus": "made",
                "setup": "made",
            }
            for n in N
            for p in P
        ]
        return pd.DataFrame(rows)

    return make


@pytest.fixture
def table_of():
    """Records on a grid whose losses follow any law, with noise in ln loss."""

    from scalelab.laws import LAWS, Points

    def make(law, params, N=(1e8, 3e8, 1e9, 3e9, 1e10), P=(1, 2, 4, 8), D=(1e10,), noise=1e-3, seed=0):
        rng = np.random.default_rng(seed)
        n, p, d = (a.ravel() for a in np.meshgrid(np.array(N), np.array(P, float), np.array(D)))
        loss = LAWS[law].loss(np.array(params), Points(n, p, d)) * np.exp(noise * rng.standard_normal(len(n)))
        return pd.DataFrame({"n_params": n, "n_streams": p, "n_tokens": d, "loss": loss})

    return make
