"""Change of the best learning rate with D: `python benchmarks/rate_by_tokens.py results/_studies/rate-by-tokens`.

The best rate of each width, D and seed is the vertex of a parabola, as in `learning_rate.py`. Its logarithm is fitted
by a line in ln D with a level for each width and seed.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy import stats

from benchmarks.learning_rate import best
from scalelab.records import load
from scalelab.train.recipe import LR_TOKENS, LR_WIDTH, Recipe


def main() -> None:
    """Print the best rates at hidden 64 and their exponent of D."""
    runs = load(sys.argv[1]).sort_values("peak_lr")
    levels, tokens, rates = [], [], []
    for (width, D, seed), each in runs.groupby(["hidden_size", "n_tokens", "seed"]):
        rate = best(each["peak_lr"].to_numpy(float), each["loss"].to_numpy(float)) * width / LR_WIDTH
        print(f"hidden {width}, D {D / 1e6:.2f}M, seed {seed}: best rate at hidden {LR_WIDTH} {rate:.4g}")
        levels.append((width, seed))
        tokens.append(np.log(D / LR_TOKENS))
        rates.append(np.log(rate))
    kinds = sorted(set(levels))
    design = np.column_stack([tokens, *([float(level == kind) for level in levels] for kind in kinds)])
    found, left, *_ = np.linalg.lstsq(design, np.array(rates), rcond=None)
    free = len(rates) - design.shape[1]
    error = float(np.sqrt(left[0] / free * np.linalg.inv(design.T @ design)[0, 0]))
    half = error * float(stats.t.ppf(0.975, free))
    low, high = -found[0] - half, -found[0] + half
    print(f"exponent {-found[0]:.2f} ({low:.2f} to {high:.2f}), default {Recipe.lr_tokens_exponent:g}")


if __name__ == "__main__":
    main()
