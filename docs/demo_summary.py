"""Summary of the demo: what was trained, what the law says about P, and what a model costs.

Run by `make demo` after the sweep; uses only scalelab's public functions.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import scalelab as sl
from scalelab.units import format_bytes, format_count, format_seconds

RESULTS, FITS = Path("results/demo"), Path("fits")
MODEL, STREAMS = 2560, 2  # hidden size and streams of the model that is priced


def trained(runs: Any) -> str:
    """Say what was trained."""
    table = runs.to_frame()
    sizes = ", ".join(format_count(n) for n in sorted(table["n_params_backbone"].unique()))
    streams = ", ".join(str(p) for p in sorted(table["n_streams"].unique()))
    return (
        f"{len(table)} models were trained on {table['corpus'].iloc[0]}: N {sizes} without streams, each with P = "
        f"{streams} and {table['seed'].nunique()} paired seeds, {format_count(table['n_tokens'].max())} tokens, "
        f"{format_seconds(table['train_seconds'].sum())} of one core."
    )


def law(runs: Any) -> tuple[str, Any]:
    """Say what the parallel law makes of the losses, with N counted without streams."""
    fit = sl.fit_law(runs, "parallel", count="backbone")
    k = fit.params["k"]
    if k.low > 0:
        verdict = "streams pay at this size"
    elif k.high < 0:
        verdict = "streams do not pay at this size"
    else:
        verdict = "these runs do not show that streams pay at this size"
    largest = int(runs.to_frame()["n_streams"].max())
    size = float(runs.to_frame()["n_params_backbone"].max())
    same = fit.n_equivalent(size, largest)
    low, high = same.low / size, same.high / size
    return (
        f"By the parallel law, k = {k} with a 95 % interval: {verdict}. P = {largest} has the loss of a plain model of "
        f"{same.value / size:.2f} ({low:.2f}–{high:.2f}) times the parameters."
    ), fit


def cost() -> str:
    """Say what streams cost in a large model."""
    prices = sl.price(MODEL, P=[1, STREAMS]).to_frame()
    plain, streamed = (prices.loc[prices["P"] == P].iloc[0] for P in (1, STREAMS))
    return (
        f"A model of hidden size {MODEL} with P = {STREAMS} needs {format_bytes(streamed['memory_bytes'])} and "
        f"{streamed['latency_s']:.3f} s for 64 + 64 tokens on an A100, "
        f"{streamed['memory_bytes'] / plain['memory_bytes'] - 1:.1%} and "
        f"{streamed['latency_s'] / plain['latency_s'] - 1:.1%} more than with P = 1."
    )


def paper() -> list[str]:
    """Say what the law makes of the published losses, a line for each corpus."""
    fits = sl.fit_law("paper", "parallel")
    return [f"  {name}: k = {fit.params['k']}, N 0.5B to 4.4B" for name, fit in fits.items()]


def main() -> None:
    """Print the summary."""
    runs = sl.read(RESULTS)
    about_law, fit = law(runs)
    FITS.mkdir(exist_ok=True)
    path = FITS / "demo.png"
    fit.plot().figure.savefig(path, dpi=150)
    print("\nWhat the demo showed")
    for sentence in (trained(runs), about_law, cost()):
        print(textwrap.fill(sentence, 100, initial_indent="- ", subsequent_indent="  "))
    print(f"Figure: {path}")
    print("\nThe same law on the 48 losses that the paper published:")
    print("\n".join(paper()))


if __name__ == "__main__":
    main()
