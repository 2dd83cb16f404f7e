"""One training run on several processes: who has which rows of a batch, and which part of the model.

Started by ``accelerate launch`` or ``torchrun``, every process runs the same program. The batch is the one that a
single process would have, its rows dealt out; gradients are averaged, so the weights, and the losses to float error,
are those of a single process. Either each process holds the whole model (data parallel), or its parameters,
gradients and moments are split over all of them (FSDP, torch's ``fully_shard``), and a layer is whole only while it
computes. Everything else calls `Parallel`, whose methods do next to nothing where there is one process.
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

_SPEAK_LAST_S = 10.0  # a process that is not the first waits this long before it tells its error


class Parallel:
    """One process: the whole batch and the whole model, on `device`."""

    rank = 0
    size = 1
    sharded = False  # each process holds only its part of the model

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    @property
    def main(self) -> bool:
        """Whether this process prints and saves."""
        return self.rank == 0

    @property
    def told(self) -> str:
        """How many there are and what each holds, to be added to a line; nothing for one alone."""
        if self.size == 1 and not self.sharded:
            return ""
        return f", on {self.size} processes, each with {'a part' if self.sharded else 'all'} of the model"

    @property
    def loads_on(self) -> str:
        """Where the whole model has room before it is split."""
        return "cpu" if self.sharded else self.device

    def check(self, batch_size: int, compile_model: bool) -> None:
        """Raises `UsageError` for what several processes cannot do."""
        if batch_size % self.size:
            raise UsageError(f"`batch_size={batch_size}`: give a multiple of the {self.size} processes")
        if compile_model and self.sharded:
            raise UsageError("`compile_model` does not go with FSDP: leave it out, or launch data parallel")

    def rows(self, batch: np.ndarray) -> np.ndarray:
        """This process's rows of a batch [b, …], one in `size`."""
        return batch[self.rank :: self.size]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a scalar over all processes, the same on each."""
        return value

    def split(self, model: Any) -> None:
        """Split the parameters of `model` over the processes, in place; those that learn must have been chosen."""

    def replicated(self, model: Any) -> Any:
        """What to call for `model` in training so that gradients are averaged."""
        return model

    def settle(self, model: Any) -> None:
        """After passes without a backward one: let go of what they gathered, so that parameters are the split ones."""

    def whole(self, model: Any) -> Any:
        """`model` with all its parameters on the main process; None on the others."""
        return model


ALONE = Parallel()


class _Processes(Parallel):
    """This process of several, the whole model on each: gradients are averaged in the backward pass."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def replicated(self, model: Any) -> Any:
        return nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)

    def whole(self, model: Any) -> Any:
        return model if self.main else None


class _Shards(_Processes):
    """This process of several, a part of the model on each: layer by layer, and the rest together."""

    sharded = True
    _shape: Any = None  # the model before the split, without memory for its parameters

    def split(self, model: Any) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        empty = {id(p): nn.Parameter(torch.empty_like(p, device="meta")) for p in model.parameters()}
        self._shape = copy.deepcopy(model, empty)
        mesh = init_device_mesh(self.device.split(":")[0], (self.size,))
        keep = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "false"
        for layer in _layers(model.get_decoder()):
            fully_shard(layer, mesh=mesh, reshard_after_forward=not keep)
        fully_shard(model, mesh=mesh)

    def replicated(self, model: Any) -> Any:
        return model

    def settle(self, model: Any) -> None:
        model.reshard()

    def whole(self, model: Any) -> Any:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if not self.main:
            return None
        self._shape.load_state_dict(weights, assign=True)
        self._shape.tie_weights()
        return self._shape


def _layers(decoder: nn.Module) -> list[nn.Module]:
    """The blocks of a decoder: what its lists hold that has attention in it."""
    attention = set(attention_modules(decoder))
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList)]
    return [block for blocks in lists for block in blocks if attention & set(block.modules())]


@contextmanager
def processes(device: str, dtype: str) -> Iterator[Parallel]:
    """The processes that this one was launched with, or it alone, for a run on `device` (cpu or cuda…) in `dtype`.

    Raises `UsageError` for settings of the launcher that are not for this program, and where accelerate is missing.
    """
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= os.environ.keys():
        yield Parallel(device)
        return
    try:
        _check_launcher(dtype)
        yield _join(device)
    except Exception as error:
        # Mostly all processes meet the same error: the launcher ends the others once the first has told it.
        if int(os.environ["RANK"]) > 0:
            time.sleep(_SPEAK_LAST_S)
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            raise ScalelabError(
                f"process {os.environ['RANK']} lost touch with another; see what that one said"
            ) from None
        raise  # without a word to the others, who may wait for this one: the launcher ends them
    dist.destroy_process_group()


def leave(code: int = 0) -> NoReturn:
    """End this process, whose work is done or was stopped; the main one goes on, or tells why.

    At once, since gloo's threads may still be letting go of tensors, and would abort in an interpreter that winds up.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _check_launcher(dtype: str) -> None:
    def asked(name: str) -> bool:
        return os.environ.get(name, "false").lower() in ("1", "true")

    for name, what in (
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "a parallelism config"),
    ):
        if asked(name):
            raise UsageError(f"accelerate's {what} is not for scalelab: launch it data parallel or with FSDP")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", dtype):
        raise UsageError(f"accelerate's mixed precision {precision}: set it to no, and give `dtype`")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise UsageError("accelerate's dynamo backend: set it to no, and give `compile_model`")
    if asked("ACCELERATE_USE_FSDP"):
        if os.environ.get("FSDP_VERSION") != "2":
            raise UsageError("accelerate's FSDP version 1 is not for scalelab: set fsdp_version: 2")
        for name in ("OFFLOAD_PARAMS", "ACTIVATION_CHECKPOINTING"):
            if asked(f"FSDP_{name}"):
                raise UsageError(f"accelerate's fsdp_{name.lower()} is not for scalelab: set it to false")


def _join(device: str) -> Parallel:
    try:
        from accelerate import PartialState
    except ImportError:
        raise UsageError("several processes need accelerate: pip install 'scalelab[distributed]'") from None

    on_cpu = device == "cpu"
    state = PartialState(cpu=on_cpu)  # joins the group, and takes this process's GPU
    own = "cpu" if on_cpu else str(state.device)
    return _Shards(own) if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" else _Processes(own)
