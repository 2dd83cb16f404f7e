"""One task on a node of a Ray cluster, with or without access to the folder of results."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import scalelab
from scalelab.atomic import atomic_write
from scalelab.records.files import CHECKPOINTS, MODELS
from scalelab.records.store import curve_path, record_path
from scalelab.status import RunStatus
from scalelab.sweep.ray_mailbox import Files, read_files
from scalelab.sweep.task_runner import run_task
from scalelab.sweep.tasks import Job, Task
from scalelab.train.device import measured_peak_flops
from scalelab.train.phases import phase_key, phases
from scalelab.train.source import source_digest
from scalelab.train.tokens import copy_to_cache


@dataclass(frozen=True)
class TaskRequest:
    """A task as the head of a sweep sends it to a node.

    Attributes:
        task: The task.
        job: Settings of the sweep, with paths of the head.
        device: cpu or cuda:0.
        marker: A file in the folder of results; a node that finds it has access to that folder.
        version: The head's version of scalelab.
    """

    task: Task
    job: Job
    device: str
    marker: Path
    version: str


@dataclass(frozen=True)
class Outcome:
    """End of a task: kind and values of its last event, and what the head has to write for the node."""

    kind: str
    values: dict[str, Any]
    record: dict[str, Any] | None = None
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    files: Files = field(default_factory=dict)


def run_request(request: TaskRequest, mailbox: Any) -> Outcome:
    """Run a task in a process of a node, in the folder of results or in a temporary one.

    `mailbox` is the handle of a `Mailbox` actor.
    """
    import ray
    import torch
    from transformers.utils import logging

    task, job = request.task, request.job
    node = ray.util.get_node_ip_address()
    if scalelab.__version__ != request.version:
        message = (
            f"node {node} has scalelab {scalelab.__version__}, this machine {request.version}; "
            "install the same version there"
        )
        return Outcome("failed", {"status": RunStatus.FAILED, "message": message})
    logging.disable_progress_bar()
    torch.set_num_threads(1)

    def emit(kind: str, values: dict[str, Any]) -> None:
        mailbox.post.remote(task.key, kind, values)

    emit("started", {"node": node, "node_id": ray.get_runtime_context().get_node_id()})
    data = copy_to_cache(job.data, lambda folder: write_files(ray.get(mailbox.read_tokens.remote()), folder))
    # Device and source code may differ from the head's.
    peak_flops = measured_peak_flops(request.device, task.config.recipe.dtype)
    job = replace(job, data=data, peak_flops=peak_flops, code=source_digest())
    if request.marker.is_file():
        return Outcome(*run_task(task, job, request.device, emit))
    with tempfile.TemporaryDirectory(prefix="scalelab-") as name:
        folder = Path(name)
        names = [phase_key(phase) for phase in phases(task.config)]
        write_files(ray.get(mailbox.read_checkpoints.remote(names)), folder / CHECKPOINTS)
        kind, values = run_task(task, replace(job, out=folder), request.device, emit)
        return _collect_outcome(task, kind, values, folder, request.job.out)


def write_files(files: Files, folder: Path) -> None:
    """Write `files` below `folder`, each of them atomically."""
    for name, content in files.items():
        with atomic_write(folder / name) as file:
            file.write(content)


def _collect_outcome(task: Task, kind: str, values: dict[str, Any], folder: Path, out: Path) -> Outcome:
    """Collect what `run_task` wrote to the temporary `folder`, which messages call `out`."""
    if "message" in values:
        values = values | {"message": values["message"].replace(str(folder), str(out))}
    record, curve = None, []
    if record_path(folder, task.config.key).exists():
        (record,) = pq.ParquetFile(record_path(folder, task.config.key)).read().to_pylist()
        record |= {name: values[name] for name in ("message",) if name in values}
        if curve_path(folder, task.config.key).exists():  # missing if the run failed at once
            rows = pq.ParquetFile(curve_path(folder, task.config.key)).read().to_pylist()
            curve = [tuple(row.values()) for row in rows]
    sent = _sent_folders(task)
    files = {path: content for path, content in read_files(folder).items() if path.split("/")[0] in sent}
    return Outcome(kind, values, record, curve, files)


def _sent_folders(task: Task) -> Iterable[str]:
    return (CHECKPOINTS,) if task.shared else (MODELS, "logs", "tensorboard")
