import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from scalelab.architecture import architecture_for
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.train.build import build_model
from scalelab.train.corpus import load_corpus
from scalelab.train.data import TokenWindows, validation_windows, window_order
from scalelab.train.evaluate import clustered_mean, evaluate
from scalelab.train.phases import linear_factor
from scalelab.train.recipe import Recipe, RunConfig, whole_steps
from scalelab.train.run import make_record
from scalelab.train.tokens import tokenise
from scalelab.train.trainer import Options, train_run


@pytest.fixture(scope="module")
def data(text_folder):
    return tokenise(load_corpus(str(text_folder)), 300)


@pytest.fixture
def config(data):
    recipe = Recipe(val_tokens=4096)
    shape = architecture_for(12e3, data.vocab_size, prefix_tokens=4)
    return RunConfig(shape, whole_steps(20e3, recipe), 0, data.text, recipe)


def streams(config, P):
    return replace(config, architecture=config.architecture.with_streams(P))


def test_for_one_seed_every_p_shares_the_backbone(config):
    plain = build_model(config).state_dict()
    many = build_model(streams(config, 4)).state_dict()
    assert all(torch.equal(many[name], weight) for name, weight in plain.items())
    assert len(many) > len(plain)
    other = build_model(replace(config, seed=1)).state_dict()
    assert not torch.equal(other["model.layers.0.mlp.up_proj.weight"], plain["model.layers.0.mlp.up_proj.weight"])


def test_mixture_starts_uniform_and_streams_differ(config, data):
    model = build_model(streams(config, 4))
    windows, documents = validation_windows(data.validation(), data.validation_starts(), 64, 4096)
    result = evaluate(model, windows, documents, "cpu", bf16=False)
    assert result.streams.mixture_weights == pytest.approx([0.25] * 4, abs=1e-6)
    assert result.streams.cosine < 0.999
    assert result.loss == pytest.approx(np.log(data.vocab_size), rel=0.1)


def test_building_a_model_leaves_the_global_generator_alone(config):
    torch.manual_seed(5)
    build_model(config)
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_training_learns_and_repeats_exactly(config, data):
    first, second = (train_run(streams(config, 2), data) for _ in range(2))
    assert first.evaluation == second.evaluation
    assert first.curve == second.curve
    assert first.evaluation.loss < 0.95 * np.log(data.vocab_size)
    losses = [loss for _, _, loss in first.curve]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.5
    assert first.curve[-1][:2] == (config.steps, config.n_tokens)


def test_every_parameter_learns(config, data):
    shape = streams(config, 2)
    before = build_model(shape).state_dict()
    after = train_run(shape, data).model.state_dict()
    still = [name for name, weight in before.items() if torch.equal(weight, after[name])]
    assert still == []


def test_record_holds_what_was_measured(config, data):
    shape = streams(config, 2)
    result = train_run(shape, data)
    record = make_record(shape, data, result, "cpu")
    assert record["loss"] == result.evaluation.loss
    assert record["bits_per_byte"] == pytest.approx(record["loss"] / np.log(2) / data.bytes_per_token)
    model_size = sum(p.numel() for p in result.model.parameters())
    assert record["n_params_total"] == model_size
    assert record["n_params"] == model_size - data.vocab_size * record["hidden_size"]
    assert sum(record["mixture_weights"]) == pytest.approx(1)


def test_divergence_is_an_error_not_a_nan(config, data):
    wild = replace(config, recipe=replace(config.recipe, lr=1e30, grad_clip=1e30))
    with pytest.raises(ScalelabError, match=r"the loss is not a number at step \d+; try a lower lr"):
        train_run(wild, data)


def test_a_validation_text_that_is_too_short_is_told_before_training(config, data, monkeypatch):
    monkeypatch.setattr(type(data), "validation", lambda self: np.zeros(50, dtype=np.uint16))
    steps = []
    with pytest.raises(
        DataError, match="the validation text has only 50 tokens, less than two sequences of 64; give more text"
    ):
        train_run(config, data, Options(progress=lambda *values: steps.append(values)))
    assert steps == []


