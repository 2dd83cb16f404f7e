"""SIGTERM, which schedulers send, ends a sweep as Ctrl-C does: workers ended, states kept, runs recorded."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from scalelab.architecture import architecture_for
from scalelab.records.files import CHECKPOINTS, RUNS, read_record
from scalelab.sweep import stopping, workers
from scalelab.sweep.stopping import Terminated, defer_signals, sigterm_as_interrupt
from scalelab.sweep.tasks import Job, make_tasks
from scalelab.train.corpus import load_corpus
from scalelab.train.recipe import Recipe, RunConfig, whole_steps
from scalelab.train.tokens import tokenise


@pytest.fixture(autouse=True)
def handlers():
    """Each test must leave the handlers that it found."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert after == before


def test_sigterm_raises_and_the_handler_is_restored():
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(Terminated), sigterm_as_interrupt():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_second_at_once_does_not_disturb_the_first_and_a_later_one_counts(monkeypatch):
    tidied = []

    def stopped_twice():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)
            tidied.append(True)

    with pytest.raises(Terminated), sigterm_as_interrupt():
        stopped_twice()
    assert tidied
    monkeypatch.setattr(stopping, "_REPEAT_S", -1.0)
    with sigterm_as_interrupt():
        for _ in range(2):
            with pytest.raises(Terminated):
                signal.raise_signal(signal.SIGTERM)


def test_a_programs_own_handler_stays_unless_told_otherwise():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with sigterm_as_interrupt():
            signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        with pytest.raises(Terminated), sigterm_as_interrupt(override=True), sigterm_as_interrupt():
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM] * 2
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no such signal")
def test_sighup_raises_too_unless_it_is_ignored_as_below_nohup():
    with pytest.raises(Terminated) as stop, sigterm_as_interrupt():
        signal.raise_signal(signal.SIGHUP)
    assert stopping.signal_name(stop.value) == "SIGHUP"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with sigterm_as_interrupt(override=True), defer_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_record_cannot_be_written_fails_before_its_first_step_and_alone(text_folder, tmp_path):
    data = tokenise(load_corpus(str(text_folder)), 300)
    recipe = Recipe(val_tokens=4096, dtype="fp32")
    shape = architecture_for(12e3, data.vocab_size)
    nameless = replace(data.text, corpus="caf\udce9")
    runs = [
        RunConfig(shape, whole_steps(20e3, recipe), s, text, recipe) for s, text in enumerate((nameless, data.text))
    ]
    events = []
    workers.run_all(make_tasks(runs), Job(data, tmp_path), ["cpu"], events.append)
    ended = {event.task.key: event for event in events if event.kind in ("done", "failed")}
    assert [ended[config.key].kind for config in runs] == ["failed", "done"]
    assert "corpus 'caf\\udce9' cannot be in a record" in ended[runs[0].key].values["message"]
    assert not [event for event in events if event.kind == "progress" and event.task.key == runs[0].key]


def test_other_threads_change_nothing():
    seen = []

    def look():
        with sigterm_as_interrupt(), defer_signals():
            seen.append((signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)))

    here = (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [here]


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_that_must_wait_comes_after(number, raised):
    done = []

    def stopped_midway():
        with defer_signals():
            signal.raise_signal(number)
            done.append(True)
        done.append(False)

    with pytest.raises(KeyboardInterrupt) as caught, sigterm_as_interrupt():
        stopped_midway()
    assert done == [True]
    assert caught.type is raised


def test_workers_are_ended_and_their_runs_recorded(text_folder, tmp_path):
    data = tokenise(load_corpus(str(text_folder)), 300)
    recipe = Recipe(val_tokens=4096, dtype="fp32")
    shape = architecture_for(12e3, data.vocab_size)
    runs = [RunConfig(shape, whole_steps(50e6, recipe), seed, data.text, recipe) for seed in (0, 1)]
    begun = set()

    def on_event(event):
        if event.kind == "progress":
            begun.add(event.task.key)
            if len(begun) == 2:
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Terminated), sigterm_as_interrupt():
        workers.run_all(make_tasks(runs), Job(data, tmp_path, save_every_s=0.0), ["cpu"] * 2, on_event)
    records = [read_record(file) for file in (tmp_path / RUNS).iterdir()]
    assert {record["key"] for record in records} == {config.key for config in runs}
    assert [record["status"] for record in records] == ["interrupted"] * 2
    assert all("SIGTERM" in record["message"] for record in records)
    assert all(list((tmp_path / CHECKPOINTS / config.key).glob("*/state.json")) for config in runs)


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals")
@pytest.mark.parametrize(
    ("send", "number"),
    [(os.kill, "SIGTERM"), (os.killpg, "SIGTERM"), (os.killpg, "SIGHUP")],
    ids=["parent", "all processes", "a dropped connection"],
)
def test_a_sweep_ends_with_one_line_and_the_code_of_the_signal(text_folder, tmp_path, send, number):
    command = [sys.executable, "-m", "scalelab", "sweep", "--N", "12k", "--P", "1", "--D", "50M", "--seed", "0", "1"]
    command += ["--tokenizer", "300", "--corpus", str(text_folder), "--set", "recipe.val_tokens=4096"]
    command += ["--workers", "2", "--device", "cpu", "--checkpoint-minutes", "0", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        until = time.monotonic() + 120
        while len({file.parent.parent for file in tmp_path.glob(f"{CHECKPOINTS}/*/*/state.json")}) < 2:
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        send(process.pid, getattr(signal, number))
        _, errors = process.communicate(timeout=60)  # which no process holds open any more
    assert process.returncode == 128 + getattr(signal, number), errors
    kept = f"0 of 2 runs recorded below {tmp_path}"
    assert errors.count("scalelab: ") == 1
    last = errors.strip().splitlines()[-1]  # after the lines of progress
    assert last == f"scalelab: interrupted by {number}: {kept}; run the same command again to resume"
    assert [read_record(file)["status"] for file in tmp_path.glob(f"{RUNS}/*")] == ["interrupted"] * 2
    assert not (tmp_path / ".sweeps").exists()
