"""Coverage of nominal 95 % intervals of predictions, averaged over laws and by one law, where the truth is known.

Each data set has losses of the parallel or the additive law with noise in ln loss, fitted as in `scalelab fit`. The
predictions are for P and N beyond those of the runs. Run with `make coverage-averaged`; writes
docs/coverage_averaged.md. `--sets 50` is a quick check. With `--keep FILE` each result is added to a file, results that
are there are not computed again, and the page is made from all of them.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.kept import Kept, Key
from scalelab.fit import FitOptions, FitResult, fit_group, group_records
from scalelab.fit.averaging import with_laws
from scalelab.laws import LAWS, Points

# Close to the fits of both laws to the paper's losses on Stack.
TRUTHS = {
    "parallel": {"E": 0.7, "A": 1.1e7, "k": 0.4, "alpha": 0.2},
    "additive": {"E": 0.78, "A": 1.15e7, "alpha": 0.295, "B": 0.068, "c": 0.49},
}
SPAN, STREAMS = (5e8, 4.4e9), (1, 2, 4, 8)
# N and P of the predictions: one between the runs, the others beyond the largest N, the largest P, and both.
AT = {"inside": (1.5e9, 4), "N × 2": (8.8e9, 4), "P × 2": (1.5e9, 16), "both × 2": (8.8e9, 16)}
OUTPUT = Path(__file__).parent.parent / "docs" / "coverage_averaged.md"


@dataclass(frozen=True)
class Design:
    """Data sets of one kind: `sizes` N for each of `STREAMS`, with normal noise in ln loss."""

    truth: str
    noise: float
    sizes: int = 6

    @property
    def title(self) -> str:
        """Truth, runs and noise as text."""
        return f"{self.truth}, {self.sizes * len(STREAMS)} runs, {100 * self.noise:g} %"


DESIGNS = [Design(truth, noise) for truth in TRUTHS for noise in (0.002, 0.003)]


def truth_at(design: Design, N: np.ndarray, P: np.ndarray) -> np.ndarray:
    """Return the losses of the true law."""
    return LAWS[design.truth].loss(np.array(list(TRUTHS[design.truth].values())), Points(N, P))


def simulate(design: Design, seed: int) -> pd.DataFrame:
    """Return one data set."""
    rng = np.random.default_rng([seed, design.sizes, len(design.truth)])
    N, P = (a.ravel() for a in np.meshgrid(np.geomspace(*SPAN, design.sizes).round(), np.array(STREAMS, float)))
    loss = truth_at(design, N, P) * np.exp(design.noise * rng.standard_normal(len(N)))
    return pd.DataFrame({"n_params": N, "n_streams": P, "loss": loss})


def trial(design: Design, seed: int, draws: int) -> dict[str, float]:
    """Return for each way to predict and each point 1 if the interval holds the truth, and the interval's width."""
    (group,) = group_records(simulate(design, seed))
    options = FitOptions(starts=20, draws=draws, seed=seed)
    first = with_laws(fit_group(group, "parallel", options))
    ways = {
        "averaged": first.averaged(),
        "parallel": first.averaged("parallel"),
        "additive": next((entry.fit for entry in first.laws if entry.fit and entry.label == "additive"), None)
        or fit_group(group, "additive", options),
    }
    found: dict[str, float] = {f"weight {entry.label}": entry.weight for entry in first.laws}
    for way, fit in ways.items():
        found |= _covered(design, fit, way)
    return found


def _covered(design: Design, fit: FitResult, way: str) -> dict[str, float]:
    N, P = np.array(list(AT.values()), dtype=float).T
    truth = truth_at(design, N, P)
    low, high = fit.band(N, P)
    inside = (low <= truth) & (truth <= high)
    return {f"{way} covers {at}": float(hit) for at, hit in zip(AT, inside, strict=True)} | {
        f"{way} width {at}": float(width) for at, width in zip(AT, high - low, strict=True)
    }


