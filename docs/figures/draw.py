"""Draw the figures of the documentation: `python docs/figures/draw.py` (seconds; reads only what ships)."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import scalelab as sl
from scalelab.fit import FitResult
from scalelab.plot.layout import band_handle, level_handle
from scalelab.plot.style import looks, style
from scalelab.plot.ticks import log_axis, plain

HERE = Path(__file__).parent
P_LOOKS = looks((1, 2, 4, 8))
LIMIT_S = 0.5


def main() -> None:
    """Draw all figures into this folder."""
    fit = sl.fit_law("paper", where="corpus == 'stack-v2-python'")
    assert isinstance(fit, FitResult)
    with style(), mpl.rc_context({"font.size": 11, "svg.fonttype": "path"}):  # boxes are sized to their text
        overview(fit)
        streams()
        roofline()


def overview(fit: FitResult) -> None:
    """The law with its intervals, and what it says about one device."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    N = np.geomspace(5e8, 5e9, 60)
    for P, look in P_LOOKS.items():
        at = fit.predict(N=N.tolist(), P=P).to_frame()
        left.plot(N, at["loss"], color=look.color)
        left.fill_between(N, at["loss_low"], at["loss_high"], color=look.color, alpha=0.15, linewidth=0)
        rows = fit.data.P == P
        left.plot(fit.data.N[rows], fit.data.loss[rows], linestyle="", zorder=3, **look.points(1.2))
    log_axis(left.xaxis)
    left.set(xlabel="parameters N", ylabel="loss, nats per token", title="The law of 24 published models")
    left.legend(
        [*map(level_handle, P_LOOKS.values()), band_handle()], [*(f"P = {P}" for P in P_LOOKS), "95 % interval"]
    )
    plan = sl.make_plan(fit, memory="4GB", latency="500ms", gpu="rtx-4090", P=[1, 2, 4, 8])
    best = plan.to_frame().reset_index()
    looks_of_best = [P_LOOKS[P] for P in best["P"]]
    places = np.arange(len(best))
    low, high = best["loss"] - best["loss_low"], best["loss_high"] - best["loss"]
    for x, (_, row), a, b, look in zip(places, best.iterrows(), low, high, looks_of_best, strict=True):
        right.errorbar(x, row["loss"], [[a], [b]], color=look.color, capsize=4)
        right.plot(x, row["loss"], linestyle="", **look.points(1.7))
        right.annotate(f"{row['N'] / 1e9:.2f}B", (x, row["loss"]), (12, -4), textcoords="offset points")
    right.set_xticks(places, [f"P = {P}" for P in best["P"]])
    right.set_xlim(-0.4, len(best) - 0.3)
    right.set(ylabel="lowest loss", title="The best N for each P: 4 GB, 500 ms, RTX 4090")
    save(figure, "overview.png")


def streams() -> None:
    """Three streams through one set of weights."""
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    axes.set(xlim=(0.1, 19.9), ylim=(-0.4, 8.7))
    axes.axis("off")
    shades = ["#0072B2", "#009E73", "#D55E00"]
    rows = [6.9, 4.2, 1.5]
    _box(axes, 0.2, 3.5, 2.6, 2.0, "tokens\nx", "#eeeeee")
    axes.add_patch(FancyBboxPatch((5.75, 0.5), 4.3, 8.0, boxstyle="round,pad=0.1", fc="#f7f7f7", ec="#666666", ls="--"))
    axes.text(7.9, 8.15, "one set of weights", ha="center", va="center", color="#444444", style="italic")
    for p, (y, shade) in enumerate(zip(rows, shades, strict=True), 1):
        _box(axes, 3.4, y - 0.55, 1.8, 1.1, f"prefix {p}", shade, 0.25, size=10)
        _box(axes, 6.2, y - 0.55, 3.4, 1.1, f"stream {p}", shade, 0.25)
        _box(axes, 11.0, y - 0.5, 1.5, 1.0, f"$h_{p}$", shade, 0.25)
        _arrow(axes, (2.85, 4.5), (3.35, y), shade)
        _arrow(axes, (5.25, y), (6.15, y), shade)
        _arrow(axes, (9.65, y), (10.95, y), shade)
        _arrow(axes, (12.55, y), (13.55, 4.5 + (y - 4.2) * 0.25), shade)
    _box(axes, 13.6, 3.0, 3.1, 3.0, "aggregator\n$\\sum_p w_p\\, h_p$", "#dddddd")
    _box(axes, 17.4, 3.5, 2.4, 2.0, "next\ntoken", "#eeeeee")
    _arrow(axes, (16.75, 4.5), (17.35, 4.5), "#444444")
    axes.text(15.15, 2.3, "a small MLP chooses the\nweights $w_p$ at each token", ha="center", va="top", fontsize=10)
    axes.text(2.6, 0.55, "learned keys\nand values", ha="center", va="top", fontsize=10)
    save(figure, "streams.svg")


def roofline() -> None:
    """The roofline of one device, and where P tokens at once stand on it."""
    device = sl.list_hardware()["a100-sxm-80gb"]
    peak, bandwidth = device.flops_per_s["bf16"] / 1e12, device.bytes_per_s / 1e12
    ridge = peak / bandwidth
    figure, axes = plt.subplots(figsize=(7.4, 4.2), layout="constrained")
    x = np.geomspace(0.5, 2000, 200)
    axes.loglog(x, np.minimum(peak, bandwidth * x), color="black")
    for P, look in P_LOOKS.items():
        axes.plot(P, bandwidth * P, linestyle="", label=f"decoding, P = {P}", zorder=3, **look.points(1.8))
    axes.plot(512, peak, "*", color="#CC79A7", markersize=14, label="a prompt of 512 tokens", zorder=3)
    log_axis(axes.xaxis, plain)
    log_axis(axes.yaxis, plain)
    axes.axvline(ridge, color="#888888", linestyle=":")
    axes.text(ridge * 1.08, 40, f"{ridge:.0f} FLOPs a byte", color="#666666", fontsize=10)
    axes.text(1.2, 60, "waits for memory", color="#666666")
    axes.text(170, 110, "waits for\narithmetic", color="#666666")
    axes.set(xlabel="FLOPs per byte of weights read (bf16)", ylabel="TFLOP/s that can be reached")
    axes.set_title(f"{device.name}: {peak:.0f} TFLOP/s, {bandwidth:.2f} TB/s", fontsize=11)
    axes.legend(loc="lower right")
    save(figure, "roofline.png")


def save(figure: plt.Figure, name: str) -> None:
    """Save a figure on white, without a date."""
    metadata = {"Date": None} if name.endswith(".svg") else {"Software": None}
    figure.savefig(HERE / name, dpi=110, facecolor="white", metadata=metadata)
    plt.close(figure)


def _box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str,
    shade: str,
    alpha: float = 1.0,
    size: int = 11,
) -> None:
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0.06", fc=shade, alpha=alpha, ec="none"))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], shade: str) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=shade, lw=1.4))


if __name__ == "__main__":
    main()
