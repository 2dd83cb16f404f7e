"""Compiled, exported and traced models with streams, and ways to run them that are refused."""

import pytest
import torch
from transformers import GenerationConfig

from scalelab.model import add_streams, attention
from tests.support.families import make, tokens, warm

pytestmark = pytest.mark.slow


def streamed(banks=(2, 4), **options):
    return warm(add_streams(make("qwen2", num_hidden_layers=1, **options), banks, prefix_tokens=5))


def next_logits(model, run, ids):
    """Return the logits of the last token, decoded by `run` from the cache of the tokens before it."""
    past = model(ids[:, :-1], use_cache=True).past_key_values
    return run(ids[:, -1:], past_key_values=past, use_cache=True).logits


@pytest.mark.parametrize("dynamic", [None, True])
@torch.no_grad()
def test_compiled_decoding_with_other_batches_and_streams(dynamic, monkeypatch):
    monkeypatch.setattr(attention, "_SPLIT_BYTES", 3000)  # some of these caches are larger
    torch.compiler.reset()
    model = streamed()
    compiled = torch.compile(model, backend="eager", dynamic=dynamic)
    for P, rows in ((4, 2), (4, 3), (2, 3)):
        model.set_streams(P)
        ids = tokens(rows, 6, seed=rows)
        torch.testing.assert_close(next_logits(model, compiled, ids), model(ids).logits[:, -1:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_program_exported_for_any_batch_and_length():
    from torch.export import Dim, export

    class Logits(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(ids, use_cache=False).logits

    model = streamed(4)
    model(tokens())  # the first plain run looks at each layer
    sizes = {0: Dim("batch", min=2, max=16), 1: Dim("length", min=2, max=64)}
    program = export(Logits(model), (tokens(),), dynamic_shapes={"ids": sizes}, strict=False).module()
    for rows, length in ((2, 11), (3, 9), (5, 2)):
        ids = tokens(rows, length, seed=rows)
        torch.testing.assert_close(program(ids), model(ids).logits, atol=1e-5, rtol=1e-5)


def test_tracing_is_refused_by_name():
    model = streamed(4)
    with pytest.raises(ValueError, match=r"torch.jit.trace does not support streams; use torch.export"):
        _trace(model)


def _trace(model):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates tracing
        return torch.jit.trace(model, (tokens(),), check_trace=False, strict=False)


def test_continuous_batching_is_refused_by_name():
    model = streamed()
    with pytest.raises(ValueError, match="continuous batching is not supported with streams"):
        model.generate_batch([[5, 6, 7]], generation_config=GenerationConfig(max_new_tokens=2, eos_token_id=1))


@torch.no_grad()
def test_a_cache_of_other_streams_is_refused_by_name():
    model, ids = streamed(), tokens()
    past = model(ids[:, :7], use_cache=True).past_key_values
    model.set_streams(2)
    with pytest.raises(ValueError, match="cache has 8 rows, but 2 streams of 2 sequences need 4; start a new cache"):
        model(ids[:, 7:8], past_key_values=past)


@pytest.mark.parametrize("aggregation", ["dynamic", "mean", "channel"])
@torch.no_grad()
def test_hidden_states_can_be_mixed(aggregation):
    model, ids = add_streams(make("qwen2"), 4, prefix_tokens=5, aggregation=aggregation), tokens()
    warm(model)
    each = model(ids, output_hidden_states=True).hidden_states
    model.mix_hidden_states = True
    outputs = model(ids, output_hidden_states=True)
    assert len(outputs.hidden_states) == len(each)
    assert all(state.shape == (2, 11, 32) for state in outputs.hidden_states)
    torch.testing.assert_close(model.lm_head(outputs.hidden_states[-1]), outputs.logits)
    # Before the first layer all streams are the same, and weights sum to 1.
    if aggregation != "channel":
        torch.testing.assert_close(outputs.hidden_states[0], each[0][:2])
