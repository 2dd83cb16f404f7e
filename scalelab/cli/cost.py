"""`scalelab cost`: memory and latency of a decoder with P streams."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from scalelab.architecture import PREFIX_TOKENS, Architecture, mlp_width
from scalelab.cli.console import make_table, print_table, stdout
from scalelab.cli.lists import list_option
from scalelab.cost.model import (
    GIB,
    PAPER_HEADS,
    PAPER_KV_HEADS,
    PAPER_LAYERS,
    PAPER_VOCAB,
    Device,
    Workload,
)
from scalelab.errors import UsageError
from scalelab.units import format_count, whole_numbers

if TYPE_CHECKING:
    from rich.console import Console

    from scalelab.cost import Cost


_STREAMS, _BATCHES = (1, 2, 4, 8), (1,)
MAX_SIZE = 10_000_000  # beyond this nothing is a size, and integers stop fitting into floats


def cost(
    hidden: Annotated[int, typer.Option(help="Hidden size.")],
    P: Annotated[
        list[str] | None,
        list_option("--P", "Parallel streams, e.g. --P 1 2 4 8.", _STREAMS),
    ] = None,
    batch: Annotated[
        list[str] | None, typer.Option(help="Requests at once, e.g. --batch 1 8.", metavar="VALUE…", show_default="1")
    ] = None,
    tokens_in: Annotated[int, typer.Option(help="Prompt tokens.")] = 64,
    tokens_out: Annotated[int, typer.Option(help="Generated tokens.")] = 64,
    intermediate: Annotated[
        int | None, typer.Option(help="MLP width; about 5.4·hidden when not given, as in the paper.")
    ] = None,
    layers: Annotated[int, typer.Option(help="Decoder layers.")] = PAPER_LAYERS,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = PAPER_HEADS,
    kv_heads: Annotated[int, typer.Option(help="Key/value heads.")] = PAPER_KV_HEADS,
    vocab: Annotated[int, typer.Option(help="Vocabulary size.")] = PAPER_VOCAB,
    prefix_tokens: Annotated[int, typer.Option(help="Prefix length of each stream.")] = PREFIX_TOKENS,
    gpu: Annotated[str, typer.Option(help="A GPU by llm-analysis' name.")] = Device.gpu,
    flops_efficiency: Annotated[float, typer.Option(help="Share of peak FLOP/s reached.")] = Device.flops_efficiency,
    memory_efficiency: Annotated[
        float, typer.Option(help="Share of peak memory bandwidth reached.")
    ] = Device.memory_efficiency,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Memory and latency of inference by llm-analysis, at 16 bits, for each P and batch.

    The defaults are the paper's: 36 layers, 16 heads, 2 KV heads, A100 SXM 80GB at 0.7 of its
    FLOP/s and 0.9 of its bandwidth.
    """
    from scalelab.cost import price

    streams = whole_numbers(P or _STREAMS, "--P")
    batches = whole_numbers(batch or _BATCHES, "--batch")
    sizes = {"--hidden": hidden, "--layers": layers, "--vocab": vocab, "--intermediate": intermediate or 1}
    for flag, value in sizes.items():
        if not 1 <= value <= MAX_SIZE:
            raise UsageError(f"{flag} {value}: choose between 1 and {MAX_SIZE:,}")
    if intermediate is None:
        intermediate = mlp_width(hidden)
    plain = Architecture(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        vocab_size=vocab,
        prefix_tokens=prefix_tokens,
    )
    device = Device(gpu, flops_efficiency, memory_efficiency)
    costs = [
        [price(plain.with_streams(p), Workload(size, tokens_in, tokens_out), device) for p in (1, *streams)]
        for size in batches
    ]
    if as_json:
        typer.echo(json.dumps([_row(c, row[0]) for row in costs for c in row[1:]], indent=1))
        return
    console = stdout()
    for base, *rest in costs:
        _show(console, base, rest, device)
    if not all(c.fits for row in costs for c in row):
        console.print("note: rows marked * need more memory than the GPU has: they cannot run there", style="yellow")


def _row(cost: Cost, base: Cost) -> dict[str, float | int | bool]:
    return {
        "hidden": cost.architecture.hidden_size,
        "intermediate": cost.architecture.intermediate_size,
        "P": cost.architecture.P,
        "batch": cost.workload.batch,
        "n_params": cost.architecture.n_params,
        "memory_bytes": cost.memory_bytes,
        "latency_s": cost.latency_s,
        "weight_bytes": cost.weight_bytes,
        "kv_cache_bytes": cost.kv_cache_bytes,
        "activation_bytes": cost.activation_bytes,
        "aggregator_bytes": cost.aggregator_bytes,
        "prefill_s": cost.prefill_s,
        "decode_s": cost.decode_s,
        "memory_over_P1_bytes": cost.memory_bytes - base.memory_bytes,
        "latency_over_P1_s": cost.latency_s - base.latency_s,
        "fits": cost.fits,
    }


def _show(console: Console, base: Cost, costs: list[Cost], device: Device) -> None:
    """A row for each P, P = 1 first for comparison."""
    shape, work = base.architecture, base.workload
    table = make_table(
        "P", "N", "memory GiB", "over P = 1", "latency s", "over P = 1", "weights GiB", "KV cache GiB"
    )  # fmt: skip
    if all(c.architecture.P != 1 for c in costs):
        costs = [base, *costs]
    for c in costs:
        memory, latency = c.memory_bytes / GIB, c.latency_s
        more = latency_more = ""
        if c.architecture.P > 1:
            more = f"{memory - base.memory_bytes / GIB:+.3f} ({c.memory_bytes / base.memory_bytes - 1:+.1%})"
            latency_more = f"{latency - base.latency_s:+.3f} ({latency / base.latency_s - 1:+.1%})"
        table.add_row(
            str(c.architecture.P),
            format_count(c.architecture.n_params),
            f"{memory:.3f}{'' if c.fits else ' *'}",
            more,
            f"{latency:.3f}",
            latency_more,
            f"{c.weight_bytes / GIB:.3f}",
            f"{c.kv_cache_bytes / GIB:.4f}",
        )
    title = (
        f"hidden {shape.hidden_size}, intermediate {shape.intermediate_size}, {shape.num_layers} layers; "
        f"batch {work.batch}, {work.tokens_in} tokens in, {work.tokens_out} out; {device.gpu}"
    )
    print_table(console, title, table)
