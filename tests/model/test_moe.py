"""Mixtures of experts: counts, the size dial, keys, the balancing loss, training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scalelab.architecture import Architecture, architecture_for, expert_width, mlp_width
from scalelab.cost.shape import as_served
from scalelab.errors import UsageError
from scalelab.model.add import add_streams
from scalelab.model.banks import active_bank, attention_modules
from scalelab.sweep.spec import SweepSpec, parse
from scalelab.train.build import build_model, extra_loss, training_options
from scalelab.train.corpus import load_corpus
from scalelab.train.optimizer import make_optimizer
from scalelab.train.recipe import Recipe, RunConfig, TextSource, whole_steps
from scalelab.train.tokens import tokenise
from scalelab.train.trainer import train_run
from tests.support.families import make, tokens

NO_TEXT = TextSource("", "", "", "")
MOE = architecture_for(20e3, 97, prefix_tokens=4, num_experts=4)
SHAPES = [
    MOE,
    MOE.with_streams(3),
    replace(MOE, P=2, aggregation="mean", tied_embeddings=False),
    Architecture(24, 8, 1, 2, 1, 53, P=2, prefix_tokens=3, num_experts=2),
    Architecture(32, 16, 3, 4, 2, 31, num_experts=7, experts_per_token=3),
]


def build(shape, seed=0):
    return build_model(RunConfig(shape, 512, seed, NO_TEXT))


def some_tokens(shape, rows=4, length=16, seed=0):
    return torch.randint(0, shape.vocab_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def training_forward(model, ids):
    return model(ids, use_cache=False, **training_options(model))


@pytest.mark.parametrize("shape", SHAPES)
def test_counts_agree_with_the_real_model(shape):
    sizes = {name: p.numel() for name, p in build(shape).named_parameters()}
    streams = sum(n for name, n in sizes.items() if "prefix" in name or "aggregate" in name)
    embeddings = sum(n for name, n in sizes.items() if "embed" in name or "lm_head" in name)
    assert sum(sizes.values()) == shape.total_params
    assert (streams, embeddings) == (shape.stream_params, shape.embedding_params)
    assert shape.backbone_params == sum(sizes.values()) - streams - embeddings
    assert shape.n_params == shape.backbone_params + streams


@pytest.mark.parametrize("shape", [s for s in SHAPES if s.P == 1])
def test_active_parameters_are_those_that_one_token_uses(shape):
    """Counted by the experts that get a gradient from a single token."""
    model = build(shape)
    model(torch.tensor([[3]]), use_cache=False).logits.square().sum().backward()
    active = 0
    for name, parameter in model.named_parameters():
        if "experts" in name:
            used = parameter.grad.abs().flatten(1).sum(1) > 0
            assert used.sum() == shape.experts_per_token
            active += parameter[used].numel()
        elif "embed" not in name:
            active += parameter.numel()
    assert active == shape.active_params == shape.active_backbone_params
    assert shape.with_streams(2).active_params - active == shape.with_streams(2).stream_params


def test_a_dense_model_uses_all_its_parameters():
    dense = architecture_for(50e3, 512).with_streams(2)
    assert dense.active_params == dense.n_params
    assert dense.active_backbone_params == dense.backbone_params


@pytest.mark.parametrize(("E", "k"), [(4, 2), (8, 2), (64, 8)])
def test_the_dial_finds_active_parameters_near_the_wish(E, k):
    for n in (50e3, 100e3, 3e6, 1e9):
        shape = architecture_for(n, 512, num_experts=E, experts_per_token=k)
        dense = architecture_for(n, 512)
        assert (shape.num_experts, shape.experts_per_token, shape.P) == (E, k, 1)
        assert 1 / 1.3 < shape.active_backbone_params / n < 1.3
        assert 1 / 1.3 < shape.active_backbone_params / dense.backbone_params < 1.3
        assert shape.backbone_params > 1.5 * shape.active_backbone_params


@pytest.mark.parametrize("hidden", [16, 36, 64, 200, 896, 2560])
@pytest.mark.parametrize("k", [2, 3, 8])
def test_experts_of_a_token_are_together_as_wide_as_the_dense_mlp(hidden, k):
    width = expert_width(hidden, k)
    assert width % 8 == 0
    assert abs(k * width - mlp_width(hidden)) <= 4 * k


def test_experts_are_never_narrower_than_8():
    assert expert_width(16, 64) == 8


@pytest.mark.parametrize(
    ("experts", "message"),
    [
        ((-1, 2), "num_experts must not be negative"),
        ((0, 4), "experts_per_token 4 needs num_experts"),
        ((4, 0), "experts_per_token must be at least 2"),
        ((4, 1), "for the router to learn"),
        ((1, 2), "experts_per_token 2 exceeds num_experts 1"),
    ],
)
def test_numbers_of_experts_that_make_no_model_are_refused(experts, message):
    with pytest.raises(UsageError, match=message):
        architecture_for(50e3, 512, num_experts=experts[0], experts_per_token=experts[1])
    with pytest.raises(UsageError, match=message):
        Architecture(24, 8, 1, 2, 1, 53, num_experts=experts[0], experts_per_token=experts[1])


def test_a_wish_below_the_ladder_of_experts_is_refused_with_its_range():
    with pytest.raises(UsageError, match=r"no architecture near N = 12k: choose between .*k and "):
        architecture_for(12e3, 512, num_experts=512)


def test_experts_are_part_of_key_and_setup():
    pairs = [(0, 2), (4, 2), (8, 2), (8, 3)]
    shapes = [Architecture(32, 16, 3, 4, 2, 31, num_experts=E, experts_per_token=k) for E, k in pairs]
    configs = [RunConfig(shape, 512, 0, NO_TEXT) for shape in shapes]
    assert len({c.key for c in configs}) == len({c.setup for c in configs}) == len(shapes)


def test_for_one_seed_every_p_shares_the_backbone():
    plain, many = (build(MOE.with_streams(P)).state_dict() for P in (1, 3))
    assert all(torch.equal(many[name], weight) for name, weight in plain.items())


@pytest.mark.parametrize("P", [1, 3])
def test_the_balancing_loss_is_that_of_the_switch_transformer(P):
    """E · Σ over experts of its share of tokens times its mean probability, from the routers' own inputs."""
    shape = replace(MOE, num_layers=1, P=P)
    model, ids, seen = build(shape), some_tokens(shape), []
    gate = model.model.layers[0].mlp.gate
    gate.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().double().numpy()))
    got = extra_loss(model, training_forward(model, ids))
    logits = seen[0].reshape(-1, shape.hidden_size) @ gate.weight.detach().double().numpy().T
    assert len(logits) == P * ids.numel()
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    chosen = np.argsort(logits, axis=1)[:, -shape.experts_per_token :]
    share = np.bincount(chosen.ravel(), minlength=shape.num_experts) / len(logits)
    expected = shape.num_experts * (share * probabilities.mean(0)).sum()
    assert got.item() == pytest.approx(0.01 * expected, rel=1e-5)


