"""Reports of sweeps that are running, and of their folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scalelab.records.schema import describe_statuses
from scalelab.reports.blocks import Line, Report
from scalelab.reports.final_loss import forecast_text, rival_text
from scalelab.reports.json_values import as_json_value
from scalelab.status import RunStatus
from scalelab.units import format_count, format_seconds

if TYPE_CHECKING:
    from scalelab.api.watching import Watched
    from scalelab.sweep.overview import FinishedRun
    from scalelab.sweep.state import SweepState
    from scalelab.sweep.tracker import RunningTask

TASK_COLUMNS = (
    *("n_params", "n_streams", "n_tokens", "seed", "shared"),
    *("step", "steps", "loss", "tokens_per_s", "left_s"),
)


def watched_report(found: Watched) -> Report:
    """Return the sweeps with their running runs, and the records."""
    return Report.of(Line(line) for line in watched_lines(found))


def watched_lines(found: Watched) -> Iterator[str]:
    """Yield a line for each sweep and each running run, with its forecast, and those of `records_lines`."""
    for sweep in found.sweeps:
        if not sweep.is_running:
            yield stopped_line(sweep)
            continue
        yield f"{running_line(sweep)}: {sweep.progress.summary}"
        for run in sweep.progress.running:
            yield from _run_lines(found, run)
    yield from records_lines(found)


def _run_lines(found: Watched, run: RunningTask) -> Iterator[str]:
    parts = [f"  {run.title}  step {run.step}/{run.steps}"]
    outlook = found.outlook(run)
    if run.loss is not None:
        parts.append(f"loss {run.loss:.4f}")
    if outlook is not None and outlook.forecast.loss is not None:
        parts.append(f"final {forecast_text(outlook.forecast)}")
    if run.tokens_per_s is not None and run.left_s is not None:
        parts.append(f"{format_count(run.tokens_per_s)} tokens/s  {format_seconds(run.left_s)} left")
    yield "  ".join(parts)
    if outlook is not None and outlook.rival is not None and run.facts is not None:
        yield f"    {rival_text(run.facts, outlook.rival)}"


def running_line(sweep: SweepState) -> str:
    """Return name, place and start of a running sweep."""
    today = time.time() - sweep.started < 43_200
    started = time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", time.localtime(sweep.started))
    silent = f", no update for {format_seconds(sweep.age_s)}" if sweep.is_silent else ""
    how = "" if sweep.executor == "local" else f" by {sweep.executor}"
    return f"sweep {sweep.name} on {sweep.host} (process {sweep.pid}), {sweep.device}{how}, since {started}{silent}"


def stopped_line(sweep: SweepState) -> str:
    """Return name, place and progress of a sweep whose process was killed."""
    return (
        f"sweep {sweep.name} on {sweep.host} (process {sweep.pid}): stopped {format_seconds(sweep.age_s)} ago, "
        f"{sweep.progress.done_of}; the same command resumes it"
    )


def records_lines(found: Watched) -> Iterator[str]:
    """Yield the number of records by status, the latest records, and errors of files."""
    yield f"records: {describe_statuses(found.counts) or 'none yet'}"
    for run in found.latest:
        yield _finished(run)
    yield from found.faults


def _finished(run: FinishedRun) -> str:
    ago = "" if run.ended is None else f"{format_seconds(time.time() - run.ended)} ago"
    if run.loss is None or run.status != RunStatus.OK:
        end = f"{RunStatus(run.status).words}  {run.message}".rstrip()
    else:
        end = f"loss {run.loss:.4f}"
        end += "" if run.loss_stderr is None else f" ± {run.loss_stderr:.4f}"
        end += "" if run.tokens_per_s is None else f"  {format_count(run.tokens_per_s)} tokens/s"
    return f"  {ago:>10}  {run.title}  {end}"


def watched_json(found: Watched) -> dict[str, Any]:
    """Return the sweeps with their running runs and forecasts, the number of records by status, and unreadable files.

    Losses are in nats per token and times in seconds.
    """
    sweeps = [
        {
            **{name: getattr(sweep, name) for name in ("name", "device", "executor", "host", "pid", "started")},
            **{"running": sweep.is_running, "silent": sweep.is_silent, "updated_s_ago": sweep.age_s},
            **{name: getattr(sweep.progress, name) for name in ("done", "fraction", "elapsed_s", "left_s")},
            "runs": sweep.progress.runs,
            "ended": dict(sweep.progress.ended),
            "tasks": [task_json(found, run) for run in sweep.progress.running] if sweep.is_running else [],
        }
        for sweep in found.sweeps
    ]
    return as_json_value({"sweeps": sweeps, "records": dict(found.counts), "faults": found.faults})


def task_json(found: Watched, run: RunningTask) -> dict[str, Any]:
    """Return a running task with its forecast and the finished run that it will not beat."""
    outlook = found.outlook(run)
    made, rival = (None, None) if outlook is None else (outlook.forecast, outlook.rival)
    return {
        **{name: getattr(run, name) for name in TASK_COLUMNS},
        "forecast": None if made is None else made,
        "will_not_beat": None
        if rival is None
        else {
            "n_params": rival.facts.N,
            "n_streams": rival.facts.P,
            "n_tokens": rival.facts.D,
            "peak_lr": rival.facts.lr or None,
            "seed": rival.facts.seed,
            "loss": rival.loss,
        },
    }
