"""Train a grid over N, P, D and seeds, or see what it would cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from scalelab.api.loading import DeviceName, Dtype, console_of
from scalelab.api.runs import Runs
from scalelab.api.sweep_request import Executor, check_execution, runs_per_gpu, spec_of
from scalelab.errors import UsageError
from scalelab.shown import Shown
from scalelab.units import format_bytes, format_count, plural

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from scalelab.fit import FitResult
    from scalelab.fit.many import FitResults
    from scalelab.sweep.dry_run import Plan
    from scalelab.sweep.spec import SweepSpec

Schedule = Literal["linear", "wsd", "constant"]
_MANY_EPOCHS = 4.0  # up to about so many, repeated text is worth nearly as much as new (arXiv 2305.16264)

__all__ = ["SweepPlan", "SweepResult", "plan_sweep", "run_sweep"]


@dataclass(frozen=True)
class SweepResult(Shown):
    """The finished runs of a sweep. `models` are folders of trained models by key, where they were kept."""

    out: Path
    records: pd.DataFrame
    models: Mapping[str, Path] = field(default_factory=dict)

    _report: ClassVar[str] = "scalelab.report.sweeps:sweep_report"
    _json: ClassVar[str] = "scalelab.report.sweeps:sweep_json"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each run, with the columns of the record."""
        return self.records

    def runs(self) -> Runs:
        """Return the runs as a list that is written as CSV or JSON, and has loss curves."""
        from scalelab.records import Table

        frame = self.records if "file" in self.records else self.records.assign(file="")
        return Runs(str(self.out), frame, Table(frame, (), 0))

    def plot(self, kind: str | None = None, **options: Any) -> Any:
        """Draw the loss curves: a panel for each P, a colour for each N."""
        return self.runs().plot(kind, **options)

    def fit(self, law: str = "parallel", **options: Any) -> FitResult | FitResults:
        """Fit a law to the runs, as `fit_law` does."""
        from scalelab.api.fitting import fit_law

        return fit_law(self.records, law, **options)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<SweepResult of {plural(len(self.records), 'run')} below {self.out}>"


