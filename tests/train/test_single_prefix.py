"""A prefix at P = 1, the control of streams: its parameters, its training, and the phase it shares with all P."""

from dataclasses import replace

import pytest
import torch

from scalelab import pairs, run_sweep
from scalelab.errors import UsageError
from scalelab.train.build import build_model
from scalelab.train.phases import phase_key, phases
from tests.support.runs import PLAIN, PREFIX, B, forward_and_backward, run_of, tokens_of

SINGLE = replace(PLAIN, single_prefix=True)


def test_it_has_one_prefix_and_no_aggregator():
    model = build_model(run_of(SINGLE))
    wanted = PLAIN.num_layers * 2 * PLAIN.num_kv_heads * PREFIX * PLAIN.head_dim
    assert sum(p.numel() for _, p in model.stream_parameters()) == SINGLE.stream_params == wanted
    assert sum(p.numel() for p in model.parameters()) == SINGLE.total_params
    assert model.get_decoder().aggregator is None
    plain = build_model(run_of(PLAIN))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in plain.state_dict().items())


def test_the_prefix_matters_and_learns():
    model, batch = build_model(run_of(SINGLE)), torch.from_numpy(tokens_of(run_of(PLAIN), B))
    with torch.no_grad(), model.plain():
        without = model(batch, use_cache=False).logits
    assert (model(batch, use_cache=False).logits - without).abs().max() > 0.01
    forward_and_backward(model, batch)
    assert all(p.grad.abs().max() > 0 for _, p in model.stream_parameters())


def test_all_P_share_its_plain_phase():
    runs = [
        replace(run_of(shape, steps=8, schedule="wsd"), plain_tokens=4 * run_of(PLAIN).step_tokens)
        for shape in (PLAIN, SINGLE, PLAIN.with_streams(2))
    ]
    assert len({phase_key(phases(run)[0]) for run in runs}) == 1
    assert len({run.key for run in runs}) == 3
    assert runs[0].setup != runs[1].setup
    assert replace(runs[1].architecture, single_prefix=False).with_streams(2) == SINGLE.with_streams(2)
    with pytest.raises(UsageError, match="single_prefix is of P = 1"):
        replace(SINGLE, P=2)


def test_a_sweep_trains_it_beside_plain_runs(text_folder, tmp_path):
    """Streams of one spec are the same runs with and without the control, and pairs compare them with it."""
    given = dict(N="12k", D="20k", seeds=0, plain_tokens="10k", out=tmp_path)
    settings = {"recipe": {"val_tokens": 2048}, "corpus": str(text_folder), "tokenizer": 300}
    first = run_sweep(P=[1, 2], settings=settings, **given).records
    second = run_sweep(P=[1, 2], settings={"single_prefix": True, **settings}, **given).records
    assert first.set_index("n_streams").key[2] == second.set_index("n_streams").key[2]
    (step,) = pairs(tmp_path, by="single_prefix").steps
    losses = [runs.set_index("n_streams").loss[1] for runs in (first, second)]
    assert step.mean.value == pytest.approx(losses[1] - losses[0])
