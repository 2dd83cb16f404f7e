"""The live table and the lines, fed with the events of an imagined sweep."""

import io
import threading
from dataclasses import replace

import pytest
from rich.console import Console

from scalelab.architecture import architecture_for
from scalelab.sweep import tracker as module
from scalelab.sweep.progress import EventFanOut, make_progress, render
from scalelab.sweep.tasks import Event, make_tasks, relative_cost
from scalelab.sweep.tracker import Tracker
from scalelab.train.recipe import Recipe, RunConfig, TextSource


@pytest.fixture
def tasks():
    """P = 2 and then P = 1, 100 steps each."""
    plain = architecture_for(25e3, 512, prefix_tokens=4)
    return make_tasks(
        RunConfig(plain.with_streams(P), 512 * 100, 0, TextSource("", "", "", ""), Recipe(dtype="fp32")) for P in (1, 2)
    )


@pytest.fixture
def branching():
    """A shared phase and the two runs that continue it."""
    plain = architecture_for(25e3, 512, prefix_tokens=4)
    recipe = Recipe(schedule="wsd", warmup_tokens=5120)
    return make_tasks(
        [RunConfig(plain, 512 * steps, 0, TextSource("", "", "", ""), recipe) for steps in (100, 200)],
    )


def events(tasks):
    first, second = tasks
    yield Event("started", first)
    yield Event("started", second)
    yield Event("progress", first, {"step": 50, "loss": 3.25, "tokens_per_s": 12_800.0})
    yield Event("done", second, {"loss": 3.1, "loss_stderr": 0.05, "tokens_per_s": 25_000.0})
    yield Event("failed", first, {"status": "out_of_memory", "message": "it broke [here]"})


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, markup=False, highlight=False)


def test_fraction_and_time_left_follow_the_cost_of_runs(tasks, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    tracker = Tracker(tasks)
    assert tracker.snapshot().left_s is None
    happened = list(events(tasks))
    for event in happened[:3]:
        tracker.update(event)
    clock[0] += 10
    share = relative_cost(tasks[0].config) / sum(relative_cost(task.config) for task in tasks)
    assert tracker.snapshot().fraction == pytest.approx(share / 2)
    assert tracker.snapshot().left_s == pytest.approx(10 * (1 - share / 2) / (share / 2))
    for event in happened[3:]:
        tracker.update(event)
    assert tracker.snapshot().fraction == pytest.approx(1)
    assert "1 of 2 runs done, 1 out of memory, 100%" in tracker.snapshot().summary


def test_time_left_follows_the_recent_speed():
    speed = module.RecentSpeed(0.0)
    assert speed.left_s(1.0, 0.0) is None
    assert speed.left_s(40.0, 0.4) == pytest.approx(60)
    for now in range(41, 1601):  # then a hundredth of that speed
        left = speed.left_s(float(now), 0.4 + (now - 40) * 1e-4)
    assert left == pytest.approx((0.6 - 1560 * 1e-4) / 1e-4)
    for now in range(1601, 2200):  # and then nothing at all
        left = speed.left_s(float(now), 0.556)
    assert left is None


def test_shared_training_is_work_and_no_run(branching):
    tracker = Tracker(branching)
    shared = [task for task in branching if task.shared]
    assert len(shared) == 1
    tracker.update(Event("started", shared[0]))
    (running,) = tracker.snapshot().running
    assert running.title.endswith("(shared)")
    tracker.update(Event("done", shared[0]))
    snapshot = tracker.snapshot()
    assert (snapshot.runs, snapshot.done, snapshot.running) == (2, 0, ())
    assert snapshot.fraction == pytest.approx(shared[0].cost / sum(task.cost for task in branching))


def test_a_run_whose_beginning_was_lost_does_not_count_backwards(branching):
    """It then trains from step 0, and its own part begins at `first`."""
    tracker, task = Tracker(branching), next(task for task in branching if task.first)
    before = tracker.snapshot().fraction
    tracker.update(Event("started", task))
    tracker.update(Event("progress", task, {"step": 1, "loss": 5.0, "tokens_per_s": 1000.0}))
    assert tracker.snapshot().fraction == before


@pytest.mark.parametrize("kind", ["busy", "lost"])
def test_what_is_put_off_is_neither_done_nor_failed(tasks, kind):
    tracker = Tracker(tasks)
    tracker.update(Event("started", tasks[0]))
    tracker.update(Event(kind, tasks[0], {"message": "its node was lost"}))
    snapshot = tracker.snapshot()
    assert (snapshot.done, snapshot.ended, snapshot.running, snapshot.fraction) == (0, {}, (), 0.0)


def test_a_snapshot_may_be_taken_while_events_come(tasks):
    """As the live table does, from its own thread."""
    tracker, stop, failed = Tracker(tasks), threading.Event(), []

    def look():
        try:
            while not stop.is_set():
                render(tracker.snapshot())
        except RuntimeError as error:  # dictionary changed size during iteration
            failed.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    many = [replace(tasks[0], config=replace(tasks[0].config, seed=seed)) for seed in range(20)]
    for _ in range(20):
        for kind in ("started", "busy"):
            for task in many:
                tracker.update(Event(kind, task))
    stop.set()
    thread.join()
    assert not failed


def test_a_log_gets_lines(tasks):
    out = console(terminal=False)
    with make_progress(tasks, out) as progress:
        for event in events(tasks):
            progress(event)
        progress(Event("lost", tasks[0], {"message": "its node was lost"}))
    lines = out.file.getvalue().splitlines()
    assert len(lines) == 3
    assert "loss 3.1000 ± 0.0500  25k tokens/s" in lines[0]
    assert lines[1].startswith("OUT OF MEMORY")
    assert "it broke [here]" in lines[1]
    assert lines[2].startswith("LOST")


def test_a_terminal_gets_a_table_that_shows_each_run(tasks):
    out = console(terminal=True)
    progress = make_progress(tasks, out)
    for event in list(events(tasks))[:3]:
        progress.tracker.update(event)
    out.print(progress._render())
    shown = out.file.getvalue()
    assert "50/100" in shown
    assert "3.250" in shown
    assert "12.8k" in shown
    assert "2s" in shown  # 50 steps of 512 tokens left
    with progress:
        for event in list(events(tasks))[3:]:
            progress(event)
    assert "it broke [here]" in out.file.getvalue()


def test_several_receive_in_order_and_all_are_left(tasks):
    heard = []

    class Receiver:
        def __init__(self, name):
            self.name = name

        def __call__(self, event):
            heard.append((self.name, event.kind))

        def __enter__(self):
            heard.append((self.name, "enter"))
            return self

        def __exit__(self, *exc):
            heard.append((self.name, "exit"))

    def sweep():
        with EventFanOut(Receiver("a"), Receiver("b")) as both:
            both(Event("started", tasks[0]))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep()
    assert heard == [(n, k) for k, names in (("enter", "ab"), ("started", "ab"), ("exit", "ba")) for n in names]
