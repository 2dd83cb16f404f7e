"""`scalelab sweep`: train the runs of a grid that are not there yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalelab.cli.console import make_table, print_table, stdout
from scalelab.cli.lists import list_option
from scalelab.cli.models import check_device
from scalelab.errors import UsageError
from scalelab.sweep.spec import SweepSpec, assignments, load_spec, parse
from scalelab.units import format_count, whole_numbers

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from scalelab.sweep.run import Execution

_Values = list[str] | None
_DEFAULT = SweepSpec()


def sweep(
    spec: Annotated[
        Path | None, typer.Argument(help="A YAML file such as sweeps/smoke.yaml; options go over it.")
    ] = None,
    N: Annotated[_Values, list_option("--N", "Non-embedding parameters, e.g. --N 50k 0.2M.", _DEFAULT.N)] = None,
    P: Annotated[_Values, list_option("--P", "Parallel streams, e.g. --P 1 2 4 8.", _DEFAULT.P)] = None,
    D: Annotated[_Values, list_option("--D", "Training tokens, e.g. --D 1M.", _DEFAULT.D)] = None,
    seed: Annotated[_Values, list_option("--seed", "Seeds, e.g. --seed 0 1 2.", _DEFAULT.seeds)] = None,
    corpus: Annotated[
        str | None,
        typer.Option(help="stdlib (the default), hf:NAME, or a file or folder of text, JSONL or Parquet."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Where JSONL and Parquet hold the text.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Vocabulary size of a byte-level BPE to train, or a tokenizer's path.")
    ] = None,
    prefix_tokens: Annotated[
        _Values, list_option("--prefix-tokens", "Prefix length of each stream.", _DEFAULT.prefix_tokens)
    ] = None,
    aggregation: Annotated[
        _Values, list_option("--aggregation", "How streams are mixed: dynamic (the paper's), mean, channel.")
    ] = None,
    lr: Annotated[
        _Values, list_option("--lr", "Peak learning rate at hidden 64; wider models get less.", (_DEFAULT.recipe.lr,))
    ] = None,
    plain_tokens: Annotated[
        _Values, list_option("--plain-tokens", "Of D, tokens trained plainly before the streams begin.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="linear, wsd (all D share one stable phase) or constant.")
    ] = None,
    seq_len: Annotated[int | None, typer.Option(help="Tokens of a sequence.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Sequences of a step.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, fp32 or bf16; auto is bf16 on CUDA and fp32 on CPU.")] = None,
    settings: Annotated[
        _Values,
        list_option("--set", "Any other key of a spec: --set num_experts=4 recipe.beta2=0.99.", metavar="KEY=VALUE…"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show every run with its size, cost, memory and time here; train nothing.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for the records; results/NAME by default.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at once; one a core or GPU by default.")] = None,
    per_gpu: Annotated[str, typer.Option(help="Runs at once on each GPU: a number, or auto for as many as fit.")] = "1",
    executor: Annotated[str, typer.Option(help="local, or ray: on a cluster, or a new one on this machine.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of a running Ray cluster, e.g. auto or HOST:6379.")] = None,
    checkpoint_minutes: Annotated[
        float, typer.Option(min=0.0, help="How often a long run saves its state, to resume from.")
    ] = 5.0,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard logs to OUT/tensorboard.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Train runs again that diverged.")] = False,
    compile_model: Annotated[bool, typer.Option("--compile", help="Compile the decoder's layers.")] = False,
    micro_batch: Annotated[
        int, typer.Option(min=0, help="Sequences computed at once; 0 is as many as fit into memory.")
    ] = 0,
    together: Annotated[
        int, typer.Option(min=1, help="Runs that differ in seed or --lr alone to train as one, side by side.")
    ] = 1,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="On CUDA, equal runs give equal losses to the bit; slower.")
    ] = False,
    fp32_precision: Annotated[
        str, typer.Option(help="Of fp32 matrix products on CUDA: highest, or high for TF32 tensor cores.")
    ] = "highest",
    save_models: Annotated[bool, typer.Option("--save-models", help="Keep each trained model in OUT/models.")] = False,
) -> None:
    """Train a grid over N, P, D and seeds, and record every loss.

    Finished runs are never repeated: the same command goes on where it stopped. For one seed
    all P share the backbone's initial weights and the order of the data.
    """
    check_device(device)
    if fp32_precision not in ("highest", "high"):
        raise UsageError(f"--fp32-precision {fp32_precision}: choose highest or high")
    given = {
        "N": N,
        "P": P,
        "D": D,
        "seeds": seed,
        "corpus": corpus,
        "text_column": text_column,
        "tokenizer": tokenizer,
        "prefix_tokens": prefix_tokens,
        "aggregation": aggregation,
        "lr": lr,
        "plain_tokens": plain_tokens,
    }
    recipe = {"schedule": schedule, "seq_len": seq_len, "batch_size": batch_size, "dtype": dtype}
    chosen = load_spec(spec) if spec is not None else _DEFAULT
    chosen = _over(chosen, assignments(settings, "--set"), "--set ")
    chosen = _over(chosen, {k: _split(v) for k, v in _given(given).items()}, "--")
    chosen = replace(chosen, recipe=replace(chosen.recipe, **_given(recipe)))
    out = out or Path("results") / chosen.name

    if executor == "local" and not dry_run:
        from scalelab.sweep.workers import start_importing

        start_importing()  # of what takes seconds, beside what this process imports and reads
    # Only now, so that a mistake is told before torch is loaded.
    from scalelab.sweep.run import Execution, run_sweep
    from scalelab.train.numerics import Numerics

    execution = Execution(
        device,
        workers,
        _per_gpu(per_gpu),
        compile_model,
        save_models,
        checkpoint_minutes * 60,
        tensorboard,
        retry,
        executor,
        address,
        Numerics(deterministic, fp32_precision),  # type: ignore[arg-type]
        micro_batch,
        together,
    )
    console = stdout(broken_pipe_code=141)  # an unfinished sweep is no success
    if dry_run:
        if executor != "local":
            raise UsageError("--dry-run: times and memory are of this machine; leave --executor out")
        _show_plan(chosen, out, execution, console)
        return
    records = run_sweep(chosen, out, execution, console)
    console.print(f"{len(records)} runs are recorded below {out}; next: scalelab fit {out}", soft_wrap=True)
    _show_losses(console, records)
    if save_models:
        for run in records.to_dict("records"):
            sizes = (
                f"N {format_count(run['n_params_backbone'])}  P {run['n_streams']}  D {format_count(run['n_tokens'])}"
            )
            console.print(f"{sizes}  seed {run['seed']}: {out / 'models' / str(run['key'])}", soft_wrap=True)


def _show_plan(spec: SweepSpec, out: Path, execution: Execution, console: Console) -> None:
    from scalelab.cli.dry_run import print_plan
    from scalelab.sweep.dry_run import plan_sweep
    from scalelab.sweep.resolve import statuses
    from scalelab.sweep.run import prepare

    resolved, left, places = prepare(spec, out, execution, console)
    console.print("timing some steps here …")
    plan = plan_sweep(resolved.runs, left, statuses(resolved.runs, out), places[0], len(places))
    print_plan(console, plan)


def _over(spec: SweepSpec, content: dict[str, Any], flag: str) -> SweepSpec:
    """`spec` with the keys of `content` instead of its own. Raises `UsageError` that begins with the flag."""
    try:
        return replace(spec, **parse(content, spec.recipe))
    except UsageError as error:
        message = str(error)
        key = next((key for key in content if message.startswith(key)), None)
        if flag == "--" and key is not None:  # each key has a flag of its own
            message = ("seed" if key == "seeds" else key.replace("_", "-")) + message.removeprefix(key)
        raise UsageError(f"{flag}{message}") from None


def _split(value: Any) -> Any:
    """Values of a list option, those with commas between taken apart."""
    return [part for word in value for part in word.split(",") if part] if isinstance(value, list) else value


def _per_gpu(text: str) -> int:
    """Runs a GPU, 0 for auto."""
    return 0 if text == "auto" else whole_numbers([text], "--per-gpu")[0]


def _show_warnings(console: Console, records: pd.DataFrame) -> None:
    """How many runs have streams that are copies, or a mixture of one."""
    named = records["stream_warnings"].dropna().explode().dropna()
    for name, count in named.value_counts().items():
        many = (records["n_streams"] > 1).sum()
        console.print(
            f"warning: {count} of the {many} runs with streams: {name} "
            "(see stream_correlation and mixture_weights in the records, or scalelab diagnose)",
            soft_wrap=True,
        )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _show_losses(console: Console, records: pd.DataFrame) -> None:
    """Mean loss by size and streams, a table for each number of tokens."""
    import numpy as np

    for _, same in records.groupby("n_tokens"):
        seeds = same["seed"].nunique()
        title = f"validation loss, nats per token, D {format_count(same['n_tokens'].iloc[0])}"
        title += f", mean of {seeds} seeds" if seeds > 1 else ""
        table = make_table("N of backbone", *(f"P = {P}" for P in sorted(same["n_streams"].unique())))
        means = same.pivot_table("loss", "n_params_backbone", "n_streams", aggfunc="mean")
        for size, losses in zip(means.index.tolist(), means.to_numpy(), strict=True):
            table.add_row(format_count(size), *("" if np.isnan(v) else f"{v:.4f}" for v in losses))
        print_table(console, title, table)
    _show_warnings(console, records)
    advice = (
        "compare the seeds."
        if records["seed"].nunique() > 1
        else "one seed cannot show how much; more would, with --seed 0 1 2."
    )
    console.print(
        f"The validation text itself leaves ± {records['loss_stderr'].mean():.3f} (one standard error, over files), "
        f"but that is common to all runs.\nWhat separates runs is also how they were seeded: {advice}",
        soft_wrap=True,
    )
