"""Checkpoints: the state of training on disk, as safetensors and JSON, written atomically."""

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

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_RENAME_ATTEMPTS = 5
_STALE_S = 600.0  # without a write, after which an unfinished checkpoint is abandoned


@dataclass
class TrainState:
    """Progress of a run.

    Rows of `curve` are (step, n_tokens, mean training loss since the last row); `pending` are the losses since then.
    """

    step: int = 0
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    pending: list[torch.Tensor | float] = field(default_factory=list)
    seconds: float = 0.0  # of training, over all attempts that led here
    micro_batch: int = 0  # sequences per forward pass; 0: the whole batch
    saved_at: float = 0.0  # value of `seconds` at the last checkpoint
    devices: list[str] = field(default_factory=list)  # makers' names of the devices used so far
    warm_up_seconds: float = 0.0  # part of `seconds`: first steps of each attempt, which load and compile kernels
    warm_up_steps: int = 0


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint at `step`."""
    return folder / f"{step:09d}"


def save_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState) -> Path:
    """Write the trained parameters of `model`, the optimizer and `state` to ``folder/STEP`` and return that path.

    The checkpoint is written atomically and durably, with digests that reveal later changes. Raises `OSError`.
    """
    remove_unfinished(folder, _STALE_S)
    target = checkpoint_path(folder, state.step)
    with atomic_folder(target, _replace_folder) as unfinished:
        weights = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        moments = {
            f"{name}/{kind}": optimizer.state[p][kind].detach().contiguous()
            for name, p in model.named_parameters()
            if p in optimizer.state
            for kind in _MOMENTS
        }
        _save_tensors(weights, unfinished / _WEIGHTS)
        _save_tensors(moments, unfinished / _OPTIMIZER)
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
        # A changed bit in a tensor file would go unnoticed otherwise.
        values |= {"sha256": {name: digest_of_file(unfinished / name) for name in (_WEIGHTS, _OPTIMIZER)}}
        (unfinished / _STATE).write_text(json.dumps(values | {"digest": _digest_of_values(values)}))
    return target


class Saver:
    """Writer of checkpoints in the course of training, of which only the latest is kept.

    If a write fails, the run goes on: a full disk may have room the next time.

    Args:
        folder: Folder of the checkpoints.
        model: The model.
        optimizer: Its optimizer.
        every_s: Seconds of training between checkpoints.
        end: Step of a final checkpoint that other runs start from; it is kept, and a failed write raises `OSError`.
        last: The checkpoint that this run started from, to be removed after the next.
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
        """Write `state` if it is time to."""
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


def _replace_folder(unfinished: Path, target: Path) -> None:
    """Rename `unfinished` to `target` in place of a damaged checkpoint or one that another process just wrote."""
    for attempt in range(_RENAME_ATTEMPTS):
        shutil.rmtree(target, ignore_errors=True)
        try:
            unfinished.rename(target)
            return
        except OSError:
            if attempt == _RENAME_ATTEMPTS - 1:
                raise


def _save_tensors(tensors: dict[str, torch.Tensor], file: Path) -> None:
    try:
        save_file(tensors, file)
    except SafetensorError as error:  # also for a full disk
        raise OSError(f"{file}: could not be written ({error})") from None


def digest_of_file(file: Path) -> str:
    """Return the SHA-256 of the content of `file`, 64 hex digits. Raises `OSError`."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def model_digest(folder: Path) -> str:
    """Return a digest of the model in `folder`, 16 hex digits. Raises `OSError`."""
    model = hashlib.sha256()
    for file in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
        model.update(f"{file.name} {digest_of_file(file)}\n".encode())
    return model.hexdigest()[:16]


def _digest_of_values(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints in `folder`, latest first; empty if there is no such folder."""
    return sorted((int(path.name) for path in entries(folder) if path.name.isdecimal()), reverse=True)


def keep_latest(folder: Path) -> None:
    """Remove all checkpoints in `folder` except the latest, and unfinished ones that are abandoned."""
    for step in saved_steps(folder)[1:]:
        shutil.rmtree(checkpoint_path(folder, step), ignore_errors=True)
    remove_unfinished(folder, _STALE_S)


def load_newest(folder: Path, at_most: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState | None:
    """Load the newest checkpoint of `folder` that is at most at step `at_most` into model and optimizer.

    Parameters that are not in it, since they are frozen or belong to streams that start later, stay unchanged. A
    damaged checkpoint, or one of another version, is skipped.

    Returns:
        Its state, or None if there is no such checkpoint.
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
