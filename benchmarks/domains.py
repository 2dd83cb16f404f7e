"""Streams beside plain prefix tuning and LoRA, on text that a frozen backbone has not seen.

    python benchmarks/domains.py MODEL OUT.csv [TOKENS] [SEEDS] [WORKERS]

All methods start from the model in MODEL, see the same text of a domain in the same order for the same seed, and are
evaluated on the same held-out files. `prefix` is one prefix as long as all those of P = 4 together, `mean` is P = 4
with averaged streams, which has just as many learned parameters, and `lora` has about as many as `streams`. Models of
10M parameters and more see longer sequences and, except for LoRA, one learning rate instead of two. OUT.csv gets a row
for each run; finished rows are not repeated.

Domains are files that Debian installs: the sources of Python's documentation (package python3-doc), C headers, licences
and copyright notices, and German manual pages (manpages-de). Those that are missing are left out.
"""

import csv
import gzip
import multiprocessing
import random
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scalelab.api.loading import quiet_libraries
from scalelab.model import lora_config
from scalelab.train import stage
from scalelab.train.checkpoint import TrainState
from scalelab.train.convert import convert
from scalelab.train.loop import LoopOptions, Phase, optimise
from scalelab.train.optimizer import make_optimizer
from scalelab.train.phases import linear_factor
from scalelab.train.recipe import Recipe, whole_steps

SHARE = Path("/usr/share")
DOMAINS = {
    "Python docs": (SHARE / "doc", "python3*/html/_sources/**/*.txt"),
    "C headers": (Path("/usr/include"), "**/*.h"),
    "licences": (SHARE / "doc", "*/copyright"),
    "German": (SHARE / "man" / "de", "**/*.gz"),
}
DOMAIN_BYTES, FILE_BYTES, LEAST_BYTES = 3_000_000, 60_000, 1_000_000
METHODS = {"prefix": (1, "dynamic"), "mean": (4, "mean"), "streams": (4, "dynamic")}  # P and aggregation


class Scale(NamedTuple):
    """Settings that all runs of one backbone share, and the learning rates to try."""

    prefix_tokens: int  # of all streams together
    seq_len: int
    batch_size: int
    val_tokens: int
    dtype: str
    prefix_rates: tuple[float, ...]
    lora_rates: tuple[float, ...]

    def recipe(self, lr: float) -> Recipe:
        """Return the recipe of all methods at this rate."""
        return stage.stage_recipe("streams", lr, self.seq_len, self.batch_size, self.val_tokens, self.dtype)

    def rates(self) -> dict[str, tuple[float, ...]]:
        """Return the learning rates of each method."""
        return dict.fromkeys(METHODS, self.prefix_rates) | {"lora": self.lora_rates}


SMALL = Scale(16, 64, 8, 65_536, "fp32", (0.03, 0.1), (0.01, 0.03))
LARGE = Scale(64, 256, 2, 8_192, "bf16", (0.03,), (0.001, 0.003))
LARGE_BYTES = 40_000_000  # of weights, or 10M parameters in fp32


class Task(NamedTuple):
    """One run: its domain, method, seed and learning rate."""

    domain: str
    method: str
    seed: int
    lr: float


COLUMNS = (*Task._fields, "n_streams", "n_params", "n_tokens", "loss", "base_loss", "seconds")


def collect(name: str, folder: Path) -> Path | None:
    """Copy text of a domain into `folder`, in an order drawn once; None if there is too little of it."""
    root, pattern = DOMAINS[name]
    files = sorted(root.glob(pattern))
    random.Random(0).shuffle(files)
    target, total = folder / name.replace(" ", "-"), 0
    target.mkdir(parents=True, exist_ok=True)
    for i, file in enumerate(files):
        if file.is_symlink() or total > DOMAIN_BYTES:
            continue
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        text = content[:FILE_BYTES].decode(errors="ignore")
        (target / f"{i:05}.txt").write_text(text)
        total += len(text)
    return target if total >= LEAST_BYTES else None


def learned(model: Any) -> int:
    """Return the number of parameters of the streams in use."""
    return sum(p.numel() for _, p in model.stream_parameters())


