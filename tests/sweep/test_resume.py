"""Runs that are cut short, share their beginnings, find too little memory or diverge."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from scalelab.architecture import architecture_for
from scalelab.errors import DivergedError, MemoryShortError, UsageError
from scalelab.records import read
from scalelab.records.files import read_curve, read_record
from scalelab.records.store import curve_path, record_path
from scalelab.train import checkpoint, loop, trainer
from scalelab.train.build import build_model
from scalelab.train.checkpoint import load_newest
from scalelab.train.corpus import load_corpus
from scalelab.train.cost import train_flops
from scalelab.train.device import device_model
from scalelab.train.optimizer import make_optimizer
from scalelab.train.phases import decay_start, learning_rate_factor, phase_key, phases
from scalelab.train.recipe import Recipe, RunConfig, whole_steps
from scalelab.train.run import run_and_record
from scalelab.train.step import TrainingStep
from scalelab.train.tokens import tokenise
from scalelab.train.trainer import Options, train_phases, train_run


@pytest.fixture(scope="module")
def data(text_folder):
    return tokenise(load_corpus(str(text_folder)), 300)


@pytest.fixture
def config(data):
    recipe = Recipe(val_tokens=4096, warmup_tokens=5120)
    shape = architecture_for(12e3, data.vocab_size, prefix_tokens=4).with_streams(2)
    return RunConfig(shape, whole_steps(41e3, recipe), 0, data.text, recipe)


def with_schedule(config, schedule, **options):
    return replace(config, recipe=replace(config.recipe, schedule=schedule), **options)


class CutError(Exception):
    pass


def cut_at(step):
    def observer(state):
        if state.step >= step:
            raise CutError

    return observer


def same(first, second):
    assert first.evaluation == second.evaluation
    assert [row for row in first.curve if row in second.curve] == first.curve
    weights, others = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize("schedule", ["linear", "wsd", "constant"])
def test_a_run_that_was_cut_goes_on_to_the_same_loss(config, data, tmp_path, schedule):
    config = with_schedule(config, schedule)
    undisturbed = train_run(config, data)
    for step in (20, 70):
        with pytest.raises(CutError):
            train_run(config, data, Options(checkpoints=tmp_path, save_every_s=0.0, observer=cut_at(step)))
    steps = []
    again = Options(checkpoints=tmp_path, save_every_s=0.0, observer=lambda state: steps.append(state.step))
    same(train_run(config, data, again), undisturbed)
    assert steps[0] > 50  # and did not begin anew


@pytest.mark.parametrize("elsewhere", [False, True])
def test_seconds_of_two_devices_are_no_utilisation_of_either(config, data, tmp_path, elsewhere):
    """Only the name of the first device is made up: there is but one here."""
    config = with_schedule(config, "wsd")
    options = Options(checkpoints=tmp_path / "states", save_every_s=0.0, observer=cut_at(20))
    with pytest.MonkeyPatch.context() as patch:
        if elsewhere:
            patch.setattr(loop, "device_model", lambda device: "another")
        with pytest.raises(CutError):
            train_run(config, data, options)
    options = replace(options, observer=None)
    record = run_and_record(config, data, tmp_path, options, peak_flops=1e12)
    assert record["loss"] == train_run(config, data).evaluation.loss
    if elsewhere:
        assert record["device"] == f"another + {device_model('cpu')}"
        assert record["mfu"] is None
    else:
        assert record["device"].startswith("cpu (")
        assert record["mfu"] == pytest.approx(record["train_flops"] / record["train_seconds"] / 1e12)
    assert record["tokens_per_s"] == pytest.approx(config.n_tokens / record["train_seconds"])


def test_a_state_is_saved_between_points_of_the_curve_too(config, data, tmp_path):
    """Long runs have points far apart; what was lost since the last one goes into the next all the same."""
    config = replace(config, n_tokens=config.n_tokens * 4)  # a point every 3 steps
    undisturbed = train_run(config, data)

    state_of, optimise = [], loop._Meter.update

    class Meter(loop._Meter):
        def update(self, loss):
            point = optimise(self, loss)
            state_of.append((self.state.step, len(self.state.pending)))
            if self.state.step == 23:  # two steps after a point; the checkpoint of step 22 is there
                raise CutError
            return point

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_Meter", Meter)
        with pytest.raises(CutError):
            train_run(config, data, Options(checkpoints=tmp_path, save_every_s=0.0))
    assert state_of[-2] == (22, 1)
    (kept,) = (tmp_path / config.key).iterdir()
    assert int(kept.name) == 22
    same(train_run(config, data, Options(checkpoints=tmp_path)), undisturbed)


def test_a_disk_that_is_full_for_a_while_costs_no_run(config, data, tmp_path, monkeypatch):
    undisturbed, tried = train_run(config, data), []

    def full(*args):
        tried.append(args)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_state", full)
    same(train_run(config, data, Options(checkpoints=tmp_path, save_every_s=0.0)), undisturbed)
    assert len(tried) > 10


def test_another_versions_checkpoint_counts_as_none(config, data, tmp_path, monkeypatch):
    with pytest.raises(CutError):
        train_run(config, data, Options(checkpoints=tmp_path, save_every_s=0.0, observer=cut_at(40)))
    model = build_model(config)
    optimizer = make_optimizer(model, config.recipe, 1.0)
    assert load_newest(tmp_path / config.key, config.steps, model, optimizer) is not None
    monkeypatch.setattr(checkpoint, "__version__", "0.0.0")
    assert load_newest(tmp_path / config.key, config.steps, model, optimizer) is None


def test_validation_takes_as_many_rows_as_memory_holds(config, data, monkeypatch):
    undisturbed, tried = train_run(config, data).evaluation, []
    whole = trainer.evaluate

    def tight(model, windows, documents, device, bf16, rows):
        tried.append(rows)
        if rows > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, windows, documents, device, bf16, rows)

    monkeypatch.setattr(trainer, "evaluate", tight)
    assert train_run(config, data).evaluation.loss == pytest.approx(undisturbed.loss, rel=1e-6)
    assert tried == [32, 16, 8]  # 64 rows of the model with P = 2


def test_a_damaged_checkpoint_counts_as_none(config, data, tmp_path):
    with pytest.raises(CutError):
        train_run(config, data, Options(checkpoints=tmp_path, save_every_s=0.0, observer=cut_at(40)))
    (kept,) = (tmp_path / config.key).iterdir()
    undisturbed = train_run(config, data)
    for name in ("weights.safetensors", "optimizer.safetensors", "state.json"):
        file = kept / name
        content = file.read_bytes()
        for damaged in (content[: len(content) // 2], b""):
            file.write_bytes(damaged)
            model = build_model(config)
            assert (
                load_newest(tmp_path / config.key, config.steps, model, make_optimizer(model, config.recipe, 1.0))
                is None
            )
        same(train_run(config, data, Options(checkpoints=tmp_path)), undisturbed)
        file.write_bytes(content)


def test_a_finished_run_leaves_its_record_and_no_checkpoint(config, data, tmp_path):
    record = run_and_record(config, data, tmp_path, Options(checkpoints=tmp_path / "checkpoints", save_every_s=0.0))
    assert not (tmp_path / "checkpoints" / config.key).exists()
    assert read_record(record_path(tmp_path, config.key))["loss"] == record["loss"]
    assert record["train_flops"] > 0
    assert record["micro_batch_size"] == config.recipe.batch_size
    assert record["peak_memory_bytes"] > 50e6  # torch alone is more


def test_checkpoints_hold_no_pickle_and_every_weight(config, data, tmp_path):
    with pytest.raises(CutError):
        train_run(config, data, Options(checkpoints=tmp_path, save_every_s=0.0, observer=cut_at(40)))
    (kept,) = (tmp_path / config.key).iterdir()
    assert sorted(p.name for p in kept.iterdir()) == ["optimizer.safetensors", "state.json", "weights.safetensors"]
    names = {name for name, _ in build_model(config).named_parameters()}
    assert set(load_file(kept / "weights.safetensors")) == names
    assert set(load_file(kept / "optimizer.safetensors")) == {
        f"{name}/{kind}" for name in names for kind in ("step", "exp_avg", "exp_avg_sq")
    }
    assert json.loads((kept / "state.json").read_text())["step"] == int(kept.name)


# Shared beginnings


def test_phases_of_every_kind(config):
    assert phases(config) == [config]
    wsd = with_schedule(config, "wsd")
    stable, end = phases(wsd)
    assert end == wsd
    assert stable.steps == decay_start(wsd) == wsd.steps - round(0.2 * wsd.steps)
    two = with_schedule(config, "wsd", plain_tokens=config.step_tokens * 10)
    plain, stable, end = phases(two)
    assert (plain.architecture.P, plain.steps, stable.architecture.P) == (1, 10, 2)
    late = with_schedule(config, "wsd", plain_tokens=config.step_tokens * (config.steps - 5))
    assert [phase.architecture.P for phase in phases(late)] == [1, 2]
    assert decay_start(late) == config.steps - 5


def test_runs_over_d_and_over_p_share_phases(config):
    wsd = with_schedule(config, "wsd")
    longer = replace(wsd, n_tokens=2 * wsd.n_tokens)
    assert phase_key(phases(wsd)[0]) == phase_key(phases(longer)[0])
    assert phase_key(wsd) != phase_key(longer)
    other_seed = replace(wsd, seed=1)
    assert phase_key(phases(wsd)[0]) != phase_key(phases(other_seed)[0])
    two = with_schedule(config, "linear", plain_tokens=config.step_tokens * 10)
    four = replace(two, architecture=replace(two.architecture, P=4, prefix_tokens=8))
    assert phase_key(phases(two)[0]) == phase_key(phases(four)[0])
    faster = replace(two, recipe=replace(two.recipe, lr=0.02))
    assert phase_key(phases(two)[0]) != phase_key(phases(faster)[0])


@pytest.mark.parametrize("schedule", ["linear", "wsd", "constant"])
@pytest.mark.parametrize("plain", [0, 30])
def test_the_learning_rate_is_continuous_and_the_same_wherever_it_is_shared(config, schedule, plain):
    config = with_schedule(config, schedule, plain_tokens=plain * config.step_tokens)
    rates = np.array([learning_rate_factor(step, config) for step in range(config.steps)])
    assert rates.max() == pytest.approx(1.0, abs=0.02)
    assert (rates > 0).all()
    start = decay_start(config)
    rising = rates[: min(start, 10)]
    assert (np.diff(rising) >= 0).all()
    if start < config.steps:
        assert (np.diff(rates[max(start, 10) :]) < 0).all()
        assert learning_rate_factor(config.steps, config) == pytest.approx(0)
    for phase in phases(config)[:-1]:
        assert [learning_rate_factor(step, phase) for step in range(phase.steps)] == pytest.approx(rates[: phase.steps])


def test_branches_from_one_stable_phase_end_where_separate_runs_end(config, data, tmp_path):
    short = with_schedule(config, "wsd")
    long = replace(short, n_tokens=2 * short.n_tokens)
    separate = [train_run(c, data) for c in (short, long)]
    train_phases(phases(short)[0], data, Options(checkpoints=tmp_path))
    seen = []
    shared = [
        train_run(c, data, Options(checkpoints=tmp_path, observer=lambda state: seen.append(state.step)))
        for c in (short, long)
    ]
    for own, branch in zip(separate, shared, strict=True):
        assert own.evaluation == branch.evaluation
    assert min(seen) > decay_start(short)  # neither began at the beginning


def test_streams_begin_from_the_same_plain_model_for_every_p(config, data, tmp_path):
    base = replace(config, plain_tokens=config.step_tokens * 40)
    runs = [replace(base, architecture=base.architecture.with_streams(P)) for P in (1, 2, 4)]
    separate = [train_run(c, data).evaluation for c in runs]
    train_phases(phases(base)[0], data, Options(checkpoints=tmp_path))
    kept = load_file(next((tmp_path / phase_key(phases(base)[0])).iterdir()) / "weights.safetensors")
    assert set(kept) == {name for name, _ in build_model(runs[0]).named_parameters()}
    assert [train_run(c, data, Options(checkpoints=tmp_path)).evaluation for c in runs] == separate
    assert len({e.loss for e in separate}) == 3
    record = run_and_record(runs[2], data, tmp_path / "r", Options(checkpoints=tmp_path))
    assert (record["n_tokens_plain"], record["n_tokens_streams"]) == (
        base.plain_tokens,
        base.n_tokens - base.plain_tokens,
    )


def test_a_second_stage_needs_tokens_of_its_own(config):
    with pytest.raises(UsageError, match="plain_tokens 40960 must be less than D 40960"):
        replace(config, plain_tokens=config.n_tokens)


# Memory and divergence


def test_micro_batches_have_the_gradients_of_the_whole_batch(config, data):
    def gradients(rows):
        model = build_model(config)
        batch = torch.from_numpy(np.arange(8 * 65).reshape(8, 65) * 7 % data.vocab_size)
        step = TrainingStep(model, make_optimizer(model, config.recipe, 1e-3), config.recipe, micro_batch=rows)
        loss = step._gradients(batch)
        return loss, torch.cat([p.grad.flatten() for p in model.parameters()])

    loss, whole = gradients(8)
    for rows in (4, 3, 1):
        other, parts = gradients(rows)
        assert torch.allclose(other, loss, rtol=1e-6)
        assert (whole - parts).norm() < 1e-5 * whole.norm()


_CHILD = """
import json, resource, sys
from dataclasses import replace
import torch
torch.set_num_threads(1)
from scalelab.architecture import architecture_for
from scalelab.errors import MemoryShortError
from scalelab.train.corpus import load_corpus
from scalelab.train.trainer import train_run
from scalelab.train.optimizer import make_optimizer
from scalelab.train.recipe import Recipe, RunConfig
from scalelab.train.step import TrainingStep
from scalelab.train.tokens import tokenise
data = tokenise(load_corpus(sys.argv[1]), 300)
recipe = Recipe(seq_len=128, batch_size=64, val_tokens=1024)
run = RunConfig(architecture_for(300e3, data.vocab_size, 4), 64 * 128, 0, data.text, recipe)
train_run(replace(run, recipe=replace(recipe, batch_size=2), n_tokens=256), data)  # what torch itself takes
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
large = replace(run, architecture=architecture_for(3e7, data.vocab_size, 4))
for one, room in ((large, 2**20), (run, 120 * 2**20), (run, 2**40)):
    resource.setrlimit(resource.RLIMIT_AS, (used + room, resource.RLIM_INFINITY))
    try:
        result = train_run(one, data)
        print(json.dumps([result.evaluation.loss, result.micro_batch]))
    except MemoryShortError as error:
        print(json.dumps(str(error)))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux' /proc to limit memory by what is used")
