"""The state of a run in training, on disk: safetensors and JSON, whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW


@dataclass
class TrainState:
    """How far a run is. `curve` rows are (step, n_tokens, mean training loss since the last)."""

    step: int = 0
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    seconds: float = 0.0  # of training, all attempts that led here together
    micro_batch: int = 0  # sequences at once; 0 is the whole batch
    saved_at: float = 0.0  # `seconds` when a checkpoint was last written


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"{step:09d}"


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState) -> Path:
    """Write model, optimizer and `state` to ``folder/STEP`` and return that path.

    It appears there complete or not at all, and survives a loss of power.
    """
    folder.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder, prefix=".building-"))
    try:
        weights = {name: p.detach().contiguous() for name, p in model.named_parameters()}
        moments = {
            f"{name}/{kind}": optimizer.state[p][kind].detach().contiguous()
            for name, p in model.named_parameters()
            if p in optimizer.state
            for kind in _MOMENTS
        }
        _save_tensors(weights, building / "weights.safetensors")
        _save_tensors(moments, building / "optimizer.safetensors")
        values = {"step": state.step, "curve": state.curve, "seconds": state.seconds, "micro_batch": state.micro_batch}
        (building / "state.json").write_text(json.dumps(values))
        for file in building.iterdir():
            _sync(file)
        target = checkpoint_path(folder, state.step)
        shutil.rmtree(target, ignore_errors=True)  # a damaged one, or the same of another process
        try:
            building.rename(target)
        except OSError:
            if not (target / "state.json").exists():  # not written by another process meanwhile either
                raise
        _sync(folder)
        return target
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _save_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    try:
        save_file(tensors, file)
    except SafetensorError as error:  # of a full disk too
        raise OSError(f"{file}: could not be written ({error})") from None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_newest(folder: Path, at_most: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState | None:
    """Put the newest checkpoint of `folder` that is no later than `at_most` steps into model and optimizer.

    Returns its state, or None if there is none. Parameters that it does not hold, of streams that begin later, stay
    as they are. A checkpoint that is damaged counts as none: what was lost is trained again.
    """
    found = sorted((int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit()), reverse=True)
    for step in found:
        if step <= at_most:
            state = _load(checkpoint_path(folder, step), model, optimizer)
            if state is not None:
                return state
    return None


def _load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState | None:
    try:
        weights = load_file(path / "weights.safetensors")
        moments = load_file(path / "optimizer.safetensors")
        values: dict[str, Any] = json.loads((path / "state.json").read_text())
        state = TrainState(
            int(values["step"]),
            [(int(step), int(tokens), float(loss)) for step, tokens, loss in values["curve"]],
            float(values["seconds"]),
            int(values["micro_batch"]),
            float(values["seconds"]),
        )
        parameters = dict(model.named_parameters())
        if any(parameters[name].shape != weight.shape for name, weight in weights.items()):
            return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)
    for name, parameter in parameters.items():
        if f"{name}/step" in moments:
            optimizer.state[parameter] = {kind: moments[f"{name}/{kind}"].to(parameter.device) for kind in _MOMENTS}
    return state
