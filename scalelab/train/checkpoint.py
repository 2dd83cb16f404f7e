"""The state of a run in training, on disk: safetensors and JSON, whole or not there."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from scalelab import __version__
from scalelab.atomic import atomic_folder, entries, remove_unfinished

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_PUT_ATTEMPTS = 5
_STALE_S = 600.0  # a checkpoint that nobody has written to for so long will never be finished


@dataclass
class TrainState:
    """How far a run is.

    `curve` rows are (step, n_tokens, mean training loss since the last); `pending` are the losses of the steps since.
    """

    step: int = 0
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    pending: list[torch.Tensor | float] = field(default_factory=list)
    seconds: float = 0.0  # of training, all attempts that led here together
    micro_batch: int = 0  # sequences at once; 0 is the whole batch
    saved_at: float = 0.0  # `seconds` when a checkpoint was last written
    devices: list[str] = field(default_factory=list)  # by their makers' names, on which those seconds were spent
    warm_up_seconds: float = 0.0  # of `seconds`: the first steps of each attempt, in which kernels are loaded and made
    warm_up_steps: int = 0


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"{step:09d}"


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState) -> Path:
    """Write what learns of `model`, its optimizer and `state` to ``folder/STEP`` and return that path.

    It appears there complete or not at all, survives a loss of power, and tells later whether it was changed.
    Raises `OSError`.
    """
    remove_unfinished(folder, _STALE_S)
    target = checkpoint_path(folder, state.step)
    with atomic_folder(target, _put) as building:
        weights = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        moments = {
            f"{name}/{kind}": optimizer.state[p][kind].detach().contiguous()
            for name, p in model.named_parameters()
            if p in optimizer.state
            for kind in _MOMENTS
        }
        _save_tensors(weights, building / _WEIGHTS)
        _save_tensors(moments, building / _OPTIMIZER)
        values = {
            "version": __version__,
            "step": state.step,
            "curve": state.curve,
            "pending": [float(loss) for loss in state.pending],
            "seconds": state.seconds,
            "micro_batch": state.micro_batch,
            "warm_up_seconds": state.warm_up_seconds,
            "warm_up_steps": state.warm_up_steps,
            "devices": state.devices,
        }
        # A tensor file with a changed bit is still a tensor file.
        values |= {"sha256": {name: digest_of_file(building / name) for name in (_WEIGHTS, _OPTIMIZER)}}
        (building / _STATE).write_text(json.dumps(values | {"digest": _digest_of_values(values)}))
    return target


class Saver:
    """Saves the state of a run about every `every_s` seconds of its training, and at the step `end`, if others begin
    there. But for that it keeps the latest alone; `last` is the one that the run itself began from.

    A disk that is full now may have room at the next time, so the run goes on; at `end` it raises `OSError`.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        every_s: float,
        end: int | None = None,
        last: Path | None = None,
    ) -> None:
        self.folder, self.model, self.optimizer = folder, model, optimizer
        self.every_s, self.end, self.last = every_s, end, last

    def __call__(self, state: TrainState) -> None:
        at_end = state.step == self.end
        if not at_end and state.seconds - state.saved_at < self.every_s:
            return
        state.saved_at = state.seconds
        try:
            written = save_state(self.folder, self.model, self.optimizer, state)
        except OSError:
            if at_end:
                raise
            return
        if self.last is not None:
            shutil.rmtree(self.last, ignore_errors=True)
        self.last = None if at_end else written


def _put(building: Path, target: Path) -> None:
    """Rename `building` to `target`, where a damaged checkpoint may stand, or another process put the same just now."""
    for attempt in range(_PUT_ATTEMPTS):
        shutil.rmtree(target, ignore_errors=True)
        try:
            building.rename(target)
            return
        except OSError:
            if attempt == _PUT_ATTEMPTS - 1:
                raise


def _save_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    try:
        save_file(tensors, file)
    except SafetensorError as error:  # of a full disk too
        raise OSError(f"{file}: could not be written ({error})") from None


def digest_of_file(file: Path) -> str:
    """SHA-256 of what is in `file`, as 64 hex digits. Raises `OSError`."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _digest_of_values(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def saved_steps(folder: Path) -> list[int]:
    """The steps of which `folder` has a checkpoint, the latest first; none if there is no such folder."""
    return sorted((int(path.name) for path in entries(folder) if path.name.isdecimal()), reverse=True)


def keep_latest(folder: Path) -> None:
    """Remove what `folder` holds but its latest checkpoint, and those that are being written."""
    for step in saved_steps(folder)[1:]:
        shutil.rmtree(checkpoint_path(folder, step), ignore_errors=True)
    remove_unfinished(folder, _STALE_S)


def load_newest(folder: Path, at_most: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState | None:
    """Put the newest checkpoint of `folder` that is no later than `at_most` steps into model and optimizer.

    Returns its state, or None if there is none. Parameters that it does not hold, frozen or of streams that begin
    later, stay as they are. A checkpoint that is damaged, or another version's, counts as none: what was lost is
    trained again.
    """
    for step in saved_steps(folder):
        if step <= at_most:
            state = _load(checkpoint_path(folder, step), model, optimizer)
            if state is not None:
                return state
    return None


def _load(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState | None:
    try:
        values: dict[str, Any] = json.loads((path / _STATE).read_text())
        if values.pop("digest") != _digest_of_values(values) or values["version"] != __version__:
            return None
        if any(digest_of_file(path / name) != digest for name, digest in values["sha256"].items()):
            return None
        weights, moments = load_file(path / _WEIGHTS), load_file(path / _OPTIMIZER)
        state = TrainState(
            int(values["step"]),
            [(int(step), int(tokens), float(loss)) for step, tokens, loss in values["curve"]],
            [float(loss) for loss in values["pending"]],
            float(values["seconds"]),
            int(values["micro_batch"]),
            float(values["seconds"]),
            [str(name) for name in values["devices"]],
            float(values.get("warm_up_seconds", 0.0)),
            int(values.get("warm_up_steps", 0)),
        )
        parameters = dict(model.named_parameters())
        if any(parameters[name].shape != weight.shape for name, weight in weights.items()):
            return None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError):
        return None
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name].copy_(weight)
    for name, parameter in parameters.items():
        if f"{name}/step" in moments:
            optimizer.state[parameter] = {kind: moments[f"{name}/{kind}"].to(parameter.device) for kind in _MOMENTS}
    return state
