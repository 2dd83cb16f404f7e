"""TensorBoard logs of a run: the loss and the learning rate over training tokens, and what the run is."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from scalelab.errors import ScalelabError
from scalelab.train.checkpoint import TrainState
from scalelab.train.loop import Observer
from scalelab.train.recipe import RunConfig
from scalelab.train.trajectory import learning_rate_factor, legs

LOSS, LEARNING_RATE = "loss/train", "learning_rate"
_PREFIX = "events.out.tfevents"


@contextmanager
def writing(folder: Path, config: RunConfig) -> Iterator[Observer]:
    """An observer of the training loop that logs `config`'s curve to `folder`, which is its alone.

    The steps of the log are training tokens, so that runs with other batches can be laid over each other. A run that
    goes on from a checkpoint has the log of one that was never interrupted. A log that cannot be written is given up
    with a line on standard error: the run matters more. Raises `ScalelabError` without the package tensorboard.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:  # on another machine than the sweep's
        raise ScalelabError(f"`tensorboard`: {error}; pip install 'scalelab[tensorboard]'") from None
    log = _Log(folder, config)
    try:
        yield log
    finally:
        log.close()


class _Log:
    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config, self.legs = folder, config, legs(config)
        self.file: _EventFile | None = None  # begun at the first point: then it is known where the run begins
        self.given_up = False

    def __call__(self, state: TrainState) -> None:
        if self.given_up:
            return
        try:
            points = state.curve[-1:]
            if self.file is None:
                # The whole curve, for it holds what an earlier attempt came to by the checkpoint: that attempt's log
                # may lack the end of it, and has what was lost.
                self.file, points = _EventFile(self.folder), state.curve
                self._describe(self.file)
            for step, n_tokens, loss in points:
                self.file.add_scalar(LOSS, loss, n_tokens)
                self.file.add_scalar(LEARNING_RATE, self._learning_rate(step), n_tokens)
        except OSError as error:
            self.given_up = True
            reason = error.strerror or error
            print(f"scalelab: {self.folder}: no more TensorBoard log of this run ({reason})", file=sys.stderr)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def _describe(self, file: _EventFile) -> None:
        from torch.utils.tensorboard.summary import hparams

        file.add_start()
        experiment, session, _ = hparams(_hyperparameters(self.config), {LOSS: None})
        file.add(summary=experiment)
        file.add(summary=session)

    def _learning_rate(self, step: int) -> float:
        """The rate that step `step`, counted from 1, was made with."""
        leg = next(leg for leg in self.legs if step <= leg.steps)
        return leg.peak_lr * learning_rate_factor(step - 1, leg)


class _EventFile:
    """What torch's SummaryWriter writes, but at once and not from a thread, in which a full disk is a traceback and
    the last points before a kill are lost. Raises `OSError`."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads a folder's files by name, and a file that vanishes would be the last it reads: an
        # earlier attempt's stays, before this one whatever the clocks say.
        stamps = [path.name.split(".")[3] for path in folder.glob(f"{_PREFIX}.*")]
        stamp = max(int(time.time()), *(int(text) + 1 for text in stamps if text.isdigit()), 0)
        name = f"{_PREFIX}.{stamp:010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file: IO[bytes] = (folder / name).open("xb", buffering=0)
        self._protos: Any = event_pb2
        self._records = RecordWriter(self._file)

    def add_start(self) -> None:
        """Begin anew at step 0: a reader drops the points of earlier files."""
        log = self._protos.SessionLog
        self.add(file_version="brain.Event:2")
        self.add(session_log=log(status=log.START))

    def add(self, n_tokens: int = 0, **content: Any) -> None:
        event = self._protos.Event(wall_time=time.time(), step=n_tokens, **content)
        self._records.write(event.SerializeToString())

    def add_scalar(self, tag: str, value: float, n_tokens: int) -> None:
        from torch.utils.tensorboard.summary import scalar

        self.add(n_tokens, summary=scalar(tag, value))

    def close(self) -> None:
        self._file.close()


def _hyperparameters(config: RunConfig) -> dict[str, Any]:
    shape = config.architecture
    own = {"N": shape.n_params, "P": shape.P, "D": config.n_tokens, "seed": config.seed, "peak_lr": config.peak_lr}
    return own | {"plain_tokens": config.plain_tokens} | asdict(shape) | asdict(config.recipe)
