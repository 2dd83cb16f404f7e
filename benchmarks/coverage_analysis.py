"""Coverage of nominal 95 % intervals of IsoFLOP exponents and of recipe multipliers, on simulated runs.

Losses follow the Chinchilla law with noise in ln loss. Run with `make coverage-analysis`; writes
docs/coverage_analysis.md in about half an hour on one idle core. `--sets 20 --output none` is a quick check. With
`--keep FILE` each result is added to a file, and results that are there are not computed again.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import argparse
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.kept import Kept, Key
from scalelab.analysis.isoflop import IsoOptions, isoflop
from scalelab.analysis.recipes import RecipeOptions, compare_recipes
from scalelab.errors import ScalelabError
from scalelab.fit import group_records

E, A, ALPHA, B, BETA = 1.8, 1e8, 0.35, 8e8, 0.37  # as Besiroglu et al. (arXiv 2404.10102) re-estimate, rounded
TRUE_A = BETA / (ALPHA + BETA)
FLOPS = 1e20  # inside the budgets, where N* is checked
OUTPUT = Path(__file__).parent.parent / "docs" / "coverage_analysis.md"
DRAWS, TEST_DRAWS = 300, 99
BLOCK = 25  # data sets of each design in turn


def loss_of(N: np.ndarray, D: np.ndarray) -> np.ndarray:
    return E + (A / N) ** ALPHA + (B / D) ** BETA


def best_N(flops: np.ndarray | float) -> np.ndarray:
    """Closed form of Hoffmann et al. (arXiv 2203.15556, equation 4)."""
    G = (ALPHA * A**ALPHA / (BETA * B**BETA)) ** (1 / (ALPHA + BETA))
    return np.asarray(G * (np.asarray(flops) / 6) ** TRUE_A)


@dataclass(frozen=True)
class Iso:
    """A grid of `budgets` with `sizes` each, over ± `decades` of N around an optimum that is `off` decades away."""

    budgets: int = 5
    sizes: int = 7
    decades: float = 0.5
    noise: float = 0.002
    off: float = 0.0
    errors: str = "normal"

    @property
    def title(self) -> str:
        off = f", {self.off:+.1f} decades off" if self.off else ""
        return f"{self.budgets} budgets × {self.sizes} N, ±{self.decades:g} decades{off}"


ISO = [
    Iso(),
    Iso(noise=0.006),
    Iso(budgets=4, sizes=5),
    Iso(budgets=9, sizes=5),
    Iso(sizes=9, errors="t3"),
    Iso(decades=1.2),
    Iso(off=0.2),
]


def iso_trial(design: Iso, seed: int) -> dict[str, float]:
    rng = _random(design, seed)
    budgets = np.geomspace(1e19, 1e21, design.budgets)
    around = best_N(budgets) * 10**design.off
    N = (around[:, None] * np.geomspace(10**-design.decades, 10**design.decades, design.sizes)).ravel()
    D = np.repeat(budgets, design.sizes) / 6 / N
    shape = len(N)
    errors = rng.standard_t(3, shape) if design.errors == "t3" else rng.standard_normal(shape)
    table = pd.DataFrame({"n_params": N, "n_tokens": D, "loss": loss_of(N, D) * np.exp(design.noise * errors)})
    (group,) = group_records(table, by_tokens=False)
    found = isoflop(group, IsoOptions(law="", draws=DRAWS, seed=seed))
    middle = min(found.minima, key=lambda row: abs(np.log(row.flops / FLOPS)))
    scaling = found.exponents()
    at = scaling.N.at(FLOPS)
    return {
        "a": _covers(scaling.a, TRUE_A),
        "b": _covers(scaling.b, 1 - TRUE_A),
        "N at 1e20": _covers(at, float(best_N(FLOPS))),
        "middle minimum": _covers(middle.N, float(best_N(middle.flops))),
        "width of a": (scaling.a.high or np.nan) - (scaling.a.low or np.nan),
        "bias of N": at.value / float(best_N(FLOPS)) - 1,
    }


@dataclass(frozen=True)
class Pair:
    """Two recipes with `sizes` N each and maybe several D; the second multiplies N by `multiplier`."""

    sizes: int = 6
    ratios: tuple[float, ...] = (20.0,)  # D over N; a single one is a fixed D of 20 tokens per middle N
    multiplier: float = 1.5
    noise: float = 0.002

    @property
    def title(self) -> str:
        return f"2 × {self.sizes} N" + (f" × {len(self.ratios)} D" if len(self.ratios) > 1 else " at one D")


PAIRS = [
    Pair(sizes=4),
    *(Pair(noise=noise) for noise in (0.002, 0.006)),
    *(Pair(sizes=9, noise=noise) for noise in (0.002, 0.006)),
    *(Pair(sizes=5, ratios=(5.0, 20.0, 80.0), noise=noise) for noise in (0.002, 0.006)),
]
TESTED: dict[Iso | Pair, int] = {PAIRS[1]: 80, PAIRS[5]: 40}  # data sets whose shared exponents are tested


def pair_trial(design: Pair, seed: int, test: bool = False) -> dict[str, float]:
    rng = _random(design, seed)
    groups = []
    for factor in (1.0, design.multiplier):
        N = np.geomspace(1e8, 3e9, design.sizes)
        N, ratio = (a.ravel() for a in np.meshgrid(N, design.ratios))
        D = ratio * (N if len(design.ratios) > 1 else np.exp(np.log(N).mean()))
        losses = loss_of(N * factor, D) * np.exp(design.noise * rng.standard_normal(len(N)))
        groups += group_records(pd.DataFrame({"n_params": N, "n_tokens": D, "loss": losses}), by_tokens=False)
    tests = TEST_DRAWS if test else 0
    options = RecipeOptions(starts=10, draws=DRAWS, test_draws=tests, seed=seed, nested=test)
    found = compare_recipes(groups[0], groups[1], ("A", "B"), options)
    m = found.multiplier
    refused = [test.p < 0.05 for test in found.tests if test.shared.startswith("scales")]
    return {
        "multiplier": _covers(m, design.multiplier),
        "width of ln m": float(np.log(m.high or np.nan) - np.log(m.low or np.nan)),
        "refused": float(refused[0]) if refused else np.nan,
    }


def _covers(found, truth: float) -> float:
    if found is None or found.low is None or found.high is None:
        return np.nan
    return float(found.low <= truth <= found.high)


def _random(design: Iso | Pair, seed: int) -> np.random.Generator:
    """Return random numbers of a data set that no other design shares."""
    return np.random.default_rng([seed, *repr(design).encode()])


def _key(design: Iso | Pair, seed: int, how: Mapping[str, bool]) -> Key:
    return {"kind": type(design).__name__, "design": asdict(design), "seed": seed, "draws": DRAWS, **how}


def simulate(seeds: range, kept: Kept) -> None:
    """Keep the results of data sets with these seeds that are not there yet."""
    jobs: list[tuple[Iso | Pair, Callable[..., dict[str, float]], dict[str, bool]]] = [
        *((design, iso_trial, {}) for design in ISO),
        *((design, pair_trial, {}) for design in PAIRS),
        *((design, pair_trial, {"test": True}) for design in TESTED),
    ]
    for design, trial, how in jobs:
        for seed in seeds[: max(0, TESTED[design] - seeds.start)] if how else seeds:
            if (key := _key(design, seed, how)) not in kept:
                try:
                    kept.add(key, trial(design, seed, **how))
                except ScalelabError:
                    kept.add(key, None)


def means(design: Iso | Pair, sets: int, kept: Kept, **how: bool) -> pd.Series:
    """Return the means over the kept data sets, and `sets`, how many of them have a result."""
    keys = [key for seed in range(sets) if (key := _key(design, seed, how)) in kept]
    table = pd.DataFrame([row for key in keys if (row := kept[key]) is not None])
    return pd.concat([table.mean(), pd.Series({"sets": len(table)})])


def main(sets: int, output: Path, kept: Kept) -> None:
    began = time.process_time()
    for first in range(0, sets, BLOCK):
        simulate(range(first, min(first + BLOCK, sets)), kept)
        if output.name != "none":
            output.write_text(page(sets, kept), encoding="utf-8")
        print(f"{min(first + BLOCK, sets)} of {sets}, {time.process_time() - began:.0f} s", flush=True)


def _iso_row(design: Iso, sets: int, kept: Kept) -> str:
    mean = means(design, sets, kept)
    cells = [f"{100 * mean[name]:.1f}" for name in ("a", "b", "N at 1e20", "middle minimum")]
    errors = f"{design.noise:.1%}" + (f" {design.errors}" if design.errors != "normal" else "")
    cells = [design.title, errors, f"{mean['sets']:.0f}", *cells, f"{mean['width of a']:.3f}"]
    return f"| {' | '.join(cells)} | {mean['bias of N']:+.1%} |"


def _pair_row(design: Pair, sets: int, kept: Kept) -> str:
    mean, tested = means(design, sets, kept), means(design, sets, kept, test=True)
    refused = f"{100 * tested['refused']:.1f} of {tested['sets']:.0f}" if tested["sets"] else ""
    cells = [design.title, f"{design.noise:.1%}", f"{design.multiplier:g}", f"{mean['sets']:.0f}"]
    cells += [f"{100 * mean['multiplier']:.1f}", f"{mean['width of ln m']:.3f}", refused]
    return f"| {' | '.join(cells)} |"


def page(sets: int, kept: Kept) -> str:
    """Return the page of the kept results with seeds below `sets`."""
    head = f"""How often nominal 95 % intervals hold the truth, in percent of simulated data sets. Losses follow
