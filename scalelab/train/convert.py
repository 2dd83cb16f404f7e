"""Streams for a model that exists: started from text, and from the best of several draws of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from scalelab.architecture import PREFIX_TOKENS
from scalelab.errors import DataError, UsageError
from scalelab.model.add import add_streams
from scalelab.model.prefix_init import start_from_text
from scalelab.train.data import cut, spread
from scalelab.train.recipe import Recipe
from scalelab.train.stage import check_length, loss_on
from scalelab.train.tokens import TokenData
from scalelab.units import plural

# Sets of texts to try as prefixes, and the tokens to try them on (docs/LOG.md).
DRAWS = 8
TRIAL_TOKENS = 2048


def default_prefix_tokens(model: Any) -> int:
    """The paper's 48, or an eighth of what the model was made for if that is less: before short sequences a long
    prefix costs more than streams can bring (docs/LOG.md)."""
    most = getattr(model.config, "max_position_embeddings", None)
    return max(1, min(PREFIX_TOKENS, most // 8)) if most else PREFIX_TOKENS


def text_starts(tokens: np.ndarray, rows: int, n: int, seed: int, draw: int = 0) -> np.ndarray:
    """Where `rows` stretches of n tokens begin in training text, [rows], by `seed` and the number of the draw."""
    if len(tokens) < 2 * rows * n:
        raise UsageError(
            f"the training text has {plural(len(tokens), 'token')}, too few for "
            f"{plural(rows, 'prefix', 'prefixes')} of {n}"
        )
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
            f"the training text has {plural(len(tokens), 'token')}, too few to try starts on two sequences "
            f"of {seq_len}; give more text, or `draws=1`"
        )
    free = np.ones(available, bool)
    for first, n in taken:  # window i holds tokens i·seq_len to (i + 1)·seq_len, the last of them as a label
        free[max(0, -(-first // seq_len) - 1) : (first + n - 1) // seq_len + 1] = False
    even = spread(TRIAL_TOKENS, seq_len, available)
    places = np.flatnonzero(free)
    moved = np.unique(places[np.searchsorted(places, even[even <= places[-1]])]) if len(places) else places
    return cut(tokens, (moved if len(moved) >= 2 else even) * seq_len, seq_len + 1)


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
        check_length(model, n, "`prefix_tokens`")
        drawn[P] = [text_starts(tokens, P, n, seed, draw) for draw in range(draws)]
    over = None
    if draws > 1:
        taken = [(int(first), n) for P, n in banks.items() for starts in drawn[P] for first in starts]
        over = _over_base(model, trial_windows(tokens, recipe.seq_len, taken), recipe)
    tried = {}
    for P, n in banks.items():
        add_streams(model, P, n, seed=seed, **options)
        ids = [torch.from_numpy(cut(tokens, starts, n)).to(model.device) for starts in drawn[P]]
        tried[P] = _start(model, ids, how, seed, over)
    return tried


def _over_base(model: Any, windows: np.ndarray, recipe: Recipe) -> Callable[[], float]:
    """What tells the loss of the streams then in use over that of the plain model, less 1, on `windows`."""

    def loss() -> float:
        return loss_on(model, windows, np.arange(len(windows)), recipe, str(model.device)).loss

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