def test_bf16_autocast_trains_to_about_the_same_loss(config, data):
    half = replace(config, recipe=replace(config.recipe, dtype="bf16"))
    assert half.key != config.key
    losses = [train_run(c, data).evaluation.loss for c in (config, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_batches_are_disjoint_and_depend_on_the_seed_alone():
    windows = TokenWindows(np.arange(64 * 40 + 1, dtype=np.uint16), 64, 8, "cpu")

    def batches(steps, seed, first=0):
        numbers = window_order(windows.count, 8, steps, seed, first)
        return [windows.batch(n).numpy() for n in numbers]

    first = batches(5, seed=3)
    assert all((a == b).all() for a, b in zip(first, batches(5, seed=3), strict=True))
    starts = np.concatenate([b[:, 0] for b in first])
    assert len(set(starts)) == 40  # one whole pass, no window twice
    assert all((np.diff(b, axis=1) == 1).all() for b in first)
    other = np.concatenate([b[:, 0] for b in batches(5, seed=4)])
    assert (other != starts).any()
    assert len(batches(30, seed=3)) == 30  # several passes
    assert all((a == b).all() for a, b in zip(batches(9, 3)[4:], batches(9, 3, first=4), strict=True))
    with pytest.raises(DataError, match="less than one batch"):
        TokenWindows(windows.tokens[:100], 64, 8, "cpu")


def test_validation_windows_are_fixed_spread_and_know_their_document():
    tokens = np.arange(10_001, dtype=np.uint16)
    windows, documents = validation_windows(tokens, np.array([0, 2_000, 9_000]), 64, 1_280)
    assert windows.shape == (20, 65)
    assert windows[0, 0] == 0
    assert windows[-1, 0] > 9_000
    assert documents.tolist() == [0 if w < 2_000 else 1 if w < 9_000 else 2 for w in windows[:, 0]]
    with pytest.raises(DataError, match="give more text"):
        validation_windows(tokens[:100], np.array([0]), 64, 1_280)


def test_clustered_error_against_simulation():
    """Known truth: means of draws with a shared part in each cluster."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(50), 20)
    means, errors = [], []
    for _ in range(400):
        values = rng.standard_normal(50)[clusters] + rng.standard_normal(1000)
        mean, error = clustered_mean(values, clusters)
        means.append(mean)
        errors.append(error)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.1)
    independent = np.std(values, ddof=1) / np.sqrt(1000)
    assert np.mean(errors) > 2 * independent


def test_schedule_warms_up_and_decays():
    factors = [linear_factor(step, 100, 0.1) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == factors[10] == 1.0
    assert factors[-1] == pytest.approx(1 / 90)
    assert linear_factor(0, 1, 0.05) == 1.0


def test_the_rate_follows_width_and_tokens(config):
    """lr·(64/hidden)^a·(1M/D)^b, and the same for all D where these share a phase."""
    recipe = replace(config.recipe, lr=0.01, lr_exponent=1.0, lr_tokens_exponent=0.25)
    run = replace(config, recipe=recipe, n_tokens=16 * 10**6)
    assert run.peak_lr == pytest.approx(0.01 * 64 / config.architecture.hidden_size / 2)
    assert replace(run, recipe=replace(recipe, lr_tokens_exponent=0.0)).peak_lr == pytest.approx(2 * run.peak_lr)
    assert replace(run, n_tokens=10**5).peak_lr == pytest.approx(2 * run.peak_lr)
    for shared in (replace(run, recipe=replace(recipe, schedule="wsd")), replace(run, plain_tokens=run.step_tokens)):
        assert shared.peak_lr == pytest.approx(2 * run.peak_lr)


def test_the_falling_rate_changes_only_keys_of_runs_that_it_changes(config):
    """Runs recorded before the rate fell with D are found again wherever they would be trained alike."""
    without = replace(config, recipe=replace(config.recipe, lr_tokens_exponent=0.0))
    falls = replace(config, recipe=replace(config.recipe, lr_tokens_exponent=0.25))
    assert config.recipe.lr_tokens_exponent == 0.25
    assert falls.key == without.key
    longer = {"n_tokens": 2 * 10**6}
    assert replace(falls, **longer).key != replace(without, **longer).key
    assert replace(falls, **longer).setup == falls.setup != without.setup
    wsd = {**longer, "recipe": replace(falls.recipe, schedule="wsd")}
    for shared in ({**longer, "plain_tokens": falls.step_tokens}, wsd):
        found = replace(falls, **shared)
        old = replace(found, recipe=replace(found.recipe, lr_tokens_exponent=0.0))
        assert (found.key, found.setup, found.to_json()) == (old.key, old.setup, old.to_json())


def test_keys_name_configs_and_setups_name_what_may_be_compared(config):
    assert config.key == replace(config).key
    assert len({config.key, replace(config, seed=1).key, streams(config, 2).key}) == 3
    assert replace(config, seed=1).setup == streams(config, 2).setup == config.setup
    assert replace(config, recipe=replace(config.recipe, lr=1e-3)).setup != config.setup
    renamed = replace(config, text=replace(config.text, corpus="moved"))
    assert renamed.key == config.key


@pytest.mark.parametrize(
    "change", [{"lr": 0.0}, {"lr": float("nan")}, {"beta1": 1.0}, {"dtype": "fp8"}, {"init_gain": -1.0}, {"seq_len": 0}]
)
def test_recipes_that_cannot_train_are_refused(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        Recipe(**change)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPU")
@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_compiled_training_ends_at_the_same_loss(config, data):
    short = streams(replace(config, n_tokens=whole_steps(5e3, config.recipe)), 2)
    plain, compiled = (train_run(short, data, Options(compile_model=c)).evaluation.loss for c in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-4)
