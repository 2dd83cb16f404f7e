"""Training of one run on several processes: data parallel or FSDP.

Started by ``accelerate launch`` or ``torchrun``, every process runs the same program. The rows of the batch of a single
process are divided among them and gradients are averaged, so weights and losses match a single process up to rounding.
Either each process holds the whole model (data parallel), or parameters, gradients and moments are sharded (FSDP,
torch's ``fully_shard``) and a layer is gathered only while it computes. All other modules call `Parallel`, whose
methods do almost nothing on a single process.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from scalelab.errors import ScalelabError, UsageError
from scalelab.model.banks import attention_modules

_ERROR_DELAY_S = 10.0  # by which other processes delay their error, so that the first is the one to report it


class Parallel:
    """A single process with the whole batch and the whole model on `device`."""

    rank = 0
    size = 1
    sharded = False  # true: each process holds only a part of the model

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @property
    def main(self) -> bool:
        """True on the process that prints and saves."""
        return self.rank == 0

    @property
    def description(self) -> str:
        """Suffix of a message: the number of processes and what each holds; empty for a single process."""
        if self.size == 1 and not self.sharded:
            return ""
        return f", on {self.size} processes, each with {'a part' if self.sharded else 'all'} of the model"

    @property
    def load_device(self) -> str:
        """Device to load the model on before it is sharded."""
        return "cpu" if self.sharded else self.device

    def check(self, batch_size: int, compile_model: bool) -> None:
        """Raise `UsageError` for settings that several processes do not support."""
        if batch_size % self.size:
            raise UsageError(f"`batch_size={batch_size}`: give a multiple of the {self.size} processes")
        if compile_model and self.sharded:
            raise UsageError("`compile_model` does not work with FSDP; leave it out, or launch data parallel")

    def local_rows(self, batch: np.ndarray) -> np.ndarray:
        """Return this process's rows of a batch [b, …], every `size`-th."""
        return batch[self.rank :: self.size]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean of a scalar over all processes."""
        return value

    def shard(self, model: Any) -> None:
        """Shard the parameters of `model` over the processes, in place; call it after `requires_grad` is set."""

    def wrap(self, model: Any) -> Any:
        """Return the module to call in training in place of `model`, so that gradients are averaged."""
        return model

    def reshard(self, model: Any) -> None:
        """Free the layers that forward passes without a backward pass have gathered."""

    def gather_model(self, model: Any) -> Any:
        """Return `model` with all its parameters on the main process, None on the others."""
        return model


SINGLE_PROCESS = Parallel()


class _DataParallel(Parallel):
    """One of several processes that all hold the whole model; gradients are averaged in the backward pass."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def shard(self, model: Any) -> None:
        _check_same(model, self.device)

    def wrap(self, model: Any) -> Any:
        # The only buffers are rotary frequencies, the same on every process.
        options: dict[str, Any] = {"gradient_as_bucket_view": True, "broadcast_buffers": False}
        if self.device.startswith("cuda"):
            options["device_ids"] = [torch.device(self.device).index or 0]
        return nn.parallel.DistributedDataParallel(model, **options)

    def gather_model(self, model: Any) -> Any:
        return model if self.main else None


class _ShardedParallel(_DataParallel):
    """One of several processes that each hold a shard of every layer and of the remaining parameters."""

    sharded = True
    _skeleton: Any = None  # the model before sharding, with parameters on the meta device

    def __init__(self, device: str, dtype: str) -> None:
        super().__init__(device)
        self.dtype = dtype

    def shard(self, model: Any) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        _check_same(model, self.device)

        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters()}
        self._skeleton = copy.deepcopy(model, empty)
        mesh = init_device_mesh(self.device.split(":")[0], (self.size,))
        keep = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false"
        # Layers are gathered in bf16: half the traffic, and autocast keeps no copies until the end of the forward pass.
        # The residual stream stays in fp32, as on one process.
        policy = MixedPrecisionPolicy()
        if self.dtype == "bf16":
            policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for layer in decoder_layers(model.get_decoder()):
            fully_shard(layer, mesh=mesh, reshard_after_forward=not keep, mp_policy=policy)
        fully_shard(model, mesh=mesh)

    def wrap(self, model: Any) -> Any:
        return model

    def reshard(self, model: Any) -> None:
        model.reshard()

    def gather_model(self, model: Any) -> Any:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if not self.main:
            return None
        self._skeleton.load_state_dict(weights, assign=True)
        self._skeleton.tie_weights()
        return self._skeleton