@dataclass(frozen=True)
class SweepPlan(Shown):
    """Plan of a sweep: what it would do and cost, and warnings."""

    plan: Plan
    warnings: tuple[str, ...]

    _report: ClassVar[str] = "scalelab.report.sweeps:plan_report"
    _json: ClassVar[str] = "scalelab.report.sweeps:plan_json"

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
    corpus: str | None = None,
    text_column: str | None = None,
    tokenizer: str | int | None = None,
    prefix_tokens: Any = None,
    aggregation: Any = None,
    lr: Any = None,
    plain_tokens: Any = None,
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

    Finished runs are never repeated: the same call goes on where it stopped. For one seed all P share the backbone's
    initial weights and the order of the data. Workers are processes: in a script, call this below
    ``if __name__ == "__main__":``.

    Args:
        spec: A YAML file, a shipped spec by name such as "smoke", keys and values, or a spec; arguments go over it.
        out: Folder for the records; results/NAME by default.
        N: Non-embedding parameters, one or several, such as "50k".
        P: Parallel streams.
        D: Training tokens.
        seeds: Seeds.
        corpus: Text: "stdlib" (the default), "hf:NAME", or a file or folder of text, JSONL or Parquet.
        text_column: Where JSONL and Parquet hold the text.
        tokenizer: Vocabulary size of a byte-level BPE to train, or a tokenizer's path.
        prefix_tokens: Prefix length of each stream.
        aggregation: How streams are mixed: "dynamic" (the paper's), "mean", "channel".
        lr: Peak learning rate at hidden 64; wider models get less.
        plain_tokens: Of D, tokens trained plainly before the streams begin.
        schedule: "linear", "wsd" (all D share one stable phase) or "constant".
        seq_len: Tokens of a sequence.
        batch_size: Sequences of a step.
        dtype: Precision to compute in; auto is bf16 on CUDA and fp32 on CPU.
        settings: Any other key of a spec: ``{"num_experts": 4, "recipe": {"beta2": 0.99}}``.
        device: Where to train.
        workers: Runs at once; one a core or GPU by default.
        per_gpu: Runs at once on each GPU: a number, or "auto" for as many as fit.
        executor: "local", or "ray": on a cluster, or a new one on this machine.
        address: Of a running Ray cluster.
        checkpoint_minutes: How often a long run saves its state, to resume from.
        tensorboard: Write TensorBoard logs to OUT/tensorboard.
        retry: Train runs again that diverged.
        compile_model: Compile the decoder's layers.
        save_models: Keep each trained model in OUT/models.
        micro_batch: Sequences computed at once; 0 is as many as fit into memory.
        together: Runs that differ in seed or learning rate alone to train as one, side by side.
        deterministic: On CUDA, let equal runs have equal losses to the bit; slower.
        fp32_precision: Of fp32 matrix products on CUDA: "highest", or "high" for TF32 tensor cores.
        progress: Show progress on standard error, or on this console of rich.

    Raises:
        UsageError: An argument is wrong.
        ScalelabError: Runs failed; the records of the others stay.
    """
    grid = dict(N=N, P=P, D=D, seeds=seeds, corpus=corpus, text_column=text_column, tokenizer=tokenizer)
    grid |= dict(prefix_tokens=prefix_tokens, aggregation=aggregation, lr=lr, plain_tokens=plain_tokens)
    recipe = dict(schedule=schedule, seq_len=seq_len, batch_size=batch_size, dtype=dtype)
    check_execution(device, executor, address, tensorboard)
    if fp32_precision not in ("highest", "high"):
        raise UsageError("choose highest or high", argument="fp32_precision", value=fp32_precision)
    chosen = spec_of(spec, grid, recipe, settings)
    if executor == "local":
        from scalelab.sweep.workers import start_importing

        start_importing()  # of what takes seconds, beside what this process imports and reads
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
    records = train(chosen, folder, execution, console_of(progress))
    models = {str(key): folder / MODELS / str(key) for key in records["key"]} if save_models else {}
    return SweepResult(folder, records, models)


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
    """Say what a sweep would cost here: each run with its size, FLOPs, memory and time. Trains nothing.

    Args:
        spec: As for `run_sweep`.
        out: As for `run_sweep`.
        settings: Any other key of a spec.
        device: Where it would train.
        workers: Runs at once.
        per_gpu: Runs at once on each GPU.
        retry: Count runs that diverged as to be trained again.
        compile_model: Use torch.compile.
        save_models: Count runs whose model is not kept as to be trained again.
        progress: Show progress on standard error, or on this console of rich.
        given: The grid and recipe arguments of `run_sweep`: N, P, D, seeds, corpus, lr, schedule, and so on.

    Raises:
        UsageError: An argument is wrong.
    """
    recipe = {name: given.pop(name) for name in ("schedule", "seq_len", "batch_size", "dtype") if name in given}
    check_execution(device, "local", None)
    chosen = spec_of(spec, given, recipe, settings)
    from scalelab.sweep.dry_run import plan_sweep as plan
    from scalelab.sweep.run import Execution, prepare

    console = console_of(progress)
    execution = Execution(device, workers, runs_per_gpu(per_gpu), compile_model, save_models, retry=retry)
    folder = Path(out) if out is not None else Path("results") / chosen.name
    resolved, left, places, known = prepare(chosen, folder, execution, console)
    console.print("timing some steps here …")
    # Runs that share a GPU do not end sooner than one after the other.
    at_once = len(places) if places[0] == "cpu" else len(set(places))
    made = plan(resolved.runs, left, known, places[0], at_once)
    return SweepPlan(made, tuple(_against(made, len(resolved.data.train()))))


def _against(plan: Plan, train_tokens: int) -> list[str]:
    """Return warnings about a sweep: more memory than there is, or the same text over and over."""
    from scalelab.train.device import device_memory_bytes

    warnings = []
    there = device_memory_bytes(plan.device)
    together = plan.memory_bytes * (plan.workers if plan.device == "cpu" else 1)
    if plan.memory_bytes > there:
        warnings.append(
            f"the largest run needs {format_bytes(plan.memory_bytes)} and {plan.device.split(':')[0]} has "
            f"{format_bytes(there)}: it will not fit"
        )
    elif together > there:
        warnings.append(
            f"{plan.workers} runs at once may need {format_bytes(together)} and there are {format_bytes(there)}: "
            "choose fewer `workers`"
        )
    most = max((run.config.n_tokens for run in plan.left), default=0)
    if train_tokens and most / train_tokens > _MANY_EPOCHS:
        warnings.append(
            f"D {format_count(most)} is {most / train_tokens:,.0f} passes over the {format_count(train_tokens)} "
            "training tokens of this text: losses will be of repeated text"
        )
    return warnings
