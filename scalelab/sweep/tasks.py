"""Tasks of a sweep: runs, and training that several runs share, with their dependencies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalelab.architecture import Architecture
from scalelab.train.numerics import Numerics
from scalelab.train.phases import phase_key, phases
from scalelab.train.recipe import RunConfig
from scalelab.train.tokens import TokenData

if TYPE_CHECKING:
    from scalelab.sweep.evaluations import RunTasks


@dataclass(frozen=True)
class Task:
    """One run, or training that several runs share.

    Attributes:
        config: The run, or the shared phase.
        cost: Of the steps from `first` on, in the units of `relative_cost`.
        first: Step at which the task starts.
        needs: Key of the shared task that must end first, at step `first`.
        shared: The task is shared training; its last state is kept as a checkpoint.
        members: Runs that a shared task trains together; see `scalelab.train.ensemble`.
    """

    config: RunConfig
    cost: float
    first: int = 0
    needs: str | None = None
    shared: bool = False
    members: tuple[RunConfig, ...] = ()

    @property
    def key(self) -> str:
        """Unique name of the task; for a run, its key."""
        if self.members:
            return f"ensemble-{len(self.members)}-{self.config.key}"
        return f"shared-{self.config.key}" if self.shared else self.config.key


@dataclass(frozen=True)
class Job:
    """Settings that all tasks of a sweep share.

    `peak_flops` is the device's peak speed in FLOP/s, `code` the hash of the source that the sweep started with,
    `evaluation` has the tasks of the trained models. See `scalelab.sweep.run.Execution` for the others.
    """

    data: TokenData
    out: Path
    compile_model: bool = False
    save_models: bool = False
    save_every_s: float = 300.0
    tensorboard: bool = False
    peak_flops: float | None = None
    code: str | None = None
    retry: bool = False
    numerics: Numerics = field(default_factory=Numerics)
    micro_batch: int = 0
    evaluation: RunTasks | None = None


@dataclass(frozen=True)
class Event:
    """Event of a task.

    `kind` is started, progress, done, failed, busy (another sweep is training the run) or lost (the run lost its node
    and will be trained again).
    """

    kind: str
    task: Task
    values: dict[str, Any] = field(default_factory=dict)


def relative_cost(config: RunConfig, first: int = 0) -> float:
    """Return the cost of training from step `first` on in arbitrary units, to order runs and estimate times."""
    total = 0.0
    for phase in phases(config):
        if phase.steps > first:
            total += (phase.steps - first) * phase.step_tokens * _token_cost(phase.architecture)
            first = phase.steps
    return total


def _token_cost(shape: Architecture) -> float:
    """Return the relative cost of one token.

    Each stream after the first costs about 0.78 of a step without streams, and part of a step does not shrink with the
    model. The constants fit speeds measured at N = 22k to 92k on a CPU.
    """
    rows = (1 + 0.78 * (shape.P - 1)) * shape.loops
    return rows * (shape.active_params + shape.embedding_params + 60_000)


_SharedState = tuple[str, int]  # key of a phase, and step


def make_tasks(configs: Iterable[RunConfig], together: int = 1) -> list[Task]:
    """Return tasks for `configs`, most urgent first: by the cost of the longest chain of tasks that starts with each.

    Training that two or more runs share becomes a separate task. Up to `together` runs that differ only in seed and
    learning rate are trained as one; their own tasks then find their records.
    """
    configs = list(configs)
    ensembles = _ensembles(configs, together)
    trained = {c.key: task for task in ensembles for c in task.members}
    own = [Task(c, 0.0, needs=trained[c.key].key) for c in configs if c.key in trained]
    return _by_urgency([*ensembles, *own, *_single_tasks([c for c in configs if c.key not in trained])])


def _ensembles(configs: list[RunConfig], together: int) -> list[Task]:
    """Return a task for each group of two or more runs that can be trained as one."""
    if together < 2:
        return []
    from scalelab.train.ensemble import can_train_together

    groups: list[list[RunConfig]] = []
    for config in configs:
        fits = (g for g in groups if len(g) < together and can_train_together([g[0], config]))
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
    """Return one task per run, and tasks for the training that several runs share."""
    shared = [(phase, before) for c in configs for before, phase in _with_previous(phases(c)[:-1])]
    states: dict[_SharedState, RunConfig] = {_end_state(phase): phase for phase, _ in shared}
    earlier: dict[_SharedState, _SharedState | None] = {
        _end_state(phase): _latest(states, _end_state(phase)) or (_end_state(before) if before else None)
        for phase, before in shared
    }
    starts = {c.key: _end_state(phases(c)[-2]) if len(phases(c)) > 1 else None for c in configs}
    uses = [state for state in (*earlier.values(), *starts.values()) if state is not None]
    kept = {state for state in states if uses.count(state) > 1}

    def kept_before(state: _SharedState | None) -> _SharedState | None:
        while state is not None and state not in kept:
            state = earlier[state]
        return state

    def make(config: RunConfig, before: _SharedState | None, is_shared: bool) -> Task:
        first = before[1] if before else 0
        needs = f"shared-{states[before].key}" if before else None
        return Task(config, relative_cost(config, first), first, needs, is_shared)

    tasks = [make(states[state], kept_before(earlier[state]), True) for state in kept]
    return tasks + [make(c, kept_before(starts[c.key]), False) for c in configs]


def _end_state(phase: RunConfig) -> _SharedState:
    return phase_key(phase), phase.steps


def _with_previous(plan: list[RunConfig]) -> Iterable[tuple[RunConfig | None, RunConfig]]:
    return zip([None, *plan], plan, strict=False)


def _latest(states: Iterable[_SharedState], state: _SharedState) -> _SharedState | None:
    """Return the last of `states` in the same phase before `state`."""
    return max((s for s in states if s[0] == state[0] and s[1] < state[1]), default=None)


def _by_urgency(tasks: list[Task]) -> list[Task]:
    chain: dict[str, float] = {}

    def length(task: Task) -> float:
        if task.key not in chain:
            after = [length(t) for t in tasks if t.needs == task.key]
            chain[task.key] = task.cost + max(after, default=0.0)
        return chain[task.key]

    return sorted(tasks, key=length, reverse=True)
