"""One task on a node of a Ray cluster, which may see the folder of results or only be asked for them."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import scalelab
from scalelab.records.store import curve_path, record_path, whole_file
from scalelab.sweep.perform import perform
from scalelab.sweep.tasks import Job, Task
from scalelab.train.run import CHECKPOINTS
from scalelab.train.source import source_digest
from scalelab.train.tokens import TokenData, cache_folder
from scalelab.train.trajectory import legs, trajectory

Files = dict[str, bytes]  # content by path, relative to some folder


@dataclass(frozen=True)
class Errand:
    """What the head sends along with a task.

    `probe` names a file in the folder of results, whose sight tells a node that it sees that folder; `place` is cpu
    or cuda:0; `version` is of the head's scalelab.
    """

    task: Task
    job: Job
    place: str
    probe: str
    version: str


@dataclass(frozen=True)
class Outcome:
    """How a task ended: kind and values of the last event, and what the head must write if the node could not."""

    kind: str
    values: dict[str, Any]
    record: dict[str, Any] | None = None
    curve: list[tuple[int, int, float]] = field(default_factory=list)
    files: Files = field(default_factory=dict)


class Desk:
    """An actor beside the head: takes what runs tell, and hands out the head's files to nodes that lack them.

    Its paths are the head's. Nothing travels unless it is asked for.
    """

    def __init__(self, tokens: Path, checkpoints: Path) -> None:
        self._tokens, self._checkpoints = tokens, checkpoints
        self._told: list[tuple[str, str, dict[str, Any]]] = []
        self._lock = threading.Lock()

    def tell(self, key: str, kind: str, values: dict[str, Any]) -> None:
        with self._lock:
            self._told.append((key, kind, values))

    def drain(self) -> list[tuple[str, str, dict[str, Any]]]:
        """What was told since the last time: the task's key, and kind and values of an event."""
        with self._lock:
            told, self._told = self._told, []
        return told

    def tokens(self) -> Files:
        return read_files(self._tokens)

    def checkpoints(self, trajectories: list[str]) -> Files:
        return {
            f"{name}/{path}": content
            for name in trajectories
            for path, content in read_files(self._checkpoints / name).items()
        }


def carry_out(errand: Errand, desk: Any) -> Outcome:
    """In a process of a node: the same `perform` as for local workers, there or in a folder for the time being.

    `desk` is the handle of a `Desk`.
    """
    import ray
    import torch
    from transformers.utils import logging

    task, job = errand.task, errand.job
    if scalelab.__version__ != errand.version:
        where = f"node {ray.util.get_node_ip_address()}"
        message = f"{where} has scalelab {scalelab.__version__}, this machine {errand.version}: install the same there"
        return Outcome("failed", {"status": "failed", "message": message})
    logging.disable_progress_bar()
    torch.set_num_threads(1)

    def tell(kind: str, values: dict[str, Any]) -> None:
        desk.tell.remote(task.key, kind, values)

    tell("started", {})
    data = _tokens_here(job.data, lambda: ray.get(desk.tokens.remote()))
    # The head's source and device need not be this node's.
    job = replace(job, data=data, code=source_digest(), peak_flops=_peak_flops(errand))
    if (job.out / errand.probe).is_file():
        return Outcome(*perform(task, job, errand.place, tell))
    with tempfile.TemporaryDirectory(prefix="scalelab-") as name:
        folder = Path(name)
        names = [trajectory(leg) for leg in legs(task.config)]
        write_files(ray.get(desk.checkpoints.remote(names)), folder / CHECKPOINTS)
        kind, values = perform(task, replace(job, out=folder), errand.place, tell)
        return _brought_home(task, kind, values, folder, errand.job.out)


def read_files(folder: Path) -> Files:
    """Every file below `folder` but hidden ones; those that vanish meanwhile are left out."""
    files: Files = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not any(part.startswith(".") for part in parts) and path.is_file():
            try:
                files["/".join(parts)] = path.read_bytes()
            except FileNotFoundError:  # a checkpoint that a newer one has replaced
                continue
    return files


def write_files(files: Files, folder: Path) -> None:
    """Write `files` below `folder`, each whole or not at all."""
    for name, content in files.items():
        with whole_file(folder / name) as file:
            file.write(content)


def _brought_home(task: Task, kind: str, values: dict[str, Any], folder: Path, out: Path) -> Outcome:
    """What `perform` left in `folder`, which will be gone, with `out` for its name."""
    if "message" in values:
        values = values | {"message": values["message"].replace(str(folder), str(out))}
    record, curve = None, []
    if record_path(folder, task.config.key).exists():
        (record,) = pq.ParquetFile(record_path(folder, task.config.key)).read().to_pylist()
        record |= {name: values[name] for name in ("message",) if name in values}
        rows = pq.ParquetFile(curve_path(folder, task.config.key)).read().to_pylist()
        curve = [tuple(row.values()) for row in rows]
    ours = read_files(folder)
    kept = _kept_parts(task)
    files = {path: content for path, content in ours.items() if path.split("/")[0] in kept}
    return Outcome(kind, values, record, curve, files)


def _kept_parts(task: Task) -> Iterable[str]:
    return (CHECKPOINTS,) if task.shared else ("models", "logs", "tensorboard")


def _tokens_here(data: TokenData, fetch: Any) -> TokenData:
    """`data` in a folder of this machine, its content named by the folder's name."""
    if (data.folder / "meta.json").exists():
        return data
    folder = cache_folder() / "tokens" / data.folder.name
    if not (folder / "meta.json").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".building-"))
        write_files(fetch(), building)
        try:
            building.rename(folder)
        except OSError:  # another process was faster; its content is the same
            if not (folder / "meta.json").exists():
                raise
    return replace(data, folder=folder)


def _peak_flops(errand: Errand) -> float | None:
    from scalelab.train.device import measured_peak_flops

    if errand.job.peak_flops is None:
        return None
    return measured_peak_flops(errand.place, errand.task.config.recipe.dtype)
