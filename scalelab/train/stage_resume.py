"""Resume support for second-stage training: checkpoints and a progress file next to the output folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from scalelab.atomic import atomic_write
from scalelab.errors import ScalelabError, TrainingError, UsageError
from scalelab.status import RunStatus
from scalelab.train.checkpoint import TrainState, checkpoint_path, model_digest, saved_steps
from scalelab.train.parallel import SINGLE_PROCESS, Parallel
from scalelab.train.recipe import Recipe
from scalelab.train.stage import StageData
from scalelab.train.tokens import TokenData

RECORD = "training.json"
_SUFFIX = ".checkpoints"
_LOCK = ".lock"
_KEY = re.compile("[0-9a-f]{16}")
_RECORD_EVERY_S = 10.0


def stage_settings(
    source: Path, P: int, data: StageData, recipe: Recipe, n_tokens: int, train: str, seed: int
) -> dict[str, Any]:
    """Return what determines the result of `stage.train_stage`, as plain values, with digests of model and text."""
    return {
        "model": model_digest(source),
        "P": P,
        "train": train,
        "n_tokens": n_tokens,
        "seed": seed,
        "corpus": data.text.corpus_digest,
        "tokenizer": data.text.tokenizer_digest,
        **({} if isinstance(data, TokenData) else data.settings),
    } | asdict(recipe)


class ResumableStage:
    """A second-stage training that can be interrupted and resumed.

    Checkpoints and the file training.json (status, message, settings, steps and loss curve) are in
    ``OUT.checkpoints/KEY``, the attribute `folder`. KEY is a digest of the settings, so the checkpoints of a command
    with other settings are never used. `finish` removes the folder. On several processes only the main one writes;
    with FSDP there are no checkpoints.

    Args:
        out: New folder for the trained model.
        settings: From `stage_settings`.
        steps: Steps of the training.
        parallel: Processes that train the same model.
    """

    def __init__(self, out: Path, settings: dict[str, Any], steps: int, parallel: Parallel = SINGLE_PROCESS) -> None:
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.out, self.settings, self.steps = out, settings, steps
        self.main, self.resumes = parallel.main, not parallel.sharded
        self.parent = out.with_name(out.name + _SUFFIX)
        self.folder = self.parent / key
        self.state = TrainState()  # the current one
        self._recorded_at = 0.0
        self._had_checkpoints = bool(self._saved_steps())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Lock the folder against other processes, and record the error that ends the training early.

        Raises:
            UsageError: another process trains into the same folder.
            OSError: nothing can be written next to `out`.
        """
        if not self.main:
            yield
            return
        self.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.parent / _LOCK, timeout=0):
                try:
                    if not self._had_checkpoints:  # fails now, not at the first checkpoint, if the disk is full
                        self._record("unfinished", "")
                    yield
                except BaseException as error:
                    with contextlib.suppress(OSError):  # a full disk may be what failed
                        self._record_end(error)
                    if isinstance(error, TrainingError):
                        where = f"its loss curve: {self.folder / RECORD}"
                        raise type(error)(f"{error} ({where})", error.state) from None
                    raise
                finally:
                    self._remove_if_empty()
        except Timeout:
            raise UsageError(f"`out={self.out}`: another process is training into it; choose another folder") from None

    def start(self, state: TrainState) -> str | None:
        """Follow `state`, from which training starts; return a note if it is resumed or its checkpoints are lost."""
        self.state = state
        if self.main:
            self._record("unfinished", "")
        if state.step:
            return f"resuming at step {state.step} of {self.steps} from {self.folder}"
        if self._had_checkpoints:
            return f"{self.folder}: checkpoints are damaged or from another version; training starts from the beginning"
        return None

    def observe(self, state: TrainState) -> None:
        """Update the progress file, at most every ten seconds of training."""
        if self.main and state.seconds - self._recorded_at > _RECORD_EVERY_S:
            self._recorded_at = state.seconds
            with contextlib.suppress(OSError):
                self._record("unfinished", "")

    def describe_others(self) -> str | None:
        """Return a note about checkpoints of commands with other settings, or None if there are none."""
        found = {folder: saved_steps(folder) for folder in self._folders() if folder != self.folder}
        found = {folder: steps for folder, steps in found.items() if steps}
        if not found:
            return None
        folder, steps = max(found.items(), key=lambda item: item[1][0])
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return (
            f"{folder}{more}: not used, since the checkpoints (up to step {steps[0]}) are of a command with "
            f"{self._difference(folder)}; delete the folder if you do not need it"
        )

    def describe_rerun(self) -> str:
        """Return what running the same command again will do, for the message of an interruption."""
        steps = self._saved_steps()
        if not steps:
            return "nothing is saved: the same command starts from the beginning"
        return f"run the same command again to resume at step {steps[0]}, saved in {self.folder}"

    def finish(self) -> None:
        """Remove the checkpoints and the progress file once `out` is written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in self._folders():
            if not saved_steps(folder):  # only the progress file of a command that failed
                shutil.rmtree(folder, ignore_errors=True)

    def _saved_steps(self) -> list[int]:
        """Return the steps of this command's checkpoints, latest first."""
        return saved_steps(self.folder) if self.resumes else []

    def _record_end(self, error: BaseException) -> None:
        status = error.status if isinstance(error, TrainingError) else RunStatus.FAILED
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            status = RunStatus.INTERRUPTED
        # Nothing was trained: earlier checkpoints stay.
        if status in (RunStatus.FAILED, RunStatus.INTERRUPTED) and not self.state.step:
            if not saved_steps(self.folder):
                shutil.rmtree(self.folder, ignore_errors=True)
            return
        message = str(error) if isinstance(error, ScalelabError) else f"{type(error).__name__}: {error}"
        self._record(status, message.removesuffix(": "))
        if status == RunStatus.DIVERGED:  # it would diverge again
            for step in saved_steps(self.folder):
                shutil.rmtree(checkpoint_path(self.folder, step), ignore_errors=True)

    def _record(self, status: str, message: str) -> None:
        state = self.state
        content = {
            "status": status,
            "message": message,
            **self.settings,
            "step": state.step,
            "steps": self.steps,
            "seconds": state.seconds,
            "curve": [[step, n, loss if math.isfinite(loss) else None] for step, n, loss in state.curve],
        }
        with atomic_write(self.folder / RECORD) as file:
            file.write(json.dumps(content, indent=1).encode())

    def _difference(self, folder: Path) -> str:
        try:
            theirs = json.loads((folder / RECORD).read_text(encoding="utf-8"))
            names = [name for name, value in self.settings.items() if theirs.get(name) != value]
        except (OSError, ValueError, AttributeError):
            return "unknown settings (no readable training.json)"
        return f"other settings ({', '.join(names)})"

    def _folders(self) -> list[Path]:
        """Return the folders of all commands for the same output folder."""
        return [path for path in self.parent.glob("*") if _KEY.fullmatch(path.name) and path.is_dir()]

    def _remove_if_empty(self) -> None:
        """Remove the parent folder if it holds nothing any more."""
        if not self._folders():
            (self.parent / _LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # it holds files of the user
                self.parent.rmdir()
