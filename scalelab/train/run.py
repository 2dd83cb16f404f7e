"""One run from resolved config to record on disk, whatever becomes of it."""

from __future__ import annotations

import json
import math
import platform
import shutil
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

import scalelab
from scalelab.errors import TrainingError
from scalelab.model.checkpoint import save_model
from scalelab.records.files import MODELS
from scalelab.records.store import check_record, write_record
from scalelab.status import RunStatus
from scalelab.train.checkpoint import TrainState
from scalelab.train.cost import train_flops
from scalelab.train.device import peak_memory_bytes, reset_peak_memory
from scalelab.train.legs import DEFAULT, Options, TrainResult, train_run
from scalelab.train.places import gpu_at
from scalelab.train.recipe import RunConfig
from scalelab.train.source import source_digest
from scalelab.train.tokens import END_OF_TEXT, TokenData
from scalelab.train.trajectory import trajectory


def run_and_record(
    config: RunConfig,
    data: TokenData,
    out: Path,
    options: Options = DEFAULT,
    save_models: bool = False,
    peak_flops: float | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """Train, evaluate and write the record, and with `save_models` the model, below `out`. Returns the record.

    Utilisation is recorded against `peak_flops` a second, and `code` as what the run was made with. A
    run that diverges or finds no memory is recorded too, and its error raised.
    """
    check_record(_about(config, options.device, code))
    reset_peak_memory(options.device)  # of earlier runs in this process
    try:
        result = train_run(config, data, options)
    except TrainingError as error:
        record_failure(config, out, error.status, str(error), options.device, code, error.state, peak_flops)
        raise
    record = record_result(config, data, out, result, options, save_models, peak_flops, code)
    if options.checkpoints is not None and trajectory(config) == config.key:  # others may begin with shared ones
        shutil.rmtree(options.checkpoints / trajectory(config), ignore_errors=True)
    return record


def record_result(
    config: RunConfig,
    data: TokenData,
    out: Path,
    result: TrainResult,
    options: Options = DEFAULT,
    save_models: bool = False,
    peak_flops: float | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """Write the record of a run that has been trained, and with `save_models` its model. Returns the record."""
    if save_models:  # before the record, whose file says that all is done
        save_run_model(result, data, out / MODELS / config.key)
    record = make_record(config, data, result, options.device, peak_flops, code)
    write_record(out, record, result.curve)
    return record


def save_run_model(result: TrainResult, data: TokenData, folder: Path) -> None:
    """The trained model and its tokenizer, in the format that transformers reads; all of it appears at once."""
    shutil.rmtree(folder, ignore_errors=True)  # of a run that ended between its model and its record
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(data.folder / "tokenizer.json"))
    if END_OF_TEXT in tokenizer.get_vocab():
        tokenizer.eos_token = END_OF_TEXT
    with tempfile.TemporaryDirectory() as beside:
        tokenizer.save_pretrained(beside)
        save_model(result.model, folder, Path(beside))


def record_failure(
    config: RunConfig,
    out: Path,
    status: str,
    message: str,
    device: str,
    code: str | None = None,
    state: TrainState | None = None,
    peak_flops: float | None = None,
) -> None:
    """Write that a run has ended without a loss, and how far it came if its `state` is known. An ok record stays."""
    record = _about(config, device, code) | {"status": status, "message": message}
    if state is not None and state.step:
        record |= _training(config, state.step, state, device, peak_flops)
    write_record(out, record, state.curve if state is not None else [])


def make_record(
    config: RunConfig,
    data: TokenData,
    result: TrainResult,
    device: str,
    peak_flops: float | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """The row of `RECORD_SCHEMA` that this run makes."""
    evaluation = result.evaluation
    streams = evaluation.streams
    return (
        _about(config, device, code)
        | {
            "status": RunStatus.OK,
            "loss": evaluation.loss,
            "loss_stderr": evaluation.loss_stderr,
            "bits_per_byte": evaluation.loss / data.bytes_per_token / math.log(2),
            "val_tokens": evaluation.n_tokens,
            "n_tokens_unique": min(config.n_tokens, len(data.train())),
            "mixture_weights": streams and streams.mixture_weights,
            "mixture_entropy": streams and streams.mixture_entropy,
            "stream_cosine": streams and streams.cosine,
            "stream_correlation": streams and streams.correlation,
            "stream_warnings": streams and streams.warnings,
        }
        | _training(config, config.steps, result, device, peak_flops)
    )


def _training(
    config: RunConfig, steps: int, spent: TrainState | TrainResult, device: str, peak_flops: float | None
) -> dict[str, Any]:
    """What the first `steps` steps took, all attempts and what was shared with other runs included.

    Speeds leave out the warm-up. Where the steps were not all trained on one device the column `device` names each,
    and there is no utilisation.
    """
    flops, several = train_flops(config) - train_flops(config, steps), len(spent.devices) > 1
    timed, seconds = steps - spent.warm_up_steps, spent.seconds - spent.warm_up_seconds
    if timed < spent.warm_up_steps:  # hardly anything but warm-up
        timed, seconds = steps, spent.seconds
    return {
        "micro_batch_size": spent.micro_batch,
        "train_seconds": spent.seconds,
        "warm_up_seconds": spent.warm_up_seconds,
        "tokens_per_s": timed * config.step_tokens / seconds,
        "train_flops": flops,
        "mfu": timed / steps * flops / seconds / peak_flops if peak_flops and not several else None,
        "peak_memory_bytes": peak_memory_bytes(device),
    } | ({"device": " + ".join(spent.devices)} if several else {})


def _about(config: RunConfig, device: str, code: str | None = None) -> dict[str, Any]:
    """The columns that are known of a run whatever its end."""
    shape, text = config.architecture, config.text
    versions = {name: version(name) for name in ("torch", "transformers", "numpy")}
    return {
        "key": config.key,
        "corpus": text.corpus,
        "corpus_digest": text.corpus_digest,
        "tokenizer": text.tokenizer,
        "tokenizer_digest": text.tokenizer_digest,
        "setup": config.setup,
        "n_params": shape.n_params,
        "n_params_backbone": shape.backbone_params,
        "n_params_total": shape.total_params,
        "n_params_active": shape.active_params,
        "n_streams": shape.P,
        "n_tokens": config.n_tokens,
        "n_tokens_plain": config.plain_tokens,
        "n_tokens_streams": config.n_tokens - config.plain_tokens,
        "seed": config.seed,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_layers": shape.num_layers,
        "num_heads": shape.num_heads,
        "num_kv_heads": shape.num_kv_heads,
        "prefix_tokens": shape.prefix_tokens,
        "vocab_size": shape.vocab_size,
        "peak_lr": config.peak_lr,
        "schedule": config.recipe.schedule,
        "config": config.to_json(),
        "device": device_name(device),
        "dtype": config.recipe.dtype,
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": json.dumps({"scalelab": scalelab.__version__, "python": platform.python_version(), **versions}),
        "code": code or source_digest(),
    }


def device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return f"cpu ({platform.machine()})"
    if torch.cuda.is_initialized():
        return torch.cuda.get_device_name(device)
    # A run that was lost is recorded by a process that leaves the device alone, or has none.
    gpu = gpu_at(device)
    return gpu.name if gpu is not None else "cuda"
