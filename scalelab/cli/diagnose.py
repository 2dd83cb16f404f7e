"""`scalelab diagnose`: are the streams of a model different, and does the mixture use them?"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import make_table, print_table, stdout
from scalelab.cli.models import check_figure, choose_device, choose_dtype, load_tokenizer, quiet_libraries
from scalelab.errors import UsageError


def diagnose(
    source: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a model with streams.")],
    corpus: Annotated[
        str, typer.Option(help="stdlib, hf:NAME, or a file or folder of text, JSONL or Parquet.")
    ] = "stdlib",
    P: Annotated[
        int | None, typer.Option("--P", min=2, help="Streams; by default those the model was saved with.")
    ] = None,
    text_column: Annotated[str, typer.Option(help="Where JSONL and Parquet hold the text.")] = "text",
    seq_len: Annotated[int | None, typer.Option(min=2, help="Tokens of a sequence; up to 512 by default.")] = None,
    val_tokens: Annotated[int, typer.Option(min=1, help="Tokens to look at.")] = 32768,
    figure: Annotated[
        Path | None, typer.Option(help="Picture of the weights over tokens; MODEL-streams-P….png by default.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every digit.")] = False,
) -> None:
    """Mixture weights, how alike the streams are, warnings, and a picture of the weights over tokens.

    Cosine is between two streams' final states, ρ the correlation of their own losses over tokens: at 1 they are
    copies, and above 0.99 the warning is stream_collapse. weight_monoculture: the mixture leans on one stream.
    """
    if figure is not None:
        check_figure(figure)

    import torch

    from scalelab.plot.streams import plot_weights
    from scalelab.train import stage
    from scalelab.train.streams import weights_over_tokens

    quiet_libraries()
    place = choose_device(device)
    model = stage.open_model(source, P, place)
    if model.P == 1:
        have = ", ".join(map(str, sorted(p for p in model.banks if p > 1))) or "none"
        raise UsageError(f"{source}: one stream has nothing to compare; choose --P (banks: {have})")
    picture = figure or check_figure(Path(f"{source.resolve().name}-streams-P{model.P}.png"))
    data = stage.read_text(model, source, corpus, text_column)
    seq_len = seq_len or stage.default_seq_len(model)
    recipe = stage.stage_recipe("streams", None, seq_len, 1, val_tokens, choose_dtype(dtype, place))
    seen = stage.measure(model, data, recipe, place)
    report = seen.streams
    assert report is not None
    content = {"P": model.P, "loss": seen.loss, "loss_stderr": seen.loss_stderr, "n_tokens": seen.n_tokens}
    content |= asdict(report) | {"effective_streams": report.effective_streams, "warnings": report.warnings}
    console = stdout()
    ids = torch.from_numpy(data.validation()[: min(seq_len, 64)].astype("int64"))
    words = load_tokenizer(source).convert_ids_to_tokens(ids.tolist())
    drawn = plot_weights(
        weights_over_tokens(model, ids),
        words,
        f"{source.resolve().name}, P = {model.P}: {len(words)} tokens of {corpus}",
    )
    drawn.savefig(picture, dpi=150)
    if as_json:
        typer.echo(json.dumps(content, indent=1))
        return
    table = make_table("stream", "mean weight", "loss alone")
    for p, (weight, loss) in enumerate(zip(report.mixture_weights, report.losses, strict=True), 1):
        table.add_row(str(p), f"{weight:.3f}", f"{loss:.4f}")
    table.add_row("mixed", f"{sum(report.mixture_weights):.3f}", f"{seen.loss:.4f}")
    print_table(console, f"{source.resolve().name}, P = {model.P}, {seen.n_tokens} tokens of {corpus}", table)
    console.print(
        f"entropy of a token's weights {report.mixture_entropy:.3f} nats (uniform: ln P = {math.log(model.P):.3f}); "
        f"the mean weights amount to {report.effective_streams:.2f} of {model.P} streams\n"
        f"cosine of final states {report.cosine:.4f}; ρ, correlation of the streams' losses, {report.correlation:.4f}\n"
        f"weights over tokens: {picture}",
        soft_wrap=True,
    )
    for name in report.warnings:
        console.print(f"warning: {report.explain(name)} ({name})", soft_wrap=True)
