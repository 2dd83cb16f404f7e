"""The second stage: a model that exists goes on training, with P streams, on a corpus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.model.add import add_streams
from scalelab.model.checkpoint import load_model
from scalelab.model.start import start_from_text
from scalelab.train.corpus import load_corpus
from scalelab.train.data import validation_windows
from scalelab.train.evaluate import Evaluation, evaluate
from scalelab.train.loop import Progress, make_optimizer, optimise
from scalelab.train.recipe import Recipe, whole_steps
from scalelab.train.tokens import TokenData, tokenise

NOTHING_TO_TRAIN = "P = 1 without a prefix has no streams to train: use --train all, or another --P"
PARTS = ("streams", "all")
# A frozen backbone lets the streams take large steps; all weights together must not (docs/LOG.md).
DEFAULT_LR = {"streams": 3e-2, "all": 1e-4}


@dataclass(frozen=True)
class StageResult:
    """Validation before and after, the loss curve of `loop.optimise`, and seconds of training."""

    before: Evaluation
    after: Evaluation
    n_tokens: int
    curve: list[tuple[int, int, float]]
    seconds: float


def stage_recipe(train: str, lr: float | None, seq_len: int, batch_size: int, val_tokens: int, dtype: str) -> Recipe:
    """The recipe of a second stage: `lr` is for every width; over a frozen backbone the mixture has a tenth."""
    if train not in PARTS:
        raise UsageError(f"--train {train}: choose one of {', '.join(PARTS)}")
    return Recipe(
        seq_len=seq_len,
        batch_size=batch_size,
        lr=DEFAULT_LR[train] if lr is None else lr,
        prefix_lr_scale=1.0,
        aggregator_lr_scale=0.1 if train == "streams" else 1.0,
        weight_decay=0.0,
        val_tokens=val_tokens,
        dtype=dtype,
    )


def default_seq_len(model: Any) -> int:
    """512, or what the model was made for if that is less."""
    return min(512, getattr(model.config, "max_position_embeddings", None) or 512)


def beyond(model: Any, n_tokens: int) -> str | None:
    """A warning if `n_tokens` are more than the model was made for."""
    most = getattr(model.config, "max_position_embeddings", None)
    if most and n_tokens > most:
        return f"warning: {n_tokens} tokens are beyond the {most} that this model was made for"
    return None


def read_text(model: Any, folder: Path, corpus: str, text_column: str = "text") -> TokenData:
    """`corpus` in the tokens of `model`, which is in `folder`. Raises `ScalelabError`."""
    if not (folder / "tokenizer.json").is_file():
        raise DataError(f"{folder}: no tokenizer.json beside the model; put its tokenizer there")
    data = tokenise(load_corpus(corpus, text_column), str(folder))
    if data.vocab_size > model.config.vocab_size:
        raise UsageError(
            f"{folder}: its tokenizer has {data.vocab_size} tokens, its model embeds {model.config.vocab_size}; "
            "put the model's own tokenizer there"
        )
    return data


def check_length(model: Any, n_tokens: int, what: str) -> None:
    """Raises `UsageError` naming `what` if learned positions end before `n_tokens`."""
    most = getattr(model.config, "max_position_embeddings", None)
    if most and n_tokens > most and getattr(model.config, "rope_parameters", None) is None:
        raise UsageError(f"{what}: {n_tokens} tokens, but the model has positions for {most}; give fewer")


def prefix_texts(data: TokenData, rows: int, n: int, seed: int) -> torch.Tensor:
    """The first n tokens of `rows` stretches of training text, [rows, n], drawn by `seed`."""
    tokens = data.train()
    if len(tokens) < 2 * rows * n:
        raise UsageError(f"the training text has {len(tokens)} tokens, too few for {rows} prefixes of {n}")
    starts = np.random.default_rng([seed, 0x5EED]).choice(len(tokens) // n - 1, rows, replace=False) * n
    return torch.from_numpy(np.stack([tokens[s : s + n] for s in starts]).astype(np.int64))


def convert(model: Any, banks: dict[int, int], data: TokenData, how: str, seed: int = 0, **options: Any) -> None:
    """Give `model` banks {P: prefix tokens}, started as `model.start` says, from the training text of `data`."""
    for P, n_tokens in banks.items():
        check_length(model, n_tokens, "--prefix-tokens")
        ids = prefix_texts(data, P, n_tokens, seed)  # first, since it refuses what is out of all proportion
        add_streams(model, P, n_tokens, seed=seed, **options)
        start_from_text(model, ids.to(model.device), how, seed)


def measure(model: Any, data: TokenData, recipe: Recipe, device: str) -> Evaluation:
    """Validation loss with the streams in use. Raises `ScalelabError` if it is not a number."""
    check_length(model, recipe.seq_len, "--seq-len")
    windows, documents = validation_windows(
        data.validation(), data.validation_starts(), recipe.seq_len, recipe.val_tokens
    )
    seen = evaluate(model, windows, documents, device, recipe.dtype == "bf16")
    if not math.isfinite(seen.loss):
        raise ScalelabError(f"P = {model.P}: the validation loss is not a number; the model is not sound")
    return seen


def train_stage(
    model: Any,
    data: TokenData,
    recipe: Recipe,
    n_tokens: float,
    train: str = "streams",
    seed: int = 0,
    device: str = "cpu",
    compile_model: bool = False,
    progress: Progress | None = None,
) -> StageResult:
    """Train `model` in place with the streams in use.

    ``streams`` leaves the backbone bit for bit as it is; ``all`` trains everything but other banks. The order
    of the data depends on `seed` alone, so runs with different P are paired. Raises `UsageError` if
    there is nothing to train.
    """
    own = {id(p) for _, p in model.stream_parameters()}
    if train == "streams" and not own:
        raise UsageError(NOTHING_TO_TRAIN)
    before = measure(model, data, recipe, device)
    for name, parameter in model.named_parameters():
        other_bank = id(parameter) not in own and any(part in name for part in ("prefix_", "aggregate_"))
        parameter.requires_grad_(id(parameter) in own or (train == "all" and not other_bank))
    optimizer = make_optimizer(model, recipe, recipe.lr)
    n_tokens = whole_steps(n_tokens, recipe)
    steps = n_tokens // (recipe.seq_len * recipe.batch_size)
    try:
        curve, seconds = optimise(
            model, optimizer, data, recipe, steps, seed, device, compile_model, f"P = {model.P}", progress
        )
    finally:
        model.requires_grad_(True)
    model.eval()
    return StageResult(before, measure(model, data, recipe, device), n_tokens, curve, seconds)


def open_model(folder: Path, P: int | None = None, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The model in `folder` with P streams in use; by default those it was saved with.

    Raises `ScalelabError` naming the folder, and the banks there are.
    """
    model = load_model(folder, dtype)
    if P is not None:
        try:
            model.set_streams(P)
        except ValueError:
            have = ", ".join(map(str, sorted({1, *model.banks})))
            raise UsageError(
                f"--P {P}: {folder} can run with P = {have}; scalelab convert {folder} --P {P} -o … adds one"
            ) from None
    return model.to(device)
