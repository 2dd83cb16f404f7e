"""Tasks of a sweep: their order, phases shared by several runs, and runs left to another sweep."""

from dataclasses import replace
from itertools import product

import pytest

from scalelab.architecture import architecture_for
from scalelab.records.files import RUNS
from scalelab.sweep import task_queue
from scalelab.sweep.task_queue import TaskQueue
from scalelab.sweep.tasks import Event, make_tasks, relative_cost
from scalelab.train.phases import decay_start, phases
from scalelab.train.recipe import Recipe, RunConfig, TextSource

STEP = 512  # tokens


def runs(schedule="wsd", P=(1, 2), D=(100,), plain=(0,), seeds=(0,)):
    recipe = Recipe(schedule=schedule)
    shape = architecture_for(25e3, 512, prefix_tokens=4)
    return [
        RunConfig(shape.with_streams(p), d * STEP, seed, TextSource("", "", "", ""), recipe, d1 * STEP)
        for p, d, d1, seed in product(P, D, plain, seeds)
    ]


def tree(tasks):
    """{key of a task: key of the task it needs}."""
    return {task.key: task.needs for task in tasks}


def test_runs_that_share_nothing_are_tasks_alone_longest_first():
    for schedule in ("linear", "constant"):
        tasks = make_tasks(runs(schedule, P=(1, 4, 2)))
        assert [task.config.architecture.P for task in tasks] == [4, 2, 1]
        assert set(tree(tasks).values()) == {None}
    (alone,) = make_tasks(runs("wsd", P=(2,)))
    assert (alone.needs, alone.shared, alone.first) == (None, False, 0)


def test_the_stable_phase_is_trained_once_for_all_d():
    configs = runs(P=(2,), D=(100, 200, 400))
    tasks = make_tasks(configs)
    shared = [task for task in tasks if task.shared]
    ends = [task for task in tasks if not task.shared]
    # The longest run is alone with its last stretch of the stable phase, so that is no task of its own.
    assert sorted(task.config.steps for task in shared) == [80, 160]
    short, middle, long = (next(t for t in ends if t.config == c) for c in configs)
    first, second = sorted(shared, key=lambda task: task.config.steps)
    assert tree(tasks) == {
        first.key: None,
        second.key: first.key,
        short.key: first.key,
        middle.key: second.key,
        long.key: second.key,
    }
    assert [t.first for t in (first, second, short, middle, long)] == [0, 80, 80, 160, 160]
    once = sum(t.cost for t in tasks)
    assert once == pytest.approx(
        relative_cost(configs[2]) + relative_cost(configs[0], 80) + relative_cost(configs[1], 160)
    )
    assert once < 0.7 * sum(map(relative_cost, configs))


def test_the_plain_stage_is_trained_once_for_all_p():
    configs = runs("linear", P=(1, 2, 4), D=(100,), plain=(60,))
    tasks = make_tasks(configs)
    (plain,) = (task for task in tasks if task.shared)
    assert plain.config.architecture.P == 1
    assert plain.config.steps == 60
    assert {task.needs for task in tasks if not task.shared} == {plain.key}
    assert tasks[0] == plain


def test_both_at_once():
    """Plain to 60, then streams at a constant rate to 80 % of each D."""
    configs = runs("wsd", P=(2, 4), D=(100, 200), plain=(60,))
    tasks = make_tasks(configs)
    needs, by_key = tree(tasks), {task.key: task for task in tasks}
    for config in configs:
        chain, key = [], config.key
        while key is not None:
            chain.append(by_key[key])
            key = needs[key]
        assert chain[-1].config.architecture.P == 1
        assert [t.first for t in chain] == sorted((t.first for t in chain), reverse=True)
        reached = chain[1].config.steps
        assert any(phase.steps >= reached for phase in phases(config)[:-1])
        assert reached <= decay_start(config)
    assert len({t.key for t in tasks}) == len(tasks)


def test_longer_chains_go_first():
    tasks = make_tasks(runs(P=(1,), D=(50, 400)) + runs("linear", P=(8,), D=(60,)))
    length = {t.key: t.cost for t in tasks}
    for task in sorted(tasks, key=lambda t: -t.first):
        if task.needs:
            length[task.needs] = max(length[task.needs], length[task.key] + tasks_by(tasks, task.needs).cost)
    assert [length[t.key] for t in tasks] == sorted(length.values(), reverse=True)


def tasks_by(tasks, key):
    return next(task for task in tasks if task.key == key)


def make_queue(tasks, out, events=None):
    return TaskQueue(tasks, out, [].append if events is None else events.append)


FAILURE = {"status": "failed", "message": "made"}


def test_a_queue_hands_out_what_can_start_and_drops_what_never_can(tmp_path):
    tasks, events = make_tasks(runs(P=(2,), D=(100, 200, 400))), []
    queue = make_queue(tasks, tmp_path, events)
    first = queue.take()
    assert first.shared
    assert queue.take() is None  # all others need it
    queue.finish(Event("done", first), "cpu")
    second, short = queue.take(), queue.take()
    assert {second.first, short.first} == {80}
    assert queue.take() is None
    failed = second if second.shared else short
    queue.finish(Event("failed", failed, FAILURE), "cpu")
    assert [event.task.key for event in events[:2]] == [first.key, failed.key]
    assert len(events) == 4
    assert queue.failures == events[1:]
    assert {event.values["message"] for event in events[2:]} == {"the shared training that it starts from failed: made"}
    assert len(queue) == 0


def test_what_fails_takes_all_that_depends_on_it(tmp_path):
    tasks = make_tasks(runs(P=(2,), D=(100, 200, 400)))
    queue = make_queue(tasks, tmp_path)
    queue.finish(Event("failed", queue.take(), FAILURE), "cpu")
    assert len(queue.failures) == 1 + 4
    assert not queue
    lost = {event.task.key for event in queue.failures if not event.task.shared}
    assert {file.stem for file in (tmp_path / RUNS).iterdir()} == lost == {t.key for t in tasks if not t.shared}


def test_what_another_sweep_is_training_is_offered_again_later(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(task_queue.time, "monotonic", lambda: clock[0])
    queue = make_queue(make_tasks(runs("linear", P=(1, 2))), tmp_path)
    busy = queue.take()
    queue.finish(Event("busy", busy), "cpu")
    assert queue.take() != busy
    assert queue.take() is None
    assert 0 < queue.wait_s() <= 2.0
    clock[0] += 2.1
    assert queue.wait_s() == 0
    assert queue.take() == busy
    assert queue.wait_s() is None
    assert queue.failures == []


def test_a_dependency_that_is_no_task_is_no_obstacle(tmp_path):
    """It has been done before, in an earlier sweep on the same folder."""
    tasks = make_tasks(runs(P=(2,), D=(100, 200)))
    ends = [replace(task) for task in tasks if not task.shared]
    assert make_queue(ends, tmp_path).take() is not None
