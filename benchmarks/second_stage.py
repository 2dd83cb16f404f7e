"""Second-stage training of streams with a frozen pretrained backbone, against prefix tuning.

All variants start from the same model, see the same text in the same order and are evaluated on the same held-out text:
the base model; P = 1 with a trained prefix as long as all prefixes of P streams together (prefix tuning, the gain of
adaptation alone); and P streams. Then a comparison of initial prefixes.

    python benchmarks/second_stage.py MODEL [TOKENS] [SEQ_LEN] [PREFIX_TOKENS] [SEEDS]
"""

import sys
from pathlib import Path

import torch

from scalelab.api.loading import quiet_libraries
from scalelab.model.prefix_init import STARTS
from scalelab.train import stage
from scalelab.train.convert import convert
from scalelab.train.stage_recipe import stage_recipe
from scalelab.units import format_count

BATCH_SIZE = 4
VAL_TOKENS = 16_384


def starts(folder: Path, seq_len: int, prefix_tokens: int) -> None:
    """Loss right after conversion to P = 4, for each way to start the prefixes."""
    plain = stage.open_model(folder)
    data = stage.read_text(plain, folder, "stdlib")
    recipe = stage_recipe("streams", None, seq_len, 1, 8192, "bf16")
    base = stage.validate(plain, data, recipe, "cpu").loss
    print(f"\n| start, P = 4 | prefix tokens | loss | over base {base:.4f} | streams alone | cosine | ρ |")
    print("|---|---|---|---|---|---|---|")
    for n in (prefix_tokens // 3, prefix_tokens):
        for how in STARTS:
            model = stage.open_model(folder)
            convert(model, {4: n}, data, recipe, how)
            seen = stage.validate(model, data, recipe, "cpu")
            alone = ", ".join(f"{loss:.3f}" for loss in seen.streams.losses)
            numbers = f"{seen.loss:.4f} | {seen.loss / base - 1:+.1%} | {alone}"
            print(
                f"| {how} | {n} | {numbers} | {seen.streams.cosine:.3f} | {seen.streams.correlation:.3f} |", flush=True
            )


def second_stage(folder: Path, n_tokens: float, seq_len: int, prefix_tokens: int, seeds: int) -> None:
    """The variants after `n_tokens` tokens of training."""
    plain = stage.open_model(folder)
    data = stage.read_text(plain, folder, "stdlib")
    recipe = stage_recipe("streams", None, seq_len, BATCH_SIZE, VAL_TOKENS, "bf16")
    base = stage.validate(plain, data, recipe, "cpu")
    print(f"\nbackbone frozen, {format_count(n_tokens)} tokens, learning rate {recipe.lr:g}, sequences of {seq_len}\n")
    print("| P | prefix | learned parameters | seed | before | after | under base | ρ | s |")
    print("|---|---|---|---|---|---|---|---|---|")
    print(f"| base | | | | {base.loss:.4f} | | | | |", flush=True)
    for P, n in ((1, 2 * prefix_tokens), (2, prefix_tokens), (1, 4 * prefix_tokens), (4, prefix_tokens)):
        for seed in range(seeds):
            model = stage.open_model(folder)
            convert(model, {P: n}, data, recipe, "text", seed)
            learned = sum(p.numel() for _, p in model.stream_parameters())
            result = stage.train_stage(model, data, recipe, n_tokens, seed=seed)
            before, after = result.before.loss, result.after.loss
            rho = f"{result.after.streams.correlation:.4f}" if result.after.streams else ""
            print(
                f"| {P} | {n} | {format_count(learned)} | {seed} | {before:.4f} | {after:.4f} | "
                f"{base.loss - after:.4f} | {rho} | {result.seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    quiet_libraries()
    model_folder = Path(sys.argv[1])
    tokens, length, n_prefix, n_seeds = (
        int(float(given)) for given in (*sys.argv[2:], *("49152", "256", "48", "1")[len(sys.argv) - 2 :])
    )
    second_stage(model_folder, tokens, length, n_prefix, n_seeds)
    starts(model_folder, length, n_prefix)
