"""Loops through the layers: against a model that writes out its passes, with gradients, caches and records."""

from dataclasses import replace

import pytest
import torch

from scalelab import run_sweep
from scalelab.errors import UsageError
from scalelab.train.build import build_model
from tests.support.runs import PLAIN, B, forward_and_backward, run_of, tokens_of

LOOPS = 3
_PASS = "model.layers.0.layers."


def written_out(shape):
    """Return a looped model, and one with as many layers as passes that hold the same weights."""
    looped = build_model(run_of(replace(shape, loops=LOOPS)))
    deep = build_model(run_of(replace(shape, num_layers=LOOPS * shape.num_layers)))
    state = looped.state_dict()
    for name in deep.state_dict():
        if name.startswith("model.layers."):
            number, _, rest = name.removeprefix("model.layers.").partition(".")
            state[name] = state[f"{_PASS}{int(number) % shape.num_layers}.{rest}"]
    deep.load_state_dict({name: state[name] for name in deep.state_dict()})
    return looped, deep


@pytest.mark.parametrize("P", [1, 2])
@pytest.mark.parametrize("kind", [PLAIN, replace(PLAIN, qkv_bias=False), replace(PLAIN, num_experts=4)])
def test_loops_are_layers_written_out_with_shared_weights(kind, P):
    """Logits are equal, and a shared weight's gradient is the sum over its passes."""
    looped, deep = written_out(kind.with_streams(P))
    batch = torch.from_numpy(tokens_of(run_of(PLAIN), B))
    for model in (looped, deep):
        forward_and_backward(model, batch)
    with torch.no_grad():
        torch.testing.assert_close(looped(batch, use_cache=False).logits, deep(batch, use_cache=False).logits)
    gradients = {name: p.grad for name, p in deep.named_parameters()}
    for name, parameter in looped.named_parameters():
        if name.startswith(_PASS):
            number, _, rest = name.removeprefix(_PASS).partition(".")
            layers = range(int(number), LOOPS * PLAIN.num_layers, PLAIN.num_layers)
            wanted = sum(gradients[f"model.layers.{i}.{rest}"] for i in layers)
        else:
            wanted = gradients[name]
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6)


def test_loops_add_no_parameters_and_start_from_the_same_weights():
    once, looped = (build_model(run_of(replace(PLAIN, loops=r))) for r in (1, LOOPS))
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in (once, looped)]
    assert torch.equal(*weights)
    assert replace(PLAIN, loops=LOOPS).n_params == PLAIN.n_params


def test_generation_goes_without_a_cache():
    model = build_model(run_of(replace(PLAIN, loops=2))).eval()
    ids = torch.arange(1, 6)[None]
    found = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
    for i in range(5, 8):
        assert found[0, i] == model(found[:, :i], use_cache=False).logits[0, -1].argmax()
    with pytest.raises(ValueError, match="no KV cache"):
        model(ids, use_cache=True)


def test_a_sweep_over_loops_records_them_and_saves_no_models(text_folder, tmp_path):
    settings = {"recipe": {"val_tokens": 2048}, "corpus": str(text_folder), "tokenizer": 300}
    found = run_sweep(N="12k", P=2, D="10k", seeds=0, loops=[1, 2], settings=settings, out=tmp_path).records
    assert sorted(found["n_loops"]) == [1, 2]
    assert found["setup"].nunique() == 1
    assert found["n_params"].nunique() == 1
    flops = found.set_index("n_loops")["train_flops"]
    assert 1 < flops[2] / flops[1] < 2  # the head is not repeated
    with pytest.raises(UsageError, match="cannot be saved"):
        run_sweep(N="12k", P=1, D="10k", seeds=0, loops=2, save_models=True, settings=settings, out=tmp_path)