def with_lora(model: Any, size: int) -> Any:
    """Return `model` with low-rank matrices for all linear layers of its backbone, of about `size` parameters."""
    from peft import get_peft_model

    targets = lora_config(model).target_modules
    layers = [m for n, m in model.named_modules() if n.rpartition(".")[2] in targets and hasattr(m, "in_features")]
    rank = max(1, round(size / sum(m.in_features + m.out_features for m in layers)))
    return get_peft_model(model, lora_config(model, r=rank, lora_alpha=2 * rank))


def train_lora(model: Any, data: Any, recipe: Recipe, n_tokens: float, seed: int) -> tuple[float, float]:
    """Train the matrices as `stage.train_stage` trains streams; return loss and seconds."""
    steps = whole_steps(n_tokens, recipe) // (recipe.seq_len * recipe.batch_size)
    factor = partial(linear_factor, steps=steps, warmup_fraction=recipe.warmup_fraction)
    state = TrainState(micro_batch=recipe.batch_size)
    optimizer = make_optimizer(model, recipe, recipe.lr)
    optimise(model, optimizer, data, Phase(recipe, steps, seed, factor, steps, "lora"), state, LoopOptions())
    model.eval()
    return stage.validate(model, data, recipe, "cpu").loss, state.seconds


def run(folder: Path, texts: dict[str, Path], n_tokens: float, scale: Scale, task: Task) -> dict[str, Any]:
    """Train one run and return its row."""
    torch.set_num_threads(1)
    quiet_libraries()
    model = stage.open_model(folder)
    data = stage.read_text(model, folder, str(texts[task.domain]))
    recipe = scale.recipe(task.lr)
    base = stage.validate(model, data, recipe, "cpu").loss
    P, aggregation = METHODS.get(task.method, METHODS["streams"])
    prefix_tokens = scale.prefix_tokens // P
    if task.method == "lora":
        copy = stage.open_model(folder)
        convert(copy, {P: prefix_tokens}, data, recipe, "normal", task.seed)
        torch.manual_seed(task.seed)
        model = with_lora(model, learned(copy))
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        loss, seconds = train_lora(model, data, recipe, n_tokens, task.seed)
    else:
        convert(model, {P: prefix_tokens}, data, recipe, "text", task.seed, aggregation=aggregation)
        size = learned(model)
        result = stage.train_stage(model, data, recipe, n_tokens, seed=task.seed)
        loss, seconds = result.after.loss, result.seconds
    streams = 1 if task.method == "lora" else P
    values = (*task, streams, size, round(n_tokens), round(loss, 5), round(base, 5), round(seconds, 1))
    return dict(zip(COLUMNS, values, strict=True))


def main(folder: Path, out: Path, n_tokens: float, seeds: int, workers: int) -> None:
    """Train what OUT lacks."""
    done = set()
    if out.exists():
        with out.open(newline="") as file:
            done = {Task(r["domain"], r["method"], int(r["seed"]), float(r["lr"])) for r in csv.DictReader(file)}
    scale = LARGE if (folder / "model.safetensors").stat().st_size > LARGE_BYTES else SMALL
    with tempfile.TemporaryDirectory() as scratch:
        texts = {name: found for name in DOMAINS if (found := collect(name, Path(scratch))) is not None}
        print("domains:", ", ".join(texts), flush=True)
        rates = scale.rates().items()
        tasks = [Task(d, m, s, lr) for s in range(seeds) for d in texts for m, found in rates for lr in found]
        left = [task for task in tasks if task not in done]
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("a", newline="") as file, multiprocessing.get_context("spawn").Pool(workers) as pool:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if not done:
                writer.writeheader()
            for row in pool.imap(partial(run, folder, texts, n_tokens, scale), left):
                writer.writerow(row)
                file.flush()
                print(row, flush=True)


if __name__ == "__main__":
    given = (*sys.argv[3:], *("250000", "3", "2")[len(sys.argv) - 3 :])
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(given[0]), int(given[1]), int(given[2]))
