"""Addition of streams to an existing model, started from the best of several draws of text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from scalelab.errors import DataError, UsageError
from scalelab.model.add import add_streams
from scalelab.model.prefix_init import start_from_text
from scalelab.train.data import evenly_spaced, slice_windows
from scalelab.train.evaluate import check_length, loss_on
from scalelab.train.recipe import Recipe
from scalelab.train.stage_recipe import prefix_length
from scalelab.train.tokens import TokenData
from scalelab.units import plural

# Sets of texts to try as prefixes, and the number of tokens to try them on (docs/LOG.md).
DRAWS = 8
TRIAL_TOKENS = 2048


def default_prefix_tokens(model: Any) -> int:
    """Return the default of `prefix_length` for a model."""
    return prefix_length(getattr(model.config, "max_position_embeddings", None))


def text_starts(tokens: np.ndarray, rows: int, n: int, seed: int, draw: int = 0) -> np.ndarray:
    """Draw the starts [rows] of pieces of n tokens in training text, from `seed` and the number of the draw."""
    if len(tokens) < 2 * rows * n:
        raise UsageError(
            f"the training text has {plural(len(tokens), 'token')}, too few for "
            f"{plural(rows, 'prefix', 'prefixes')} of {n}; give more text"
        )
    rng = np.random.default_rng([seed, 0x5EED, draw] if draw else [seed, 0x5EED])
    return rng.choice(len(tokens) // n - 1, rows, replace=False) * n


def trial_windows(tokens: np.ndarray, seq_len: int, used: list[tuple[int, int]]) -> np.ndarray:
    """Return windows [w, seq_len + 1] of training text to try starts on: `TRIAL_TOKENS` tokens, at least two windows.

    They are evenly spaced, but avoid the pieces (first token, length) that are `used` as prefixes: a prefix that
    contains the text of a window would look better than it is. Only in a text that is too short they may overlap.

    Raises:
        DataError: the text is shorter than two windows.
    """
    available = (len(tokens) - 1) // seq_len
    if available < 2:
        raise DataError(
            f"the training text has {plural(len(tokens), 'token')}, too few to try starts on two sequences "
            f"of {seq_len}; give more text, or use `draws=1`"
        )
    free = np.ones(available, bool)
    for first, n in used:  # window i has the tokens i·seq_len to (i + 1)·seq_len, the last of them as a label
        free[max(0, -(-first // seq_len) - 1) : (first + n - 1) // seq_len + 1] = False
    even = evenly_spaced(TRIAL_TOKENS, seq_len, available)
    unused = np.flatnonzero(free)
    moved = np.unique(unused[np.searchsorted(unused, even[even <= unused[-1]])]) if len(unused) else unused
    return slice_windows(tokens, (moved if len(moved) >= 2 else even) * seq_len, seq_len + 1)


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
    """Add banks of streams to `model`, started from the training text of `data`.

    The loss after the start depends on the drawn texts. Up to `draws` sets of texts are tried for each bank, on other
    training text. The first with a loss no worse than the base model's is kept, or else the best. A single draw is
    used without a trial.

    Args:
        model: The model, changed in place.
        banks: Prefix tokens by P.
        data: The corpus.
        recipe: Length of the sequences to try starts on.
        how: Kind of start, see `scalelab.model.prefix_init`; "normal" uses no text.
        seed: Seed of the draws.
        draws: Most sets of texts to try for each bank.
        options: Passed to `add_streams`.

    Returns:
        For each bank, loss / base loss − 1 for each draw that was tried, in order.
    """
    tokens = data.train()
    if how == "normal":
        draws = 1
    drawn = {}
    for P, n in banks.items():  # all before the first bank is added, since this may raise
        check_length(model, n, "`prefix_tokens`")
        drawn[P] = [text_starts(tokens, P, n, seed, draw) for draw in range(draws)]
    excess_loss = None
    if draws > 1:
        used = [(int(first), n) for P, n in banks.items() for starts in drawn[P] for first in starts]
        excess_loss = _excess_loss(model, trial_windows(tokens, recipe.seq_len, used), recipe)
    tried = {}
    for P, n in banks.items():
        add_streams(model, P, n, seed=seed, **options)
        ids = [torch.from_numpy(slice_windows(tokens, starts, n)).to(model.device) for starts in drawn[P]]
        tried[P] = _start_from_best(model, ids, how, seed, excess_loss)
    return tried


def _excess_loss(model: Any, windows: np.ndarray, recipe: Recipe) -> Callable[[], float]:
    """Return a function of the model's loss on `windows`, relative to the loss without streams, minus 1."""

    def loss() -> float:
        return loss_on(model, windows, np.arange(len(windows)), recipe, str(model.device)).loss

    with model.plain():
        base = loss()
    return lambda: loss() / base - 1


def _start_from_best(
    model: Any, texts: list[torch.Tensor], how: str, seed: int, excess_loss: Callable[[], float] | None
) -> list[float]:
    """Start the bank in use from the best of `texts`, each [P, n]; return the excess loss of each try."""
    losses: list[float] = []
    for draw, ids in enumerate(texts):
        start_from_text(model, ids, how, seed + draw)
        if excess_loss:
            losses.append(excess_loss())
            if losses[-1] <= 0:
                break
    best = int(np.argmin(losses)) if losses else 0
    if best + 1 < len(losses):
        start_from_text(model, texts[best], how, seed + best)
    return losses
