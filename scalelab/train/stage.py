"""The second stage: a model that exists goes on training, with P streams, on a corpus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalelab.errors import DataError, DivergedError, ScalelabError, UsageError
from scalelab.model.checkpoint import load_model
from scalelab.train.checkpoint import Saver, TrainState, checkpoint_path, load_newest
from scalelab.train.corpus import load_corpus
from scalelab.train.data import validation_windows
from scalelab.train.evaluate import Evaluation, evaluate
from scalelab.train.legs import DEFAULT, Options
from scalelab.train.loop import CURVE_POINTS, Course, Observer, optimise
from scalelab.train.optimizer import make_optimizer
from scalelab.train.parallel import ALONE, Parallel
from scalelab.train.recipe import Recipe, whole_steps
from scalelab.train.tokens import TokenData, tokenise
from scalelab.train.trajectory import linear_factor

NOTHING_TO_TRAIN = "P = 1 without a prefix has no streams to train: use `part=all`, or another `P`"
PARTS = ("streams", "all")
# A frozen backbone lets the streams take large steps; all weights together must not (docs/LOG.md).
DEFAULT_LR = {"streams": 3e-2, "all": 1e-4}


class UnsoundModelError(ScalelabError):
    """A model's loss is not a number."""


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
        raise UsageError(f"`part={train}`: choose one of {', '.join(PARTS)}")
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


def measure(model: Any, data: TokenData, recipe: Recipe, device: str) -> Evaluation:
    """Validation loss with the streams in use. Raises `ScalelabError` if it is not a number."""
    windows, documents = validation_windows(
        data.validation(), data.validation_starts(), recipe.seq_len, recipe.val_tokens
    )
    return loss_on(model, windows, documents, recipe, device)


def loss_on(model: Any, windows: np.ndarray, documents: np.ndarray, recipe: Recipe, device: str) -> Evaluation:
    """`evaluate` for a model that exists. Raises `UnsoundModelError` if the loss is not a number."""
    check_length(model, recipe.seq_len, "`seq_len`")
    seen = evaluate(model, windows, documents, device, recipe.dtype == "bf16")
    if not math.isfinite(seen.loss):
        raise UnsoundModelError(f"P = {model.P}: the loss is not a number; the model is not sound")
    return seen


def train_stage(
    model: Any,
    data: TokenData,
    recipe: Recipe,
    n_tokens: float,
    train: str = "streams",
    seed: int = 0,
    options: Options = DEFAULT,
    parallel: Parallel = ALONE,
    begins: Observer | None = None,
) -> StageResult:
    """Train `model` in place with the streams in use.

    ``streams`` leaves the backbone bit for bit as it is; ``all`` trains everything but other banks. The order
    of the data depends on `seed` alone, so runs with different P are paired. On several processes
    (`parallel`) each gives the same result; with FSDP `model` stays split, and `parallel.whole` has all of it.

    With `options.checkpoints` the main process saves states there, in a folder that must be of these very arguments
    (`attempt`), and training goes on from the latest of them: to the same weights, to the bit, as without; on
    several processes to float error. FSDP knows no states. `begins` is called with the state that training begins with.
    Raises `UsageError` if there is nothing to train, and what `optimise` raises.
    """
    own = {id(p) for _, p in model.stream_parameters()}
    if train == "streams" and not own:
        raise UsageError(NOTHING_TO_TRAIN)
    parallel.check(recipe.batch_size, options.compile_model)
    if parallel.sharded and options.checkpoints is not None:
        raise ValueError("no states with FSDP")
    n_tokens = whole_steps(n_tokens, recipe)
    steps = n_tokens // (recipe.seq_len * recipe.batch_size)
    factor = partial(linear_factor, steps=steps, warmup_fraction=recipe.warmup_fraction)
    course = Course(recipe, steps, seed, factor, max(1, steps // CURVE_POINTS), f"P = {model.P}")
    try:
        for name, parameter in model.named_parameters():
            other_bank = id(parameter) not in own and any(part in name for part in ("prefix_", "aggregate_"))
            parameter.requires_grad_(id(parameter) in own or (train == "all" and not other_bank))
        parallel.split(model)
        before = measure(model, data, recipe, options.device)
        parallel.settle(model)
        optimizer = make_optimizer(model, recipe, recipe.lr)
        state, save = _resume(model, optimizer, steps, options, parallel)
        if begins is not None:
            begins(state)
        optimise(
            model,
            optimizer,
            data,
            course,
            state,
            options.device,
            options.compile_model,
            options.progress,
            options.observer,
            save,
            parallel,
        )
    finally:
        model.requires_grad_(True)
    model.eval()
    try:
        after = measure(model, data, recipe, options.device)
    except UnsoundModelError:  # it was sound before
        raise DivergedError(f"P = {model.P}: the validation loss is not a number; try a lower lr", state) from None
    return StageResult(before, after, n_tokens, state.curve, state.seconds)


def _resume(
    model: Any, optimizer: torch.optim.Optimizer, steps: int, options: Options, parallel: Parallel
) -> tuple[TrainState, Saver | None]:
    """The state to begin with, which model and optimizer then have, and what saves those that follow."""
    folder = options.checkpoints
    if folder is None:
        return TrainState(), None
    state = load_newest(folder, steps, model, optimizer) or TrainState()
    if float(parallel.mean(torch.tensor(state.step, dtype=torch.float64, device=options.device))) != state.step:
        raise ScalelabError(
            f"{folder}: the processes find different states there; "
            "name an `out` on a disk that all their machines share, or remove that folder"
        )
    last = checkpoint_path(folder, state.step) if state.step else None
    return state, Saver(folder, model, optimizer, options.save_every_s, last=last) if parallel.main else None


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
            raise UsageError(f"`P={P}`: {folder} can run with P = {have}; convert adds one") from None
    return model.to(device)
