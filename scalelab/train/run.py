"""One run, from its config to its record on disk, whether it succeeds or fails."""

from __future__ import annotations

import json
import math
import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping
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
from scalelab.records.store import check_record, update_record, write_record
from scalelab.status import RunStatus
from scalelab.train.checkpoint import TrainState
from scalelab.train.cost import train_flops, trained_params
from scalelab.train.device import peak_memory_bytes, reset_peak_memory
from scalelab.train.devices import probed_gpu
from scalelab.train.frozen import merge_lora
from scalelab.train.phases import phase_key
from scalelab.train.recipe import RunConfig
from scalelab.train.source import source_digest
from scalelab.train.tokens import END_OF_TEXT, TokenData
from scalelab.train.trainer import DEFAULT, Options, TrainResult, train_run

Score = Callable[[Any], Mapping[str, Any]]  # columns of a record, from a trained model


def run_and_record(
    config: RunConfig,
    data: TokenData,
    out: Path,
    options: Options = DEFAULT,
    save_models: bool = False,
    peak_flops: float | None = None,
    code: str | None = None,
    score: Score | None = None,
) -> dict[str, Any]:
    """Train and evaluate a run, write its record below `out`, and return the record.

    Args:
        config: The run.
        data: The corpus.
        out: Folder of results.
        options: Settings of training.
        save_models: Save the trained model too.
        peak_flops: Peak speed of the device in FLOP/s, for the utilisation.
        code: Digest of the source code to record; by default that of the installed package.
        score: Function of the trained model that returns more columns, such as accuracies on downstream tasks.

    Raises:
        TrainingError: the run diverged or ran out of memory; its record says so too.
    """
    check_record(_base_columns(config, options.device, code))
    reset_peak_memory(options.device)  # earlier runs in this process do not count
    try:
        result = train_run(config, data, options)
    except TrainingError as error:
        record_failure(config, out, error.status, str(error), options.device, code, error.state, peak_flops)
        raise
    record = record_result(config, data, out, result, options, save_models, peak_flops, code, score)
    if (
        options.checkpoints is not None and phase_key(config) == config.key
    ):  # checkpoints of shared phases stay for other runs
        shutil.rmtree(options.checkpoints / phase_key(config), ignore_errors=True)
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
    score: Score | None = None,
) -> dict[str, Any]:
    """Write the record of a trained run and, with `save_models`, its model; return the record.

    Columns of `score` are added once the record is written, so that an error there loses no run.
    """
    if save_models:  # before the record, which marks the run as done
        save_run_model(result, data, out / MODELS / config.key)
    record = make_record(config, data, result, options.device, peak_flops, code)
    write_record(out, record, result.curve)
    if score is not None:
        columns = score(result.model)
        update_record(out, config.key, columns)
        record |= columns
    return record


def save_run_model(result: TrainResult, data: TokenData, folder: Path) -> None:
    """Save the trained model with its tokenizer in the format of transformers, atomically."""
    shutil.rmtree(folder, ignore_errors=True)  # left by a run that ended before its record was written
    merge_lora(result.model)
    with tempfile.TemporaryDirectory() as tokenizer_folder:
        run_tokenizer(data).save_pretrained(tokenizer_folder)
        save_model(result.model, folder, Path(tokenizer_folder))


def run_tokenizer(data: TokenData) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a corpus in the format of transformers."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(data.folder / "tokenizer.json"))
    if END_OF_TEXT in tokenizer.get_vocab():
        tokenizer.eos_token = END_OF_TEXT
    return tokenizer


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
    """Record that a run ended without a loss, with its progress if `state` is given; an ok record stays."""
    record = _base_columns(config, device, code) | {"status": status, "message": message}
    if state is not None and state.step:
        record |= _training_columns(config, state.step, state, device, peak_flops)
    write_record(out, record, state.curve if state is not None else [])


def make_record(
    config: RunConfig,
    data: TokenData,
    result: TrainResult,
    device: str,
    peak_flops: float | None = None,
    code: str | None = None,
) -> dict[str, Any]:
    """Return the record of a trained run, a row of `RECORD_SCHEMA`."""
    evaluation = result.evaluation
    streams = evaluation.streams
    return (
        _base_columns(config, device, code)
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
            "base_loss": result.base and result.base.loss,
        }
        | _training_columns(config, config.steps, result, device, peak_flops)
    )


def _training_columns(
    config: RunConfig, steps: int, spent: TrainState | TrainResult, device: str, peak_flops: float | None
) -> dict[str, Any]:
    """Return the columns about the first `steps` steps, with all resumed parts and shared training included.

    Speeds exclude the warm-up. If several devices were used, the column `device` names them all and there is no
    utilisation.
    """
    flops, several = train_flops(config) - train_flops(config, steps), len(spent.devices) > 1
    timed, seconds = steps - spent.warm_up_steps, spent.seconds - spent.warm_up_seconds
    if timed < spent.warm_up_steps:  # mostly warm-up
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


def _base_columns(config: RunConfig, device: str, code: str | None = None) -> dict[str, Any]:
    """Return the columns that do not depend on how a run ends."""
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
        "n_params_trained": trained_params(config),
        "n_streams": shape.P,
        "n_tokens": config.n_tokens,
        "n_tokens_plain": config.plain_tokens,
        "n_tokens_streams": config.n_tokens - config.plain_tokens,
        "seed": config.seed,
        "n_loops": shape.loops,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_layers": shape.num_layers,
        "num_heads": shape.num_heads,
        "num_kv_heads": shape.num_kv_heads,
        "prefix_tokens": shape.prefix_tokens,
        "vocab_size": shape.vocab_size,
        "lora_rank": config.lora_rank,
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
    """Return the name of `device` for records: the GPU's name, or the CPU's architecture."""
    if not device.startswith("cuda"):
        return f"cpu ({platform.machine()})"
    if torch.cuda.is_initialized():
        return torch.cuda.get_device_name(device)
    # Lost runs are recorded by a process that must not use CUDA, or that has no GPU.
    gpu = probed_gpu(device)
    return gpu.name if gpu is not None else "cuda"
