"""Prefill, decoding and peak memory of a real model on this device.

Time and memory have processes of their own, so that nothing an earlier one left behind helps or burdens it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from scalelab.cost.request import Workload
from scalelab.errors import DataError, MemoryShortError, ScalelabError
from scalelab.measure.decode import decoding, device_s, graph_s, prefill
from scalelab.measure.rounds import median_s
from scalelab.measure.transformers_models import first_line, transformers_config
from scalelab.model.add import add_streams
from scalelab.model.checkpoint import load_model
from scalelab.model.classes import register_type
from scalelab.model.language_model import StreamedLM
from scalelab.model_config import STREAMS_SUFFIX, read_config_json
from scalelab.train.device import (
    DTYPES,
    held_memory_bytes,
    peak_memory_bytes,
    reset_peak_memory,
    return_freed_memory,
)
from scalelab.train.memory import free_memory, is_out_of_memory

_RESET_BYTES = 2**24  # a peak farther above what is held was not reset: some containers do not allow it
_OF_BANKS = ("prefix_", "aggregate_")


@dataclass(frozen=True)
class MeasuredModel:
    """What is measured: a model's folder, or a config.json to be filled with random weights, with P streams."""

    path: Path
    P: int
    prefix_tokens: int | None = None  # of streams that the model does not have; None: the paper's
    dtype: str = "fp32"
    device: str = "cpu"
    threads: int = 1  # of the CPU


@dataclass(frozen=True)
class Measurement:
    """Median seconds of several rounds after a warm-up, and the most bytes that tensors hold at once.

    These are the weights and what one request adds. What libraries, and allocators beyond what is in use, keep for
    themselves is left out.

    `decode_s` is of tokens_out − 1 steps: the pass over the prompt gives the first new token.
    """

    prefill_s: float
    decode_s: float
    memory_bytes: float | None  # None where the system does not tell
    decode_device_s: float | None = None  # in which the kernels of those steps ran; on CUDA
    decode_graph_s: float | None = None  # of those steps captured as a CUDA graph, as serving engines run them

    @property
    def latency_s(self) -> float:
        return self.prefill_s + self.decode_s


def measure(subject: MeasuredModel, workload: Workload, seconds: float = 2.0) -> Measurement:
    """`workload` on `subject`; prefill and decoding are each repeated for about `seconds`, at least five times.

    Raises `ScalelabError` naming the folder where it cannot be loaded, and `MemoryShortError`.
    """
    prefill_s, decode_s, device_s, graph_s = run_in_subprocess(_seconds, subject, workload, seconds)
    return Measurement(prefill_s, decode_s, run_in_subprocess(_memory_bytes, subject, workload), device_s, graph_s)


def run_in_subprocess(work: Callable[..., Any], *given: Any) -> Any:
    """What `work` returns in a fresh process, or its error as a `ScalelabError`.

    Raises `MemoryShortError` where memory does not suffice, or the system killed the process.
    """
    context = get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(send, work, given), daemon=True)
    with _ctrl_c_ignored():
        process.start()
    send.close()
    try:
        answer = receive.recv()
    except EOFError:
        process.join()
        if (process.exitcode or 0) < 0:
            raise MemoryShortError("the measuring process was killed, most likely for want of memory") from None
        raise ScalelabError(f"the measuring process ended with code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if isinstance(answer, ScalelabError):
        raise answer
    return answer


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """For a process begun within: it inherits this, and its parent, which is interrupted alone, ends it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _answer(send: Connection, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    logging.disable_progress_bar()  # transformers' own, of loading
    logging.set_verbosity_error()
    try:
        send.send(work(*given))
    except ScalelabError as error:
        send.send(error)
    except Exception as error:
        if is_out_of_memory(error):
            send.send(MemoryShortError("too little memory"))
        else:
            send.send(ScalelabError(f"it cannot be measured ({type(error).__name__}: {first_line(error)})"))


def _seconds(
    subject: MeasuredModel, workload: Workload, seconds: float
) -> tuple[float, float, float | None, float | None]:
    """Return seconds of prefill, of decoding, of the device's share of decoding, and of captured decoding."""
    with torch.inference_mode():
        model, ids = _ready(subject, workload)
        prefill_s = median_s(lambda: prefill(model, ids), seconds, subject.device)
        steps = workload.tokens_out - 1
        if not steps:
            return prefill_s, 0.0, None, None
        decode_s = median_s(decoding(model, ids, steps), seconds, subject.device)
        busy_s = device_s(model, ids)
    with torch.no_grad():  # a captured step writes into its cache again and again
        return prefill_s, decode_s, busy_s and busy_s * steps, graph_s(model, ids, steps, seconds)


@torch.inference_mode()
def _memory_bytes(subject: MeasuredModel, workload: Workload) -> int | None:
    """Of the weights, and the most that is held beyond them while the request is served a second time."""
    return_freed_memory()
    model, ids = _ready(subject, workload)
    serve = decoding(model, ids, workload.tokens_out - 1)
    serve()  # libraries make room for themselves
    free_memory()
    reset_peak_memory(subject.device)
    held, before = held_memory_bytes(subject.device), peak_memory_bytes(subject.device)
    serve()
    peak = peak_memory_bytes(subject.device)
    if held is None or before is None or peak is None or before - held > _RESET_BYTES:
        return None
    return _weight_bytes(model) + max(0, peak - held)


def _weight_bytes(model: Any) -> int:
    """Of all parameters but those of banks that are not in use."""
    own = {id(p) for _, p in model.stream_parameters()} if isinstance(model, StreamedLM) else set()
    used = [p for name, p in model.named_parameters() if id(p) in own or not any(part in name for part in _OF_BANKS)]
    return sum({p.data_ptr(): p.nbytes for p in used}.values())


def _ready(subject: MeasuredModel, workload: Workload) -> tuple[Any, Tensor]:
    """The model, and a prompt; in a process of their own, whose number of threads is set for good."""
    torch.set_num_threads(subject.threads)
    model = load(subject)
    shape = (workload.batch, workload.tokens_in)
    ids = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    return model, ids.to(subject.device)


def load(subject: MeasuredModel) -> Any:
    """The model with P streams in use: its own where it has them, else new ones; P = 1 of a config is plain.

    Raises `DataError` naming the path.
    """
    path, dtype = subject.path, DTYPES[subject.dtype]
    if path.is_dir():
        model = load_model(path, dtype)
    else:
        content = read_config_json(path)
        try:
            if content["model_type"].endswith(STREAMS_SUFFIX):
                register_type(content["model_type"])
            config = transformers_config(content)
            torch.manual_seed(0)
            with torch.device(subject.device):  # where its random weights are drawn fast
                model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        except Exception as error:  # the library checks configs in many ways
            if is_out_of_memory(error):
                raise
            raise DataError(f"{path}: no model can be made from it ({first_line(error)})") from None
        model.eval()
    try:
        if subject.P != 1 and subject.P not in getattr(model, "banks", {}):
            add_streams(model, subject.P, subject.prefix_tokens)
    except ValueError as error:
        raise DataError(f"{path}: {first_line(error)}") from None
    if isinstance(model, StreamedLM):
        model.set_streams(subject.P)
    return model.to(subject.device)  # its buffers, such as rotary frequencies, stay in fp32
