"""What there is to do: runs, the stretches of training that they share, and what must come first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalelab.architecture import Architecture
from scalelab.train.numerics import Numerics
from scalelab.train.recipe import RunConfig
from scalelab.train.tokens import TokenData
from scalelab.train.trajectory import legs, trajectory


@dataclass(frozen=True)
class Task:
    """One run, or a stretch that several begin with (`shared`), whose end is kept as a checkpoint.

    `needs` is the key of the shared task that must have ended, at the step `first`; `cost`, of the steps from there
    on, is in the units of `relative_cost`.
    """

    config: RunConfig
    cost: float
    first: int = 0
    needs: str | None = None
    shared: bool = False
    members: tuple[RunConfig, ...] = ()  # of a shared task that trains all of them as one, see `train.ensemble`

    @property
    def key(self) -> str:
        if self.members:
            return f"ensemble-{len(self.members)}-{self.config.key}"
        return f"shared-{self.config.key}" if self.shared else self.config.key


@dataclass(frozen=True)
class Job:
    """What is the same for every task of a sweep.

    `peak_flops` is a second's worth of the device, and `code` the hash of the source the sweep began with.
    """

    data: TokenData
    out: Path
    compile_model: bool = False
    save_models: bool = False
    save_every_s: float = 300.0
    tensorboard: bool = False
    peak_flops: float | None = None
    code: str | None = None
    retry: bool = False  # runs that diverged
    numerics: Numerics = field(default_factory=Numerics)
    micro_batch: int = 0  # sequences at once; 0: as many as fit


@dataclass(frozen=True)
class Event:
    """What a worker tells: `kind` is started, progress, done, failed, or busy: another sweep has that run."""

    kind: str
    task: Task
    values: dict[str, Any] = field(default_factory=dict)


def relative_cost(config: RunConfig, first: int = 0) -> float:
    """Cost of training from step `first` on in arbitrary units, for ordering runs and guessing the time left."""
    total = 0.0
    for leg in legs(config):
        if leg.steps > first:
            total += (leg.steps - first) * leg.step_tokens * _token_cost(leg.architecture)
            first = leg.steps
    return total


def _token_cost(shape: Architecture) -> float:
    """Each stream after the first costs about 0.78 of the plain step, and a step has a part that does not shrink
    with the model: the constant fits speeds measured at N = 22k to 92k on CPU."""
    rows = 1 + 0.78 * (shape.P - 1)
    return rows * (shape.active_params + shape.embedding_params + 60_000)


_Mark = tuple[str, int]  # a shared state: trajectory and step


def make_tasks(configs: Iterable[RunConfig], together: int = 1) -> list[Task]:
    """Tasks for `configs`, most urgent first: by the cost of the longest chain that begins with each.

    Training that two or more of them begin with is a task of its own, done once. Runs that differ in seed and learning
    rate alone are trained as one, up to `together` of them: their own tasks then find their records made.
    """
    configs = list(configs)
    ensembles = _ensembles(configs, together)
    trained = {c.key: task for task in ensembles for c in task.members}
    own = [Task(c, 0.0, needs=trained[c.key].key) for c in configs if c.key in trained]
    return _by_urgency([*ensembles, *own, *_single_tasks([c for c in configs if c.key not in trained])])


def _ensembles(configs: list[RunConfig], together: int) -> list[Task]:
    """A task for each group of two or more of `configs` that can be trained as one."""
    if together < 2:
        return []
    from scalelab.train.ensemble import same_but_for_seed_and_rate

    groups: list[list[RunConfig]] = []
    for config in configs:
        fits = (g for g in groups if len(g) < together and same_but_for_seed_and_rate([g[0], config]))
        group = next(fits, None)
        if group is None:
            groups.append([config])
        else:
            group.append(config)
    return [
        Task(group[0], sum(map(relative_cost, group)), shared=True, members=tuple(group))
        for group in groups
        if len(group) > 1
    ]


def _single_tasks(configs: list[RunConfig]) -> list[Task]:
    """Tasks for `configs` one by one, and for what several of them begin with."""
    shared = [(leg, before) for c in configs for before, leg in _with_previous(legs(c)[:-1])]
    marks: dict[_Mark, RunConfig] = {_mark(leg): leg for leg, _ in shared}
    earlier: dict[_Mark, _Mark | None] = {
        _mark(leg): _latest(marks, _mark(leg)) or (_mark(before) if before else None) for leg, before in shared
    }
    ends = {c.key: _mark(legs(c)[-2]) if len(legs(c)) > 1 else None for c in configs}
    users = [m for m in (*earlier.values(), *ends.values()) if m is not None]
    worth = {m for m in marks if users.count(m) > 1}

    def task_before(mark: _Mark | None) -> _Mark | None:
        while mark is not None and mark not in worth:
            mark = earlier[mark]
        return mark

    def make(config: RunConfig, before: _Mark | None, is_shared: bool) -> Task:
        first = before[1] if before else 0
        return Task(
            config, relative_cost(config, first), first, f"shared-{marks[before].key}" if before else None, is_shared
        )

    tasks = [make(marks[m], task_before(earlier[m]), True) for m in worth]
    return tasks + [make(c, task_before(ends[c.key]), False) for c in configs]


def _mark(leg: RunConfig) -> _Mark:
    return trajectory(leg), leg.steps


def _with_previous(path: list[RunConfig]) -> Iterable[tuple[RunConfig | None, RunConfig]]:
    return zip([None, *path], path, strict=False)


def _latest(marks: Iterable[_Mark], mark: _Mark) -> _Mark | None:
    """The last mark on the same trajectory before this one."""
    return max((m for m in marks if m[0] == mark[0] and m[1] < mark[1]), default=None)


def _by_urgency(tasks: list[Task]) -> list[Task]:
    chain: dict[str, float] = {}

    def length(task: Task) -> float:
        if task.key not in chain:
            after = [length(t) for t in tasks if t.needs == task.key]
            chain[task.key] = task.cost + max(after, default=0.0)
        return chain[task.key]

    return sorted(tasks, key=length, reverse=True)
