"""The live table and the lines, fed with the events of an imagined sweep."""

import io

import pytest
from rich.console import Console

from scalelab.architecture import architecture_for
from scalelab.sweep import progress as module
from scalelab.sweep.progress import make_progress
from scalelab.sweep.resolve import relative_cost
from scalelab.sweep.workers import Event
from scalelab.train.recipe import RunConfig, TextSource


@pytest.fixture
def configs():
    plain = architecture_for(25e3, 512, prefix_tokens=4)
    return [RunConfig(plain.with_streams(P), 512 * 100, 0, TextSource("", "", "", "")) for P in (2, 1)]


def events(configs):
    first, second = configs
    yield Event("started", first)
    yield Event("started", second)
    yield Event("progress", first, {"step": 50, "loss": 3.25, "tokens_per_s": 12_800.0})
    yield Event("done", second, {"loss": 3.1, "loss_stderr": 0.05, "tokens_per_s": 25_000.0})
    yield Event("failed", first, {"message": "it broke [here]"})


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, markup=False, highlight=False)


def test_fraction_and_time_left_follow_the_cost_of_runs(configs, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    tracker = module._Tracker(configs)
    assert tracker.left_s is None
    happened = list(events(configs))
    for event in happened[:3]:
        tracker.update(event)
    clock[0] += 10
    share = relative_cost(configs[0]) / sum(map(relative_cost, configs))
    assert tracker.fraction == pytest.approx(share / 2)
    assert tracker.left_s == pytest.approx(10 * (1 - share / 2) / (share / 2))
    for event in happened[3:]:
        tracker.update(event)
    assert tracker.fraction == pytest.approx(1)
    assert "1 of 2 runs done, 1 failed, 100%" in tracker.summary()


def test_a_log_gets_lines(configs):
    out = console(terminal=False)
    with make_progress(configs, out) as progress:
        for event in events(configs):
            progress(event)
    lines = out.file.getvalue().splitlines()
    assert len(lines) == 2
    assert "loss 3.1000 ± 0.0500  25k tokens/s" in lines[0]
    assert lines[1].startswith("FAILED")
    assert "it broke [here]" in lines[1]


def test_a_terminal_gets_a_table_that_shows_each_run(configs):
    out = console(terminal=True)
    progress = make_progress(configs, out)
    for event in list(events(configs))[:3]:
        progress.tracker.update(event)
    out.print(progress._render())
    shown = out.file.getvalue()
    assert "50/100" in shown
    assert "3.250" in shown
    assert "12.8k" in shown
    assert "2s" in shown  # 50 steps of 512 tokens left
    with progress:
        for event in list(events(configs))[3:]:
            progress(event)
    assert "it broke [here]" in out.file.getvalue()
