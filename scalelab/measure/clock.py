"""Measured prefill time, decoding time and peak memory of a real model on this device.

Time and memory are measured in separate processes, so that an earlier measurement does not affect them.
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
from scalelab.errors import DataError, MemoryShortError, ScalelabError, first_line
from scalelab.measure.decode import decoding, device_s, graph_s, prefill
from scalelab.measure.rounds import median_s
from scalelab.measure.transformers_models import transformers_config
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

_RESET_BYTES = 2**24  # a peak further above current use was not reset, which some containers do not allow
_BANK_NAMES = ("prefix_", "aggregate_")  # parts of the parameter names of streams


@dataclass(frozen=True)
class MeasuredModel:
    """Model to measure with P streams: a model's folder, or a config.json, which gets random weights."""

    path: Path
    P: int
    prefix_tokens: int | None = None  # of new streams; None: the paper's 48
    dtype: str = "fp32"
    device: str = "cpu"
    threads: int = 1  # CPU threads


@dataclass(frozen=True)
class Measurement:
    """Median time of several rounds after a warm-up, and peak memory of one request.

    Memory is that of tensors: weights, and the peak of what the request adds. Memory that libraries and allocators
    reserve is not counted. `decode_s` covers tokens_out − 1 steps, since prefill gives the first new token.
    """

    prefill_s: float
    decode_s: float
    memory_bytes: float | None  # None if the system cannot report it
    decode_device_s: float | None = None  # GPU time of the kernels in those steps; CUDA only
    decode_graph_s: float | None = None  # those steps captured as a CUDA graph, as in serving engines

    @property
    def latency_s(self) -> float:
        """Time of the whole request."""
        return self.prefill_s + self.decode_s


def measure(subject: MeasuredModel, workload: Workload, seconds: float = 2.0) -> Measurement:
    """Measure `workload` on `subject`.

    Prefill and decoding are each repeated for about `seconds`, at least five times.

    Raises:
        MemoryShortError: The device has too little memory.
        ScalelabError: The model cannot be loaded or run; the message names its path.
    """
    prefill_s, decode_s, device_s, graph_s = run_in_subprocess(_seconds, subject, workload, seconds)
    return Measurement(prefill_s, decode_s, run_in_subprocess(_memory_bytes, subject, workload), device_s, graph_s)


def run_in_subprocess(work: Callable[..., Any], *given: Any) -> Any:
    """Return the result of `work(*given)` from a new process.

    Raises:
        MemoryShortError: There is too little memory, or the system killed the process.
        ScalelabError: `work` raised any other error.
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
            raise MemoryShortError("the measuring process was killed, most likely because memory ran out") from None
        raise ScalelabError(f"the measuring process ended with code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if isinstance(answer, ScalelabError):
        raise answer
    return answer


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Ignore SIGINT in processes started in the body, which inherit this; their parent ends them on an interrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _answer(send: Connection, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    logging.disable_progress_bar()  # of transformers, while loading
    logging.set_verbosity_error()
    try:
        send.send(work(*given))
    except ScalelabError as error:
        send.send(error)
    except Exception as error:
        if is_out_of_memory(error):
            send.send(MemoryShortError("too little memory"))
        else:
            send.send(ScalelabError(f"the model cannot be measured ({type(error).__name__}: {first_line(error)})"))


def _seconds(
    subject: MeasuredModel, workload: Workload, seconds: float
) -> tuple[float, float, float | None, float | None]:
    """Return the seconds of prefill, decoding, GPU time of decoding, and captured decoding."""
    with torch.inference_mode():
        model, ids = _load_with_prompt(subject, workload)
        prefill_s = median_s(lambda: prefill(model, ids), seconds, subject.device)
        steps = workload.tokens_out - 1
        if not steps:
            return prefill_s, 0.0, None, None
        decode_s = median_s(decoding(model, ids, steps), seconds, subject.device)
        busy_s = device_s(model, ids)
    with torch.no_grad():  # not inference mode: a captured step writes to its cache repeatedly
        return prefill_s, decode_s, busy_s and busy_s * steps, graph_s(model, ids, steps, seconds)


@torch.inference_mode()
def _memory_bytes(subject: MeasuredModel, workload: Workload) -> int | None:
    """Return the bytes of the weights plus the peak of what a second run of the request adds."""
    return_freed_memory()
    model, ids = _load_with_prompt(subject, workload)
    serve = decoding(model, ids, workload.tokens_out - 1)
    serve()  # libraries allocate their workspaces
    free_memory()
    reset_peak_memory(subject.device)
    held, before = held_memory_bytes(subject.device), peak_memory_bytes(subject.device)
    serve()
    peak = peak_memory_bytes(subject.device)
    if held is None or before is None or peak is None or before - held > _RESET_BYTES:
        return None
    return _weight_bytes(model) + max(0, peak - held)


def _weight_bytes(model: Any) -> int:
    """Return the bytes of all parameters except those of unused banks."""
    own = {id(p) for _, p in model.stream_parameters()} if isinstance(model, StreamedLM) else set()
    used = [p for name, p in model.named_parameters() if id(p) in own or not any(part in name for part in _BANK_NAMES)]
    return sum({p.data_ptr(): p.nbytes for p in used}.values())


def _load_with_prompt(subject: MeasuredModel, workload: Workload) -> tuple[Any, Tensor]:
    """Return the model and a random prompt; sets the number of threads of this process."""
    torch.set_num_threads(subject.threads)
    model = load(subject)
    shape = (workload.batch, workload.tokens_in)
    ids = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    return model, ids.to(subject.device)


def load(subject: MeasuredModel) -> Any:
    """Return the model with P streams active: its own if it has them, else new ones.

    Raises:
        DataError: The model cannot be loaded or cannot have streams; the message names its path.
    """
    path, dtype = subject.path, DTYPES[subject.dtype]
    if path.is_dir():
        model = load_model(path, dtype)
    else:
        try:
            content = read_config_json(path)
            if content["model_type"].endswith(STREAMS_SUFFIX):
                register_type(content["model_type"])
            config = transformers_config(content)
            torch.manual_seed(0)
            with torch.device(subject.device):  # random weights are drawn faster there
                model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
        except DataError:
            raise
        except Exception as error:  # transformers raises many kinds of errors for configs
            if is_out_of_memory(error):
                raise
            raise DataError(f"{path}: transformers cannot construct a model from it ({first_line(error)})") from None
        model.eval()
    try:
        if subject.P != 1 and subject.P not in getattr(model, "banks", {}):
            add_streams(model, subject.P, subject.prefix_tokens)
    except ValueError as error:
        raise DataError(f"{path}: {first_line(error)}") from None
    if isinstance(model, StreamedLM):
        model.set_streams(subject.P)
    return model.to(subject.device)  # buffers such as rotary frequencies stay in fp32
