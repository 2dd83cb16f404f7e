"""Helpers that the functions on models share: quiet loading, devices, tokenizers, new folders, progress."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalelab.errors import DataError, MissingPackageError, UsageError, choice_error

if TYPE_CHECKING:
    from rich.console import Console

DeviceName = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "fp32", "bf16"]
DEVICES: tuple[DeviceName, ...] = ("auto", "cpu", "cuda")
DTYPES: tuple[Dtype, ...] = ("auto", "fp32", "bf16")


def need_torch(what: str) -> None:
    """Raise `MissingPackageError` where torch or transformers is not installed, without importing either."""
    for name in ("torch", "transformers", "tokenizers", "safetensors"):
        if find_spec(name) is None:
            raise MissingPackageError(f"{what} needs {name}, which is not installed: pip install 'scalelab[train]'")


def console_of(progress: bool | Console) -> Console:
    """Return the console for progress: standard error, none, or the one given."""
    import sys

    from rich.console import Console

    if isinstance(progress, Console):
        return progress
    return Console(file=sys.stderr, highlight=False, markup=False, quiet=not progress)


def quiet_libraries() -> None:
    """Keep transformers' own progress bars and advice off the screen."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def choose_device(device: str) -> str:
    """Return auto, cpu or cuda as a device of torch. Raises `ScalelabError` where there is none."""
    import sys

    from scalelab.train.places import default_places, gpu_at, launched_place

    check_device(device)
    if (place := launched_place(device)) is not None:
        return place
    place = default_places(device, lambda line: print(line, file=sys.stderr))[0]
    gpu = gpu_at(place)
    return "cuda:0" if gpu is not None and gpu.visible.startswith("MIG-") else place  # a process sees one slice


def check_device(device: str) -> None:
    """Raise `UsageError` for a word that is no device."""
    if device not in DEVICES:
        raise UsageError("choose auto, cpu or cuda", argument="device", value=device)


def check_dtype(dtype: str) -> None:
    """Raise `UsageError` for a word that is no precision to compute in."""
    if dtype not in DTYPES:
        raise UsageError("choose auto, fp32 or bf16", argument="dtype", value=dtype)


def check_model(folder: Path) -> Path:
    """Return `folder`, if it can be that of a model, without importing torch. Raises `UsageError`."""
    if folder.is_file():
        raise UsageError(f"{folder}: is a file; give the folder that holds config.json and safetensors")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give one with config.json and safetensors")
    return folder


def check_corpus(corpus: str) -> None:
    """Raise `UsageError` for a text that is nowhere, before anything heavy is imported."""
    if corpus == "stdlib" or corpus.startswith("hf:"):
        return
    if not Path(corpus).expanduser().exists():
        reason = "no such file or folder (nor 'stdlib' nor 'hf:NAME')"
        raise UsageError(reason, argument="corpus", value=corpus)


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer beside a model. Raises `DataError` naming the folder."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        return AutoTokenizer.from_pretrained(
            folder,
            local_files_only=True,  # nosec B615  # nothing is downloaded
            trust_remote_code=False,
        )
    except (ValueError, OSError, KeyError):
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise DataError(f"{folder}: no tokenizer.json beside the model; put its tokenizer there") from None
        try:
            return PreTrainedTokenizerFast(tokenizer_file=str(file))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{file}: not a tokenizer ({error})") from None


def new_folder(out: Path) -> Path:
    """Return `out`, if it can be written and nothing is there that would be overwritten.

    Before the work, not after it. Raises `UsageError` or OSError.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("is there already and not empty; name a new folder", argument="out", value=str(out))
    check_writable(out.parent)
    return out


def check_writable(folder: Path) -> None:
    """Make `folder` if need be. Raises OSError if nothing can be written in it."""
    import tempfile

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_file(path: Path, argument: str, *read: str | Path | None) -> Path:
    """Return `path`, if a file can be written there. Raises `UsageError`.

    Its folder exists, it is no folder itself, and it is none of the files that are to be `read`.
    """
    for source in read:
        if source is not None and path.exists() and Path(source).exists() and path.samefile(source):
            raise UsageError("is what is read and would be lost; name another file", argument=argument, value=str(path))
    if path.is_dir():
        raise UsageError("is a folder; name a file", argument=argument, value=str(path))
    if not path.parent.is_dir():
        raise UsageError(f"{path.parent} is no folder; make it first", argument=argument, value=str(path))
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path.parent} cannot be written to", argument=argument, value=str(path))
    return path


def check_figure(path: Path, argument: str = "figure", *read: str | Path | None) -> Path:
    """Return `path`, if a figure can be written there: matplotlib knows its ending, its folder exists."""
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        endings = ", ".join(f".{kind}" for kind in sorted(kinds))
        raise UsageError(f"end it in one of {endings}", argument=argument, value=str(path))
    return check_file(path, argument, *read)


def check_choice(argument: str, value: str | None, choices: tuple[str, ...]) -> None:
    """Raise `UsageError` for a value that is neither one of `choices` nor None."""
    if value is not None and value not in choices:
        raise choice_error(argument, value, choices)


@contextmanager
def training_progress(console: Console, steps: int) -> Iterator[Callable[[int, float, float], None]]:
    """Yield what takes (step, loss, tokens a second): a bar in a terminal, a line for each tenth in a log."""
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
