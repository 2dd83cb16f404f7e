"""The run record: one row a run, the only thing that training and analysis share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import pandas as pd
import pyarrow as pa

from scalelab.status import RunStatus

KIND_KEY = b"scalelab.kind"
DIGEST_KEY = b"scalelab.digest"  # of what the file holds: Parquet's own checksums leave its footer out
RECORD_KIND = b"record"
CURVE_KIND = b"curve"

# (name, type, what it is). The first three are what a law is fitted to; the rest may be missing or null.
_FIELDS: list[tuple[str, pa.DataType, str]] = [
    ("n_params", pa.int64(), "N of the paper: non-embedding parameters, streams included"),
    ("n_streams", pa.int64(), "P, parallel streams; 1 is the plain model"),
    ("loss", pa.float64(), "validation loss, nats per token; a run that is not ok may have none"),
    ("n_tokens", pa.int64(), "D, training tokens"),
    ("run", pa.string(), "id of the run, in tables with several rows of one, such as the points of a curve"),
    ("step", pa.int64(), "training step of a row, in tables with several rows of one run"),
    ("weight", pa.float64(), "how many runs this one counts for in a fit; 1 where missing"),
    ("key", pa.string(), "unique key: hash of the resolved config"),
    ("status", pa.string(), "ok, diverged, out_of_memory, failed or interrupted; null means ok"),
    ("message", pa.string(), "what went wrong, where status is not ok"),
    ("corpus", pa.string(), "name of the text"),
    ("corpus_digest", pa.string(), "hash of the text's content"),
    ("tokenizer", pa.string(), "name of the tokenizer"),
    ("tokenizer_digest", pa.string(), "hash of the tokenizer"),
    ("setup", pa.string(), "hash of the training set-up without N, P, D and seed"),
    ("seed", pa.int64(), "seed of initialisation and data order"),
    ("loss_stderr", pa.float64(), "standard error of loss over validation text, nats per token"),
    ("bits_per_byte", pa.float64(), "the same loss per byte of text, in bits"),
    ("val_tokens", pa.int64(), "tokens the loss was measured on"),
    ("n_params_backbone", pa.int64(), "non-embedding parameters without streams"),
    ("n_params_total", pa.int64(), "all parameters, tied embeddings counted once"),
    ("n_params_active", pa.int64(), "non-embedding parameters that a token uses; n_params but for mixture of experts"),
    ("n_tokens_unique", pa.int64(), "of n_tokens, those that are different: fewer where data were repeated"),
    ("n_experts", pa.float64(), "experts, or total over active parameters; 1 is a dense model"),
    ("n_tokens_plain", pa.int64(), "of n_tokens, those trained without streams, before the P streams began"),
    ("n_tokens_streams", pa.int64(), "of n_tokens, those trained with the P streams"),
    ("hidden_size", pa.int64(), ""),
    ("intermediate_size", pa.int64(), ""),
    ("num_layers", pa.int64(), ""),
    ("num_heads", pa.int64(), ""),
    ("num_kv_heads", pa.int64(), ""),
    ("prefix_tokens", pa.int64(), "prefix length of each stream and layer"),
    ("vocab_size", pa.int64(), ""),
    # The next five are null for P = 1.
    ("mixture_weights", pa.list_(pa.float64()), "mean weight of each stream"),
    ("mixture_entropy", pa.float64(), "mean entropy of a token's mixture weights, nats; ln P where uniform"),
    ("stream_cosine", pa.float64(), "mean cosine between streams' final states"),
    ("stream_correlation", pa.float64(), "ρ: mean correlation of streams' own losses over tokens"),
    ("stream_warnings", pa.list_(pa.string()), "stream_collapse, weight_monoculture, or none"),
    ("peak_lr", pa.float64(), "highest learning rate of the schedule"),
    ("schedule", pa.string(), "name of the learning rate's schedule"),
    ("batch_size", pa.float64(), "sequences, or tokens, of one optimiser step; the same unit in one table"),
    ("micro_batch_size", pa.int64(), "sequences computed at once; gradients of a step are summed over them"),
    ("config", pa.string(), "the resolved config as JSON"),
    ("device", pa.string(), "its name; of a run resumed on another one both, joined by +"),
    ("dtype", pa.string(), ""),
    ("train_seconds", pa.float64(), "seconds of training, without evaluation"),
    (
        "warm_up_seconds",
        pa.float64(),
        "of train_seconds, those in which CUDA kernels were loaded, compiled or captured",
    ),
    ("tokens_per_s", pa.float64(), "training tokens a second after the warm-up"),
    ("train_flops", pa.float64(), "floating-point operations of the training, a multiply-add counted as two"),
    (
        "mfu",
        pa.float64(),
        "FLOP/s after the warm-up over the measured peak of a matrix product in `dtype`; null on two devices",
    ),
    (
        "peak_memory_bytes",
        pa.int64(),
        "most memory in use during training: of tensors on a GPU, of the whole process on a CPU",
    ),
    ("created_utc", pa.string(), "when the run ended, ISO 8601"),
    ("versions", pa.string(), "library versions as JSON"),
    ("code", pa.string(), "hash of the package's source"),
]

REQUIRED = ("n_params", "n_streams", "loss")  # of a finished run's record that a sweep wrote
_ALWAYS = ("n_params", "n_streams")  # also of a run that is not ok
NEEDED = ("n_params", "loss")  # of anyone's table; P is needed by the laws that know it
USED = (*REQUIRED, "n_tokens", "weight", "n_params_backbone")  # by a fit
# What a law may depend on: a table must hold one of them.
VARIABLE_COLUMNS = (
    *("n_params", "n_params_total", "n_params_backbone", "n_tokens", "n_tokens_unique"),
    *("train_flops", "n_experts", "peak_lr", "batch_size"),
)
POSITIVE = (*USED, *VARIABLE_COLUMNS[1:])
# In a table that no sweep wrote, these act only where the user maps them.
ONLY_MAPPED = ("weight", "status", "setup", "corpus", "corpus_digest", "tokenizer", "tokenizer_digest", "key")
# In any unit, 7e9 or 7 billions.
COUNTS = ("n_params", "n_tokens", "n_params_backbone", "n_params_total", "n_tokens_unique")
# Outside of these a number is a unit error or a mistake.
PLAUSIBLE = {"loss": (1e-6, 1e6), "n_streams": (1, 1e6), "weight": (1e-9, 1e9)} | dict.fromkeys(COUNTS, (1e-9, 1e18))
PLAUSIBLE["train_flops"] = (1e-9, 1e40)

RECORD_SCHEMA = pa.schema(
    [pa.field(n, t, nullable=n not in _ALWAYS, metadata={"description": d}) for n, t, d in _FIELDS],
    metadata={KIND_KEY: RECORD_KIND},
)

_TEXT = [name for name, type_, _ in _FIELDS if type_ == pa.string()]


def conform(table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the columns of `RECORD_SCHEMA` and no others; missing ones null, text as text."""
    table = table.reindex(columns=RECORD_SCHEMA.names)
    return table.astype(dict.fromkeys(_TEXT, "string"))


def content_digest(table: pa.Table) -> bytes:
    """Hash of a table's column names and values, whatever file they stand in."""
    text = json.dumps([table.column_names, [column.to_pylist() for column in table.columns]], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32].encode()


def describe_statuses(counts: Mapping[str, int]) -> str:
    """``{"diverged": 2, "out_of_memory": 1}`` as ``2 diverged, 1 out of memory``, in the order of `RunStatus`."""
    return ", ".join(f"{counts[status]} {status.words}" for status in RunStatus if counts.get(status))


CURVE_SCHEMA = pa.schema(
    [("step", pa.int64()), ("n_tokens", pa.int64()), ("loss", pa.float64())],
    metadata={KIND_KEY: CURVE_KIND},
)
