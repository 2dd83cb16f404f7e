"""Costs of a run: counted by torch, measured in separate processes, and shown in a plan."""

import json
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from scalelab.api.sweeps import SweepPlan
from scalelab.architecture import architecture_for
from scalelab.reports.sweeps import format_memory
from scalelab.sweep.dry_run import plan_sweep, wall_seconds
from scalelab.sweep.tasks import Task, make_tasks
from scalelab.train.build import build_model
from scalelab.train.cost import (
    activation_bytes,
    evaluation_flops,
    forward_flops,
    resident_bytes,
    step_flops,
    train_flops,
    train_memory_bytes,
    visible_tokens,
)
from scalelab.train.device import (
    measured_peak_flops,
    one_thread,
    peak_memory_bytes,
    reset_peak_memory,
)
from scalelab.train.devices import HOST_BYTES, runs_per_gpu
from scalelab.train.estimate import estimate_times
from scalelab.train.evaluate import evaluate
from tests.support.flops import counted_flops
from tests.support.paths import ROOT
from tests.support.runs import PLAIN, PREFIX, B, T, forward_and_backward, run_of, tokens_of

EXPERTS = replace(PLAIN, intermediate_size=88, num_experts=4, experts_per_token=2)
SHAPES = {
    "plain": PLAIN,
    "dynamic": PLAIN.with_streams(4),
    "mean": replace(PLAIN.with_streams(4), aggregation="mean"),
    "channel": replace(PLAIN.with_streams(4), aggregation="channel"),
    "untied": replace(PLAIN.with_streams(2), tied_embeddings=False),
    "experts": EXPERTS,
    "single prefix": replace(PLAIN, single_prefix=True),
    "loops": replace(PLAIN.with_streams(2), loops=3),
    "experts in streams": replace(EXPERTS.with_streams(4), num_experts=8, experts_per_token=3),
}


@pytest.mark.parametrize("name", SHAPES)
def test_operations_are_those_that_torch_counts(name):
    config = run_of(SHAPES[name])
    model = build_model(config)
    # Products that the counter knows; eager attention also multiplies what the mask hides.
    model.set_attn_implementation("eager")
    model.config._experts_implementation = "eager"
    with FlopCounterMode(display=False) as counter:
        forward_and_backward(model, torch.from_numpy(tokens_of(config, B)))
    seen = T + (PREFIX if config.architecture.has_prefixes else 0)
    assert 3 * B * T * forward_flops(config.architecture, T, visible=seen) == counted_flops(counter)


def test_a_query_sees_its_past_and_the_prefix():
    mask = np.tri(T, dtype=bool)
    assert visible_tokens(PLAIN, T) == mask.sum(1).mean()
    prefixed = np.concatenate([np.ones((T, PREFIX), dtype=bool), mask], axis=1)
    assert visible_tokens(PLAIN.with_streams(2), T) == prefixed.sum(1).mean()


def test_validation_operations_hold_the_logits_of_every_stream():
    for P in (1, 3):
        config = run_of(PLAIN.with_streams(P), val_tokens=8 * T)
        model = build_model(config)
        model.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            evaluate(model, tokens_of(config, 8), np.arange(8), "cpu", bf16=False)
        # The counter sees masked scores too.
        hidden = 4 * PLAIN.hidden_size * PLAIN.num_layers * P * (T - (T + 1) / 2) * 8 * T
        assert evaluation_flops(config) + hidden == pytest.approx(counted_flops(counter), rel=0.01)


def test_a_runs_operations_add_up_over_its_stages():
    config = run_of(PLAIN.with_streams(4), steps=10)
    assert train_flops(config) == pytest.approx(10 * step_flops(config.architecture, T, B))
    two_stage = replace(config, plain_tokens=4 * config.step_tokens)
    expected = 4 * step_flops(PLAIN, T, B) + 6 * step_flops(config.architecture, T, B)
    assert train_flops(two_stage) == pytest.approx(expected)
    assert train_flops(two_stage, first=3) == pytest.approx(expected - 3 * step_flops(PLAIN, T, B))
    assert train_flops(two_stage, first=7) == pytest.approx(3 * step_flops(config.architecture, T, B))
    assert train_flops(two_stage, first=10) == 0


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_what_the_backward_pass_keeps_is_what_autograd_saves(name, bf16):
    shape = replace(SHAPES[name], num_layers=4)
    config = run_of(shape, dtype="bf16" if bf16 else "fp32")
    model = build_model(config).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    casts = {tuple(p.shape) for p in model.parameters()} | {tuple(p.T.shape) for p in model.parameters() if p.ndim == 2}
    kept, saved = [], {}

    def note(tensor):
        storage = tensor.untyped_storage()
        copy_of_weight = tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in casts
        if storage.data_ptr() not in weights and not copy_of_weight:
            saved[storage.data_ptr()] = storage.nbytes()
            kept.append(tensor)  # so that its address is not used again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        forward_and_backward(model, torch.from_numpy(tokens_of(config, B)), bf16)
    log_probabilities = B * T * shape.vocab_size * 4
    expected = B * T * activation_bytes(shape, T, bf16) + log_probabilities
    assert expected == pytest.approx(sum(saved.values()), rel=0.08 if bf16 else 0.02)


