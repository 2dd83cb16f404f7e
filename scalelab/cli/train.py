"""`scalelab train`: the second stage of a model that has streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalelab.cli.console import make_table, print_table, stdout
from scalelab.cli.models import choose_device, choose_dtype, new_folder, quiet_libraries, training_progress
from scalelab.errors import UsageError
from scalelab.units import counts, format_count, format_seconds

if TYPE_CHECKING:
    from rich.console import Console

    from scalelab.train.attempt import Attempt
    from scalelab.train.evaluate import Evaluation
    from scalelab.train.parallel import Parallel
    from scalelab.train.stage import StageResult

_MEMORY = "try a smaller --batch-size, --seq-len or --P"


def train(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a model, as scalelab convert writes it.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder for the trained model.")],
    P: Annotated[
        int | None, typer.Option("--P", min=1, help="Streams; by default those trained last, or the most.")
    ] = None,
    part: Annotated[
        str, typer.Option("--train", help="streams: only prefixes and mixture learn; all: everything does.")
    ] = "streams",
    tokens: Annotated[str, typer.Option(help="Training tokens, e.g. 100k.")] = "100k",
    corpus: Annotated[
        str, typer.Option(help="stdlib, hf:NAME, or a file or folder of text, JSONL or Parquet.")
    ] = "stdlib",
    text_column: Annotated[str, typer.Option(help="Where JSONL and Parquet hold the text.")] = "text",
    seq_len: Annotated[int | None, typer.Option(min=2, help="Tokens of a sequence; up to 512 by default.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences of a step.")] = 4,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate; by default 3e-2 for streams, 1e-4 for all.")
    ] = None,
    val_tokens: Annotated[int, typer.Option(min=1, help="Tokens to measure the losses on.")] = 32768,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of the data.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, fp32 or bf16; auto is bf16 on CUDA and fp32 on CPU.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0.0, help="How often a long training saves its state, to resume from.")
    ] = 5.0,
    compile_model: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
) -> None:
    """Continue a model with P streams on a corpus; with --train streams its backbone stays bit for bit.

    For one seed every P sees the same text in the same order. States and the curve so far are in OUT.checkpoints until
    OUT is there: the same command goes on from the latest. On several devices: accelerate launch … -m scalelab train …,
    data parallel or with FSDP (which saves no states); --batch-size is of all processes together.
    """
    n_tokens = counts([tokens], "--tokens")[0]
    if part not in ("streams", "all"):
        raise UsageError(f"--train {part}: choose streams or all")
    if out.name in ("", ".."):  # the folder one is in, or the one above
        out = out.resolve()
    new_folder(out)

    from scalelab.model.checkpoint import save_model, saved_dtype
    from scalelab.train import stage
    from scalelab.train.attempt import RECORD, Attempt, stage_settings
    from scalelab.train.legs import Options
    from scalelab.train.memory import memory_told
    from scalelab.train.parallel import leave, processes
    from scalelab.train.recipe import whole_steps

    quiet_libraries()
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    console = stdout()

    def say(line: str | None) -> None:
        if line:
            console.print(line, soft_wrap=True)

    with ExitStack() as until_written:
        until_written.enter_context(memory_told(str(source), _MEMORY))
        with processes(place, precision) as parallel:
            console.quiet = not parallel.main
            model = stage.open_model(source, P, parallel.loads_on)
            seq_len = seq_len or stage.default_seq_len(model)
            recipe = stage.stage_recipe(part, lr, seq_len, batch_size, val_tokens, precision)
            data = stage.read_text(model, source, corpus, text_column)
            if part == "streams" and not dict(model.stream_parameters()):
                raise UsageError(stage.NOTHING_TO_TRAIN)
            n_tokens = whole_steps(n_tokens, recipe)
            settings = stage_settings(source, model.P, data, recipe, n_tokens, part, seed)
            attempt = Attempt(out, settings, n_tokens // (seq_len * batch_size), parallel)
            until_written.enter_context(_stoppable(attempt, parallel))
            until_written.enter_context(attempt.running())
            until_written.enter_context(memory_told(f"P = {model.P}", _MEMORY))
            total = sum(p.numel() for p in model.parameters())
            learning = sum(p.numel() for _, p in model.stream_parameters()) if part == "streams" else total
            say(
                f"{source.resolve().name}, P = {model.P}: {format_count(learning)} of {format_count(total)} "
                f"parameters learn from {format_count(n_tokens)} tokens{parallel.told}"
            )
            say(attempt.others())
            if parallel.sharded:
                say("with FSDP no states are saved: a training that is cut short begins anew")
            with training_progress(console, attempt.steps) as progress:
                options = Options(
                    device=parallel.device,
                    compile_model=compile_model,
                    checkpoints=None if parallel.sharded else attempt.folder,
                    save_every_s=checkpoint_minutes * 60,
                    progress=progress,
                    observer=attempt.observe,
                )
                result = stage.train_stage(
                    model,
                    data,
                    recipe,
                    n_tokens,
                    part,
                    seed,
                    options,
                    parallel,
                    lambda state: say(attempt.begin(state)),
                )
            model = parallel.whole(model)
        if not parallel.main:
            leave()
        if part == "streams":  # so that the backbone is the source's to the last bit
            model = model.to(saved_dtype(source))
        content = {
            **{"status": "ok", "source": source.name, "P": model.P, "train": part, "n_tokens": n_tokens, "seed": seed},
            **{"text": asdict(data.text), "recipe": asdict(recipe), "steps": attempt.steps},
            **_described(result),
        }
        save_model(model, out, source, {RECORD: json.dumps(content, indent=1)})
        attempt.written()
    _show(console, result, f"P = {model.P}, {part}")
    say(stage.beyond(model, seq_len))
    say(f"written to {out}, with its loss curve in {RECORD}")


@contextmanager
def _stoppable(attempt: Attempt, parallel: Parallel) -> Iterator[None]:
    """Ctrl-C and SIGTERM in here end in a line about what is kept."""
    from scalelab.sweep.stopping import interrupted, terminable
    from scalelab.train.parallel import leave

    # A launcher sends SIGTERM to processes that wait for one another, and so would not come to hear of it.
    with terminable() if parallel.size == 1 else nullcontext():
        try:
            yield
        except KeyboardInterrupt as stop:
            if not parallel.main:
                leave(130)
            raise interrupted(stop, f" at step {attempt.state.step} of {attempt.steps}; {attempt.kept()}") from None


def _show(console: Console, result: StageResult, what: str) -> None:
    """The table of losses before and after, and a warning if they rose."""
    table = make_table("<", "loss", "± over text", "cosine", "ρ of losses", "<warnings")
    for name, seen in (("before", result.before), ("after", result.after)):
        streams = seen.streams
        about = (
            (f"{streams.cosine:.4f}", f"{streams.correlation:.4f}", ", ".join(streams.warnings))
            if streams
            else ("",) * 3
        )
        table.add_row(name, f"{seen.loss:.4f}", f"{seen.loss_stderr:.4f}", *about)
    title = f"{what}, {format_count(result.n_tokens)} tokens, {format_seconds(result.seconds)}"
    print_table(console, title, table)
    if result.after.loss > result.before.loss:
        console.print(
            "warning: the loss is higher than before training; try a lower --lr or more tokens", soft_wrap=True
        )


def _described(result: StageResult) -> dict[str, Any]:
    """What was measured, for JSON."""

    def values(seen: Evaluation) -> dict[str, Any]:
        streams = seen.streams
        return {
            "loss": seen.loss,
            "loss_stderr": seen.loss_stderr,
            "n_tokens": seen.n_tokens,
            "streams": streams and asdict(streams) | {"warnings": streams.warnings},
        }

    return {
        "before": values(result.before),
        "after": values(result.after),
        "seconds": result.seconds,
        "curve": [list(point) for point in result.curve],
    }
