"""TensorBoard logs, read back with TensorBoard's own reader."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest

from scalelab.architecture import architecture_for
from scalelab.cli import main
from scalelab.errors import ScalelabError, UsageError
from scalelab.records.files import read_curve
from scalelab.records.store import curve_path
from scalelab.sweep.run import Execution, run_sweep
from scalelab.sweep.spec import SweepSpec
from scalelab.train.checkpoint import TrainState
from scalelab.train.corpus import load_corpus
from scalelab.train.optimizer import make_optimizer
from scalelab.train.recipe import Recipe, RunConfig, whole_steps
from scalelab.train.tensorboard import LEARNING_RATE, LOSS, log_curve
from scalelab.train.tokens import tokenise
from scalelab.train.trainer import Options, train_run

pytest.importorskip("tensorboard", reason="the extra scalelab[tensorboard] is not installed")
from tests.support.paths import ROOT as HERE

RECIPE = Recipe(val_tokens=4096, warmup_tokens=5120, dtype="fp32")


@pytest.fixture(scope="module")
def data(text_folder):
    return tokenise(load_corpus(str(text_folder)), 300)


@pytest.fixture
def config(data):
    shape = architecture_for(12e3, data.vocab_size, prefix_tokens=4).with_streams(2)
    return RunConfig(shape, whole_steps(41e3, RECIPE), 0, data.text, RECIPE)


class CutError(Exception):
    pass


def log_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder)).Reload()


def points(folder, tag):
    """[(tokens, value)] of all that the log holds, in its order."""
    return [(event.step, event.value) for event in log_of(folder).Scalars(tag)]


def hyperparameters(folder):
    from tensorboard.plugins.hparams import metadata

    content = log_of(folder).summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(content).hparams
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def close_to(rows):
    return [(tokens, pytest.approx(value, rel=1e-6)) for tokens, value in rows]  # the log has single precision


def logged(config, data, folder, checkpoints=None, cut=math.inf):
    """Train with a log, but cut at a step; return the curve reported by the loop."""
    curve = []
    with log_curve(folder, config) as log:

        def observer(state):
            log(state)
            curve[:] = state.curve
            if state.step >= cut:
                raise CutError

        train_run(config, data, Options(checkpoints=checkpoints, save_every_s=0.0, observer=observer))
    return curve


def test_loss_learning_rate_and_hyperparameters(config, data, tmp_path):
    curve = logged(config, data, tmp_path)
    assert points(tmp_path, LOSS) == close_to((tokens, loss) for _, tokens, loss in curve)
    rates = points(tmp_path, LEARNING_RATE)
    assert [tokens for tokens, _ in rates] == [tokens for _, tokens, _ in curve]
    assert max(rate for _, rate in rates) == pytest.approx(config.peak_lr, rel=1e-3)
    assert rates[-1][1] == pytest.approx(config.peak_lr / (0.95 * config.steps), rel=1e-2)  # one step before 0
    about = hyperparameters(tmp_path)
    expected = {"P": 2, "N": config.architecture.n_params, "D": config.n_tokens, "seed": 0, "schedule": "linear"}
    assert {name: about[name] for name in expected} == expected
    assert about["peak_lr"] == pytest.approx(config.peak_lr)


@pytest.mark.parametrize(("schedule", "plain"), [("wsd", 0), ("wsd", 10), ("linear", 20), ("constant", 0)])
def test_the_learning_rate_is_the_optimizers(config, data, tmp_path, schedule, plain, monkeypatch):
    """On every phase."""
    from scalelab.train import trainer

    made, used = [], []

    def keep(*args):
        made.append(make_optimizer(*args))
        return made[-1]

    monkeypatch.setattr(trainer, "make_optimizer", keep)
    config = replace(config, recipe=replace(config.recipe, schedule=schedule), plain_tokens=plain * 512)
    with log_curve(tmp_path, config) as log:

        def observer(state):
            log(state)
            used.append([optimizer.param_groups[0]["lr"] for optimizer in made])

        train_run(config, data, Options(observer=observer))
    rates = [rate for _, rate in points(tmp_path, LEARNING_RATE)]
    assert len(rates) == len(used)
    assert all(any(math.isclose(rate, lr, rel_tol=1e-6) for lr in lrs) for rate, lrs in zip(rates, used, strict=True))


def test_a_resumed_run_has_the_log_of_an_uninterrupted_one(config, data, tmp_path):
    whole = logged(config, data, tmp_path / "whole")
    for cut in (20, 70):
        with pytest.raises(CutError):
            logged(config, data, tmp_path / "cut", tmp_path / "checkpoints", cut)
        assert points(tmp_path / "cut", LOSS) == close_to((t, loss) for step, t, loss in whole if step <= cut)
    logged(config, data, tmp_path / "cut", tmp_path / "checkpoints")
    for tag in (LOSS, LEARNING_RATE):
        assert points(tmp_path / "cut", tag) == points(tmp_path / "whole", tag)
    assert hyperparameters(tmp_path / "cut") == hyperparameters(tmp_path / "whole")


def test_a_tensorboard_that_looks_on_sees_no_point_twice(config, tmp_path):
    """It has read the first attempt's log, and goes on with the second's."""

    def write(steps):
        with log_curve(tmp_path, config) as log:
            for step in steps:
                log(TrainState(step, [(s, s * 512, 5.0 / s) for s in range(1, step + 1)]))

    write(range(1, 9))
    viewer = log_of(tmp_path)
    assert len(viewer.Scalars(LOSS)) == 8
    write([5, 6])  # the rest was lost
    assert [event.step for event in viewer.Reload().Scalars(LOSS)] == [512 * step for step in range(1, 7)]
    assert [tokens for tokens, _ in points(tmp_path, LOSS)] == [512 * step for step in range(1, 7)]


def test_a_clock_that_went_back_does_not_bring_old_points_back(config, tmp_path):
    for stamp in ("9999999998", "later"):
        (tmp_path / f"events.out.tfevents.{stamp}.elsewhere.7.0").touch()
    with log_curve(tmp_path, config) as log:
        log(TrainState(1, [(1, 512, 5.0)]))
    (written,) = (file for file in tmp_path.iterdir() if file.stat().st_size)
    assert written.name.startswith("events.out.tfevents.9999999999.")


def test_every_point_is_on_disk_at_once(config, tmp_path):
    """A killed process takes none along."""
    with log_curve(tmp_path, config) as log:
        for step in range(1, 4):
            log(TrainState(step, [(s, s * 512, 5.0) for s in range(1, step + 1)]))
            assert len(points(tmp_path, LOSS)) == step


FULL = """
import resource, sys
from pathlib import Path
from scalelab.architecture import architecture_for
from scalelab.train.checkpoint import TrainState
from scalelab.train.recipe import RunConfig, TextSource
from scalelab.train.tensorboard import log_curve
config = RunConfig(architecture_for(12e3, 300), 512 * 100, 0, TextSource("", "", "", ""))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
with log_curve(Path(sys.argv[1]), config) as log:
    for step in range(1, 90):
        log(TrainState(step, [(s, s * 512, 5.0) for s in range(1, step + 1)]))
