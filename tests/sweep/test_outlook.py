"""Forecasts of running runs: from recorded configs and curves, in the display, in JSON, and after a resume."""

import contextlib
import io
import json
import time
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import scalelab as sl
from scalelab.analysis.final_loss import FinalLoss, Measured, RunFacts
from scalelab.cli import main
from scalelab.errors import UsageError
from scalelab.records.files import read_curve, read_record
from scalelab.reports.final_loss import forecast_text, rival_text
from scalelab.sweep import outlook as module
from scalelab.sweep.facts import facts_of_config, facts_of_record, recent_points, running_run
from scalelab.sweep.outlook import Forecaster, Outlook
from scalelab.sweep.overview import FolderWatcher
from scalelab.sweep.progress import make_progress, render
from scalelab.sweep.state import _parse, read_states
from scalelab.sweep.tasks import Event, Task, make_tasks
from scalelab.sweep.tracker import RunningTask, Snapshot
from scalelab.train.recipe import Recipe, RunConfig
from scalelab.units import format_count
from tests.support.imagined_sweep import begin, imagined
from tests.support.paths import ROOT

RESULTS = ROOT / "results" / "parallel-law"


@pytest.fixture(scope="module")
def ended():
    return FolderWatcher(RESULTS).poll().ended


@pytest.fixture(scope="module")
def configs():
    files = sorted((RESULTS / "runs").glob("*.parquet"))
    return {file.stem: RunConfig.from_json(read_record(file)["config"]) for file in files}


def at_share(config, share, above=0.0):
    """The running task that a recorded run once was, with a loss that is `above` that of the record."""
    curve = read_curve(RESULTS / "curves" / f"{config.key}.parquet")
    rows = [
        (row.step, row.n_tokens, row.loss + above) for row in curve.itertuples() if row.step <= share * config.steps
    ]
    task = RunningTask.started(Task(config, 1.0))
    points = recent_points(rows, config.steps)
    return replace(task, step=rows[-1][0], loss=rows[-1][2], tokens_per_s=12e3, curve=points)


def without(ended, config):
    return [run for run in ended if run.curve.stem != config.key]


def test_configs_of_records_are_those_of_their_runs(configs):
    """Their keys are hashes of everything in them; the 48 files are of the first versions, without later options."""
    assert len(configs) == 48
    assert all(config.key == key for key, config in configs.items())
    config = next(iter(configs.values()))
    assert RunConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("text", ["{}", "[]", "7", '{"architecture": {}}', "not JSON"])
def test_what_is_no_config_is_refused(text):
    with pytest.raises((KeyError, TypeError, ValueError)):
        RunConfig.from_json(text)


def test_facts_of_records_and_configs_agree(configs):
    for file in sorted((RESULTS / "runs").glob("*.parquet"))[:4]:
        record = read_record(file)
        found = facts_of_record(record)
        assert found == facts_of_config(configs[file.stem])
        assert [record[name] for name in ("n_params", "n_streams", "n_tokens")] == [found.N, found.P, found.D]
        assert (found.lr, found.flops) == pytest.approx((record["peak_lr"], record["train_flops"]))
        assert found.ends == (1.0,)


def test_phases_are_shares_of_the_run(configs):
    config = next(iter(configs.values()))
    wsd = replace(config, recipe=replace(config.recipe, schedule="wsd"))
    assert facts_of_config(wsd).ends == pytest.approx((0.8, 1.0), abs=1e-3)
    late = replace(wsd, architecture=wsd.architecture.with_streams(2), plain_tokens=512 * 1000)
    assert facts_of_config(late).ends == pytest.approx((1000 / config.steps, 0.8, 1.0), abs=1e-3)


def test_records_of_other_tools_have_facts_if_they_have_N_and_D():
    record = {"n_params": 1e8, "n_tokens": 1e9, "config": '{"imported": 1}', "corpus": "c4", "schedule": "cosine"}
    assert facts_of_record(record) == RunFacts(1e8, 1.0, 1e9, text="c4 ", schedule="cosine")
    assert facts_of_record(record | {"n_tokens": None}) is None
    assert facts_of_record(record | {"seed": float("nan"), "peak_lr": pd.NA}) is not None
    assert facts_of_record({}) is None


