"""What the commands on models share: quiet loading, devices, tokenizers, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scalelab.errors import DataError, UsageError

if TYPE_CHECKING:
    from rich.console import Console


def quiet_libraries() -> None:
    """Keep transformers' own progress bars and advice off the screen."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def choose_device(device: str) -> str:
    """auto, cpu or cuda as a device of torch. Raises `ScalelabError` where there is none."""
    from scalelab.train.places import default_places, gpu_at, launched_place

    check_device(device)
    if (place := launched_place(device)) is not None:
        return place
    place = default_places(device, lambda line: typer.echo(line, err=True))[0]
    gpu = gpu_at(place)
    return "cuda:0" if gpu is not None and gpu.visible.startswith("MIG-") else place  # a process sees one slice


def check_device(device: str) -> None:
    """Raises `UsageError` for a word that is no --device."""
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: choose auto, cpu or cuda")


def choose_dtype(dtype: str, device: str) -> str:
    """auto becomes bf16 on GPUs that compute in it, else fp32."""
    from scalelab.train.places import best_dtype

    return best_dtype(device) if dtype == "auto" else dtype


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer beside a model. Raises `DataError` naming the folder."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError):
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise DataError(f"{folder}: no tokenizer.json beside the model; put its tokenizer there") from None
        try:
            return PreTrainedTokenizerFast(tokenizer_file=str(file))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{file}: not a tokenizer ({error})") from None


def new_folder(out: Path) -> Path:
    """`out` if it can be written and nothing is there that would be overwritten.

    Before the work, not after it. Raises `UsageError` or OSError.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"-o {out}: is there already and not empty; name a new folder")
    check_writable(out.parent)
    return out


def check_writable(folder: Path) -> None:
    """Make `folder` if need be. Raises OSError if nothing can be written in it."""
    import tempfile

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_figure(path: Path) -> Path:
    """`path` if a figure can be written there. Raises `UsageError` or OSError."""
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in kinds:
        raise UsageError(f"--figure {path}: end it in one of {', '.join(f'.{kind}' for kind in sorted(kinds))}")
    check_writable(path.parent)
    return path


@contextmanager
def training_progress(console: Console, steps: int) -> Iterator[Callable[[int, float, float], None]]:
    """Receives (step, loss, tokens a second): a bar in a terminal, a line for each tenth in a log."""
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