E = {E:g}, (A/N)^α with A = {A:.3g}, α = {ALPHA:g}, and (B/D)^β with B = {B:.3g}, β = {BETA:g}, with noise in ln loss
(*t3*: Student's t with three degrees of freedom); {DRAWS} bootstrap draws each. The standard error of a share is 1.4
points with 250 data sets and 1.0 with 500. Made by `make coverage-analysis`."""
    first = f"""`isoflop`: budgets from 1e19 to 1e21 FLOPs; the true a is {TRUE_A:.4f}. *N at 1e20* is the best N on the
line through the minima, *middle minimum* that of one budget's own quadratic, *bias* the mean error of the former."""
    between = """The error of a quadratic itself is no noise, so no interval covers it: sizes over ±1.2 decades, or off
the optimum, give a biased N however many runs there are. The exponents suffer less, since the bias is alike at all
budgets; over ±1.2 decades their intervals are even somewhat too wide, since what the quadratic misses counts as noise.
`isoflop` prints each minimum's bias on the fitted law, and warns of wide and off-centre grids."""
    second = f"""`compare_recipes`: the second recipe multiplies N; N from 100M to 3B. *refused* is how often the test
refuses shared scales and exponents at 5 %, although they are shared, with {TEST_DRAWS} bootstrap data sets a test: it
is to be 5."""
    columns = "| design | noise | data sets | a | b | N at 1e20 | middle minimum | width of a | bias of N |"
    more = "| design | noise | true multiplier | data sets | multiplier | width of its logarithm | refused |"
    iso = [_iso_row(design, sets, kept) for design in ISO]
    pairs = [_pair_row(design, sets, kept) for design in PAIRS]
    parts = ["# Coverage of IsoFLOP exponents and multipliers", _wrapped(head), "## IsoFLOP", _wrapped(first)]
    parts += ["\n".join([columns, "|---" * 9 + "|", *iso]), _wrapped(between), "## Recipes", _wrapped(second)]
    parts.append("\n".join([more, "|---" * 7 + "|", *pairs]))
    return "\n\n".join(parts) + "\n"


def _wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 118, break_long_words=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", type=int, default=500, help="data sets a design")
    parser.add_argument("--keep", type=Path, help="JSON Lines file of the results, to continue from")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    main(given.sets, given.output, Kept(given.keep))