def test_the_last_eighth_of_a_curve_keeps_its_means():
    rng = np.random.default_rng(0)
    rows = [(step, 512 * step, float(rng.normal(3, 0.1))) for step in (1, *range(10, 8001, 10))]  # as in a stable phase
    points = recent_points(rows, 10_000)
    assert len(points) == 26
    assert points[-1][0] == 8000
    assert points[0][0] <= 8000 - 1250
    steps = [step for step, _ in points]
    losses = {step: loss for step, _, loss in rows}
    for before, (step, mean) in zip(steps, points[1:], strict=False):
        assert mean == pytest.approx(np.mean([losses[s] for s in range(before + 10, step + 1, 10)]), abs=1e-5)
    assert recent_points([], 100) == ()
    assert recent_points(rows[:1], 100) == ((1, pytest.approx(rows[0][2], abs=1e-5)),)
    short = recent_points(rows[:9], 10_000)
    assert short[0][0] == 1  # the whole of it


def test_a_run_under_way_is_forecast_from_the_folder(ended, configs):
    config = list(configs.values())[7]
    task, others = at_share(config, 0.75), without(ended, config)
    made = Forecaster().update(others, [task])[task.facts].forecast
    final = next(run.loss for run in ended if run.curve.stem == config.key)
    assert (made.runs, made.share) == (47, pytest.approx(0.75, abs=0.01))
    assert made.low <= final <= made.high
    assert made.high - made.low < 0.06


def test_forecasts_are_made_again_only_when_something_changed(ended, configs, monkeypatch):
    config = list(configs.values())[7]
    read, made = [], []
    monkeypatch.setattr(module, "_REST", 0.0)
    monkeypatch.setattr(module, "read_curve", lambda path: read.append(path) or read_curve(path))
    monkeypatch.setattr(module, "forecast_final", lambda run, _: made.append(run) or FinalLoss(share=run.shares[-1]))
    forecaster, others = Forecaster(), without(ended, config)[:10]
    for share in (0.5, 0.5, 0.502, 0.53, 0.53):
        forecaster.update(others, [at_share(config, share)])
    assert (len(read), len(made)) == (10, 2)
    forecaster.update(without(ended, config)[:11], [at_share(config, 0.53)])
    assert (len(read), len(made)) == (11, 3)
    forecaster.update(others, [])
    forecaster.update(without(ended, config)[:11], [at_share(config, 0.53)])
    assert len(made) == 4  # a run that was away is looked at anew


def test_forecasts_take_a_small_part_of_the_time(ended, configs, monkeypatch):
    """Training may need the core: after forecasts of one second there are none for half a minute."""
    clock, config = [100.0], list(configs.values())[7]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])

    def slow(run, _):
        clock[0] += 1
        return FinalLoss(share=run.shares[-1])

    monkeypatch.setattr(module, "forecast_final", slow)
    forecaster = Forecaster()
    shares = []
    for share, wait in ((0.5, 0), (0.6, 29), (0.7, 2)):
        clock[0] += wait
        shares.append(next(iter(forecaster.update(ended[:6], [at_share(config, share)]).values())).forecast.share)
    assert shares == pytest.approx([0.5, 0.5, 0.7], abs=0.01)


def test_a_damaged_curve_costs_one_run(ended, configs, tmp_path):
    config = list(configs.values())[7]
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    others = without(ended, config)
    broken = [replace(others[i], curve=tmp_path / name) for i, name in enumerate(("bad.parquet", "none.parquet"))]
    made = Forecaster().update([*broken, *others[2:8]], [at_share(config, 0.5)])
    assert next(iter(made.values())).forecast.runs == 6


def test_shared_training_and_the_first_steps_have_no_forecast(configs, ended):
    config = list(configs.values())[7]
    shared = RunningTask.started(Task(config, 1.0, shared=True))
    assert shared.facts is None
    started = RunningTask.started(Task(config, 1.0))
    found = Forecaster().update(ended[:9], [shared, started])
    assert [outlook.forecast.reason for outlook in found.values()] == ["too early: before 10% of the run"]


@pytest.mark.parametrize(
    ("low", "loss", "high", "text"),
    [(2.79, 2.81, 2.84, "2.81 (2.79–2.84)"), (2.801, 2.8104, 2.82, "2.810 (2.801–2.820)"), (None, None, None, "…")],
)
def test_forecasts_in_words(low, loss, high, text):
    assert forecast_text(FinalLoss(loss, low, high)) == text


def test_rivals_in_words():
    run = RunFacts(50e3, 4, 1e6, lr=0.01)
    other = Measured("", 2.7134, RunFacts(100e3, 1, 1e6, lr=0.005))
    assert rival_text(run, other) == "will not beat N 100k  P 1 (2.713)"
    assert rival_text(run, Measured("", 2.7, replace(run, lr=0.02))) == "will not beat N 50k  P 4  lr 0.02 (2.700)"
    assert rival_text(run, Measured("", 2.7, replace(run, D=5e5))) == "will not beat N 50k  P 4  D 500k (2.700)"


