"""One training step: its loss, its memory, what it asks of the host, and the graph that may stand in for it."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from scalelab.architecture import architecture_for
from scalelab.measure.decode import decoding, static_step
from scalelab.model import add_streams
from scalelab.train import graphs, memory
from scalelab.train.build import build_model
from scalelab.train.checkpoint import TrainState
from scalelab.train.data import TokenWindows
from scalelab.train.graphs import WARM_UP_STEPS, Stepper, can_be_captured
from scalelab.train.loop import LoopOptions, Phase, compile_layers, optimise
from scalelab.train.loss import chunked_cross_entropy, separable_head, training_loss
from scalelab.train.memory import fitting_micro_batch, largest_part
from scalelab.train.numerics import Numerics
from scalelab.train.optimizer import make_optimizer
from scalelab.train.recipe import Recipe, RunConfig, TextSource
from scalelab.train.run import _training_columns
from scalelab.train.step import TrainingStep, allocate_moments
from tests.support.families import make, warm

TEXT = TextSource("made", "0", "made", "0")
T, B, V = 16, 4, 97


class Made:
    """Stands in for `TokenData` where only the training split is asked for."""

    def __init__(self, dtype=np.uint16):
        self.tokens = (np.random.default_rng(0).zipf(1.3, 4000) % V).astype(dtype)

    def train(self):
        return self.tokens


def config(P=1, steps=20, **changes):
    recipe = Recipe(seq_len=T, batch_size=B, dtype="fp32", **changes)
    shape = replace(architecture_for(12e3, V, 4), P=P)
    return RunConfig(shape, steps * B * T, 0, TEXT, recipe)


def stepper(run, micro_batch=0):
    model = build_model(run).train()
    step = TrainingStep(model, make_optimizer(model, run.recipe, 1e-2), run.recipe, micro_batch=micro_batch)
    return step, TokenWindows(Made().train(), T, B, "cpu")


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# Cross entropy


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_chunked_cross_entropy_is_that_of_the_whole(rows):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(50, 24, generator=generator, requires_grad=True)
    weight = torch.randn(V, 24, generator=generator, requires_grad=True)
    labels = torch.randint(V, (50,), generator=generator)
    want = F.cross_entropy(F.linear(hidden, weight), labels)
    gradients = torch.autograd.grad(want * 3, (hidden, weight))
    got = chunked_cross_entropy(hidden, weight, labels, bf16=False, rows=rows)
    torch.testing.assert_close(got, want)
    for ours, theirs in zip(torch.autograd.grad(got * 3, (hidden, weight)), gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("P", [1, 3])
def test_a_step_by_chunks_has_the_gradients_of_the_usual_one(P):
    model = build_model(config(P)).train()
    ids = torch.from_numpy(Made().train()[: B * (T + 1)].astype(np.int64)).view(B, T + 1)
    head = separable_head(model)
    assert head is model.get_input_embeddings().weight  # tied
    results = []
    for given in (None, head):
        model.zero_grad()
        loss, reported = training_loss(model, model, ids[:, :-1], ids[:, 1:], False, given)
        assert torch.equal(loss, reported)
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in model.parameters())])
    torch.testing.assert_close(results[1], results[0], atol=1e-6, rtol=1e-4)


def test_heads_that_do_more_than_multiply_are_not_taken_apart():
    assert separable_head(make("qwen2")) is not None
    assert separable_head(make("gemma2")) is None  # squashes its logits


# What a step asks of the host


class Syncs(TorchDispatchMode):
    """Counts what would make the host wait for a device."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        if any(word in name for word in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal.default", "item")):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("P", [1, 3])
def test_steps_never_wait_for_the_device(P):
    run = config(P, steps=40)
    model = build_model(run).train()
    optimizer = make_optimizer(model, run.recipe, 1e-2)
    at_steps = []

    def after(state):
        at_steps.append(len(syncs.seen))

    phase = Phase(run.recipe, 40, 0, lambda step: 1.0, 10_000, "made")
    with Syncs() as syncs:
        optimise(model, optimizer, Made(), phase, TrainState(), LoopOptions(save=after))
    assert at_steps[0] > 0  # the first step is a point of the curve, whose loss is looked at: the count works
    assert at_steps[0] == at_steps[-2]  # and no other but the last
    assert syncs.seen.count("_local_scalar_dense.default") <= 3


# Text on the device


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_windows_gathered_on_the_device_are_those_of_the_host(dtype):
    windows = TokenWindows(Made(dtype).train(), T, B, "cpu")
    numbers = np.array([3, 0, windows.count - 1])
    host = windows.batch(numbers)
    windows._move_to_device()
    assert torch.equal(windows.batch(numbers), host)
    large = TokenWindows(np.array([65_535, 40_000, 7] * 20, np.uint16), T, 1, "cpu")
    want = large.batch(np.array([1]))
    large._move_to_device()
    assert torch.equal(large.batch(np.array([1])), want)


# Memory


def test_micro_batches_are_equal_parts_that_fit():
    assert largest_part(512, lambda rows: rows <= 100) == 64
    assert largest_part(12, lambda rows: rows <= 5) == 4
    assert largest_part(7, lambda rows: rows <= 5) == 1
    assert largest_part(8, lambda rows: True) == 8


