"""`scalelab compare`: what streams cost, beside growing N to the same loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scalelab.cli.console import print_text, stdout
from scalelab.cli.device_options import (
    LLM_ANALYSIS,
    Compute,
    FlopsEfficiency,
    Gpu,
    HardwareFile,
    Kv,
    LaunchUs,
    MemoryEfficiency,
    Reserve,
    Runtime,
    TensorParallel,
    Weights,
    check_sizes,
    device_of,
    own_devices,
)
from scalelab.cli.lists import list_option, pairs
from scalelab.cli.models import check_figure
from scalelab.cost.model import PAPER_VOCAB, Precision
from scalelab.errors import ScalelabError, UsageError
from scalelab.units import counts, whole_numbers

if TYPE_CHECKING:
    from scalelab.cli.compare_answers import Answer, Question
    from scalelab.fit import FitResult, Group
    from scalelab.laws import Law

_Words = list[str] | None
_STREAMS, _BATCHES, _LENGTHS = (8,), (1, 2, 4, 8), (64, 128, 256, 512)


def compare(
    hidden: Annotated[int, typer.Option(help="Hidden size of the model with streams.", show_default=False)],
    P: Annotated[_Words, list_option("--P", "Parallel streams, e.g. --P 2 4 8.", _STREAMS)] = None,
    data: Annotated[
        str | None, typer.Option(help="Losses: a folder of records, a Parquet, CSV or JSONL table, or 'paper'.")
    ] = None,
    corpus: Annotated[str | None, typer.Option(help="Which text, where the data hold several.")] = None,
    columns: Annotated[
        _Words, list_option("--map", "Columns of your own: n_params=N loss=val_loss.", (), "NAME=COLUMN…")
    ] = None,
    where: Annotated[str | None, typer.Option(help="Which rows, e.g. 'num_layers = 36'.")] = None,
    law: Annotated[
        str | None, typer.Option(help="Losses by this law, fitted to the data: parallel, additive, …, file.py:NAME.")
    ] = None,
    fit: Annotated[Path | None, typer.Option(help="Losses by a saved fit (JSON); --data may then be left out.")] = None,
    D: Annotated[
        str | None, typer.Option("--D", help="Training tokens, where the data hold several; by a law the most of them.")
    ] = None,
    batch: Annotated[_Words, list_option("--batch", "Requests at once.", _BATCHES)] = None,
    lengths: Annotated[
        _Words, list_option("--lengths", "Tokens in, and as many out: costs are averaged over these.", _LENGTHS)
    ] = None,
    vocab: Annotated[int, typer.Option(help="Vocabulary size where the data know none.")] = PAPER_VOCAB,
    engine: Annotated[
        str, typer.Option(help="Cost model: llm-analysis, the paper's; or roofline, ours.", metavar="NAME")
    ] = LLM_ANALYSIS,
    gpu: Gpu = None,
    hardware: HardwareFile = None,
    weights: Weights = Precision.weights,
    kv: Kv = None,
    compute: Compute = None,
    flops_efficiency: FlopsEfficiency = None,
    memory_efficiency: MemoryEfficiency = None,
    runtime: Runtime = None,
    launch_us: LaunchUs = None,
    reserve: Reserve = None,
    tensor_parallel: TensorParallel = 1,
    figure: Annotated[
        Path | None, typer.Option(help="Draw loss over memory and over latency here (PNG, PDF or SVG).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every digit.")] = False,
) -> None:
    """What P streams add to memory and latency, beside what growing N to the same loss adds.

    The plain model of equal loss is read off the measured losses of P = 1, joined by straight lines over
    ln N. With --law or --fit it is the law's, with intervals, and may lie outside of what was measured.
    """
    from scalelab.cli import compare_tables as tables
    from scalelab.cli.compare_answers import Question, answer, comparable_groups, group_of
    from scalelab.cost.compare import price_by
    from scalelab.cost.describe import device_notes, priced_by

    if data is None and fit is None:
        raise UsageError("give --data with measured losses, or --fit with a saved fit")
    if data is None and (corpus or columns or where or figure):
        raise UsageError("--corpus, --map, --where and --figure are about measured runs: give --data too")
    check_sizes({"--hidden": hidden, "--vocab": vocab})
    if figure is not None:
        check_figure(figure)
    used = (runtime, launch_us, reserve, tensor_parallel)
    device = device_of(gpu, own_devices(hardware), flops_efficiency, memory_efficiency, *used)
    precision = Precision(weights, kv, compute)
    question = Question(
        hidden=hidden,
        streams=whole_numbers(P or _STREAMS, "--P", least=2),
        batches=whole_numbers(batch or _BATCHES, "--batch"),
        lengths=whole_numbers(lengths or _LENGTHS, "--lengths"),
        vocab=vocab,
        D=None if D is None else counts([D], "--D")[0],
        price=price_by(engine, device, precision),
        priced_by=priced_by(engine, device, precision),
    )
    chosen, saved = _law_and_fit(law, fit)
    groups: list[Group | None] = [None]
    if data is not None:
        by_tokens = chosen is None or "D" not in chosen.variables
        found = comparable_groups(data, pairs(columns, "--map"), where, corpus, question.D, by_tokens)
        groups = [*found] if saved is None else [group_of(saved, found, data)]
    console, answers, failures = stdout(), [], []
    for group in groups:
        try:
            mine = answer(question, group, chosen, saved)
        except ScalelabError as error:
            if len(groups) == 1:
                raise
            failures.append(error)  # of several texts one may know other sizes
            continue
        answers += mine
        if not as_json:
            tables.show(console, question, mine)
        if figure is not None and group is not None:
            path = figure if len(groups) == 1 else figure.with_stem(f"{figure.stem}-{group.slug}")
            _draw(path, question, group, mine)
            if not as_json:
                print_text(console, f"saved {path}\n")
    if not answers:
        raise failures[0]
    if as_json:
        tables.print_json(console, question, answers)
        return
    for note in device_notes(device, precision, engine):
        print_text(console, f"note: {note}", style="yellow")
    for error in failures:
        print_text(console, f"not compared: {error}", style="red")


def _law_and_fit(law: str | None, fit: Path | None) -> tuple[Law | None, FitResult | None]:
    """The law to fit, or the saved fit and its law; neither where losses are to be measured ones."""
    if law is None and fit is None:
        return None, None
    from scalelab.fit import load_fit
    from scalelab.laws import get_law

    own = None if law is None else get_law(law)
    if fit is None:
        return own, None
    saved = load_fit(fit, own)
    return saved.law, saved


def _draw(path: Path, question: Question, group: Group, answers: list[Answer]) -> None:
    from scalelab.cost.compare import price_runs
    from scalelab.cost.equal_loss import measured_runs
    from scalelab.plot.cost import Step, plot_cost

    runs = measured_runs(group.records, question.vocab)
    steps = [Step(a.streams.P, a.base_loss, a.loss, a.rows) for a in answers]
    spans = ", ".join(map(str, question.lengths))
    heading = f"{group.title}; {question.priced_by}; mean over {spans} tokens in and as many out"
    figure = plot_cost(price_runs(question.price, runs, question.batches, question.lengths), steps, heading)
    figure.savefig(path, dpi=150)