def shown(width, snapshot, outlooks):
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(render(snapshot, outlooks, width))
    return console.file.getvalue().splitlines()


def under_way(n=2):
    tasks = imagined()
    runs = []
    for i in range(n):
        started = RunningTask.started(tasks[0])
        facts = replace(started.facts, seed=float(i))
        runs.append(
            replace(started, seed=i, step=50, loss=3.25, tokens_per_s=12_800.0, n_tokens=123_456_789, facts=facts)
        )
    rival = Measured("", 2.7134, replace(runs[0].facts, P=1))
    outlooks = {run.facts: Outlook(FinalLoss(2.81, 2.79, 2.84, 12, 0.5), rival) for run in runs}
    return Snapshot(2, 0, 0.5, 10.0, 10.0, {}, tuple(runs)), outlooks


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_has_the_forecast_at_every_width(width):
    snapshot, outlooks = under_way()
    lines = shown(width, snapshot, outlooks)
    assert max(map(len, lines)) <= width
    assert "final (95 %)" in lines[0]
    assert ("tokens/s" in lines[0]) == (width == 120)
    for line, run in zip(lines[1:3], snapshot.running, strict=True):
        assert line.startswith(run.title)
        assert "3.250" in line
        assert "2.81 (2.79–2.84)" in line
        assert line.rstrip().endswith("1h20m")  # the time left is not cut off
        assert ("50/100" in line) == (width == 120)
        assert ("50%" in line) == (width < 120)
    run = snapshot.running[0]
    assert lines[3].rstrip() == f"{run.title} will not beat N {format_count(run.n_params)}  P 1 (2.713)"


@pytest.mark.parametrize("width", [80, 120])
def test_without_forecasts_the_table_has_no_column_for_them(width):
    snapshot, outlooks = under_way()
    none = {facts: Outlook(FinalLoss(reason="too early")) for facts in outlooks}
    for given in ({}, none):
        lines = shown(width, snapshot, given)
        assert "final" not in lines[0]
        assert "50/100" in lines[1]
        assert "12.8k" in lines[1]
        assert max(map(len, lines)) <= width
    one = dict(list(none.items())[:1]) | dict(list(outlooks.items())[1:])
    assert "…" in shown(width, snapshot, one)[1]


def test_many_notes_are_counted():
    snapshot, outlooks = under_way(9)
    lines = shown(80, snapshot, outlooks)
    assert sum("will not beat" in line for line in lines) == 4
    assert "and 5 other runs like these" in lines


def finish(out, ended, configs, config):
    """A folder with the recorded runs but `config`."""
    for folder in ("runs", "curves"):
        (out / folder).mkdir(parents=True)
        for run in without(ended, config):
            (out / folder / f"{run.curve.stem}.parquet").symlink_to(RESULTS / folder / f"{run.curve.stem}.parquet")


@pytest.fixture
def midway(tmp_path, ended, configs):
    """A sweep with a run under way that goes badly, and the others finished; the folder, and the run."""
    config = max(configs.values(), key=lambda c: (c.architecture.P, -c.architecture.backbone_params, -c.seed))
    finish(tmp_path, ended, configs, config)
    task = make_tasks([config])[0]
    with begin(tmp_path, [task]) as state:
        running = at_share(config, 0.75, above=0.1)
        values = {"step": running.step, "loss": running.loss, "tokens_per_s": 12e3, "curve": running.curve}
        state(Event("progress", task, values))
        end = time.monotonic() + 60
        while not (found := read_states(tmp_path)[0]) or not found[0].progress.running[0].curve:
            assert time.monotonic() < end
            time.sleep(0.02)
        yield tmp_path, running, task


def test_the_state_passes_the_run_on(midway):
    out, running, _ = midway
    (state,) = read_states(out)[0]
    (found,) = state.progress.running
    assert found == running


def test_watch_shows_forecast_and_rival(midway, capsys):
    out, running, _ = midway
    assert main(["watch", str(out), "--once"]) == 0
    line, note = (text for text in capsys.readouterr().out.splitlines() if text.startswith("  ") and "ago" not in text)
    assert f"{running.title}  step {running.step}/{running.steps}  loss " in line
    assert "  final 3.2" in line
    assert note == "    will not beat N 25.3k  P 4 (3.184)"  # the best run of the same backbone