def test_the_micro_batch_is_planned_from_the_free_memory(monkeypatch):
    run = replace(config(4), recipe=replace(config().recipe, batch_size=64))
    needs = {rows: memory.resident_bytes(run, "cuda:0", rows) for rows in (64, 32, 16)}
    assert needs[64] > needs[32] > needs[16]
    assert fitting_micro_batch(run, "cpu") == 64
    for room, want in ((needs[64] + 1, 64), (needs[64] - 1, 32), (needs[32] - 1, 16), (1, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, room=room: (room / memory._USABLE_SHARE, 0))
        assert fitting_micro_batch(run, "cuda:0") == want


def test_moments_made_before_the_first_step_change_nothing():
    results = []
    for early in (False, True):
        step, windows = stepper(config(2))
        if early:
            allocate_moments(step.optimizer)
        for n in range(3):
            step(windows.batch(np.arange(B) + n))
        results.append(weights(step.model))
    assert torch.equal(*results)


# Captured steps


class Graph:
    """Stands in for a CUDA graph: takes the step as it is, or a wrong one."""

    def __init__(self, step, windows, wrong):
        self.step, self.windows, self.wrong, self.calls = step, windows, wrong, 0

    def __call__(self, numbers):
        self.calls += 1
        if self.wrong == "batch":
            numbers = numbers * 0 + 7
        if self.wrong == "nothing":
            return torch.tensor(1.0)
        self.step.optimizer.zero_grad(set_to_none=True)  # a real one writes gradients where it wrote them before
        loss = self.step.without_retry(self.windows.batch(numbers))
        return loss * 1.5 if self.wrong == "loss" else loss


@pytest.mark.parametrize("wrong", [None, "batch", "nothing", "loss"])
def test_a_captured_step_is_used_only_if_it_does_what_the_usual_one_does(wrong, monkeypatch):
    run = config(2, steps=12)
    numbers = [np.random.default_rng(n).integers(0, 100, B) for n in range(12)]
    step, windows = stepper(run)
    usual = [float(step(windows.batch(n))) for n in numbers]

    made = []
    monkeypatch.setattr(graphs, "can_be_captured", lambda model, device: True)
    monkeypatch.setattr(graphs, "_own_stream", lambda device: nullcontext())
    monkeypatch.setattr(graphs, "_prepare", lambda optimizer: None)
    monkeypatch.setattr(graphs, "_capture", lambda *given: made.append(Graph(*given[:2], wrong)) or made[0])
    other, windows = stepper(run)
    windows._move_to_device()
    with Stepper(other, windows) as take_step:
        losses = [float(take_step(n)) for n in numbers]
        (graph,) = made
        assert (take_step.captured is graph) == (wrong is None)
    assert graph.calls == (len(numbers) - WARM_UP_STEPS if wrong is None else 1)
    assert losses == pytest.approx(usual, abs=1e-6)
    torch.testing.assert_close(weights(other.model), weights(step.model), atol=1e-5, rtol=1e-4)


def test_what_the_host_decides_is_not_captured():
    assert can_be_captured(build_model(config(2)), "cuda:0")
    assert not can_be_captured(build_model(config(2)), "cpu")
    experts = replace(config(), architecture=architecture_for(5e4, V, 4, num_experts=4))
    assert not can_be_captured(build_model(experts), "cuda:0")
    noisy = build_model(config())
    noisy.config.attention_dropout = 0.1
    assert not can_be_captured(noisy, "cuda:0")
    assert not can_be_captured(add_streams(make("llama"), 2), "cuda:0")  # looks for packed sequences


# Precision and speed


def test_numerics_are_set_and_put_back():
    assert not torch.are_deterministic_algorithms_enabled()
    with Numerics(deterministic=True, fp32_precision="high").applied():
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_float32_matmul_precision() == "high"
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_float32_matmul_precision() == "highest"


def test_speeds_leave_the_warm_up_out():
    run = config(steps=20)
    state = TrainState(20, seconds=12.0, warm_up_seconds=10.0, warm_up_steps=4, devices=["made"])
    row = _training_columns(run, 20, state, "cpu", peak_flops=1e9)
    assert row["warm_up_seconds"] == 10.0
    assert row["tokens_per_s"] == pytest.approx(16 * run.step_tokens / 2.0)
    assert row["mfu"] == pytest.approx(16 / 20 * row["train_flops"] / 2.0 / 1e9)
    short = _training_columns(run, 20, replace(state, warm_up_steps=15), "cpu", None)
    assert short["tokens_per_s"] == pytest.approx(20 * run.step_tokens / 12.0)


@pytest.mark.parametrize("P", [1, 2])
def test_compiled_layers_train_as_the_others(P):
    torch.compiler.reset()
    losses = []
    for compiled in (False, True):
        run = config(P, steps=4)
        model = build_model(run).train()
        optimizer = make_optimizer(model, run.recipe, 1e-2)
        if compiled:
            compile_layers(model, "aot_eager")
            counts = torch._dynamo.utils.counters
            counts.clear()
        state = TrainState()
        optimise(model, optimizer, Made(), Phase(run.recipe, 4, 0, lambda step: 1.0, 1, "made"), state)
        losses.append([loss for _, _, loss in state.curve])
    assert not counts["graph_break"]
    assert counts["stats"]["unique_graphs"] == 1  # one layer stands for all
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    torch.compiler.reset()


# Decoding


@torch.no_grad()
def test_a_static_step_decodes_what_a_growing_cache_does():
    model = warm(add_streams(make("qwen2"), 3, prefix_tokens=5)).eval()
    ids = torch.randint(V, (2, 9), generator=torch.Generator().manual_seed(0))
    step = static_step(model, ids, 8)
    chosen = [step().clone() for _ in range(6)]
    options = {"max_new_tokens": 7, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    want = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, ids.shape[1] + 1 :]
    assert torch.equal(torch.cat(chosen, 1), want)
    assert decoding(model, ids, 3)() > 0
