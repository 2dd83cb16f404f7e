"""Training speed on one CPU core at the sizes of sweeps; writes docs/training.md.

The baseline is a step of the first ladder of widths without compiled layers, with losses equal to those of the first
sweeps, bit for bit. Run with `make benchmark-training`; `--quick` is a quick check that writes nothing.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from timing import QUICK, in_turn

from scalelab.architecture import architecture_for
from scalelab.train.build import build_model
from scalelab.train.loop import compile_layers, quiet_compiler
from scalelab.train.optimizer import make_optimizer
from scalelab.train.recipe import Recipe, RunConfig, TextSource
from scalelab.train.step import TrainingStep

OUTPUT = Path(__file__).parent.parent / "docs" / "training.md"
SIZES = (50e3,) if QUICK else (22e3, 50e3, 104e3)
STREAMS = (1, 8)
VOCABULARY, PREFIX = 512, 4
BUDGET_S = 6 if QUICK else 10


def step_of(n_params: float, P: int, ladder: int, compiled: bool) -> tuple[Callable[[], object], int, float]:
    """Return a call that takes one training step, the backbone's parameters, and the first step's seconds."""
    shape = architecture_for(n_params, VOCABULARY, PREFIX, ladder=ladder).with_streams(P)
    recipe = Recipe(dtype="fp32")
    config = RunConfig(shape, 10**6, 0, TextSource("random", "0", "random", "0"), recipe, ladder=ladder)
    model = build_model(config)
    model.train()
    if compiled:
        compile_layers(model)
    step = TrainingStep(model, make_optimizer(model, recipe, config.peak_lr), recipe)
    batch = torch.randint(0, VOCABULARY, (recipe.batch_size, recipe.seq_len + 1))
    began = time.perf_counter()
    with quiet_compiler():
        step(batch)
    return lambda: step(batch), shape.backbone_params, time.perf_counter() - began


def first_step_s(n_params: float, P: int, cache: str) -> float:
    """Seconds of the first compiled step of a new process whose compiler keeps its work in `cache`."""
    command = [sys.executable, __file__, "--first", str(n_params), str(P)]
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    torch.set_num_threads(1)
    if "--first" in sys.argv:
        n_params, P = sys.argv[-2:]
        print(step_of(float(n_params), int(P), 2, compiled=True)[2])
        return
    rows = []
    tokens = Recipe().batch_size * Recipe().seq_len
    for n_params in SIZES:
        for P in STREAMS:
            steps, counts, _ = zip(
                *(step_of(n_params, P, *way) for way in ((1, False), (2, False), (2, True))), strict=True
            )
            first, second, compiled = in_turn(*steps, budget_s=BUDGET_S)
            with tempfile.TemporaryDirectory() as cache:
                cold, warm = first_step_s(n_params, P, cache), first_step_s(n_params, P, cache)
            work = counts[1] / counts[0]  # speed per token relative to the baseline
            rows.append(
                f"| {counts[0] / 1e3:.1f}k, {counts[1] / 1e3:.1f}k | {P} "
                f"| {tokens / first:.1f} | {first / second:.2f} | "
                f"{first / second * work:.2f} | {first / compiled:.2f} | {second / compiled:.2f} | "
                f"{cold:.0f} | {warm:.1f} |"
            )
            print(rows[-1], flush=True)
    text = [
        "# Training on a CPU core",
        "",
        f"Made by `make benchmark-training` in one run on {os.cpu_count()} shared CPU cores, one thread, "
        f"PyTorch {torch.__version__}, transformers {transformers.__version__}.",
        "A whole training step in fp32: 8 sequences of 64 tokens, 512 entries in the vocabulary, 4 prefix tokens. The",
        "baseline is the first ladder of widths without compiled layers. Least times of rounds in turn; above 1",
        "it is faster than the baseline. The second ladder's models are a little smaller or larger, so one",
        "column is corrected for the operations of a token.",
        "",
        "| N, first and second ladder | P | baseline, 1,000 tokens/s | second ladder | corrected for N | "
        "second ladder, compiled | compiled over not | first compiled step, s | with a warm cache, s |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    if not QUICK:
        OUTPUT.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
