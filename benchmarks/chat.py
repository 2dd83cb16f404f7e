"""Streams of a frozen pretrained chat model trained on conversations: held-out loss before and after, for each P.

All P have the same number of prefix tokens in total, and see the same conversations in the same order. The model with
all trained banks is saved, so that `scalelab chat OUT` can switch between them.

    python -m benchmarks.make_chat DATA
    python benchmarks/chat.py MODEL DATA OUT [STEPS] [HELD_OUT]
"""

import shutil
import sys
import time
from pathlib import Path

import torch

from scalelab.api.loading import load_tokenizer, quiet_libraries
from scalelab.model.checkpoint import save_model
from scalelab.train import stage
from scalelab.train.convert import convert
from scalelab.train.stage_recipe import stage_recipe

BATCH_SIZE, SEQ_LEN, LR = 4, 160, 1e-2
PREFIXES = {1: 64, 2: 32, 4: 16}  # tokens per stream


def main(source: Path, folder: Path, out: Path, steps: int, held_out: int) -> None:
    """Print a row for each P as it is trained, and save the model."""
    model = stage.open_model(source)
    tokenizer = load_tokenizer(source)
    data = stage.read_chat(model, tokenizer, source, folder, SEQ_LEN)
    mean = sum(map(len, data.held_out)) / len(data.held_out)
    recipe = stage_recipe("streams", LR, SEQ_LEN, BATCH_SIZE, round(mean * held_out), "fp32")
    tokens = steps * BATCH_SIZE * data.row_tokens
    base = stage.validate(model, data, recipe, "cpu")
    print(f"{len(data.train)} conversations, {len(data.held_out)} held out; {steps} steps of {BATCH_SIZE}, lr {LR:g}")
    print(f"{tokens:.0f} training tokens; loss on {base.n_tokens} tokens of about {held_out} held-out conversations\n")
    print("| P | prefix tokens | before | after | ± | under base | warnings | core minutes |")
    print("|---|---|---|---|---|---|---|---|")
    print(f"| base | | {base.loss:.4f} | | {base.loss_stderr:.4f} | | | |", flush=True)
    text = stage.read_text(model, source, "stdlib")
    convert(model, PREFIXES, text, recipe, draws=1)
    for P, prefix in PREFIXES.items():
        started = time.process_time()
        model.set_streams(P)
        result = stage.train_stage(model, data, recipe, tokens)
        after = result.after
        warnings = ", ".join(after.streams.warnings) if after.streams else ""
        minutes = (time.process_time() - started) / 60
        print(
            f"| {P} | {P} × {prefix} | {result.before.loss:.4f} | {after.loss:.4f} | {after.loss_stderr:.4f} | "
            f"{base.loss - after.loss:.4f} | {warnings} | {minutes:.1f} |",
            flush=True,
        )
        shutil.rmtree(out, ignore_errors=True)
        save_model(model, out, source)


if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet_libraries()
    n_steps, n_held_out = (int(given) for given in (*sys.argv[4:], *("12", "40")[len(sys.argv) - 4 :]))
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), n_steps, n_held_out)