print("trained")
"""


def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path):
    command = [sys.executable, "-c", FULL, str(tmp_path), "3000"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=True)
    assert done.stdout == "trained\n"
    # Libraries may log while they are imported.
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"scalelab: {tmp_path}: TensorBoard log of this run stopped (")
    assert done.stderr.count("TensorBoard log of this run stopped") == 1
    assert 5 < len(points(tmp_path, LOSS)) < 60  # and what was written can be read


def test_a_sweep_logs_every_run(text_folder, tmp_path):
    spec = SweepSpec(
        "logged", N=(12e3,), P=(1, 2), D=(20e3,), seeds=(0,), corpus=str(text_folder), tokenizer=300, recipe=RECIPE
    )
    records = run_sweep(spec, tmp_path, Execution(tensorboard=True))
    assert len(records) == 2
    for key, streams in zip(records["key"], records["n_streams"], strict=True):
        curve = read_curve(curve_path(tmp_path, key))
        folder = tmp_path / "tensorboard" / key
        assert points(folder, LOSS) == close_to(zip(curve["n_tokens"], curve["loss"], strict=True))
        assert hyperparameters(folder)["P"] == streams


def test_without_the_package_the_sweep_is_refused_before_anything_is_read(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'scalelab\[tensorboard\]'"):
        Execution(tensorboard=True)
    Execution()
    assert main(["sweep", "--corpus", "nowhere", "--tensorboard", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("scalelab: --tensorboard: needs the package tensorboard")
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(ScalelabError, match="`tensorboard`"), log_curve(tmp_path / "log", config):
        pass  # on another machine, where the sweep could not look
