"""Declarations of the columns that importers read, and of their usual names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Column:
    """A column of a record, and its possible names in a run's history or config; the first that exists is used."""

    name: str  # in `scalelab.records.schema.RECORD_SCHEMA`
    paths: tuple[str, ...]  # with dots or slashes, as in the source
    type: Literal["count", "number", "text"]
    required: bool = False
    default: Any = None


_SIZE = ("n_params", "num_params", "n_parameters", "model.n_params", "model/n_params", "params", "parameters")
_TOKENS = (
    *("n_tokens", "tokens", "train/tokens", "tokens_seen", "train/tokens_seen", "throughput/total_tokens"),
    *("num_input_tokens_seen", "train/num_input_tokens_seen", "total_tokens", "train_tokens"),
)
_LOSS = (
    *(
        "eval/loss",
        "eval_loss",
        "val/loss",
        "val_loss",
        "valid/loss",
        "valid_loss",
        "validation/loss",
        "validation_loss",
    ),
    *("test_loss", "loss", "train/loss", "train_loss"),
)
_RATE = ("peak_lr", "learning_rate_peak", "lr", "learning_rate", "max_lr", "optim.lr", "train/learning_rate")
_BATCH = ("batch_size", "batch_size_in_tokens", "global_batch_size", "train_batch_size")

COMMON = (
    Column("n_params", _SIZE, "count", required=True),
    Column("n_params_total", ("n_params_total", "total_params"), "count"),
    Column("n_streams", ("n_streams", "parscale_n", "streams"), "count", default=1),
    Column("n_tokens", _TOKENS, "count"),
    Column("n_tokens_unique", ("n_tokens_unique", "unique_tokens"), "count"),
    Column("loss", _LOSS, "number", required=True),
    Column("train_flops", ("train_flops", "total_flos", "total_flops"), "number"),
    Column("n_experts", ("n_experts", "num_experts"), "number"),
    Column("peak_lr", _RATE, "number"),
    Column("batch_size", _BATCH, "number"),
    Column("seed", ("seed",), "count"),
)
