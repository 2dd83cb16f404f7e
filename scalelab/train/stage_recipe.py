"""Recipe of a second stage, and the lengths of its sequences and prefixes."""

from __future__ import annotations

from collections.abc import Mapping

from scalelab.architecture import PREFIX_TOKENS
from scalelab.errors import UsageError
from scalelab.train.recipe import Recipe

PARTS = ("streams", "all")
# With a frozen backbone the streams can take large steps; all weights together cannot (docs/LOG.md).
DEFAULT_LR = {"streams": 3e-2, "all": 1e-4}
# Rewards are differences from the reference, so smaller steps do.
PREFERENCE_LR = {"streams": 3e-3, "all": 1e-5}
BATCH_SIZE, VAL_TOKENS = 4, 32_768  # defaults
_SEQ_LEN = 512


def stage_recipe(
    train: str,
    lr: float | None,
    seq_len: int,
    batch_size: int,
    val_tokens: int,
    dtype: str,
    default_lr: Mapping[str, float] = DEFAULT_LR,
) -> Recipe:
    """Return the recipe of a second stage.

    `lr` applies to every width and D. With a frozen backbone (`train` is "streams") the aggregator has a tenth of it.

    Raises:
        UsageError: `train` is not one of `PARTS`.
    """
    if train not in PARTS:
        raise UsageError(f"`part={train}`: choose one of {', '.join(PARTS)}")
    return Recipe(
        seq_len=seq_len,
        batch_size=batch_size,
        lr=default_lr[train] if lr is None else lr,
        lr_exponent=0.0,
        lr_tokens_exponent=0.0,
        prefix_lr_scale=1.0,
        aggregator_lr_scale=0.1 if train == "streams" else 1.0,
        weight_decay=0.0,
        val_tokens=val_tokens,
        dtype=dtype,
    )


def sequence_length(most: int | None) -> int:
    """Return 512, or `most`, the length that the model was made for, if that is less."""
    return min(_SEQ_LEN, most or _SEQ_LEN)


def prefix_length(most: int | None) -> int:
    """Return the paper's 48, or an eighth of `most`, the length that the model was made for, if that is less.

    With short sequences a long prefix costs more than streams can gain (docs/LOG.md).
    """
    return max(1, min(PREFIX_TOKENS, most // 8)) if most else PREFIX_TOKENS
