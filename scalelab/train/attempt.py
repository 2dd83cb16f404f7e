"""What a second stage leaves beside its new folder until that is written: its states, and how far it came."""

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
from scalelab.train.checkpoint import TrainState, checkpoint_path, digest_of_file, saved_steps
from scalelab.train.parallel import ALONE, Parallel
from scalelab.train.recipe import Recipe
from scalelab.train.tokens import TokenData

RECORD = "training.json"
_SUFFIX = ".checkpoints"
_LOCK = ".lock"
_KEY = re.compile("[0-9a-f]{16}")
_EVERY_S = 10.0


def stage_settings(
    source: Path, P: int, data: TokenData, recipe: Recipe, n_tokens: int, train: str, seed: int
) -> dict[str, Any]:
    """What decides where `stage.train_stage` ends, as plain values; model and text count by content."""
    model = hashlib.sha256()
    for file in (source / "config.json", *sorted(source.glob("*.safetensors"))):
        model.update(f"{file.name} {digest_of_file(file)}\n".encode())
    return {
        "model": model.hexdigest()[:16],
        "P": P,
        "train": train,
        "n_tokens": n_tokens,
        "seed": seed,
        "corpus": data.text.corpus_digest,
        "tokenizer": data.text.tokenizer_digest,
    } | asdict(recipe)


class Attempt:
    """A training of `steps` steps by `settings` whose result is to be the new folder `out`.

    ``OUT.checkpoints/KEY``, the attribute `folder`, has its states and the file training.json: status, message,
    settings, steps and loss curve. KEY is a digest of the settings, so states of another command are never taken
    up. When `out` is written all this goes. Of several processes (`parallel`) the main one alone writes; with FSDP
    there are no states.
    """

    def __init__(self, out: Path, settings: dict[str, Any], steps: int, parallel: Parallel = ALONE) -> None:
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        self.out, self.settings, self.steps = out, settings, steps
        self.main, self.resumes = parallel.main, not parallel.sharded
        self.parent = out.with_name(out.name + _SUFFIX)
        self.folder = self.parent / key
        self.state = TrainState()  # where training is
        self._told_at = 0.0
        self._had = bool(self._steps())

    @contextmanager
    def running(self) -> Iterator[None]:
        """No other process trains for the same folder meanwhile, and what ends it early is recorded.

        Raises `UsageError` if another does, `OSError` if nothing can be written there.
        """
        if not self.main:
            yield
            return
        self.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.parent / _LOCK, timeout=0):
                try:
                    if not self._had:  # better a full disk now than at the first state
                        self._record("unfinished", "")
                    yield
                except BaseException as error:
                    with contextlib.suppress(OSError):  # a full disk may be what failed
                        self._end(error)
                    if isinstance(error, TrainingError):
                        where = f"its loss curve: {self.folder / RECORD}"
                        raise type(error)(f"{error} ({where})", error.state) from None
                    raise
                finally:
                    self._clear()
        except Timeout:
            raise UsageError(f"`out={self.out}`: another training is at work on it; name another folder") from None

    def begin(self, state: TrainState) -> str | None:
        """Training begins with `state`, and from now on moves it along. Returns a line about it if it is not new."""
        self.state = state
        if self.main:
            self._record("unfinished", "")
        if state.step:
            return f"going on from step {state.step} of {self.steps}, as saved in {self.folder}"
        if self._had:
            return f"{self.folder}: its states are damaged or of another version, so training begins anew"
        return None

    def observe(self, state: TrainState) -> None:
        """Keep the record about as new as `state`, which training has come to."""
        if self.main and state.seconds - self._told_at > _EVERY_S:
            self._told_at = state.seconds
            with contextlib.suppress(OSError):
                self._record("unfinished", "")

    def others(self) -> str | None:
        """A line about states of other commands for the same folder, or None if there are none."""
        found = {folder: saved_steps(folder) for folder in self._folders() if folder != self.folder}
        found = {folder: steps for folder, steps in found.items() if steps}
        if not found:
            return None
        folder, steps = max(found.items(), key=lambda item: item[1][0])
        many = f" and {len(found) - 1} more" if len(found) > 1 else ""
        return (
            f"{folder}{many}: left by another command ({self._difference(folder)}; at step {steps[0]}), not taken up; "
            "remove it if it is not wanted"
        )

    def kept(self) -> str:
        """What the same command will do, for a line about an end before time."""
        steps = self._steps()
        if not steps:
            return "no state is saved, so the same command begins anew"
        return f"the same command goes on from step {steps[0]}, saved in {self.folder}"

    def written(self) -> None:
        """The new folder is there: remove what is no longer needed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for folder in self._folders():
            if not saved_steps(folder):  # only a record of what a command did before it failed
                shutil.rmtree(folder, ignore_errors=True)

    def _steps(self) -> list[int]:
        """Those of which this command has a state, the latest first."""
        return saved_steps(self.folder) if self.resumes else []

    def _end(self, error: BaseException) -> None:
        status = error.status if isinstance(error, TrainingError) else RunStatus.FAILED
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            status = RunStatus.INTERRUPTED
        # Where nothing had begun, what was before stays.
        if status in (RunStatus.FAILED, RunStatus.INTERRUPTED) and not self.state.step:
            if not saved_steps(self.folder):
                shutil.rmtree(self.folder, ignore_errors=True)
            return
        message = str(error) if isinstance(error, ScalelabError) else f"{type(error).__name__}: {error}"
        self._record(status, message.removesuffix(": "))
        if status == RunStatus.DIVERGED:  # it would do so again
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
            return "which, its training.json does not tell"
        return f"other {', '.join(names)}"

    def _folders(self) -> list[Path]:
        """Those of all commands for the same new folder."""
        return [path for path in self.parent.glob("*") if _KEY.fullmatch(path.name) and path.is_dir()]

    def _clear(self) -> None:
        """Remove the folder of all commands if nothing of theirs is left."""
        if not self._folders():
            (self.parent / _LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something of the user's is there
                self.parent.rmdir()
