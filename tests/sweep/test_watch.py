"""The state that a running sweep writes, and `scalelab watch` that reads it, in processes of their own."""

import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scalelab.cli import main
from scalelab.records.store import write_record
from scalelab.sweep.overview import FolderWatcher
from scalelab.sweep.state import FOLDER, read_states
from scalelab.sweep.tasks import Event
from scalelab.sweep.tracker import RunningTask
from scalelab.train.recipe import Recipe
from tests.support.imagined_sweep import begin, imagined
from tests.support.paths import ROOT as HERE

WAIT_S = 60.0

# A sweep that has begun a run, says so, and never ends by itself.
SWEEP = """
import sys, time
from pathlib import Path
from tests.support.imagined_sweep import begin, imagined
with begin(Path(sys.argv[1]), imagined()):
    print("begun", flush=True)
    time.sleep(600)
"""


def until(condition):
    """The first true value of `condition`."""
    end = time.monotonic() + WAIT_S
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
    return value


def states(out):
    return read_states(out)[0]


def record(key, **values):
    about = {"key": key, "n_params": 62_576, "n_streams": 2, "n_tokens": 51_200, "seed": 3, "status": "ok"}
    return (
        about | {"loss": 3.1, "loss_stderr": 0.05, "tokens_per_s": 7000.0, "created_utc": "2026-01-01T00:00"} | values
    )


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory):
    """The folder of a sweep whose process was killed with one of two runs under way."""
    out = tmp_path_factory.mktemp("killed")
    run = [sys.executable, "-c", SWEEP, str(out)]
    with subprocess.Popen(run, stdout=subprocess.PIPE, cwd=HERE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        (state,) = until(lambda: states(out))
        assert state.is_running
        assert state.pid == process.pid
        process.kill()
        until(lambda: not states(out)[0].is_running)  # though its parent has not asked for its end yet
    return out


@pytest.fixture
def killed(killed_once, tmp_path):
    shutil.copytree(killed_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_the_state_is_what_the_events_told_and_goes_with_the_sweep(tmp_path):
    tasks = imagined()
    with begin(tmp_path, tasks) as state:
        (seen,) = until(lambda: states(tmp_path))
        assert (seen.name, seen.device, seen.executor) == ("imagined", "cpu", "local")
        assert (seen.host, seen.pid, seen.is_running) == (socket.gethostname(), os.getpid(), True)
        (run,) = seen.progress.running
        shape = tasks[0].config.architecture
        assert (run.n_params, run.n_streams, run.n_tokens) == (shape.n_params, shape.P, 51_200)
        assert (run.step, run.steps, run.loss, run.tokens_per_s) == (50, 100, 3.25, 12_800.0)
        assert run.left_s == pytest.approx(25_600 / 12_800)
        assert seen.progress.fraction == pytest.approx(tasks[0].cost / 2 / sum(task.cost for task in tasks))
        state(Event("done", tasks[0]))
        state(Event("failed", tasks[1], {"status": "diverged", "message": ""}))
        last = until(lambda: next((s for s in states(tmp_path) if not s.progress.running), None))
        assert (last.progress.runs, last.progress.done, last.progress.ended) == (2, 1, {"diverged": 1})
        assert last.progress.fraction == pytest.approx(1)
    assert not (tmp_path / FOLDER).exists()


def test_a_sweep_that_writes_nothing_new_for_long_still_beats(tmp_path, monkeypatch):
    monkeypatch.setattr("scalelab.sweep.state._MAX_INTERVAL_S", 0.05)
    monkeypatch.setattr("scalelab.sweep.state._MIN_INTERVAL_S", 0.05)
    with begin(tmp_path, imagined()):
        first = until(lambda: states(tmp_path))[0].written
        until(lambda: states(tmp_path)[0].written > first)


@pytest.mark.parametrize("hours", [0, 3])
def test_two_sweeps_on_one_folder_are_both_seen(killed, hours, capsys):
    """One of another machine, alive or long silent."""
    (file,) = (killed / FOLDER).glob("*.json")
    content = json.loads(file.read_text())
    # The clock of that machine is wrong by a day: what counts is when its file was written.
    content |= {"host": "elsewhere", "written": time.time() - 86_400, "executor": "ray", "device": "cuda"}
    (killed / FOLDER / "elsewhere-7.json").write_text(json.dumps(content))
    os.utime(killed / FOLDER / "elsewhere-7.json", (time.time() - hours * 3600,) * 2)
    assert [state.is_running for state in states(killed) if state.host == "elsewhere"] == [hours == 0]
    assert main(["watch", str(killed)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("stopped" in line for line in lines) == 1 + (hours == 3)
    assert ("stopped 3h00m ago, 0 of 2 runs done" in "\n".join(lines)) == (hours == 3)
    assert ("by ray" in "\n".join(lines)) == (hours == 0)
    assert ("no sweep is running" in lines) == (hours == 3)


def test_another_process_with_the_number_of_the_killed_one_is_not_it(killed):
    if not Path("/proc/self/stat").exists():
        pytest.skip("only Linux tells when a process began")
    state = replace(states(killed)[0], pid=os.getpid())
    assert not state.is_running


def test_the_next_sweep_takes_the_place_of_the_killed_one(killed):
    left = killed / FOLDER / f".x.json.{'0' * 32}.tmp"  # of a sweep killed while writing
    left.write_text("{")
    os.utime(left, (0, 0))
    before = states(killed)[0].pid
    with begin(killed, imagined()):
        until(lambda: os.getpid() in [state.pid for state in states(killed)])
        assert before not in [state.pid for state in states(killed)]
    assert not (killed / FOLDER).exists()


def test_a_state_that_cannot_be_written_does_not_stop_the_sweep(tmp_path):
    (tmp_path / FOLDER).write_text("no folder")
    with begin(tmp_path, imagined()) as state:
        state(Event("done", imagined()[0]))
    assert (tmp_path / FOLDER).read_text() == "no folder"


def test_a_full_disk_does_not_stop_the_sweep(tmp_path):
    """Files of this process may hold no byte; reports go through a pipe."""
    code = """
import resource, sys, time
from pathlib import Path
from tests.support.imagined_sweep import begin, imagined
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
with begin(Path(sys.argv[1]), imagined()) as state:
    time.sleep(0.3)
    print(*(file.name for file in Path(sys.argv[1]).rglob("*")))
"""
    run = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True, cwd=HERE, check=True)
    assert (done.stdout, done.stderr) == (f"{FOLDER}\n", "")  # not even an empty file
    assert not list(tmp_path.iterdir())


def test_a_damaged_state_is_named_and_hides_nothing(killed, capsys):
    (file,) = (killed / FOLDER).glob("*.json")
    whole = file.read_text()
    damaged = killed / FOLDER / "elsewhere-7.json"
    content = json.loads(whole)
    wrong = [content | {"pid": "7"}, content | {"progress": [1]}, content | {"written": float("nan")}, [], "state", 7]
    for text in (*(whole[:end] for end in range(0, len(whole) - 1, 40)), *map(json.dumps, wrong)):
        damaged.write_text(text)
        found, faults = read_states(killed)
        assert len(found) == 1
        assert len(faults) == 1
        assert str(damaged) in faults[0]
    damaged.write_bytes(b"\xff\xfe")
    assert main(["watch", str(killed), "--once"]) == 0
    shown = capsys.readouterr().out
    assert f"{damaged}: not the state of a sweep" in shown
    assert "0 of 2 runs done" in shown


@pytest.mark.parametrize(
    "change",
    [
        {"started": 1e300},
        {"started": -1.0},
        {"pid": 0},
        {"name": "x" * 10_000},
        {"progress": {"fraction": 1e999}},
        {"progress": {"fraction": -0.5}},
        {"progress": {"done": 3}},
        {"progress": {"left_s": 1e300}},
        {"progress": {"ended": {"well": 1}}},
        {"progress": {"ended": {"failed": 10**40}}},
        {"progress": {"running": [{"step": 5, "steps": 0}]}},
        {"progress": {"running": [{}] * 20_000}},
    ],
)
def test_a_state_out_of_range_is_named(killed, change):
    (file,) = (killed / FOLDER).glob("*.json")
    content = json.loads(file.read_text())
    task = dict(
        n_params=1, n_streams=1, n_tokens=1, seed=0, shared=False, step=1, steps=2, loss=None, tokens_per_s=None
    )
    assert len(read_states(killed)[0]) == 1
    progress = change.get("progress", {})
    progress |= {"running": [task | some for some in progress["running"]]} if "running" in progress else {}
    file.write_text(json.dumps(content | change | {"progress": content["progress"] | progress}))
    assert read_states(killed) == (
        [],
        [f"{file}: not the state of a sweep (damaged or from another version); delete it"],
    )


def test_records_are_counted_by_status_and_the_last_are_shown(killed, capsys):
    for number in range(8):
        write_record(killed, record(f"ok{number}", seed=number, created_utc=f"2026-01-01T00:0{number}:00+00:00"), [])
    late = {"status": "diverged", "loss": None, "message": "a loss of\n9", "created_utc": "2026-01-02T00:00:00+00:00"}
    write_record(killed, record("bad", **late), [])
    broken = killed / "runs" / "broken.parquet"
    broken.write_bytes(b"PAR1")
    seen = FolderWatcher(killed).poll()
    assert seen.counts == {"ok": 8, "diverged": 1}
    assert [run.loss for run in seen.latest] == [3.1] * 4 + [None]
    assert main(["watch", str(killed), "--once"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "records: 8 ok, 1 diverged" in lines
    shown = [line.split("ago  ")[1] for line in lines if "ago  " in line]
    assert shown[0] == "N 62.6k  P 2  D 51.2k  seed 4  loss 3.1000 ± 0.0500  7k tokens/s"
    assert shown[-1] == "N 62.6k  P 2  D 51.2k  seed 3  diverged  a loss of 9"
    assert [line for line in lines if str(broken) in line]


def test_looking_again_reads_only_what_has_changed(tmp_path, monkeypatch):
    write_record(tmp_path, record("a", status="failed", loss=None), [])
    write_record(tmp_path, record("b"), [])
    watcher = FolderWatcher(tmp_path)
    assert watcher.poll().counts == {"ok": 1, "failed": 1}
    from scalelab.sweep import overview

    reading = []
    monkeypatch.setattr(overview, "read_record", lambda file: reading.append(file) or overview_read(file))
    write_record(tmp_path, record("a"), [])
    assert watcher.poll().counts == {"ok": 2}
    assert [file.stem for file in reading] == ["a"]


def overview_read(file):
    from scalelab.records.files import read_record

    return read_record(file)


def test_a_folder_that_no_sweep_wrote_to_is_told_in_a_line(tmp_path, capsys):
    (tmp_path / "demo" / "runs").mkdir(parents=True)
    for folder, message in (
        (tmp_path / "nowhere", "no such folder"),
        (tmp_path, f"try {tmp_path / 'demo'}"),
        (tmp_path / "demo" / "runs", "start one with a sweep whose -o is this folder"),
    ):
        assert main(["watch", str(folder)]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.count("\n") == 1
        assert f"scalelab: {folder}: " in said.err
        assert message in said.err


@pytest.mark.parametrize("interval", ["0", "nan", "-1", "inf"])
def test_an_interval_that_is_none_is_refused(killed, interval, capsys):
    assert main(["watch", str(killed), f"--interval={interval}"]) == 2
    assert capsys.readouterr().err == f"scalelab: --interval {interval}: must be from 0.1 to 3600 seconds\n"


def test_watch_needs_no_torch(killed):
    code = (
        "import sys; from scalelab.cli import main; code = main(sys.argv[1:]);"
        "print({'torch', 'transformers', 'tensorboard'} & set(sys.modules), code, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, "watch", str(killed)], capture_output=True, text=True)
    assert done.stderr == "set() 0\n"


@pytest.fixture
def terminal(tmp_path):
    """`scalelab watch` in a terminal of 120 × 30; a function that returns its exit code and all it has shown."""
    inner, outer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "30"}
    run = [sys.executable, "-m", "scalelab", "watch", str(tmp_path), "--interval", "0.1"]
    process = subprocess.Popen(run, stdin=outer, stdout=outer, stderr=outer, env=environment, cwd=HERE)
    os.close(outer)
    shown = bytearray()

    def show(condition):
        end = time.monotonic() + WAIT_S
        while not condition(shown.decode(errors="replace")):
            assert time.monotonic() < end, shown.decode(errors="replace")
            if select.select([inner], [], [], 0.1)[0]:
                try:
                    shown.extend(os.read(inner, 65536))
                except OSError:  # the other end is closed
                    break
        return shown.decode(errors="replace")

    yield process, show
    process.kill()
    process.wait()
    os.close(inner)


def test_a_terminal_shows_the_sweep_live_and_ends_with_it(tmp_path, request):
    tasks = imagined()
    with begin(tmp_path, tasks) as state:
        until(lambda: states(tmp_path))
        process, show = request.getfixturevalue("terminal")
        assert RunningTask.started(tasks[0]).title in show(lambda text: "50/100" in text and "12.8k" in text)
        state(Event("done", tasks[0]))
        show(lambda text: "1 of 2 runs done" in text)
        write_record(tmp_path, record("a"), [])
        show(lambda text: "records: 1 ok" in text)
    assert "all sweeps have ended" in show(lambda text: "have ended" in text)
    assert process.wait(WAIT_S) == 0


def test_ctrl_c_ends_the_watch_and_not_the_sweep(tmp_path, request):
    with begin(tmp_path, imagined()):
        until(lambda: states(tmp_path))
        process, show = request.getfixturevalue("terminal")
        show(lambda text: "50/100" in text)
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in show(lambda text: "scalelab: interrupted" in text)
        assert process.wait(WAIT_S) == 130
        assert states(tmp_path)[0].is_running


def test_a_real_sweep_is_seen_while_it_trains(text_folder, tmp_path):
    from scalelab.sweep.run import run_sweep  # and torch, which the processes that import this module can do without
    from scalelab.sweep.spec import SweepSpec

    recipe = Recipe(val_tokens=4096, dtype="fp32")
    spec = SweepSpec(
        "seen", N=(12e3,), P=(2,), D=(200e3,), seeds=(0,), corpus=str(text_folder), tokenizer=300, recipe=recipe
    )
    seen, ended = [], threading.Event()

    def look():
        while not ended.wait(0.05):
            seen.extend(states(tmp_path))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        records = run_sweep(spec, tmp_path)
    finally:
        ended.set()
        watcher.join()
    assert {state.name for state in seen} == {"seen"}
    assert all(state.is_running for state in seen[:1])
    runs = [run for state in seen for run in state.progress.running]
    assert {run.n_params for run in runs} == set(records["n_params"])
    assert any(run.loss is not None and 0 < run.step < run.steps for run in runs)
    assert any(run.curve and run.curve[-1][0] <= run.step and run.facts is not None for run in runs)
    fractions = [state.progress.fraction for state in seen]
    assert fractions == sorted(fractions)
    assert not (tmp_path / FOLDER).exists()
