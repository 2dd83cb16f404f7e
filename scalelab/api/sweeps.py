"""Training sweeps over N, P, D and seeds, and plans of their cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scalelab.api.loading import DeviceName, Dtype, console_of
from scalelab.api.runs import Runs
from scalelab.api.sweep_request import check_execution, runs_per_gpu, spec_of
from scalelab.errors import UsageError
from scalelab.shown import Shown
from scalelab.sweep.executors import Executor
from scalelab.units import plural

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from scalelab.fit import FitResult
    from scalelab.fit.many import FitResults
    from scalelab.sweep.dry_run import SweepEstimate
    from scalelab.sweep.spec import SweepSpec

Schedule = Literal["linear", "wsd", "constant"]

__all__ = ["SweepPlan", "SweepResult", "plan_sweep", "run_sweep"]


@dataclass(frozen=True)
class SweepResult(Shown):
    """Finished runs of a sweep.

    Attributes:
        out: Folder of the records.
        records: A row for each run.
        models: Folders of saved models by run key.
        budgets: Training budgets of a sweep at equal FLOPs.
    """

    out: Path
    records: pd.DataFrame
    models: Mapping[str, Path] = field(default_factory=dict[str, Path])
    budgets: tuple[float, ...] = ()

    _report: ClassVar[str] = "scalelab.reports.sweeps:sweep_report"
    _json: ClassVar[str] = "scalelab.reports.sweeps:sweep_json"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each run, with the columns of the record."""
        return self.records

    def runs(self) -> Runs:
        """Return the runs with tables, CSV, JSON and loss curves."""
        from scalelab.records import RunTable

        frame = self.records if "file" in self.records else self.records.assign(file="")
        return Runs(str(self.out), frame, RunTable(frame, (), 0))

    def plot(self, kind: str | None = None, **options: Any) -> Any:
        """Draw the runs: "curves" (the default), or "accuracy" over loss, with the options `ax` and `size`."""
        return self.runs().plot(kind, **options)

    def fit(self, law: str = "parallel", **options: Any) -> FitResult | FitResults:
        """Fit a law to the runs, as `fit_law` does."""
        from scalelab.api.fitting import fit_law

        return fit_law(self.records, law, **options)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<SweepResult of {plural(len(self.records), 'run')} in {self.out}>"


