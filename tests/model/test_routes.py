"""Every way to the same attention: by length, by kernel, by size of the cache, and compiled."""

import copy

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from scalelab.model import add_streams, attention, cache
from tests.support.families import make, step_by_step, tokens, warm

P, N_PREFIX = 4, 5


@pytest.fixture
def large(monkeypatch):
    """Small caches go the way of large ones."""
    monkeypatch.setattr(attention, "_SPLIT_BYTES", 0)
    monkeypatch.setattr(cache, "_MIN_KEY_BYTES", 0)


def streamed(name, **options):
    return warm(add_streams(make(name, **options), P, prefix_tokens=N_PREFIX))


@pytest.mark.parametrize("name", ["qwen2", "gemma", "gpt2", "mistral"])
@torch.no_grad()
def test_one_query_over_prefix_and_cache_apart(name, large):
    model, ids = streamed(name), tokens(length=90)  # longer than the first room
    torch.testing.assert_close(step_by_step(model, ids), model(ids).logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"cache_implementation": "static"}])
@torch.no_grad()
def test_generation_with_a_large_cache(options, monkeypatch):
    model, ids = streamed("qwen2"), tokens()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": mask, "pad_token_id": 0} | options
    expected = model.generate(ids, **options)
    monkeypatch.setattr(attention, "_SPLIT_BYTES", 0)
    monkeypatch.setattr(cache, "_MIN_KEY_BYTES", 0)
    assert torch.equal(model.generate(ids, **options), expected)


@pytest.mark.parametrize("threshold", [512, 8])  # explicit mask, zero queries
def test_a_compiled_model_gives_the_same_logits_and_gradients(threshold, monkeypatch):
    monkeypatch.setattr(attention, "_ZERO_QUERY_LENGTH", threshold)
    torch.compiler.reset()
    model, ids = streamed("qwen2", num_hidden_layers=1), tokens()
    model.get_decoder().prefixes_verified = True  # the first plain run would look at each layer
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    results = []
    for run in (model, compiled):
        model.zero_grad()
        out = run(ids, labels=ids, use_cache=False)
        out.loss.backward()
        results.append([out.logits, *(p.grad for p in model.parameters())])
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_growing_layer_holds_what_a_dynamic_one_holds(large):
    ours, theirs = cache.GrowingLayer(), DynamicLayer()
    generator = torch.Generator().manual_seed(0)

    def both(rows, length):
        new = torch.randn(2, rows, 2, length, 4, generator=generator)
        for a, b in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(a, b)

    both(6, 5)
    for _ in range(200):
        both(6, 1)
    for change in (
        lambda layer: layer.reorder_cache(torch.tensor([1, 0, 2, 2, 4, 5])),
        lambda layer: layer.crop(-7),
        lambda layer: layer.batch_select_indices(torch.tensor([0, 3])),
        lambda layer: layer.batch_repeat_interleave(3),
    ):
        change(ours)
        change(theirs)
        rows = len(theirs.keys)
        both(rows, 1)
        both(rows, 3)
    held = ours.keys.clone()
    before = ours.keys
    both(6, 1)
    assert torch.equal(before, held)  # who still looks at the shorter one sees what was there


def test_a_growing_layer_lets_gradients_through(large):
    layer = cache.GrowingLayer()
    keys = torch.randn(4, 2, 5, 4, requires_grad=True)
    layer.update(keys, keys)
    layer.update(keys[:, :, :1], keys[:, :, :1])[0].sum().backward()
    assert keys.grad.sum() == 4 * 2 * 4 * 6


def test_a_cache_filled_in_inference_mode_can_grow_outside(large):
    layer = cache.GrowingLayer()
    with torch.inference_mode():
        for _ in range(2):
            layer.update(torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3, 4))
    with torch.no_grad():
        assert layer.update(torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3, 4))[0].shape == (2, 1, 9, 4)


@torch.no_grad()
def test_what_others_hold_of_a_cache_is_not_overwritten(large):
    model, ids = streamed("qwen2"), tokens(length=20)
    start = model(ids[:, :10], use_cache=True).past_key_values
    model(ids[:, 10:12], past_key_values=start)  # now with room to grow
    branch = copy.copy(start)
    branch.layers = [copy.copy(layer) for layer in start.layers]
    held = start.layers[0].keys
    before = held.clone()
    one, other = ids[:, 12:13], (ids[:, 12:13] + 1) % 97
    first = model(one, past_key_values=start).logits
    second = model(other, past_key_values=branch).logits
    torch.testing.assert_close(second, model(torch.cat([ids[:, :12], other], 1)).logits[:, -1:], atol=2e-4, rtol=1e-4)
    later = model(ids[:, 13:14], past_key_values=start).logits
    torch.testing.assert_close(later, model(ids[:, :14]).logits[:, -1:], atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(first, model(ids[:, :13]).logits[:, -1:], atol=2e-4, rtol=1e-4)
    start.crop(-3)
    model(other, past_key_values=start)
    assert torch.equal(held, before)


def test_gradients_go_through_cached_steps(large):
    model, ids = streamed("qwen2"), tokens()
    model.requires_grad_(False)
    own = [p.requires_grad_(True) for _, p in model.stream_parameters()]
    model(ids, use_cache=False).logits[:, -1].sum().backward()
    expected = [p.grad.clone() for p in own]
    model.zero_grad()
    past = None
    for t in range(ids.shape[1]):
        out = model(ids[:, t : t + 1], past_key_values=past, use_cache=True)
        past = out.past_key_values
    out.logits[:, -1].sum().backward()
    for got, want in zip((p.grad for p in own), expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