@torch.no_grad()
def _check_same(model: Any, device: str) -> None:
    """Raise `ScalelabError` unless every process holds the same weights, compared by two sums of each.

    A launcher may load zeros on all processes but the first and expect them to be filled in later.
    """
    sums = [total for p in model.parameters() for total in (p.double().sum(), p.double().square().sum())]
    own = torch.stack(sums).to(device)
    least, most = own.clone(), own.clone()
    dist.all_reduce(least, dist.ReduceOp.MIN)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    if not torch.allclose(least, most, rtol=1e-6, atol=1e-9):
        raise ScalelabError(
            "the processes hold different weights; let each of them load the whole model "
            "(fsdp_cpu_ram_efficient_loading: false)"
        )


def decoder_layers(decoder: nn.Module) -> list[nn.Module]:
    """Return the layers of a decoder: the members of its module lists that contain attention."""
    attention = set(attention_modules(decoder))
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    return [block for blocks in lists for block in blocks if attention & set(block.modules())]


@contextmanager
def launched_processes(device: str, dtype: str) -> Iterator[Parallel]:
    """Join the processes that this one was launched with, for a run on `device` (cpu or cuda…) in `dtype`.

    Without a launcher it yields a single process.

    Raises:
        UsageError: the launcher has settings that are not supported, or accelerate is not installed.
        ScalelabError: the connection to another process was lost.
    """
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield Parallel(device)
        return
    try:
        _check_launcher(dtype)
        yield _join(device, dtype)
    except Exception as error:
        # Usually all processes meet the same error; the launcher ends the others once the first has reported it.
        if int(os.environ["RANK"]) > 0:
            time.sleep(_ERROR_DELAY_S)
        lost = any(name in str(error).lower() for name in ("gloo", "nccl"))
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and lost):
            raise ScalelabError(
                f"process {os.environ['RANK']} lost its connection to another process; see the error of that one"
            ) from None
        raise  # the others may wait for this process: the launcher ends them
    dist.destroy_process_group()


def exit_process(code: int = 0) -> NoReturn:
    """End this process at once, without the interpreter's shutdown.

    Threads of gloo may still be freeing tensors and would abort during shutdown.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _check_launcher(dtype: str) -> None:
    def enabled(name: str) -> bool:
        return os.environ.get(name, "false").lower() in ("1", "true")

    for name, what in (
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism config"),
    ):
        if enabled(name):
            raise UsageError(f"accelerate's {what} is not supported; launch data parallel or with FSDP")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", dtype):
        raise UsageError(f"accelerate's mixed precision is {precision}; set it to no and give `dtype`")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise UsageError("accelerate's dynamo backend is set; set it to no and give `compile_model`")
    if enabled("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION") != "2":
            raise UsageError("accelerate's FSDP version 1 is not supported; set fsdp_version: 2")
        for name in ("OFFLOAD_PARAMS", "ACTIVATION_CHECKPOINTING"):
            if enabled(f"FSDP_{name}"):
                raise UsageError(f"accelerate's fsdp_{name.lower()} is not supported; set it to false")


def _join(device: str, dtype: str) -> Parallel:
    try:
        from accelerate import PartialState
    except ImportError:
        raise UsageError("several processes need accelerate: pip install 'scalelab[distributed]'") from None

    on_cpu = device == "cpu"
    # accelerate launch makes transformers load weights on the first process only, and zeros on the others.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    state = PartialState(cpu=on_cpu)  # joins the group, and takes this process's GPU
    own_device = "cpu" if on_cpu else str(state.device)
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        return _ShardedParallel(own_device, dtype)
    return _DataParallel(own_device)