@dataclass(frozen=True)
class SweepPlan(Shown):
    """Estimate of a sweep: its runs, their estimated cost, and warnings."""

    plan: SweepEstimate
    warnings: tuple[str, ...]

    _report: ClassVar[str] = "scalelab.reports.sweeps:sweep_plan_report"
    _json: ClassVar[str] = "scalelab.reports.sweeps:sweep_plan_json"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each run, in bytes, seconds and FLOPs."""
        import pandas as pd

        return pd.DataFrame(self.to_dict()["runs"]).set_index("key")

    def __repr__(self) -> str:
        return f"<SweepPlan: {len(self.plan.left)} of {plural(len(self.plan.runs), 'run')} to train>"


def run_sweep(
    spec: SweepSpec | str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    *,
    N: Any = None,
    P: Any = None,
    D: Any = None,
    seeds: Any = None,
    backbone: str | Path | None = None,
    isoflop: Any = None,
    corpus: str | None = None,
    text_column: str | None = None,
    tokenizer: str | int | None = None,
    prefix_tokens: Any = None,
    aggregation: Any = None,
    lr: Any = None,
    plain_tokens: Any = None,
    loops: Any = None,
    schedule: Schedule | None = None,
    seq_len: int | None = None,
    batch_size: int | None = None,
    dtype: Dtype | None = None,
    settings: Mapping[str, Any] | None = None,
    device: DeviceName = "auto",
    workers: int | None = None,
    per_gpu: int | Literal["auto"] = 1,
    executor: Executor = "local",
    address: str | None = None,
    checkpoint_minutes: float = 5.0,
    tensorboard: bool = False,
    retry: bool = False,
    compile_model: bool = False,
    save_models: bool = False,
    micro_batch: int = 0,
    together: int = 1,
    deterministic: bool = False,
    fp32_precision: Literal["highest", "high"] = "highest",
    progress: bool | Console = False,
) -> SweepResult:
    """Train a grid over N, P, D and seeds, and record every loss.

    Finished runs are never repeated: the same call resumes an interrupted sweep. For the same seed all P share the
    initial backbone weights and the data order. Workers are processes: in a script, call this below
    ``if __name__ == "__main__":``.

    Args:
        spec: A YAML file, a shipped spec by name such as "smoke", its keys and values, or a spec; other arguments
            override it.
        out: Folder for the records; results/NAME by default.
        N: Non-embedding parameters, one or several, such as "50k".
        P: Numbers of streams.
        D: Training tokens, one or several, such as "1M".
        seeds: Seeds.
        backbone: Folder of a model to freeze, in place of `N`; its streams are trained, and P = 1 is one prefix. Other
            defaults are then those of `train_streams`, and `lr` is that of every width.
        isoflop: Training budgets in FLOPs, such as 1e14, in place of D: each gets sizes around the expected optimum (or
            `N`), and for every P the D with 6·N·D·P FLOPs.
        corpus: Text: "stdlib" (the default), "hf:NAME", or a file or folder of text, JSONL or Parquet.
        text_column: Column with the text, in JSONL and Parquet.
        tokenizer: Vocabulary size of a byte-level BPE to train, or the path of a tokenizer.
        prefix_tokens: Prefix length of each stream.
        aggregation: Aggregator: "dynamic" (the paper's), "mean" or "channel".
        lr: Peak learning rate at hidden size 64; wider models get a lower one.
        plain_tokens: Tokens of D to train without streams first.
        loops: Passes through the layers, which share their weights.
        schedule: Learning rate schedule: "linear", "wsd" (all D share one stable phase) or "constant".
        seq_len: Sequence length in tokens.
        batch_size: Sequences per step.
        dtype: Precision: "fp32", "bf16" or "auto" (bf16 on CUDA, else fp32).
        settings: Any other keys of a spec: ``{"num_experts": 4, "recipe": {"beta2": 0.99}}``.
        device: Device: "auto", "cpu" or "cuda".
        workers: Concurrent runs; by default one per core or GPU.
        per_gpu: Concurrent runs per GPU: a number, or "auto" for as many as fit.
        executor: "local" or "ray" (on a running cluster, or a new one on this machine).
        address: Address of a running Ray cluster.
        checkpoint_minutes: Minutes between checkpoints of a run.
        tensorboard: Write TensorBoard logs to OUT/tensorboard.
        retry: Train diverged runs again.
        compile_model: Compile the decoder layers with torch.compile.
        save_models: Keep each trained model in OUT/models.
        micro_batch: Sequences per forward pass; 0 is as many as fit into memory.
        together: Runs to train side by side in one process, if they differ only in seed or learning rate.
        deterministic: Use deterministic CUDA kernels, which are slower; equal runs then have identical losses.
        fp32_precision: Precision of fp32 matrix products on CUDA: "highest", or "high" (TF32 tensor cores).
        progress: Show progress on standard error, or on a rich console.

    Returns:
        The records of all runs of the grid, with losses in nats per token.

    Raises:
        UsageError: An argument is wrong.
        DataError: The corpus or tokenizer cannot be read.
        ScalelabError: Some runs failed; the records of the others are kept.
        MissingPackageError: torch or transformers is not installed.
    """
    grid = dict(
        N=N, P=P, D=D, seeds=seeds, isoflop=isoflop, corpus=corpus, text_column=text_column, tokenizer=tokenizer
    )
    grid |= dict(prefix_tokens=prefix_tokens, aggregation=aggregation, lr=lr, plain_tokens=plain_tokens, loops=loops)
    grid |= dict(backbone=backbone)
    recipe = dict(schedule=schedule, seq_len=seq_len, batch_size=batch_size, dtype=dtype)
    check_execution(device, executor, address, tensorboard)
    if fp32_precision not in ("highest", "high"):
        raise UsageError("choose highest or high", argument="fp32_precision", value=fp32_precision)
    chosen = spec_of(spec, grid, recipe, settings)
    if executor == "local":
        from scalelab.sweep.workers import start_importing

        start_importing()  # in the workers, at the same time as in this process
    console = console_of(progress)
    console.print("loading PyTorch …")
    from scalelab.records.files import MODELS
    from scalelab.sweep.run import Execution
    from scalelab.sweep.run import run_sweep as train
    from scalelab.train.numerics import Numerics

    execution = Execution(
        device,
        workers,
        runs_per_gpu(per_gpu),
        compile_model,
        save_models,
        checkpoint_minutes * 60,
        tensorboard,
        retry,
        executor,
        address,
        Numerics(deterministic, fp32_precision),
        micro_batch,
        together,
    )
    folder = Path(out) if out is not None else Path("results") / chosen.name
    records = train(chosen, folder, execution, console)
    models = {str(key): folder / MODELS / str(key) for key in records["key"]} if save_models else {}
    return SweepResult(folder, records, models, chosen.isoflop)


def plan_sweep(
    spec: SweepSpec | str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    device: DeviceName = "auto",
    workers: int | None = None,
    per_gpu: int | Literal["auto"] = 1,
    retry: bool = False,
    compile_model: bool = False,
    save_models: bool = False,
    progress: bool | Console = False,
    **given: Any,
) -> SweepPlan:
    """Estimate the cost of a sweep on this machine without training: size, FLOPs, memory and time of each run.

    Args:
        spec: As for `run_sweep`.
        out: As for `run_sweep`.
        settings: Any other keys of a spec.
        device: Device: "auto", "cpu" or "cuda".
        workers: Concurrent runs.
        per_gpu: Concurrent runs per GPU.
        retry: Include diverged runs.
        compile_model: Compile the decoder layers with torch.compile.
        save_models: Include finished runs whose model was not saved.
        progress: Show progress on standard error, or on a rich console.
        given: Grid and recipe arguments of `run_sweep`: N, P, D, seeds, corpus, lr, schedule, and so on.

    Returns:
        The runs, with memory in bytes and time in seconds, and warnings.

    Raises:
        UsageError: An argument is wrong.
        DataError: The corpus or tokenizer cannot be read.
        MissingPackageError: torch or transformers is not installed.
    """
    recipe = {name: given.pop(name) for name in ("schedule", "seq_len", "batch_size", "dtype") if name in given}
    check_execution(device, "local", None)
    chosen = spec_of(spec, given, recipe, settings)
    console = console_of(progress)
    console.print("loading PyTorch …")
    from scalelab.sweep.dry_run import plan_sweep as plan
    from scalelab.sweep.limits import limit_warnings
    from scalelab.sweep.run import Execution, prepare

    execution = Execution(device, workers, runs_per_gpu(per_gpu), compile_model, save_models, retry=retry)
    folder = Path(out) if out is not None else Path("results") / chosen.name
    resolved, to_train, slots, known = prepare(chosen, folder, execution, console)
    console.print("timing steps on this machine …")
    # Runs that share a GPU are assumed to take as long as one after the other.
    at_once = len(slots) if slots[0] == "cpu" else len(set(slots))
    made = plan(resolved.runs, to_train, known, slots[0], at_once)
    to_do = [run.config for run in made.left]
    return SweepPlan(made, tuple(limit_warnings(to_do, slots[0], made.workers, resolved.data.train_tokens)))