def rows(design: Design, table: pd.DataFrame) -> list[str]:
    """Return a row of the page for each way to predict."""
    lines = []
    for way in ("averaged", *TRUTHS):
        wide = table[f"{way} width both × 2"].replace(np.inf, np.nan).median()
        cells = [f"{100 * table[f'{way} covers {at}'].mean():.1f}" for at in AT]
        kind = way if way == "averaged" else f"{way} alone, {'right' if way == design.truth else 'wrong'}"
        lines.append(f"| {design.title} | {kind} | {' | '.join(cells)} | {wide:.4f} |")
    return lines


def weights(design: Design, table: pd.DataFrame) -> str:
    """Return the mean weight of each law as a row of the page."""
    found = table.filter(like="weight ").fillna(0.0).mean()
    forms = found.filter(like="additive").sum(), found.get("weight parallel", 0.0)
    return f"| {design.title} | {forms[0]:.2f} | {forms[1]:.2f} | {1 - sum(forms):.2f} |"


def key(design: Design, seed: int, draws: int) -> Key:
    """Return the key of a result."""
    return {"design": asdict(design), "seed": seed, "draws": draws}


def page(found: Kept, seeds: Sequence[int], draws: int) -> str:
    """Return the page for those of the seeds that are done for every design."""
    done = [seed for seed in seeds if all(key(design, seed, draws) in found for design in DESIGNS)]
    sets = len(done)
    tables = {design: pd.DataFrame([found[key(design, seed, draws)] for seed in done]) for design in DESIGNS}
    truths = "; ".join(
        f"{law} {', '.join(f'{name} {value:g}' for name, value in params.items())}" for law, params in TRUTHS.items()
    )
    return HEADER.format(
        sets=sets,
        draws=draws,
        error=100 * (0.95 * 0.05 / sets) ** 0.5,
        truths=truths,
        covers="\n".join(line for design, table in tables.items() for line in rows(design, table)),
        shares="\n".join(weights(design, table) for design, table in tables.items()),
    )


def main() -> None:
    """Simulate and fit, one data set of each design in turn, and write the page as they are done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=400, help="data sets a design")
    parser.add_argument(
        "--first", type=int, default=0, help="seed from which to compute; the page has earlier ones too"
    )
    parser.add_argument("--draws", type=int, default=250, help="bootstrap draws a fit")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--keep", type=Path, help="JSON Lines file of the results, to continue from")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    began, found, draws = time.perf_counter(), Kept(options.keep), options.draws
    seeds = range(options.sets)
    left = [(d, seed) for seed in seeds[options.first :] for d in DESIGNS if key(d, seed, draws) not in found]
    with ProcessPoolExecutor(options.workers) as pool:
        trials = pool.map(partial(trial, draws=draws), *zip(*left, strict=True)) if left else ()
        for number, ((design, seed), result) in enumerate(zip(left, trials, strict=True), 1):
            found.add(key(design, seed, draws), result)
            if number % (4 * len(DESIGNS)) == 0:
                options.output.write_text(page(found, seeds, draws), encoding="utf-8")
                print(f"{number} of {len(left)}, {time.perf_counter() - began:.0f} s", flush=True)
    options.output.write_text(page(found, seeds, draws), encoding="utf-8")


HEADER = """# Coverage of averages over laws

How often nominal 95 % intervals of a prediction hold the true loss, in percent of {sets} simulated data sets a design
({draws} bootstrap draws each, standard error of a share about {error:.1f} points). The truth is the parallel or the
additive law ({truths}); N from 500M to 4.4B, P = 1, 2, 4, 8; normal noise in ln loss; fitted with the defaults but 20
starts. Predictions are at N 1.5B and P = 4 (*inside*), at twice the largest N, at twice the largest P, and at both.
*width* is the median width of the interval at both, in nats per token. Made by `make coverage-averaged`.

| truth, runs, noise | predicted by | inside | N × 2 | P × 2 | both × 2 | width |
|---|---|---|---|---|---|---|
{covers}

Mean weights of the laws in the average:

| truth, runs, noise | additive (both forms) | parallel | others |
|---|---|---|---|
{shares}
"""


if __name__ == "__main__":
    main()
