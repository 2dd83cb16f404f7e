"""Runs on exact surfaces with known optima: the Chinchilla law as Hoffmann et al. publish it, and streams."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar

# Hoffmann et al. 2022, arXiv 2203.15556, Approach 3: L = E + A/N^α + B/D^β.
E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28
TRUE_A = BETA / (ALPHA + BETA)


def loss_of(N, D, P=1.0, k=0.0):
    """Streams act as N·(k ln P + 1) parameters."""
    return E + A / (N * (k * np.log(P) + 1)) ** ALPHA + B / D**BETA


def best(flops, P=1.0, k=0.0):
    """Return N and loss of the optimum at 6·N·D·P FLOPs, by SciPy's search."""
    found = minimize_scalar(
        lambda x: loss_of(np.exp(x), flops / (6 * P * np.exp(x)), P, k),
        bounds=(np.log(flops) / 2 - 12, np.log(flops) / 2 + 8),
        method="bounded",
        options={"xatol": 1e-10},
    )
    return float(np.exp(found.x)), float(found.fun)


def grid(budgets, decades=0.45, sizes=7, off=0.0, P=(1,), k=0.0, noise=0.0, seed=0):
    """Return runs at each budget and P, over ± decades of N around an optimum that is `off` decades away."""
    rng, rows = np.random.default_rng(seed), []
    for flops in budgets:
        for p in P:
            for shift in np.linspace(-decades, decades, sizes):
                N = best(flops, p, k)[0] * 10 ** (off + shift)
                D = flops / (6 * N * p)
                loss = loss_of(N, D, p, k) * np.exp(noise * rng.standard_normal())
                rows.append({"n_params": N, "n_tokens": D, "n_streams": p, "loss": loss})
    return pd.DataFrame(rows)
