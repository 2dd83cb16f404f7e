"""`scalelab sweep`: train the runs of a grid that are not there yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalelab.cli.console import make_table, print_table, stdout
from scalelab.errors import InterruptedSweepError, ScalelabError, UsageError
from scalelab.units import counts, format_count, whole_numbers

if TYPE_CHECKING:
    from scalelab.sweep.spec import SweepSpec

_Values = list[str] | None


def sweep(
    spec: Annotated[Path | None, typer.Argument(help="A YAML file of the keys below, e.g. sweeps/smoke.yaml.")] = None,
    N: Annotated[_Values, typer.Option("--N", help="Non-embedding parameters, e.g. --N 50k 100k 0.2M.")] = None,
    P: Annotated[_Values, typer.Option("--P", help="Parallel streams, e.g. --P 1 2 4 8.")] = None,
    D: Annotated[_Values, typer.Option("--D", help="Training tokens, e.g. --D 1M.")] = None,
    seed: Annotated[_Values, typer.Option("--seed", help="Seeds, e.g. --seed 0 1 2.")] = None,
    corpus: Annotated[
        str | None,
        typer.Option(help="stdlib (the default), hf:NAME, or files of text, JSONL or Parquet."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Where JSONL and Parquet hold the text.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Vocabulary size of a byte-level BPE to train, or a tokenizer's path.")
    ] = None,
    prefix_tokens: Annotated[int | None, typer.Option(help="Prefix length of each stream.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate at hidden 64; others get lr·64/hidden.")] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of a sequence.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences of a step.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32 or bf16; bf16 on CUDA and fp32 on CPU by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the records; results/NAME by default.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once; one a core or GPU by default.")] = None,
    compile_model: Annotated[bool, typer.Option("--compile", help="Use torch.compile.")] = False,
) -> None:
    """Train a grid over N, P, D and seeds, and record every loss.

    Finished runs are never repeated: the same command goes on where it stopped. For one seed
    all P share the backbone's initial weights and the order of the data.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: choose auto, cpu or cuda")
    given: dict[str, Any] = {}
    if N is not None:
        given["N"] = counts(N, "--N")
    if P is not None:
        given["P"] = whole_numbers(P, "--P")
    if D is not None:
        given["D"] = counts(D, "--D")
    if seed is not None:
        given["seeds"] = whole_numbers(seed, "--seed", least=0)
    if tokenizer is not None:
        given["tokenizer"] = int(tokenizer) if tokenizer.isdigit() else tokenizer
    given |= {"corpus": corpus, "text_column": text_column, "prefix_tokens": prefix_tokens}
    recipe = {"lr": lr, "seq_len": seq_len, "batch_size": batch_size, "dtype": dtype}
    _run(spec, _set(given), _set(recipe), out, device, workers, compile_model)


def _set(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _run(
    path: Path | None,
    given: dict[str, Any],
    recipe: dict[str, Any],
    out: Path | None,
    device: str,
    workers: int | None,
    compile_model: bool,
) -> None:
    # Checked before torch is loaded, so that a mistake is told at once.
    from scalelab.sweep.spec import SweepSpec, load_spec

    spec = load_spec(path) if path is not None else SweepSpec()
    spec = replace(spec, **given, recipe=replace(spec.recipe, **recipe))
    out = out or Path("results") / spec.name
    console = stdout()

    from scalelab.sweep.resolve import missing, resolve
    from scalelab.sweep.workers import Job, default_places, run_all

    places = default_places(device)
    if places[0] != "cpu" and "dtype" not in recipe:
        spec = replace(spec, recipe=replace(spec.recipe, dtype="bf16"))
    if workers is not None:
        places = (places * workers)[:workers]
    console.print(f"reading {spec.corpus} …", markup=False)
    resolved = resolve(spec)
    left = missing(resolved.runs, out)
    _announce(console, spec, resolved, left, places, out)
    if not left:
        return

    from scalelab.records.store import read_records, record_path
    from scalelab.sweep.progress import make_progress

    out.mkdir(parents=True, exist_ok=True)
    try:
        with make_progress(left, console) as progress:
            failures = run_all(left, Job(resolved.data, out, compile_model), places, progress)
    except KeyboardInterrupt:
        kept = len(resolved.runs) - len(missing(resolved.runs, out))
        raise InterruptedSweepError(
            f"interrupted: {kept} of {len(resolved.runs)} runs are recorded below {out}; "
            "the same command goes on from there"
        ) from None
    if failures:
        first = failures[0].values["message"]
        raise ScalelabError(f"{len(failures)} of {len(left)} runs failed, the first with: {first}")
    console.print(f"all {len(resolved.runs)} runs are recorded below {out}; next: scalelab fit {out}", markup=False)
    _show_losses(console, [read_records(record_path(out, config.key)) for config in resolved.runs])


def _announce(console: Any, spec: SweepSpec, resolved: Any, left: list[Any], places: list[str], out: Path) -> None:
    data = resolved.data
    console.print(
        f"{data.text.corpus}: {format_count(data.train_tokens)} training and "
        f"{format_count(data.validation_tokens)} validation tokens of {data.text.tokenizer}, "
        f"{data.bytes_per_token:.2f} bytes each",
        markup=False,
        soft_wrap=True,
    )
    done = len(resolved.runs) - len(left)
    total = len(resolved.runs)
    if not left:
        console.print(f"all {total} runs are recorded below {out} already; nothing to do", markup=False)
        return
    already = f"; {done} of {total} runs are recorded already" if done else ""
    sizes = ", ".join(format_count(n) for n in sorted({c.architecture.backbone_params for c in resolved.runs}))
    console.print(
        f"{len(left)} runs to train, {len(places)} at once on {places[0].split(':')[0]}: "
        f"N {sizes} × P {', '.join(map(str, spec.P))}{already}",
        markup=False,
        soft_wrap=True,
    )


def _show_losses(console: Any, rows: list[Any]) -> None:
    """Mean loss by size and streams, a table for each number of tokens."""
    import pandas as pd

    records = pd.concat(rows, ignore_index=True)
    for n_tokens, same in records.groupby("n_tokens"):
        seeds = same["seed"].nunique()
        title = f"validation loss, nats per token, D {format_count(float(n_tokens))}"
        title += f", mean of {seeds} seeds" if seeds > 1 else ""
        table = make_table("N of backbone", *(f"P = {P}" for P in sorted(same["n_streams"].unique())))
        for size, losses in same.pivot_table("loss", "n_params_backbone", "n_streams", aggfunc="mean").iterrows():
            table.add_row(format_count(float(size)), *("" if pd.isna(v) else f"{v:.4f}" for v in losses))
        print_table(console, title, table)
    console.print(
        f"The validation text itself leaves ± {records['loss_stderr'].mean():.3f} (one standard error, over files), "
        "but that is common to all runs.\nWhat separates runs is also how they were seeded: "
        + (
            "compare the seeds."
            if records["seed"].nunique() > 1
            else "one seed cannot show how much; more would, with --seed 0 1 2."
        ),
        markup=False,
        soft_wrap=True,
    )