def test_the_balancing_loss_counts_once_and_not_once_a_stream():
    """Four streams that are copies of each other have the loss of two."""
    losses = []
    for P in (2, 4):
        model = build(MOE.with_streams(P))
        with torch.no_grad():
            for module in attention_modules(model.get_decoder()):
                bank = active_bank(module)
                bank.prefix_k.fill_(1.0)
                bank.prefix_v.fill_(1.0)
        losses.append(extra_loss(model, training_forward(model, some_tokens(MOE))).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def twins(P, num_experts, per_token, vocab_size=53):
    """A dense model without QKV biases, and one whose experts are each a copy of its MLP, chosen by a blind router."""
    shape = Architecture(24, 64, 2, 2, 1, vocab_size, P=P, prefix_tokens=3)
    dense = build(shape)
    mixture = build(replace(shape, num_experts=num_experts, experts_per_token=per_token))
    own = dict(dense.named_parameters())
    with torch.no_grad():
        for name, parameter in own.items():
            if name.endswith("proj.bias"):
                parameter.zero_().requires_grad_(False)
        for name, parameter in mixture.named_parameters():
            mlp = name.split("mlp.")[0] + "mlp."
            if name.endswith("gate.weight"):
                parameter.zero_()
            elif name.endswith("gate_up_proj"):
                parameter.copy_(torch.cat([own[f"{mlp}gate_proj.weight"], own[f"{mlp}up_proj.weight"]]))
            else:
                parameter.copy_(own[f"{mlp}down_proj.weight" if "experts" in name else name])
    return dense, mixture


@pytest.mark.parametrize("P", [1, 3])
@pytest.mark.parametrize(("num_experts", "per_token"), [(2, 2), (4, 2), (3, 3)])
def test_experts_that_are_copies_of_an_mlp_are_the_dense_model(P, num_experts, per_token):
    """Its gradients too: those of the copies sum to the MLP's."""
    dense, mixture = twins(P, num_experts, per_token)
    ids = some_tokens(SHAPES[3])
    logits = []
    for model in (dense, mixture):
        logits.append(model(ids, use_cache=False).logits)
        torch.nn.functional.cross_entropy(logits[-1].flatten(0, 1), ids.flatten()).backward()
    assert torch.allclose(*logits, rtol=0, atol=1e-5)
    own = dict(dense.named_parameters())
    for name, parameter in mixture.named_parameters():
        mlp = name.split("mlp.")[0] + "mlp."
        if name.endswith("gate.weight"):
            expected = torch.zeros_like(parameter)  # all experts say the same: none is better
            got = parameter.grad
        elif name.endswith("gate_up_proj"):
            expected = torch.cat([own[f"{mlp}gate_proj.weight"].grad, own[f"{mlp}up_proj.weight"].grad])
            got = parameter.grad.sum(0)
        else:
            expected = own[f"{mlp}down_proj.weight" if "experts" in name else name].grad
            got = parameter.grad.sum(0) if "experts" in name else parameter.grad
        assert torch.allclose(got, expected, rtol=1e-4, atol=1e-6), name


def test_descending_the_balancing_loss_evens_out_a_lopsided_router():
    shape = replace(MOE, num_layers=1)
    model, ids = build(shape), some_tokens(shape, rows=8, length=64)
    gate = model.model.layers[0].mlp.gate
    shares = []
    gate.register_forward_hook(
        lambda module, args, out: shares.append(np.bincount(out[2].ravel().numpy(), minlength=4) / ids.numel())
    )
    with torch.no_grad():  # expert 0 for whatever has a positive first coordinate, never expert 3
        gate.weight[0] *= 4
        gate.weight[3] = -gate.weight[0]
    optimizer = torch.optim.SGD([gate.weight], lr=20.0)
    for _ in range(60):
        optimizer.zero_grad()
        extra_loss(model, training_forward(model, ids)).backward()
        optimizer.step()
    assert np.ptp(shares[-1]) < 0.5 * np.ptp(shares[0])


def test_a_dense_model_has_no_extra_loss():
    shape = architecture_for(20e3, 97, prefix_tokens=4).with_streams(2)
    model = build(shape)
    assert training_options(model) == {}
    assert extra_loss(model, training_forward(model, some_tokens(shape))) is None


def test_a_dense_model_without_biases_is_one_whose_biases_are_zero():
    """The fair baseline of models with experts: the same logits as Qwen2 with the same weights and no biases."""
    plain = architecture_for(20e3, 97, prefix_tokens=4, qkv_bias=False)
    for P in (1, 2):
        shape = plain.with_streams(P)
        model, biased = build(shape), build(replace(shape, qkv_bias=True))
        assert sum(p.numel() for p in model.parameters()) == shape.total_params == as_served(shape).total_params
        assert not [name for name, _ in model.named_parameters() if name.endswith("proj.bias")]
        missing, extra = biased.load_state_dict(model.state_dict(), strict=False)
        assert not extra
        assert {name.rsplit(".", 2)[1] for name in missing} == {"q_proj", "k_proj", "v_proj"}
        for name, parameter in biased.named_parameters():
            if name in missing:
                parameter.data.zero_()
        ids = some_tokens(shape)
        torch.testing.assert_close(model(ids).logits, biased(ids).logits, rtol=1e-5, atol=1e-6)


def test_records_without_a_choice_of_biases_keep_their_keys():
    shape = architecture_for(20e3, 97, prefix_tokens=4)
    run = RunConfig(shape, 512, 0, NO_TEXT)
    assert "qkv_bias" not in run.identity()["architecture"]
    other = replace(run, architecture=replace(shape, qkv_bias=False))
    assert (other.key, other.setup) != (run.key, run.setup)
    with pytest.raises(UsageError, match="models with experts have no QKV biases anyway"):
        architecture_for(20e3, 97, num_experts=4, qkv_bias=False)
    with pytest.raises(UsageError, match="qkv_bias: 'no': give true or false"):
        parse({"qkv_bias": "no"})
    assert SweepSpec(**parse({"qkv_bias": False})).family["qkv_bias"] is False


@pytest.mark.parametrize("mlp_only", [[], [0, 2], [0, 1, 2]])
def test_families_with_experts_may_have_dense_layers(mlp_only):
    """Also with only such layers, of which the library cannot make a balancing loss."""
    model = add_streams(make("qwen3_moe", mlp_only_layers=mlp_only), 2, prefix_tokens=2)
    outputs = training_forward(model, tokens())
    loss = extra_loss(model, outputs)
    assert (loss is None) == (len(mlp_only) == 3)
    if loss is not None:
        assert len(outputs.router_logits) == 2 * (3 - len(mlp_only))
        assert 0.1 * 1.9 < loss.item() < 0.1 * 4  # its weight, times about 2 when even, 4 with all on the same two


def test_experts_decay_like_other_matrices():
    model = build(MOE.with_streams(2))
    groups = make_optimizer(model, Recipe(weight_decay=0.1), 1e-2).param_groups
    decaying = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    for name, parameter in model.named_parameters():
        stream = "prefix" in name or "aggregate" in name
        assert (id(parameter) in decaying) == (parameter.ndim >= 2 and not stream), name


@pytest.fixture(scope="module")
def data(text_folder):
    return tokenise(load_corpus(str(text_folder)), 300)


def test_training_learns_everything_and_repeats_exactly(data):
    recipe = Recipe(val_tokens=4096)
    shape = architecture_for(12e3, data.vocab_size, prefix_tokens=4, num_experts=4).with_streams(2)
    config = RunConfig(shape, whole_steps(20e3, recipe), 0, data.text, recipe)
    before = build_model(config).state_dict()
    first, second = (train_run(config, data) for _ in range(2))
    assert first.evaluation == second.evaluation
    assert first.curve == second.curve
    assert first.evaluation.loss < 0.95 * np.log(data.vocab_size)
    after = first.model.state_dict()
    assert [name for name, weight in before.items() if torch.equal(weight, after[name])] == []
    assert all(torch.equal(weight, second.model.state_dict()[name]) for name, weight in after.items())


@torch.no_grad()
def test_generation_from_the_cache_is_that_of_the_whole_text():
    """Also after training: nothing that training needs stays switched on."""
    shape = MOE.with_streams(2)
    model, ids = build(shape).eval(), some_tokens(shape, rows=2, length=5)
    training_forward(model, ids)
    mask = torch.ones_like(ids)
    made = model.generate(ids, attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert made.shape == (2, 11)
    text = ids
    for _ in range(6):
        text = torch.cat([text, model(text, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(made, text)
