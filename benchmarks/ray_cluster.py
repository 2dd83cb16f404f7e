"""Sweep on a Ray cluster of two nodes, one of which is killed halfway; writes docs/ray.md.

Everything runs on this machine, bound to 127.0.0.1. Local workers train the same runs first, undisturbed. Takes some
minutes on two cores.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # read when Ray is imported; keeps everything on 127.0.0.1
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from scalelab.records import read
from scalelab.records.files import read_curve
from scalelab.records.store import curve_path
from scalelab.sweep import ray_executor, workers
from scalelab.sweep.resolve import resolve
from scalelab.sweep.spec import SweepSpec
from scalelab.sweep.tasks import Event, Job, make_tasks
from scalelab.sweep.tracker import RunningTask
from scalelab.train.recipe import Recipe

OUTPUT = Path(__file__).parent.parent / "docs" / "ray.md"
SPEC = SweepSpec(
    N=(12e3,),
    P=(1, 2),
    D=(200e3, 400e3),
    seeds=(0,),
    recipe=Recipe(schedule="wsd", dtype="fp32", val_tokens=16_384),
)
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1", "object_store_memory": 100 * 2**20, "include_dashboard": False}


class Experiment:
    """Writes down what happens, and kills the second node when a run on it has come to a third of its steps."""

    def __init__(self, cluster: Cluster, node: Any) -> None:
        self.cluster, self.node = cluster, node
        self.names = {cluster.head_node.node_id: "first", node.node_id: "second"}
        self.where: dict[str, str] = {}
        self.lines: list[str] = []
        self.lost = 0
        self.killed_s: float | None = None
        self.steps: dict[str, int] = {}
        self.began = time.monotonic()

    def __call__(self, event: Event) -> None:
        task, values = event.task, event.values
        name = RunningTask.started(task).title
        if event.kind == "started" and values:
            self.where[task.key] = self.names[values["node_id"]]
            self.say(f"started  {name} on the {self.where[task.key]} node")
        elif event.kind == "progress":
            if task.key not in self.steps:
                self.say(f"         {name} is at step {values['step']} of {task.config.steps}")
            self.steps[task.key] = values["step"]
            third = values["step"] > task.first + (task.config.steps - task.first) / 3
            if third and self.where[task.key] == "second" and self.killed_s is None and not task.shared:
                self.killed_s = time.monotonic() - self.began
                self.say(f"KILLED   the second node, with {name} at step {values['step']} of {task.config.steps}")
                self.cluster.remove_node(self.node, allow_graceful=False)
        elif event.kind == "lost":
            self.lost += 1
            self.steps.pop(task.key, None)  # so that the step from which it resumes is reported
            self.say(f"lost     {name}: {values['message']}")
        elif event.kind in ("done", "failed"):
            end = f"loss {values['loss']:.6f}" if "loss" in values else values.get("message", "")
            self.say(f"{event.kind:8} {name} {end}".rstrip())

    def say(self, line: str) -> None:
        self.lines.append(f"{time.monotonic() - self.began:6.1f} s  {line}")
        print(self.lines[-1], flush=True)


def main() -> None:
    short = "/tmp"  # nosec B108  # mkdtemp makes a private folder; paths of sockets must be short
    scratch = Path(tempfile.mkdtemp(prefix="ray-", dir=short))
    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"temp_dir": str(scratch / "ray")})
    try:
        resolved = resolve(SPEC)
        tasks = make_tasks(resolved.runs)
        local, out = scratch / "local", scratch / "out"
        if workers.run_all(tasks, Job(resolved.data, local), ["cpu", "cpu"], lambda event: None):
            raise SystemExit("runs of local workers failed")
        experiment = Experiment(cluster, cluster.add_node(**NODE))
        job = Job(resolved.data, out, save_every_s=1.0)
        failures = ray_executor.run_all(tasks, job, experiment, cluster.address)
        seconds = time.monotonic() - experiment.began
        first, second = (read(folder).records.set_index("key").sort_index() for folder in (local, out))
        equal = sum(
            first.loss[key] == second.loss.get(key)
            and read_curve(curve_path(local, key)).equals(read_curve(curve_path(out, key)))
            for key in first.index
        )
    finally:
        cluster.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
    rows = {
        "nodes at first": "2, a run at once on each",
        "tasks": f"{len(resolved.runs)} runs, {len(tasks) - len(resolved.runs)} beginnings shared by two",
        "second node killed (SIGKILL of all its processes)": (
            "never: no run was on it for long enough" if experiment.killed_s is None else f"{experiment.killed_s:.0f} s"
        ),
        "tasks lost and done again on the first": str(experiment.lost),
        "runs failed": str(len(failures)),
        "whole sweep": f"{seconds:.0f} s",
        "records whose loss and curve equal those of undisturbed local workers": f"{equal} of {len(first)}",
    }
    OUTPUT.write_text(_page(rows, experiment.lines))
    print(f"wrote {OUTPUT}")


def _page(rows: dict[str, str], lines: list[str]) -> str:
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    log = "\n".join(lines)
    return f"""# A Ray cluster that loses a node

Written by `benchmarks/ray_cluster.py` with Ray {ray.__version__} and Python {platform.python_version()} on
{os.cpu_count()} shared cores: both nodes are of one machine and bound to 127.0.0.1. Times include the start
of a process for each run, which is most of them here with others at work on the same cores; they say nothing about
speed.

| what | seen |
|---|---|
{table}

What the sweep told, seconds since its start:

```
{log}
```
"""


if __name__ == "__main__":
    main()