_TRAIN = """
import json, sys
import numpy as np, torch
from scalelab.architecture import Architecture
from scalelab.train.build import build_model
from scalelab.train.device import peak_memory_bytes, reset_peak_memory
from scalelab.train.optimizer import make_optimizer
from tests.support.runs import PLAIN, forward_and_backward, run_of, tokens_of
shape, B = json.loads(sys.argv[1])
def train(config, rows):
    model = build_model(config).train()
    optimizer = make_optimizer(model, config.recipe, 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        forward_and_backward(model, torch.from_numpy(tokens_of(config, rows)))
        optimizer.step()
torch.set_num_threads(1)
train(run_of(PLAIN.with_streams(2)), 2)
train(run_of(Architecture(**shape), seq_len=64, batch_size=B), B)
print(peak_memory_bytes("cpu"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the heap of another system has other holes")
def test_memory_of_a_process_that_trains():
    rows = 16
    shape = architecture_for(4e5, 512, prefix_tokens=4).with_streams(8)
    arguments = json.dumps([{name: getattr(shape, name) for name in shape.__dataclass_fields__}, rows])
    here = ROOT
    command = [sys.executable, "-c", _TRAIN, arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=here)
    config = run_of(shape, seq_len=64, batch_size=rows)
    assert resident_bytes(config, "cpu") == pytest.approx(int(done.stdout), rel=0.2)
    assert train_memory_bytes(config) < resident_bytes(config, "cpu")


def test_memory_grows_with_the_micro_batch_alone():
    config = run_of(PLAIN.with_streams(4), batch_size=32)
    state = 16 * config.architecture.total_params
    halves = [train_memory_bytes(config, rows) - state for rows in (32, 16, 8)]
    assert halves[0] == 2 * halves[1] == 4 * halves[2]
    assert train_memory_bytes(config) == train_memory_bytes(config, 32)
    assert train_memory_bytes(run_of(PLAIN, dtype="bf16")) < train_memory_bytes(run_of(PLAIN))


def test_peak_of_the_device_is_reached_and_measured_once():
    peak = measured_peak_flops("cpu")
    assert 1e8 < peak < 1e13
    assert measured_peak_flops("cpu", dtype="fp32") == peak


def test_peak_memory_sees_what_was_used_and_can_begin_anew():
    before = peak_memory_bytes("cpu")
    if before is None:
        pytest.skip("the system does not tell")
    block = np.ones(64 * 2**20, dtype=np.uint8)
    reset_peak_memory("cpu")
    with_block = peak_memory_bytes("cpu")
    assert with_block > block.nbytes
    del block
    reset_peak_memory("cpu")
    after = peak_memory_bytes("cpu")
    if sys.platform == "linux":
        assert after < with_block - 32 * 2**20


def test_threads_are_put_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_runs_per_gpu_hold_whichever_runs_meet():
    plenty = {"cores": 100, "host_bytes": 1e15}
    assert runs_per_gpu(100, [30, 30, 30, 30], **plenty) == 3
    assert runs_per_gpu(100, [50, 20, 20, 20], **plenty) == 3
    assert runs_per_gpu(100, [20, 20], **plenty) == 2
    assert runs_per_gpu(100, [500, 20], **plenty) == 1


def test_runs_per_gpu_leave_the_sweep_a_core_and_fit_the_host():
    small = [1] * 54
    assert runs_per_gpu(1e12, small, cores=16, host_bytes=1e15) == 15
    assert runs_per_gpu(1e12, small, cores=1, host_bytes=1e15) == 1
    assert runs_per_gpu(1e12, small, cores=100, host_bytes=10 * HOST_BYTES) == 9


def test_estimates_leave_generators_and_threads_alone():
    configs = [run_of(PLAIN.with_streams(P), steps=100, seed=seed) for P in (1, 2) for seed in (0, 1)]
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    threads = torch.get_num_threads()
    times = estimate_times(configs, budget_s=10.0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]
    assert torch.get_num_threads() == threads
    assert len(times.steps) == 2  # seeds do not matter
    assert all(times.timed(config) for config in configs)
    assert times.train_s(configs[0]) == times.train_s(configs[1]) > 0


def test_large_shapes_are_extrapolated_by_operations():
    small = run_of(PLAIN, steps=100)
    large = run_of(architecture_for(3e9, 300), steps=100)
    times = estimate_times([large, small], budget_s=1.0)
    assert times.timed(small)
    assert not times.timed(large)
    ratio = train_flops(large) / train_flops(small)
    assert times.train_s(large) == pytest.approx(ratio * times.train_s(small))
    none = estimate_times([small], budget_s=0.0)
    assert none.train_s(small) == pytest.approx(train_flops(small) / (0.5 * measured_peak_flops("cpu")))
    assert none.validation_s(small) == pytest.approx(evaluation_flops(small) / (0.5 * measured_peak_flops("cpu")))


def test_time_of_a_two_stage_run_is_that_of_its_legs():
    config = run_of(PLAIN.with_streams(2), steps=100)
    two_stage = replace(config, plain_tokens=40 * config.step_tokens)
    plain = run_of(PLAIN, steps=100)
    times = estimate_times([config, two_stage, plain], budget_s=2.0)
    expected = 0.4 * times.train_s(plain) + 0.6 * times.train_s(config)
    assert times.train_s(two_stage) == pytest.approx(expected)
    assert times.train_s(two_stage, first=60) == pytest.approx(0.4 * times.train_s(config))


def test_workers_take_the_longest_first_and_wait_for_what_they_need():
    config = run_of(PLAIN)
    tasks = [Task(replace(config, seed=seed), cost=1.0) for seed in range(4)]
    assert wall_seconds(tasks, [8, 7, 6, 5], 1) == 26
    assert wall_seconds(tasks, [8, 7, 6, 5], 2) == 13
    assert wall_seconds(tasks, [8, 7, 6, 5], 9) == 8
    assert wall_seconds([], [], 2) == 0
    shared = Task(replace(config, seed=9), cost=5.0, shared=True)
    branches = [replace(task, needs=shared.key) for task in tasks[:3]]
    # The other worker does the task that needs nothing, then waits from 1 to 4.
    assert wall_seconds([shared, *branches, tasks[3]], [4, 3, 2, 2, 1], 2) == 4 + 2 + 2


@pytest.fixture(scope="module")
def plan():
    runs = [
        run_of(shape, steps=200 * d, seed=seed, schedule="wsd", lr=lr)
        for shape in (PLAIN, EXPERTS.with_streams(2))
        for d in (1, 2)
        for seed in (0,)
        for lr in (1e-2, 2e-2)
    ]
    statuses = {runs[0].key: "ok", runs[1].key: "out_of_memory"}
    return plan_sweep(runs, runs[1:], statuses, workers=2, budget_s=2.0)


def test_a_plan_counts_shared_training_once(plan):
    alone = sum(run.train_flops for run in plan.left)
    spared = [run for run in plan.left if run.config.recipe.lr == 2e-2 or run.config.architecture.P == 2]
    # Of two D on one trajectory the shorter's stable phase, 160 of its 200 steps, is trained once.
    shorter = {run.config.key: run for run in spared if run.config.steps == 200}
    assert alone - plan.train_flops == pytest.approx(0.8 * sum(run.train_flops for run in shorter.values()))
    assert plan.shared_s == pytest.approx(0.8 * sum(run.train_s for run in shorter.values()))
    assert plan.compute_s / 2 <= plan.wall_s <= plan.compute_s
    assert len(make_tasks([run.config for run in plan.left])) == len(plan.left) + len(shorter)


def test_the_table_names_every_run_and_the_whole(plan):
    text = SweepPlan(plan, ()).summary(width=160)
    rows = [line.split() for line in text.splitlines() if line.rstrip().endswith(("to do", "ok"))]
    assert len(rows) == len(plan.runs) == 8
    for heading in ("backbone", "embeddings", "active", "FLOPs", "memory", "time here", "lr"):
        assert heading in text
    assert text.count("out_of_memory, to do") == 1
    assert "7 of 8 runs to train" in text
    assert "2 workers on cpu" in text
    assert plan.varied == {"lr": [run.config.recipe.lr for run in plan.runs]}


def test_a_plan_with_nothing_left():
    config = run_of(PLAIN)
    plan = plan_sweep([config], [], {config.key: "ok"}, budget_s=0.0)
    assert "nothing to do: the run is already recorded" in SweepPlan(plan, ()).summary(width=160)
    assert (plan.compute_s, plan.wall_s, plan.memory_bytes) == (0, 0, 0)


def test_memory_in_words():
    assert [format_memory(n) for n in (3 * 2**20, 1023 * 2**20, 2**30, 5 * 2**29)] == [
        "3 MiB",
        "1023 MiB",
        "1 GiB",
        "2.5 GiB",
    ]
