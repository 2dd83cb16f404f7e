"""The command `scalelab sweep`: training of the missing runs of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scalelab.cli.console import print_line, show, stderr
from scalelab.cli.options import DATA, DEVICE, OUTPUT, TRAINING, AsJson, DeviceChoice, Quiet, Words, list_option, option
from scalelab.errors import UsageError
from scalelab.sweep.spec import SweepSpec, assignments

if TYPE_CHECKING:
    from scalelab.api.sweeps import SweepResult

_DEFAULT = SweepSpec()
_GRID = "Grid"


def sweep(
    spec: Annotated[
        Path | None, typer.Argument(help="A YAML file, or a shipped spec by name, such as smoke; options override it.")
    ] = None,
    N: Annotated[
        Words, list_option("--N", "Non-embedding parameters, e.g. --N 50k 0.2M.", _DEFAULT.N, panel=_GRID)
    ] = None,
    P: Annotated[Words, list_option("--P", "Numbers of streams, e.g. --P 1 2 4 8.", _DEFAULT.P, panel=_GRID)] = None,
    D: Annotated[Words, list_option("--D", "Training tokens, e.g. --D 1M.", _DEFAULT.D, panel=_GRID)] = None,
    seed: Annotated[Words, list_option("--seed", "Seeds, e.g. --seed 0 1 2.", _DEFAULT.seeds, panel=_GRID)] = None,
    backbone: Annotated[
        Path | None,
        option(
            help="Folder of a model to freeze, in place of N; P = 1 is one prefix. Defaults are those of train.",
            panel=_GRID,
            metavar="FOLDER",
        ),
    ] = None,
    isoflop: Annotated[
        Words,
        list_option(
            "--isoflop", "Training budgets 6·N·D·P, e.g. 1e13 3e13: sizes around the optimum, and their D.", panel=_GRID
        ),
    ] = None,
    prefix_tokens: Annotated[
        Words, list_option("--prefix-tokens", "Prefix length of each stream.", _DEFAULT.prefix_tokens, panel=_GRID)
    ] = None,
    aggregation: Annotated[
        Words,
        list_option("--aggregation", "Aggregator: dynamic (the paper's), mean or channel.", panel=_GRID),
    ] = None,
    lr: Annotated[
        Words,
        list_option(
            "--lr", "Peak learning rate at hidden size 64; lower when wider.", (_DEFAULT.recipe.lr,), panel=_GRID
        ),
    ] = None,
    plain_tokens: Annotated[
        Words,
        list_option("--plain-tokens", "Tokens of D to train without streams first.", panel=_GRID),
    ] = None,
    loops: Annotated[
        Words, list_option("--loops", "Passes through the layers, e.g. --loops 1 2 4.", _DEFAULT.loops, panel=_GRID)
    ] = None,
    corpus: Annotated[
        str | None,
        option(
            help="Text: stdlib, hf:NAME, or a file or folder of text, JSONL or Parquet.",
            panel=DATA,
            show_default="stdlib",
        ),
    ] = None,
    text_column: Annotated[
        str | None, option(help="Column with the text, in JSONL and Parquet.", panel=DATA, show_default="text")
    ] = None,
    tokenizer: Annotated[
        str | None,
        option(
            help="Vocabulary size of a byte-level BPE to train, or path of a tokenizer.", panel=DATA, show_default="512"
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        option(
            help="Learning rate schedule: linear, wsd (all D share one stable phase) or constant.",
            panel=TRAINING,
            metavar="NAME",
            show_default="linear",
        ),
    ] = None,
    seq_len: Annotated[int | None, option(help="Sequence length in tokens.", panel=TRAINING, show_default="64")] = None,
    batch_size: Annotated[int | None, option(help="Sequences per step.", panel=TRAINING, show_default="8")] = None,
    dtype: Annotated[
        str | None,
        option(help="Precision: auto (bf16 on CUDA, else fp32), fp32 or bf16.", panel=TRAINING, show_default="auto"),
    ] = None,
    settings: Annotated[
        Words,
        list_option(
            "--set",
            "Other keys of a spec: --set num_experts=4 recipe.beta2=0.99.",
            metavar="KEY=VALUE…",
            panel=TRAINING,
        ),
    ] = None,
    device: DeviceChoice = "auto",
    workers: Annotated[
        int | None, option(min=1, help="Concurrent runs.", panel=DEVICE, show_default="one per core or GPU")
    ] = None,
    per_gpu: Annotated[
        str, option(help="Concurrent runs per GPU: a number, or auto for as many as fit.", panel=DEVICE)
    ] = "1",
    executor: Annotated[
        str, option(help="Executor: local, or ray (a running or new cluster).", panel=DEVICE, metavar="NAME")
    ] = "local",
    address: Annotated[
        str | None, option(help="Address of a running Ray cluster, e.g. auto or HOST:6379.", panel=DEVICE)
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "-o",
            "--out",
            help="Folder for the records.",
            panel=OUTPUT,
            metavar="FOLDER",
            show_default="results/NAME",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        option("--dry-run", help="Estimate cost, memory and time of each run here, and train nothing.", panel=OUTPUT),
    ] = False,
    retry: Annotated[bool, option("--retry", help="Train diverged runs again.", panel=TRAINING)] = False,
    save_models: Annotated[
        bool, option("--save-models", help="Keep each trained model in OUT/models.", panel=OUTPUT)
    ] = False,
    checkpoint_minutes: Annotated[
        float, option(min=0.0, help="Minutes between checkpoints of a run.", panel=OUTPUT)
    ] = 5.0,
    tensorboard: Annotated[
        bool, option("--tensorboard", help="Write TensorBoard logs to OUT/tensorboard.", panel=OUTPUT)
    ] = False,
    compile_model: Annotated[
        bool, option("--compile", help="Compile the decoder layers with torch.compile.", panel=TRAINING)
    ] = False,
    micro_batch: Annotated[
        int, option(min=0, help="Sequences per forward pass; 0 is as many as fit into memory.", panel=DEVICE)
    ] = 0,
    together: Annotated[
        int,
        option(min=1, help="Runs to train in one process, if they differ only in seed or --lr.", panel=DEVICE),
    ] = 1,
    deterministic: Annotated[
        bool,
        option("--deterministic", help="Use deterministic CUDA kernels; slower.", panel=DEVICE),
    ] = False,
    fp32_precision: Annotated[
        str,
        option(help="fp32 matrix products on CUDA: highest, or high (TF32).", panel=DEVICE, metavar="NAME"),
    ] = "highest",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a grid over N, P, D and seeds, and record every loss.

    Finished runs are never repeated: the same command resumes an interrupted sweep. For the same seed all P share the
    initial backbone weights and the data order.
    """
    from scalelab.api.sweeps import plan_sweep, run_sweep

    given: dict[str, Any] = dict(N=N, P=P, D=D, seeds=seed, prefix_tokens=prefix_tokens, aggregation=aggregation)
    given |= dict(lr=lr, plain_tokens=plain_tokens, loops=loops, isoflop=isoflop)
    given = {name: _split(value) for name, value in given.items()}
    given |= dict(backbone=backbone, corpus=corpus, text_column=text_column, tokenizer=tokenizer)
    given |= dict(schedule=schedule, seq_len=seq_len, batch_size=batch_size, dtype=dtype)
    given |= dict(settings=assignments(settings, "--set"), device=device, workers=workers, per_gpu=per_gpu)
    given |= dict(retry=retry, compile_model=compile_model, save_models=save_models)
    # If the reader of the progress goes away, the sweep is unfinished, which must not exit with 0.
    progress = stderr(quiet or as_json, broken_pipe_code=141)
    if dry_run:
        if executor != "local":
            raise UsageError("--dry-run estimates for this machine; leave --executor out")
        show(plan_sweep(spec, out, **given, progress=progress), as_json=as_json, quiet=quiet)
        return
    more: dict[str, Any] = dict(executor=executor, address=address, tensorboard=tensorboard)
    more |= dict(micro_batch=micro_batch, together=together)
    more |= dict(deterministic=deterministic, fp32_precision=fp32_precision)
    found = run_sweep(spec, out, **given, **more, checkpoint_minutes=checkpoint_minutes, progress=progress)
    show(found, as_json=as_json, quiet=quiet)
    print_line(f"next: scalelab {_next_command(found)} {found.out}", quiet or as_json)


def _next_command(found: SweepResult) -> str:
    if not found.records["base_loss"].notna().any():
        return "isoflop" if found.budgets else "fit"
    return "pairs" if found.records["n_streams"].nunique() > 1 else "results"


def _split(words: Words) -> Words:
    """Split the values of a list option at commas."""
    return None if words is None else [part for word in words for part in word.split(",") if part]
