"""`scalelab train`: the second stage of a model that has streams."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalelab.cli.console import make_table, print_table, stdout
from scalelab.cli.models import choose_device, choose_dtype, new_folder, quiet_libraries, training_progress
from scalelab.errors import UsageError
from scalelab.units import counts, format_count, format_seconds

if TYPE_CHECKING:
    from scalelab.train.evaluate import Evaluation


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
    compile_model: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
) -> None:
    """Continue a model with P streams on a corpus; with --train streams its backbone stays bit for bit.

    For one seed every P sees the same text in the same order. On several devices: accelerate launch … -m scalelab
    train …, data parallel or with FSDP; --batch-size is of all processes together.
    """
    n_tokens = counts([tokens], "--tokens")[0]
    if part not in ("streams", "all"):
        raise UsageError(f"--train {part}: choose streams or all")
    new_folder(out)

    from scalelab.model.checkpoint import save_model, saved_dtype
    from scalelab.train import stage
    from scalelab.train.parallel import leave, processes

    quiet_libraries()
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    console = stdout()
    with processes(place, precision) as parallel:
        console.quiet = not parallel.main
        model = stage.open_model(source, P, parallel.loads_on)
        seq_len = seq_len or stage.default_seq_len(model)
        recipe = stage.stage_recipe(part, lr, seq_len, batch_size, val_tokens, precision)
        data = stage.read_text(model, source, corpus, text_column)
        if part == "streams" and not dict(model.stream_parameters()):
            raise UsageError(stage.NOTHING_TO_TRAIN)
        learning = sum(p.numel() for _, p in model.stream_parameters())
        total = sum(p.numel() for p in model.parameters())
        console.print(
            f"{source.resolve().name}, P = {model.P}: {format_count(learning if part == 'streams' else total)} of "
            f"{format_count(total)} parameters learn from {format_count(n_tokens)} tokens{parallel.told}",
            soft_wrap=True,
        )
        steps = stage.whole_steps(n_tokens, recipe) // (seq_len * batch_size)
        with training_progress(console, steps) as progress:
            result = stage.train_stage(
                model, data, recipe, n_tokens, part, seed, parallel.device, compile_model, progress, parallel
            )
        model = parallel.whole(model)
    if not parallel.main:
        leave()
    if part == "streams":  # so that the backbone is the source's to the last bit
        model = model.to(saved_dtype(source))
    save_model(model, out, source)
    settings = {"source": source.name, "P": model.P, "train": part, "n_tokens": result.n_tokens, "seed": seed}
    content = {
        **settings,
        "text": asdict(data.text),
        "recipe": asdict(recipe),
        "before": _described(result.before),
        "after": _described(result.after),
        "seconds": result.seconds,
        "curve": [list(point) for point in result.curve],
    }
    (out / "training.json").write_text(json.dumps(content, indent=1))
    table = make_table("<", "loss", "± over text", "cosine", "ρ of losses", "<warnings")
    for name, seen in (("before", result.before), ("after", result.after)):
        streams = seen.streams
        about = (
            (f"{streams.cosine:.4f}", f"{streams.correlation:.4f}", ", ".join(streams.warnings))
            if streams
            else ("",) * 3
        )
        table.add_row(name, f"{seen.loss:.4f}", f"{seen.loss_stderr:.4f}", *about)
    print_table(
        console,
        f"P = {model.P}, {part}, {format_count(result.n_tokens)} tokens, {format_seconds(result.seconds)}",
        table,
    )
    if result.after.loss > result.before.loss:
        console.print(
            "warning: the loss is higher than before training; try a lower --lr or more tokens", soft_wrap=True
        )
    if told := stage.beyond(model, seq_len):
        console.print(told, soft_wrap=True)
    console.print(f"written to {out}, with its loss curve in training.json", soft_wrap=True)


def _described(seen: Evaluation) -> dict:
    streams = seen.streams
    return {
        "loss": seen.loss,
        "loss_stderr": seen.loss_stderr,
        "n_tokens": seen.n_tokens,
        "streams": streams and asdict(streams) | {"warnings": streams.warnings},
    }
