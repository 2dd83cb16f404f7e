"""Prefill, decoding and peak memory of a real model on this device.

Time and memory have processes of their own, so that nothing an earlier one left behind helps or burdens it.
"""

from __future__ import annotations

import json
import signal
import threading
import time
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
from transformers.cache_utils import DynamicCache
from transformers.utils import logging

from scalelab.cost.model import Workload
from scalelab.errors import DataError, MemoryShortError, ScalelabError
from scalelab.measure.library import first_line, library_config
from scalelab.model.add import add_streams
from scalelab.model.checkpoint import load_model
from scalelab.model.classes import SUFFIX, register_type
from scalelab.model.language_model import StreamedLM
from scalelab.train.device import (
    DTYPES,
    held_memory_bytes,
    peak_memory_bytes,
    reset_peak_memory,
    return_freed_memory,
    synchronize,
)
from scalelab.train.memory import free_memory, is_out_of_memory

_LEAST_ROUNDS, _MOST_ROUNDS = 2, 100
_RESET_BYTES = 2**24  # a peak farther above what is held was not reset: some containers do not allow it
_OF_BANKS = ("prefix_", "aggregate_")


@dataclass(frozen=True)
class Subject:
    """What is measured: a model's folder, or a config.json to be filled with random weights, with P streams."""

    path: Path
    P: int
    prefix_tokens: int | None = None  # of streams that the model does not have; None: the paper's
    dtype: str = "fp32"
    device: str = "cpu"
    threads: int = 1  # of the CPU


@dataclass(frozen=True)
class Measured:
    """Least seconds of several rounds, and the most bytes that tensors hold at once: the weights and what one
    request adds. What libraries, and allocators beyond what is in use, keep for themselves is left out.

    `decode_s` is of tokens_out − 1 steps: the pass over the prompt gives the first new token.
    """

    prefill_s: float
    decode_s: float
    memory_bytes: float | None  # None where the system does not tell

    @property
    def latency_s(self) -> float:
        return self.prefill_s + self.decode_s


def measure(subject: Subject, workload: Workload, seconds: float = 2.0) -> Measured:
    """`workload` on `subject`; prefill and decoding are each repeated for about `seconds`, at least twice.

    Raises `ScalelabError` naming the folder where it cannot be loaded, and `MemoryShortError`.
    """
    prefill_s, decode_s = alone(_seconds, subject, workload, seconds)
    return Measured(prefill_s, decode_s, alone(_memory_bytes, subject, workload))


def alone(work: Callable[..., Any], *given: Any) -> Any:
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


@torch.inference_mode()
def _seconds(subject: Subject, workload: Workload, seconds: float) -> tuple[float, float]:
    """Of prefill and of decoding."""
    model, ids = _ready(subject, workload)
    prefill_s = least_s(lambda: _prefill(model, ids), seconds, subject.device)
    steps = workload.tokens_out - 1
    return prefill_s, least_s(decoding(model, ids, steps), seconds, subject.device) if steps else 0.0


@torch.inference_mode()
def _memory_bytes(subject: Subject, workload: Workload) -> int | None:
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


def _ready(subject: Subject, workload: Workload) -> tuple[Any, Tensor]:
    """The model, and a prompt; in a process of their own, whose number of threads is set for good."""
    torch.set_num_threads(subject.threads)
    model = load(subject)
    shape = (workload.batch, workload.tokens_in)
    ids = torch.randint(model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    return model, ids.to(subject.device)


def load(subject: Subject) -> Any:
    """The model with P streams in use: its own where it has them, else new ones; P = 1 of a config is plain.

    Raises `DataError` naming the path.
    """
    path, dtype = subject.path, DTYPES[subject.dtype]
    if path.is_dir():
        model = load_model(path, dtype)
    else:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["model_type"].endswith(SUFFIX):
                register_type(content["model_type"])
            config = library_config(content)
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
    return model.to(subject.device, dtype)


def least_s(work: Callable[[], object], seconds: float, device: str) -> float:
    """The least seconds of `work`, or what it says it took if that is a number, over rounds of `seconds` in all.

    At least 2 rounds, at most 100.
    """
    best, rounds, began = float("inf"), 0, time.perf_counter()
    while rounds < _LEAST_ROUNDS or (time.perf_counter() - began < seconds and rounds < _MOST_ROUNDS):
        synchronize(device)
        start = time.perf_counter()
        told = work()
        synchronize(device)
        took = time.perf_counter() - start
        best = min(best, told if isinstance(told, float) else took)
        rounds += 1
    return best


def _prefill(model: Any, ids: Tensor) -> None:
    model(ids, past_key_values=DynamicCache(config=model.config), use_cache=True, logits_to_keep=1)


def decoding(model: Any, ids: Tensor, steps: int) -> Callable[[], float]:
    """Takes the prompt and then `steps` tokens, the likeliest each time; tells the seconds of the latter."""

    def work() -> float:
        cache = DynamicCache(config=model.config)  # whose windowed layers keep no more than their window
        logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        synchronize(str(ids.device))
        start = time.perf_counter()
        for _ in range(steps):
            logits = model(logits[:, -1:].argmax(-1), past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        synchronize(str(ids.device))
        return time.perf_counter() - start

    return work
