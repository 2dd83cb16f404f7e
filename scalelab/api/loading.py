"""Shared helpers for functions that use models: devices, tokenizers, output folders, progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalelab.errors import DataError, MissingPackageError, UsageError, choice_error, first_line

if TYPE_CHECKING:
    from rich.console import Console

DeviceName = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "fp32", "bf16"]
DEVICES: tuple[DeviceName, ...] = ("auto", "cpu", "cuda")
DTYPES: tuple[Dtype, ...] = ("auto", "fp32", "bf16")


def need_torch(what: str) -> None:
    """Raise `MissingPackageError` if a package of the extra `train` is not installed, without importing it."""
    for name in ("torch", "transformers", "tokenizers", "safetensors"):
        if find_spec(name) is None:
            raise MissingPackageError(f"{what} needs {name}, which is not installed: pip install 'scalelab[train]'")


def console_of(progress: bool | Console) -> Console:
    """Return the console for progress: a given one, standard error, or a silent one."""
    import sys

    from rich.console import Console

    if isinstance(progress, Console):
        return progress
    return Console(file=sys.stderr, highlight=False, markup=False, quiet=not progress)


def quiet_libraries() -> None:
    """Turn off the progress bars and warnings of transformers."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def choose_device(device: str) -> str:
    """Return the torch device for "auto", "cpu" or "cuda".

    Raises:
        ScalelabError: The device does not exist or cannot be used.
    """
    import sys

    from scalelab.train.devices import default_slots, launched_device, probed_gpu

    check_device(device)
    if (launched := launched_device(device)) is not None:
        return launched
    first = default_slots(device, lambda line: print(line, file=sys.stderr))[0]
    gpu = probed_gpu(first)
    return "cuda:0" if gpu is not None and gpu.visible.startswith("MIG-") else first  # a process sees one slice


def check_device(device: str) -> None:
    """Raise `UsageError` unless `device` is one of `DEVICES`."""
    if device not in DEVICES:
        raise UsageError("choose auto, cpu or cuda", argument="device", value=device)


def check_dtype(dtype: str) -> None:
    """Raise `UsageError` unless `dtype` is one of `DTYPES`."""
    if dtype not in DTYPES:
        raise UsageError("choose auto, fp32 or bf16", argument="dtype", value=dtype)


def check_model(folder: Path) -> Path:
    """Return `folder` if it exists.

    Raises:
        UsageError: `folder` does not exist or is a file.
    """
    if folder.is_file():
        raise UsageError(f"{folder}: is a file; give the folder with config.json and safetensors")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give one with config.json and safetensors")
    return folder


def check_corpus(corpus: str) -> None:
    """Raise `UsageError` if the corpus is a path that does not exist."""
    if corpus == "stdlib" or corpus.startswith("hf:"):
        return
    if not Path(corpus).expanduser().exists():
        reason = "no such file or folder; give a path, 'stdlib' or 'hf:NAME'"
        raise UsageError(reason, argument="corpus", value=corpus)


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer in a model's folder.

    Raises:
        DataError: There is no tokenizer, or it cannot be read.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    auto: Any = AutoTokenizer
    try:
        return auto.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
        )
    except Exception:  # files may hold anything, and the library raises whatever comes of that
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise DataError(f"{folder}: tokenizer.json is missing; copy the model's tokenizer there") from None
        try:
            return PreTrainedTokenizerFast(tokenizer_file=str(file))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{file}: not a tokenizer ({first_line(error)})") from None


def new_folder(out: Path) -> Path:
    """Return `out` if it can be written without overwriting anything. Call it before the work.

    Raises:
        UsageError: `out` exists and is not an empty folder.
        OSError: Its parent folder cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("exists and is not empty; give a new folder", argument="out", value=str(out))
    check_writable(out.parent)
    return out


def check_writable(folder: Path) -> None:
    """Create `folder` if it is missing.

    Raises:
        OSError: It cannot be created or written.
    """
    import tempfile

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_file(path: Path, argument: str, *read: str | Path | None) -> Path:
    """Return `path` if a file can be written there.

    Args:
        path: The file to write.
        argument: Argument to name in errors.
        read: Input files, which must not be overwritten.

    Raises:
        UsageError: `path` is a folder or an input file, or its folder does not exist or cannot be written.
    """
    for source in read:
        if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
            raise UsageError("would overwrite an input; give another file", argument=argument, value=str(path))
    if path.is_dir():
        raise UsageError("is a folder; give a file", argument=argument, value=str(path))
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is not a folder; create it first", argument=argument, value=str(path))
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path.parent} is not writable; choose another folder", argument=argument, value=str(path))
    return path


def check_figure(path: Path, argument: str = "figure", *read: str | Path | None) -> Path:
    """Return `path` if a figure can be written there.

    Raises:
        UsageError: As for `check_file`, or matplotlib does not support the file name extension.
    """
    if path.suffix.removeprefix(".").lower() not in figure_formats():
        endings = ", ".join(f".{kind}" for kind in figure_formats())
        raise UsageError(f"must end in one of {endings}", argument=argument, value=str(path))
    return check_file(path, argument, *read)


def figure_formats() -> tuple[str, ...]:
    """Return the formats of figures: the endings that matplotlib supports."""
    from matplotlib.backend_bases import FigureCanvasBase

    return tuple(sorted(FigureCanvasBase.get_supported_filetypes()))


def check_choice(argument: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Raise `UsageError` unless `value` is one of `choices` or None."""
    if value is not None and value not in choices:
        raise choice_error(argument, value, choices)


@contextmanager
def training_progress(console: Console, steps: int) -> Generator[Callable[[int, float, float], None]]:
    """Yield a function of step, loss and tokens/s that shows progress: a bar in a terminal, else ten lines."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if not console.is_terminal:
        reported = 0

        def line(step: int, loss: float, speed: float) -> None:
            nonlocal reported
            if step * 10 // steps > reported:
                reported = step * 10 // steps
                console.print(f"step {step} of {steps}  loss {loss:.4f}  {speed:.0f} tokens/s", soft_wrap=True)

        yield line
        return
    columns = (TextColumn("step {task.completed} of {task.total}"), BarColumn(), TextColumn("{task.fields[now]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("", total=steps, now="")
        yield lambda step, loss, speed: bar.update(task, completed=step, now=f"loss {loss:.4f}, {speed:.0f} tokens/s")
