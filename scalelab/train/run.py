"""One run from resolved config to record on disk."""

from __future__ import annotations

import json
import math
import platform
import shutil
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from scalelab import __version__
from scalelab.model.checkpoint import save_model
from scalelab.records.store import write_record
from scalelab.train.loop import Progress, TrainResult, train_run
from scalelab.train.recipe import RunConfig
from scalelab.train.tokens import END_OF_TEXT, TokenData


def run_and_record(
    config: RunConfig,
    data: TokenData,
    out: Path,
    device: str = "cpu",
    compile_model: bool = False,
    save_models: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, evaluate and write the record, and with `save_models` the model, below `out`. Returns the record."""
    result = train_run(config, data, device, compile_model, progress)
    if save_models:  # before the record, whose file says that all is done
        save_run_model(result, data, out / "models" / config.key)
    record = make_record(config, data, result, device)
    write_record(out, record, result.curve)
    return record


def save_run_model(result: TrainResult, data: TokenData, folder: Path) -> None:
    """The trained model and its tokenizer, in the format that transformers reads."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that ended between its model and its record
    save_model(result.model, folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(data.folder / "tokenizer.json"))
    if END_OF_TEXT in tokenizer.get_vocab():
        tokenizer.eos_token = END_OF_TEXT
    tokenizer.save_pretrained(folder)


def make_record(config: RunConfig, data: TokenData, result: TrainResult, device: str) -> dict[str, Any]:
    """The row of `RECORD_SCHEMA` that this run makes."""
    shape, evaluation = config.architecture, result.evaluation
    streams = evaluation.streams
    versions = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return {
        "key": config.key,
        "corpus": data.text.corpus,
        "corpus_digest": data.text.corpus_digest,
        "tokenizer": data.text.tokenizer,
        "tokenizer_digest": data.text.tokenizer_digest,
        "setup": config.setup,
        "n_params": shape.n_params,
        "n_params_backbone": shape.backbone_params,
        "n_params_total": shape.total_params,
        "n_streams": shape.P,
        "n_tokens": config.n_tokens,
        "seed": config.seed,
        "loss": evaluation.loss,
        "loss_stderr": evaluation.loss_stderr,
        "bits_per_byte": evaluation.loss / data.bytes_per_token / math.log(2),
        "val_tokens": evaluation.n_tokens,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_layers": shape.num_layers,
        "num_heads": shape.num_heads,
        "num_kv_heads": shape.num_kv_heads,
        "prefix_tokens": shape.prefix_tokens,
        "vocab_size": shape.vocab_size,
        "mixture_weights": streams and streams.mixture_weights,
        "mixture_entropy": streams and streams.mixture_entropy,
        "stream_cosine": streams and streams.cosine,
        "stream_correlation": streams and streams.correlation,
        "stream_warnings": streams and streams.warnings,
        "config": config.to_json(),
        "device": _device_name(device),
        "dtype": config.recipe.dtype,
        "train_seconds": result.seconds,
        "tokens_per_s": config.n_tokens / result.seconds,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": json.dumps({"scalelab": __version__, "python": platform.python_version(), **versions}),
    }


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else f"cpu ({platform.machine()})"