def test_watch_as_json_and_in_python(midway, capsys):
    out, running, _ = midway
    assert main(["watch", str(out), "--json"]) == 0
    (sweep,) = json.loads(capsys.readouterr().out)["sweeps"]
    (task,) = sweep["tasks"]
    assert (task["n_params"], task["n_streams"], task["step"]) == (running.n_params, 8, running.step)
    made = task["forecast"]
    assert made["low"] < made["loss"] < made["high"]
    assert (made["runs"], made["reason"]) == (47, "")
    assert task["will_not_beat"]["loss"] == pytest.approx(3.1843, abs=1e-4)
    assert made["low"] > 3.1843
    found = sl.watch(out)
    assert found.to_dict()["sweeps"][0]["tasks"] == [task]
    assert found.counts == Counter(ok=47)
    frame = found.to_frame()
    assert frame.loc[0, "forecast"] == made["loss"]
    assert frame.loc[0, "will_not_beat"] == task["will_not_beat"]["loss"]
    assert "will not beat" in found.summary()
    assert "<" in found._repr_html_()
    with pytest.raises(UsageError, match="no such folder"):
        sl.watch(out / "nowhere")


def test_the_sweep_itself_shows_it(midway):
    """In its live table and, once for each run, in its log."""
    out, running, task = midway
    values = {"step": running.step, "loss": running.loss, "tokens_per_s": 12e3, "curve": running.curve}
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=120, markup=False, highlight=False)
        progress = make_progress([task], console, Path(out))
        progress(Event("started", task))
        progress.tracker.update(Event("progress", task, values))
        snapshot = progress.tracker.snapshot()
        end = time.monotonic() + 60
        while not progress.outlooks.of(snapshot.running):
            assert time.monotonic() < end
            time.sleep(0.05)
        if terminal:
            console.print(progress._render())
        else:
            for _ in range(2):
                progress._print_notes(snapshot)
        text = console.file.getvalue()
        assert text.count(f"{running.title} will not beat N ") == 1
        assert (": forecast 3.2" in text) == (not terminal)


def test_states_of_earlier_versions_are_read_without_forecasts(midway):
    out, _, _ = midway
    (file,) = (out / ".sweeps").glob("*.json")
    content = json.loads(file.read_text())
    task = content["progress"]["running"][0]
    old = {name: value for name, value in task.items() if name not in ("facts", "curve")}
    state = _parse(content | {"progress": content["progress"] | {"running": [old]}}, 0.0)
    assert (state.progress.running[0].facts, state.progress.running[0].curve) == (None, ())
    for change in (
        {"curve": [[1]]},
        {"curve": [[1, "2"]]},
        {"curve": [[1, 1e300]]},
        {"curve": [[1, 2.0]] * 1000},
        {"curve": 7},
        {"facts": {}},
        {"facts": task["facts"] | {"ends": ["1"]}},
        {"facts": task["facts"] | {"N": None}},
    ):
        damaged = content | {"progress": content["progress"] | {"running": [task | change]}}
        with pytest.raises((KeyError, TypeError, ValueError)):
            _parse(json.loads(json.dumps(damaged)), 0.0)


def test_a_resumed_run_passes_on_what_came_before(text_folder, tmp_path, monkeypatch):
    """A run that was cut at 3/4 and goes on from its checkpoint has the same curve as one that was not."""
    from scalelab.architecture import architecture_for
    from scalelab.sweep.task_runner import run_task
    from scalelab.sweep.tasks import Job
    from scalelab.train import loop
    from scalelab.train.corpus import load_corpus
    from scalelab.train.recipe import whole_steps
    from scalelab.train.tokens import tokenise

    data = tokenise(load_corpus(str(text_folder)), 300)
    recipe = Recipe(val_tokens=4096, dtype="fp32")
    shape = architecture_for(12e3, data.vocab_size, prefix_tokens=4)
    (task,) = make_tasks([RunConfig(shape, whole_steps(50e3, recipe), 0, data.text, recipe)])
    clock = iter(range(10**9))
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(clock)))  # a second a step: each is reported

    class CutError(BaseException):
        pass

    def train(out, until=10**9):
        seen = []

        def emit(kind, values):
            seen.append(values)
            if values["step"] >= until:
                raise CutError

        with contextlib.suppress(CutError):
            run_task(task, Job(data, out, save_every_s=20.0), "cpu", emit)
        return seen

    whole = train(tmp_path / "whole", task.config.steps - 10)
    cut = train(tmp_path / "cut", task.config.steps * 3 // 4)
    rest = train(tmp_path / "cut")
    assert rest[0]["step"] > cut[0]["step"] + 40
    first = next(values for values in rest if values["curve"])  # at the first new point
    assert first["step"] - rest[0]["step"] <= 1
    assert first["curve"] == next(values for values in whole if values["step"] == first["step"])["curve"]
    run = running_run(facts_of_config(task.config), first["curve"], task.config.steps)
    assert run.shares[-1] - run.shares[0] >= 0.12
    assert asdict(facts_of_config(task.config))["schedule"] == "linear"
