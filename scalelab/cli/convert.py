"""`scalelab convert`: banks of streams for a pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import make_table, print_table, stdout
from scalelab.cli.lists import list_option
from scalelab.cli.models import choose_device, choose_dtype, new_folder, quiet_libraries
from scalelab.errors import UsageError
from scalelab.units import whole_numbers


def convert(
    source: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder with config.json, safetensors, tokenizer.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="New folder for the converted model.")],
    P: Annotated[list[str] | None, list_option("--P", "Streams, a bank for each, e.g. --P 2 4 8.", (2, 4, 8))] = None,
    prefix_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Prefix length of each stream; 48, or an eighth of what the model was made for."),
    ] = None,
    start: Annotated[
        str, typer.Option(help="How prefixes begin: text (keys and values of real text), moments (of those), normal.")
    ] = "text",
    aggregation: Annotated[
        str | None, typer.Option(help="How streams are mixed: dynamic (the paper's, the default), mean or channel.")
    ] = None,
    corpus: Annotated[
        str, typer.Option(help="Text for prefixes and validation: stdlib, hf:NAME, or a path.")
    ] = "stdlib",
    text_column: Annotated[str, typer.Option(help="Where JSONL and Parquet hold the text.")] = "text",
    seq_len: Annotated[
        int | None, typer.Option(min=2, help="Tokens of a validation sequence; up to 512 by default.")
    ] = None,
    val_tokens: Annotated[int, typer.Option(min=1, help="Tokens to measure the losses on.")] = 8192,
    draws: Annotated[
        int | None,
        typer.Option(min=1, show_default="8", help="Choices of text to try, on training text; the best is kept."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the choice of text.")] = 0,
    dtype: Annotated[str, typer.Option(help="To measure in: auto, fp32 or bf16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Give a pretrained model streams, say what that does to its loss, and save it.

    Losses are compared with the base: the model without any prefix. Cosine is between two streams' final states, ρ the
    correlation of their losses over tokens: at 1 they are copies. --P 1 adds a prefix without streams: prefix tuning.
    """
    from scalelab.architecture import MIXTURE_PARAMS

    streams = whole_numbers(P or ["2", "4", "8"], "--P")
    if aggregation not in (None, *MIXTURE_PARAMS):
        raise UsageError(f"--aggregation {aggregation}: choose one of {', '.join(MIXTURE_PARAMS)}")
    if start not in ("text", "moments", "normal"):
        raise UsageError(f"--start {start}: choose text, moments or normal")
    if start == "normal" and draws is not None:
        raise UsageError("--draws: a normal start uses no text; leave it out, or choose --start text")
    if dtype not in ("auto", "fp32", "bf16"):
        raise UsageError(f"--dtype {dtype}: choose auto, fp32 or bf16")
    new_folder(out)

    from scalelab.model.checkpoint import save_model, saved_dtype
    from scalelab.train import stage
    from scalelab.train.convert import DRAWS, default_prefix_tokens
    from scalelab.train.convert import convert as add_banks

    quiet_libraries()
    place = choose_device(device)
    console = stdout()
    model = stage.open_model(source, device=place)
    prefix_tokens = prefix_tokens or default_prefix_tokens(model)
    banks = dict.fromkeys(streams, prefix_tokens)
    if taken := sorted(set(banks) & set(model.banks)):
        raise UsageError(f"--P {taken[0]}: {source} has that bank already")
    if model.banks and aggregation not in (None, model.config.parscale_aggregation):
        raise UsageError(f"--aggregation {aggregation}: the banks of {source} have {model.config.parscale_aggregation}")
    data = stage.read_text(model, source, corpus, text_column)
    seq_len = seq_len or stage.default_seq_len(model)
    recipe = stage.stage_recipe("streams", None, seq_len, 1, val_tokens, choose_dtype(dtype, place))
    model.set_streams(1)
    with model.plain():
        base = stage.measure(model, data, recipe, place).loss
    tried = add_banks(model, banks, data, recipe, start, seed, draws or DRAWS, aggregation=aggregation or "dynamic")
    table = make_table("P", "prefix", "draw", "loss", "over base", "cosine", "ρ of losses", "<warnings")
    table.add_row("base", "", "", f"{base:.4f}", "", "", "", "")
    worst, n_seen = 0.0, 0
    for bank, n_tokens in banks.items():
        model.set_streams(bank)
        result = stage.measure(model, data, recipe, place)
        over = result.loss / base - 1
        worst, n_seen = max(worst, over), result.n_tokens
        streams = result.streams
        about = (f"{streams.cosine:.4f}", f"{streams.correlation:.4f}") if streams else ("", "")
        named = ", ".join(streams.warnings) if streams else ""
        seen = tried[bank]
        draw = f"{seen.index(min(seen)) + 1} of {len(seen)}" if seen else ""
        table.add_row(str(bank), str(n_tokens), draw, f"{result.loss:.4f}", f"{over:+.2%}", *about, named)
    save_model(model.to(saved_dtype(source)), out, source)
    print_table(console, f"{source.resolve().name}, before any training, on {n_seen} tokens of {corpus}", table)
    lengths = [seq_len, prefix_tokens]
    if worst > 0.01:
        advice = "a shorter --prefix-tokens" if start == "text" else "--start text"
        console.print(f"warning: a loss more than 1 % above the base's; {advice} may keep it close", soft_wrap=True)
        if start == "text":
            lengths.append(prefix_tokens + seq_len)  # it stands before the sequence: so far back the last token looks
    for length in lengths:
        if told := stage.beyond(model, length):
            console.print(told, soft_wrap=True)
    console.print(f"written to {out}; next: scalelab train {out} --P {max(banks)} -o …", soft_wrap=True)