def test_with_too_little_memory_the_same_run_goes_on_in_smaller_pieces(text_folder):
    command = [sys.executable, "-c", _CHILD, str(text_folder)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    none, (limited_loss, limited_micro_batch), (loss, micro_batch) = map(json.loads, lines)
    assert "out of memory" in none
    assert "try a smaller N or P" in none
    assert micro_batch == 64
    assert limited_micro_batch < 64
    assert limited_loss == pytest.approx(loss, rel=1e-4)


def test_a_run_without_memory_is_recorded_as_such(config, data, tmp_path, monkeypatch):
    def short(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(
        TrainingStep, "_gradients", short
    )  # a device without room even for one: not to be had on purpose
    with pytest.raises(MemoryShortError, match="out of memory with one sequence"):
        run_and_record(config, data, tmp_path)
    assert read_record(record_path(tmp_path, config.key))["status"] == "out_of_memory"


@pytest.mark.parametrize(("lr", "message"), [(1e30, "the loss is not a number"), (300.0, "diverged: loss ")])
def test_a_diverged_run_ends_early_and_is_recorded(config, data, tmp_path, lr, message):
    wild = replace(config, n_tokens=10 * config.n_tokens, recipe=replace(config.recipe, lr=lr, grad_clip=1e30))
    steps = []
    with pytest.raises(DivergedError, match=message):
        run_and_record(wild, data, tmp_path, Options(observer=lambda state: steps.append(state.step)))
    assert max(steps) < wild.steps / 2
    record = read_record(record_path(tmp_path, wild.key))
    assert record["status"] == "diverged"
    assert np.isnan(record["loss"])
    # How far it came, and its curve, are there to be looked at.
    curve = read_curve(curve_path(tmp_path, wild.key))
    assert record["train_flops"] == pytest.approx(train_flops(wild) * curve["step"].max() / wild.steps, rel=1e-9)
    assert record["train_seconds"] > 0
    assert message in record["message"]
    good = run_and_record(config, data, tmp_path)
    table = read(tmp_path)
    assert table.records["loss"].tolist() == [good["loss"]]
