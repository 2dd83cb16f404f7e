"""Cost models against measurements; writes docs/serving.md, .csv and .png. `make benchmark-serving`, on idle cores.

Three sizes of random Llamas, and SmolLM2-135M if `make smollm` has saved it: latency depends on shapes, not on the
values of weights. One CPU thread. The device is calibrated once at the start.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import torch

from scalelab.cost.request import Device, Workload
from scalelab.measure.calibrate import calibrate
from scalelab.measure.clock import MeasuredModel
from scalelab.measure.measured_vs_predicted import measure_and_predict
from scalelab.plot.measured import plot_against, plot_efficiency
from scalelab.plot.save import save_figure

DOCS = Path(__file__).parent.parent / "docs"
SMOLLM = Path("models/smollm2-135m")
CUDA = torch.cuda.is_available()
ENGINES = ("roofline", "llm-analysis")
QUANTITIES = ("prefill_s", "decode_s", "latency_s", "memory_bytes")
STREAMS = (1, 2, 4, 8)
PREFIX = 48

# Hidden, MLP, layers, heads, KV heads, vocabulary.
SIZES = {
    "llama-10m": (256, 1024, 8, 4, 2, 8_192),
    "llama-45m": (512, 1536, 12, 8, 2, 16_384),
    "llama-119m": (768, 3072, 10, 12, 12, 32_000),
}
LARGE = {"llama-1b": (2048, 8192, 16, 32, 8, 128_256), "llama-3b": (3072, 8192, 28, 24, 8, 128_256)}
WORKLOADS = [Workload(1, 64, 32), Workload(1, 256, 32), Workload(8, 64, 16)]
LARGE_WORKLOADS = [Workload(1, 128, 128), Workload(1, 1024, 128), Workload(8, 128, 128), Workload(32, 512, 64)]


def configs(folder: Path, sizes: dict[str, tuple[int, ...]]) -> list[Path]:
    """A config.json of each size."""
    paths = []
    for name, (hidden, mlp, layers, heads, kv_heads, vocab) in sizes.items():
        content = {"model_type": "llama", "hidden_size": hidden, "intermediate_size": mlp}
        content |= {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
        content |= {"vocab_size": vocab, "tie_word_embeddings": True, "max_position_embeddings": 4096}
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    return paths


def measured(device: str, dtype: str, quick: bool) -> tuple[pd.DataFrame, str]:
    """A row for each model, P and workload; and what the device reaches, in words."""
    hardware = calibrate(device, dtype, threads=1)
    told = (
        f"{hardware.source}: {hardware.peak(dtype) / 1e9:.4g} GFLOP/s in products of many rows, "
        f"{(hardware.attention_flops_per_s or 0) / 1e9:.4g} in attention; {hardware.bytes_per_s / 1e9:.3g} GB/s of "
        f"weights, {(hardware.vector_bytes_per_s or 0) / 1e9:.3g} in vector work; "
        f"{(hardware.launch_s or 0.0) * 1e6:.3g} µs a kernel; of the roof with few rows "
        + ", ".join(f"{share:.0%} ({rows:g})" for rows, share in hardware.row_shares if 1 < rows < 256)
    )
    print(told, flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models = configs(Path(folder), LARGE if CUDA else SIZES)
        if (SMOLLM / "config.json").is_file():
            models.append(SMOLLM)
        cells = list(product(models, STREAMS, LARGE_WORKLOADS if CUDA else WORKLOADS))
        for number, (model, P, workload) in enumerate(cells[:: 7 if quick else 1], 1):
            subject = MeasuredModel(model, P, PREFIX, dtype, device, threads=1)
            row = measure_and_predict(
                subject, workload, Device("this device", 1.0, 1.0, hardware), ENGINES, seconds=1.0
            )
            rows.append(row.as_dict())
            ratios = ", ".join(f"{name} {row.ratio(name, 'latency_s') or 0:.2f}" for name in ENGINES)
            print(
                f"{number}/{len(cells)} {row.model} P={P} batch {workload.batch}, {workload.tokens_in} in: "
                f"{row.measured.latency_s:.3f} s; measured over predicted: {ratios}",
                flush=True,
            )
    return pd.DataFrame(rows), told


def errors(table: pd.DataFrame) -> list[str]:
    """Median |predicted / measured − 1| of each engine and quantity, in all and by model."""
    lines = ["| | prefill | decode | latency | memory |", "|---|---|---|---|---|"]
    for engine, (who, part) in product(ENGINES, [("all", table), *table.groupby("model", sort=False)]):
        found = [
            (part[f"{engine.replace('-', '_')}_{quantity}"] / part[quantity] - 1).abs().median()
            for quantity in QUANTITIES
        ]
        lines.append(f"| {engine}, {who} | " + " | ".join(f"{error:.1%}" for error in found) + " |")
    return lines


def efficiency(table: pd.DataFrame) -> list[str]:
    """Peak memory and latency over P at batch 1, beside those of P = 1."""
    lines = ["| P | peak memory, MiB | over P = 1 | latency, s | over P = 1 | prefill, s | ms/token |"]
    lines.append("|---|---|---|---|---|---|---|")
    base = table[table["P"] == 1].iloc[0]
    for _, row in table.sort_values("P").iterrows():
        more = [f"{row[name] / base[name] - 1:+.1%}" for name in ("memory_bytes", "latency_s")]
        lines.append(
            f"| {row['P']} | {row['memory_bytes'] / 2**20:.0f} | {more[0]} | {row['latency_s']:.3f} | {more[1]} "
            f"| {row['prefill_s']:.3f} | {row['decode_s'] / (row['tokens_out'] - 1) * 1e3:.1f} |"
        )
    return lines


def main() -> None:
    quick = "--quick" in sys.argv
    device, dtype, name = ("cuda", "bf16", "serving-gpu") if CUDA else ("cpu", "fp32", "serving")
    began = time.perf_counter()
    table, told = measured(device, dtype, quick)
    minutes = (time.perf_counter() - began) / 60
    if quick:
        print("\n".join(errors(table)))
        return
    table.to_csv(DOCS / f"{name}.csv", index=False)
    shown = table["model"].iloc[-1]
    few = table[(table["model"] == shown) & (table["batch"] == 1)]
    few = few[few["tokens_in"] == few["tokens_in"].min()]
    work = few.iloc[0]
    heading = f"{shown}, batch 1, {work['tokens_in']} tokens in, {work['tokens_out']} out"
    save_figure(plot_efficiency(few, heading), DOCS / f"{name}-efficiency.png")
    save_figure(plot_against(table), DOCS / f"{name}.png")
    lines = [
        "# Cost models against the clock",
        "",
        f"`make benchmark-serving`, {minutes:.0f} minutes, {platform.machine()}. {told[0].upper()}{told[1:]}.",
        "",
        f"{len(table)} workloads ({name}.csv): {', '.join(table['model'].unique())}; P = 1, 2, 4, 8, prefixes",
        f"of {PREFIX} tokens; named by all their parameters. Least seconds of rounds; memory is what",
        "tensors hold at once. llm-analysis is given the same FLOP/s, bandwidth and precision.",
        "",
        "## Median |predicted / measured − 1|",
        "",
        *errors(table),
        "",
        f"![predicted over measured latency]({name}.png)",
        "",
        "## What streams cost",
        "",
        f"{heading}.",
        "",
        *efficiency(few),
        "",
        f"![memory and latency over P]({name}-efficiency.png)",
    ]
    file = DOCS / f"{name}.md"
    _, mark, published = (file.read_text() if file.is_file() else "").partition("<!-- published measurements")
    file.write_text("\n".join(lines) + "\n" + (f"\n{mark}{published}" if mark else ""))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
