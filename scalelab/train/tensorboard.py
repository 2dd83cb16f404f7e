"""TensorBoard logs of a run: loss and learning rate over training tokens, and the config."""

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
from scalelab.train.phases import learning_rate_factor, phases
from scalelab.train.recipe import RunConfig

LOSS, LEARNING_RATE = "loss/train", "learning_rate"
_PREFIX = "events.out.tfevents"


@contextmanager
def log_curve(folder: Path, config: RunConfig) -> Iterator[Observer]:
    """Provide an observer of the training loop that logs the curve of `config` to `folder`.

    No other run may log to the folder. Steps of the log are training tokens, so that runs with different batches can be
    compared. A resumed run has the log of an uninterrupted one. If the log cannot be written, a line on standard error
    says so and the run goes on without it.

    Raises:
        ScalelabError: the package tensorboard is not installed.
    """
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:  # on a machine other than the sweep's
        raise ScalelabError(f"`tensorboard`: {error}; pip install 'scalelab[tensorboard]'") from None
    log = _Log(folder, config)
    try:
        yield log
    finally:
        log.close()


class _Log:
    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self.config, self.phases = folder, config, phases(config)
        self.file: _EventFile | None = None  # opened at the first point, when the start of the run is known
        self.failed = False

    def __call__(self, state: TrainState) -> None:
        if self.failed:
            return
        try:
            points = state.curve[-1:]
            if self.file is None:
                # The whole curve: the log of an interrupted attempt may lack its last points before the checkpoint,
                # and has points that are trained again.
                self.file, points = _EventFile(self.folder), state.curve
                self._describe(self.file)
            for step, n_tokens, loss in points:
                self.file.add_scalar(LOSS, loss, n_tokens)
                self.file.add_scalar(LEARNING_RATE, self._learning_rate(step), n_tokens)
        except OSError as error:
            self.failed = True
            reason = error.strerror or error
            print(f"scalelab: {self.folder}: TensorBoard log of this run stopped ({reason})", file=sys.stderr)

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
        """Return the learning rate of step `step`, counted from 1."""
        phase = next(phase for phase in self.phases if step <= phase.steps)
        return phase.peak_lr * learning_rate_factor(step - 1, phase)


class _EventFile:
    """Event file in the format of torch's SummaryWriter, written at once.

    SummaryWriter writes in a thread, where a full disk causes a traceback and a kill loses the last points. Methods
    raise `OSError`.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names and stops at one that vanishes. Files of
        # earlier attempts stay, and this one must come after them, whatever the clocks say.
        stamps = [path.name.split(".")[3] for path in folder.glob(f"{_PREFIX}.*")]
        stamp = max(int(time.time()), *(int(text) + 1 for text in stamps if text.isdigit()), 0)
        name = f"{_PREFIX}.{stamp:010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._file: IO[bytes] = (folder / name).open("xb", buffering=0)
        self._protos: Any = event_pb2
        self._records = RecordWriter(self._file)

    def add_start(self) -> None:
        """Mark the start of a log, at which readers drop the points of earlier files."""
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
