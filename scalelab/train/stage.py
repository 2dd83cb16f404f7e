"""The second stage: a model that exists goes on training, with P streams, on a corpus."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalelab.architecture import PREFIX_TOKENS
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.model.add import add_streams
from scalelab.model.checkpoint import load_model
from scalelab.model.start import start_from_text
from scalelab.train.checkpoint import TrainState
from scalelab.train.corpus import load_corpus
from scalelab.train.data import validation_windows
from scalelab.train.evaluate import Evaluation, evaluate
from scalelab.train.loop import CURVE_POINTS, Course, Progress, optimise
from scalelab.train.optimizer import make_optimizer
from scalelab.train.parallel import ALONE, Parallel
from scalelab.train.recipe import Recipe, whole_steps
from scalelab.train.tokens import TokenData, tokenise
from scalelab.train.trajectory import linear_factor

NOTHING_TO_TRAIN = "P = 1 without a prefix has no streams to train: use --train all, or another --P"
PARTS = ("streams", "all")
# A frozen backbone lets the streams take large steps; all weights together must not (docs/LOG.md).
DEFAULT_LR = {"streams": 3e-2, "all": 1e-4}
# Sets of texts to try as prefixes, and the tokens to try them on (docs/LOG.md).
DRAWS = 8
TRIAL_TOKENS = 2048


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


def default_prefix_tokens(model: Any) -> int:
    """The paper's 48, or an eighth of what the model was made for if that is less: before short sequences a long
    prefix costs more than streams can bring (docs/LOG.md)."""
    most = getattr(model.config, "max_position_embeddings", None)
    return max(1, min(PREFIX_TOKENS, most // 8)) if most else PREFIX_TOKENS


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


def text_starts(tokens: np.ndarray, rows: int, n: int, seed: int, draw: int = 0) -> np.ndarray:
    """Where `rows` stretches of n tokens begin in training text, [rows], by `seed` and the number of the draw."""
    if len(tokens) < 2 * rows * n:
        raise UsageError(f"the training text has {len(tokens)} tokens, too few for {rows} prefixes of {n}")
    rng = np.random.default_rng([seed, 0x5EED, draw] if draw else [seed, 0x5EED])
    return rng.choice(len(tokens) // n - 1, rows, replace=False) * n


def trial_windows(tokens: np.ndarray, seq_len: int, taken: list[tuple[int, int]]) -> np.ndarray:
    """Windows [w, seq_len + 1] of training text to try starts on: `TRIAL_TOKENS`, or two windows if those are more.

    They are spread evenly, and moved on where a stretch (first token, length) is `taken` for prefixes: a prefix that
    holds the very text would look better than it is. Only a text too short for that lends itself to both.
    Raises `DataError` if it is shorter than two windows.
    """
    available = (len(tokens) - 1) // seq_len
    if available < 2:
        raise DataError(
            f"the training text has {len(tokens)} tokens, too few to try starts on two sequences of {seq_len}; "
            "give more text, or --draws 1"
        )
    free = np.ones(available, bool)
    for first, n in taken:  # window i holds tokens i·seq_len to (i + 1)·seq_len, the last of them as a label
        free[max(0, -(-first // seq_len) - 1) : (first + n - 1) // seq_len + 1] = False
    count = min(max(2, TRIAL_TOKENS // seq_len), available)
    even = np.arange(count) * available // count
    places = np.flatnonzero(free)
    moved = np.unique(places[np.searchsorted(places, even[even <= places[-1]])]) if len(places) else places
    return _cut(tokens, (moved if len(moved) >= 2 else even) * seq_len, seq_len + 1)


def _cut(tokens: np.ndarray, starts: np.ndarray, n: int) -> np.ndarray:
    """The n tokens from each of `starts` on, [len(starts), n]."""
    return tokens[starts[:, None] + np.arange(n)].astype(np.int64)


def convert(
    model: Any,
    banks: dict[int, int],
    data: TokenData,
    recipe: Recipe,
    how: str = "text",
    seed: int = 0,
    draws: int = DRAWS,
    **options: Any,
) -> dict[int, list[float]]:
    """Give `model` banks {P: prefix tokens}, started as `model.start` says, from the training text of `data`.

    What a start costs depends on the texts that were drawn. So up to `draws` sets of them are tried for each bank, on
    other training text in the sequences of `recipe`: the first whose loss is no worse than the base's is kept, or else
    the best. A single draw is taken as it comes, and the ``normal`` start uses no text.

    Returns, for each bank, loss / base loss − 1 on that text for every draw that was tried, in turn.
    """
    tokens = data.train()
    if how == "normal":
        draws = 1
    drawn = {}
    for P, n in banks.items():  # all of them first, since this refuses what is out of all proportion
        check_length(model, n, "--prefix-tokens")
        drawn[P] = [text_starts(tokens, P, n, seed, draw) for draw in range(draws)]
    over = None
    if draws > 1:
        taken = [(int(first), n) for P, n in banks.items() for starts in drawn[P] for first in starts]
        over = _over_base(model, trial_windows(tokens, recipe.seq_len, taken), recipe)
    tried = {}
    for P, n in banks.items():
        add_streams(model, P, n, seed=seed, **options)
        ids = [torch.from_numpy(_cut(tokens, starts, n)).to(model.device) for starts in drawn[P]]
        tried[P] = _start(model, ids, how, seed, over)
    return tried


def _over_base(model: Any, windows: np.ndarray, recipe: Recipe) -> Callable[[], float]:
    """What tells the loss of the streams then in use over that of the plain model, less 1, on `windows`."""

    def loss() -> float:
        return _evaluate(model, windows, np.arange(len(windows)), recipe, str(model.device)).loss

    with model.plain():
        base = loss()
    return lambda: loss() / base - 1


def _start(model: Any, texts: list[torch.Tensor], how: str, seed: int, over: Callable[[], float] | None) -> list[float]:
    """Start the bank in use from the best of `texts`, each [P, n], by `over`; returns what was seen of each tried."""
    seen: list[float] = []
    for draw, ids in enumerate(texts):
        start_from_text(model, ids, how, seed + draw)
        if over:
            seen.append(over())
            if seen[-1] <= 0:
                break
    best = int(np.argmin(seen)) if seen else 0
    if best + 1 < len(seen):
        start_from_text(model, texts[best], how, seed + best)
    return seen


def measure(model: Any, data: TokenData, recipe: Recipe, device: str) -> Evaluation:
    """Validation loss with the streams in use. Raises `ScalelabError` if it is not a number."""
    windows, documents = validation_windows(
        data.validation(), data.validation_starts(), recipe.seq_len, recipe.val_tokens
    )
    return _evaluate(model, windows, documents, recipe, device)


def _evaluate(model: Any, windows: np.ndarray, documents: np.ndarray, recipe: Recipe, device: str) -> Evaluation:
    check_length(model, recipe.seq_len, "--seq-len")
    seen = evaluate(model, windows, documents, device, recipe.dtype == "bf16")
    if not math.isfinite(seen.loss):
        raise ScalelabError(f"P = {model.P}: the loss is not a number; the model is not sound")
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
    parallel: Parallel = ALONE,
) -> StageResult:
    """Train `model` in place with the streams in use.

    ``streams`` leaves the backbone bit for bit as it is; ``all`` trains everything but other banks. The order
    of the data depends on `seed` alone, so runs with different P are paired. On several processes
    (`parallel`) each gives the same result; with FSDP `model` stays split, and `parallel.whole` has all of it.
    Raises `UsageError` if there is nothing to train.
    """
    own = {id(p) for _, p in model.stream_parameters()}
    if train == "streams" and not own:
        raise UsageError(NOTHING_TO_TRAIN)
    parallel.check(recipe.batch_size, compile_model)
    n_tokens = whole_steps(n_tokens, recipe)
    steps = n_tokens // (recipe.seq_len * recipe.batch_size)
    factor = partial(linear_factor, steps=steps, warmup_fraction=recipe.warmup_fraction)
    course = Course(recipe, steps, seed, factor, max(1, steps // CURVE_POINTS), f"P = {model.P}")
    state = TrainState()
    try:
        for name, parameter in model.named_parameters():
            other_bank = id(parameter) not in own and any(part in name for part in ("prefix_", "aggregate_"))
            parameter.requires_grad_(id(parameter) in own or (train == "all" and not other_bank))
        parallel.split(model)
        before = measure(model, data, recipe, device)
        parallel.settle(model)
        optimizer = make_optimizer(model, recipe, recipe.lr)
        optimise(model, optimizer, data, course, state, device, compile_model, progress, parallel=parallel)
    finally:
        model.requires_grad_(True)
    model.eval()
    return StageResult(before, measure(model, data, recipe, device), n_tokens, state.curve, state.seconds)


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
