"""The schema of run records, one row per run: the only interface between training and analysis."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import pandas as pd
import pyarrow as pa

from scalelab.status import RunStatus

KIND_KEY = b"scalelab.kind"
DIGEST_KEY = b"scalelab.digest"  # of the content, since Parquet's checksums do not cover its footer
RECORD_KIND = b"record"
CURVE_KIND = b"curve"
EVALUATION_KIND = b"evaluation"

# (name, type, description). A law is fitted to the first three; the others may be missing or null.
_FIELDS: list[tuple[str, pa.DataType, str]] = [
    ("n_params", pa.int64(), "N as in the paper: non-embedding parameters, including those of the streams"),
    ("n_streams", pa.int64(), "P, number of parallel streams; 1 is the plain model"),
    ("loss", pa.float64(), "validation loss, nats per token; a run that is not ok may have none"),
    ("n_tokens", pa.int64(), "D, training tokens"),
    ("run", pa.string(), "id of the run, in tables with several rows per run, such as the points of a curve"),
    ("step", pa.int64(), "training step of the row, in tables with several rows per run"),
    ("weight", pa.float64(), "weight of the run in a fit; 1 if missing"),
    ("key", pa.string(), "unique key: hash of the resolved config"),
    ("status", pa.string(), "ok, diverged, out_of_memory, failed or interrupted; null means ok"),
    ("message", pa.string(), "error message if status is not ok"),
    ("corpus", pa.string(), "name of the corpus"),
    ("corpus_digest", pa.string(), "hash of the content of the corpus"),
    ("tokenizer", pa.string(), "name of the tokenizer"),
    ("tokenizer_digest", pa.string(), "hash of the tokenizer"),
    ("setup", pa.string(), "hash of the training setup without N, P, D and seed"),
    ("seed", pa.int64(), "seed of initialisation and data order"),
    ("loss_stderr", pa.float64(), "standard error of loss over the validation text, nats per token"),
    ("bits_per_byte", pa.float64(), "validation loss, bits per byte of text"),
    ("val_tokens", pa.int64(), "number of validation tokens"),
    ("n_params_backbone", pa.int64(), "non-embedding parameters without streams"),
    ("n_params_total", pa.int64(), "all parameters, tied embeddings counted once"),
    (
        "n_params_active",
        pa.int64(),
        "non-embedding parameters used per token; less than n_params in a mixture of experts",
    ),
    ("n_params_trained", pa.int64(), "parameters that were trained; streams or LoRA alone if the backbone was frozen"),
    ("n_tokens_unique", pa.int64(), "unique training tokens; fewer than n_tokens if data were repeated"),
    ("n_experts", pa.float64(), "number of experts, or ratio of total to active parameters; 1 for a dense model"),
    ("n_tokens_plain", pa.int64(), "training tokens without streams, before the start of the P streams"),
    ("n_tokens_streams", pa.int64(), "training tokens with the P streams"),
    ("n_loops", pa.int64(), "passes through the layers, which share their weights; null means 1"),
    ("hidden_size", pa.int64(), ""),
    ("intermediate_size", pa.int64(), ""),
    ("num_layers", pa.int64(), ""),
    ("num_heads", pa.int64(), ""),
    ("num_kv_heads", pa.int64(), ""),
    ("prefix_tokens", pa.int64(), "prefix length of each stream and layer"),
    ("vocab_size", pa.int64(), ""),
    ("lora_rank", pa.int64(), "rank of LoRA matrices on a frozen backbone; 0 or null without"),
    ("base_loss", pa.float64(), "validation loss of a frozen backbone alone, nats per token; else null"),
    # The next five are null if P = 1.
    ("mixture_weights", pa.list_(pa.float64()), "mean weight of each stream"),
    ("mixture_entropy", pa.float64(), "mean entropy of a token's mixture weights, nats; ln P if uniform"),
    ("stream_cosine", pa.float64(), "mean cosine similarity of the streams' final hidden states"),
    ("stream_correlation", pa.float64(), "ρ: mean correlation over tokens of the losses of single streams"),
    ("stream_warnings", pa.list_(pa.string()), "stream_collapse, weight_monoculture, or none"),
    ("peak_lr", pa.float64(), "peak learning rate of the schedule"),
    ("schedule", pa.string(), "name of the learning rate schedule"),
    ("batch_size", pa.float64(), "sequences or tokens per optimiser step; one unit per table"),
    ("micro_batch_size", pa.int64(), "sequences per forward pass; a step accumulates gradients over several"),
    ("config", pa.string(), "the resolved config as JSON"),
    ("device", pa.string(), "name of the device; both names joined by + if resumed on another one"),
    ("dtype", pa.string(), ""),
    ("train_seconds", pa.float64(), "training time in seconds, without evaluation"),
    (
        "warm_up_seconds",
        pa.float64(),
        "part of train_seconds spent on loading, compiling or capturing CUDA kernels",
    ),
    ("tokens_per_s", pa.float64(), "training tokens per second after the warm-up"),
    ("train_flops", pa.float64(), "training FLOPs, a multiply-add counted as two"),
    (
        "mfu",
        pa.float64(),
        "FLOP/s after the warm-up over the measured peak of a matrix product in `dtype`; null if on two devices",
    ),
    (
        "peak_memory_bytes",
        pa.int64(),
        "peak memory of training: of tensors on a GPU, of the whole process on a CPU",
    ),
    ("created_utc", pa.string(), "end of the run in UTC, ISO 8601"),
    ("versions", pa.string(), "library versions as JSON"),
    ("code", pa.string(), "hash of the source code of the package"),
]

REQUIRED = ("n_params", "n_streams", "loss")  # in the record of a finished run of a sweep
_ALWAYS = ("n_params", "n_streams")  # also in the record of a run that is not ok
NEEDED = ("n_params", "loss")  # in any table; P only for laws that depend on it
USED = (*REQUIRED, "n_tokens", "weight", "n_params_backbone")  # in a fit
# Variables of laws; a table must have at least one of them.
VARIABLE_COLUMNS = (
    *("n_params", "n_params_total", "n_params_backbone", "n_tokens", "n_tokens_unique"),
    *("train_flops", "n_experts", "n_loops", "peak_lr", "batch_size"),
)
POSITIVE = (*USED, *VARIABLE_COLUMNS[1:])
# In a table that no sweep wrote, these are used only if the user maps them.
ONLY_MAPPED = ("weight", "status", "setup", "corpus", "corpus_digest", "tokenizer", "tokenizer_digest", "key")
# In any unit: 7e9, or 7 in billions.
COUNTS = ("n_params", "n_tokens", "n_params_backbone", "n_params_total", "n_tokens_unique")
# Numbers outside these ranges are errors.
PLAUSIBLE = {"loss": (1e-6, 1e6), "n_streams": (1, 1e6), "weight": (1e-9, 1e9)} | dict.fromkeys(COUNTS, (1e-9, 1e18))
PLAUSIBLE["train_flops"] = (1e-9, 1e40)

RECORD_SCHEMA = pa.schema(
    [pa.field(n, t, nullable=n not in _ALWAYS, metadata={"description": d}) for n, t, d in _FIELDS],
    metadata={KIND_KEY: RECORD_KIND},
)

COLUMN_NAMES: tuple[str, ...] = tuple(name for name, _, _ in _FIELDS)
_TEXT = [name for name, type_, _ in _FIELDS if type_ == pa.string()]

# Columns of accuracies, which only runs of sweeps with `eval` have; see `scalelab.records.evaluations`.
ACCURACY_COLUMN = re.compile(r"accuracy_\w+?(_stderr|_docs)?")


def is_accuracy_column(name: str) -> bool:
    """Return true for the name of an accuracy, its standard error or its number of documents."""
    return ACCURACY_COLUMN.fullmatch(name) is not None


def schema_of(record: Mapping[str, object]) -> pa.Schema:
    """Return `RECORD_SCHEMA` with the columns of the accuracies that `record` has."""
    names = [name for name in record if is_accuracy_column(name)]
    more = [pa.field(name, pa.int64() if name.endswith("_docs") else pa.float64()) for name in names]
    return pa.schema([*RECORD_SCHEMA, *more], metadata=RECORD_SCHEMA.metadata)


def conform(table: pd.DataFrame) -> pd.DataFrame:
    """Return `table` with the columns of `RECORD_SCHEMA`, of which missing ones are null, and those of accuracies."""
    more = [name for name in table.columns if is_accuracy_column(str(name))]
    table = table.reindex(columns=[*RECORD_SCHEMA.names, *more])
    return table.astype(dict.fromkeys(_TEXT, "string"))


def content_digest(table: pa.Table) -> bytes:
    """Return a hash of the column names and values of a table."""
    text = json.dumps([table.column_names, [column.to_pylist() for column in table.columns]], default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32].encode()


def describe_statuses(counts: Mapping[str, int]) -> str:
    """Return counts by status as text, in the order of `RunStatus`: ``2 diverged, 1 out of memory``."""
    return ", ".join(f"{counts[status]} {status.words}" for status in RunStatus if counts.get(status))


CURVE_SCHEMA = pa.schema(
    [("step", pa.int64()), ("n_tokens", pa.int64()), ("loss", pa.float64())],
    metadata={KIND_KEY: CURVE_KIND},
)

EVALUATION_SCHEMA = pa.schema(
    [
        ("model", pa.string()),  # name of the model's folder: in a sweep, the key of the run
        ("task", pa.string()),
        ("metric", pa.string()),
        ("n_streams", pa.int64()),
        ("plain", pa.bool_()),  # the backbone, without the prefix of a bank for P = 1
        ("value", pa.float64()),
        ("stderr", pa.float64()),
        ("n_docs", pa.int64()),
        ("higher_is_better", pa.bool_()),
        ("fewshot", pa.int64()),
        ("corpus", pa.string()),  # whose held-out text the documents are from
        ("documents", pa.string()),  # hash of the documents: equal ones can be paired
        ("values", pa.list_(pa.float64())),  # of each document
        ("clusters", pa.list_(pa.int64())),  # number of the text that each document is from
        ("dtype", pa.string()),
        ("versions", pa.string()),
        ("created_utc", pa.string()),
    ],
    metadata={KIND_KEY: EVALUATION_KIND},
)
