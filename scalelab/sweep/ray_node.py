"""One task on a node of a Ray cluster, which may see the folder of results or only be asked for them."""

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
from scalelab.sweep.perform import perform
from scalelab.sweep.ray_desk import Files, read_files
from scalelab.sweep.tasks import Job, Task
from scalelab.train.device import measured_peak_flops
from scalelab.train.source import source_digest
from scalelab.train.tokens import brought_here
from scalelab.train.trajectory import legs, trajectory


@dataclass(frozen=True)
class Errand:
    """What the head sends along with a task.

    `probe` is a file in the folder of results, whose sight tells a node that it sees that folder; `place` is cpu
    or cuda:0; `version` is of the head's scalelab.
    """

    task: Task
    job: Job
    place: str
    probe: Path
    version: str


@dataclass(frozen=True)
class Outcome:
    """How a task ended: kind and values of the last event, and what the head must write if the node could not."""

    kind: str
    values: dict[str, Any]
    record: dict[str, Any] | None = None
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    files: Files = field(default_factory=dict)


def carry_out(errand: Errand, desk: Any) -> Outcome:
    """In a process of a node: the same `perform` as for local workers, there or in a folder for the time being.

    `desk` is the handle of a `Desk`.
    """
    import ray
    import torch
    from transformers.utils import logging

    task, job = errand.task, errand.job
    node = ray.util.get_node_ip_address()
    if scalelab.__version__ != errand.version:
        message = (
            f"node {node} has scalelab {scalelab.__version__}, this machine {errand.version}: install the same there"
        )
        return Outcome("failed", {"status": RunStatus.FAILED, "message": message})
    logging.disable_progress_bar()
    torch.set_num_threads(1)

    def tell(kind: str, values: dict[str, Any]) -> None:
        desk.tell.remote(task.key, kind, values)

    tell("started", {"node": node, "node_id": ray.get_runtime_context().get_node_id()})
    data = brought_here(job.data, lambda folder: write_files(ray.get(desk.tokens.remote()), folder))
    # The head's device and source need not be this node's.
    peak_flops = measured_peak_flops(errand.place, task.config.recipe.dtype)
    job = replace(job, data=data, peak_flops=peak_flops, code=source_digest())
    if errand.probe.is_file():
        return Outcome(*perform(task, job, errand.place, tell))
    with tempfile.TemporaryDirectory(prefix="scalelab-") as name:
        folder = Path(name)
        names = [trajectory(leg) for leg in legs(task.config)]
        write_files(ray.get(desk.checkpoints.remote(names)), folder / CHECKPOINTS)
        kind, values = perform(task, replace(job, out=folder), errand.place, tell)
        return _brought_home(task, kind, values, folder, errand.job.out)


def write_files(files: Files, folder: Path) -> None:
    """Write `files` below `folder`, each whole or not at all."""
    for name, content in files.items():
        with atomic_write(folder / name) as file:
            file.write(content)


def _brought_home(task: Task, kind: str, values: dict[str, Any], folder: Path, out: Path) -> Outcome:
    """What `perform` left in `folder`, which will be gone, with `out` for its name."""
    if "message" in values:
        values = values | {"message": values["message"].replace(str(folder), str(out))}
    record, curve = None, []
    if record_path(folder, task.config.key).exists():
        (record,) = pq.ParquetFile(record_path(folder, task.config.key)).read().to_pylist()
        record |= {name: values[name] for name in ("message",) if name in values}
        if curve_path(folder, task.config.key).exists():  # a run that failed at once has none
            rows = pq.ParquetFile(curve_path(folder, task.config.key)).read().to_pylist()
            curve = [tuple(row.values()) for row in rows]
    ours = read_files(folder)
    kept = _kept_parts(task)
    files = {path: content for path, content in ours.items() if path.split("/")[0] in kept}
    return Outcome(kind, values, record, curve, files)


def _kept_parts(task: Task) -> Iterable[str]:
    return (CHECKPOINTS,) if task.shared else (MODELS, "logs", "tensorboard")
