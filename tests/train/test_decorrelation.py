"""Streams pushed apart: the similarity by hand, what it changes in training, and what it leaves alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from scalelab.errors import UsageError
from scalelab.train.build import build_model
from scalelab.train.ensemble import can_train_together
from scalelab.train.loss import NEXT_TOKEN, next_token, stream_similarity
from scalelab.train.optimizer import make_optimizer
from scalelab.train.phases import phases
from scalelab.train.recipe import Recipe
from scalelab.train.step import TrainingStep
from tests.support.runs import PLAIN, B, run_of, tokens_of


def test_similarity_is_the_mean_squared_cosine_of_two_streams():
    streams = torch.randn((3, 2, 5, 8), generator=torch.Generator().manual_seed(0))
    values = streams.numpy().astype(float)
    cosines = [
        (values[p, b, t] @ values[q, b, t]) / np.linalg.norm(values[p, b, t]) / np.linalg.norm(values[q, b, t])
        for p in range(3)
        for q in range(3)
        if p != q
        for b in range(2)
        for t in range(5)
    ]
    assert stream_similarity(streams).item() == pytest.approx(np.mean(np.square(cosines)), rel=1e-5)
    assert stream_similarity(streams[:1].expand(3, -1, -1, -1)).item() == pytest.approx(1, abs=1e-5)
    apart = torch.eye(3)[:, None, None, :].expand(3, 2, 5, 3)
    assert stream_similarity(apart).item() == pytest.approx(0, abs=1e-6)


def trained(weight, P=4, steps=30, **changes):
    """Return the last reported loss and the similarity of the streams of a model after some steps."""
    config = run_of(PLAIN.with_streams(P), decorrelation=weight)
    model = build_model(config).train()
    objective = next_token(weight)
    step = TrainingStep(
        model, make_optimizer(model, config.recipe, 1e-2), config.recipe, objective=objective, **changes
    )
    batch = torch.from_numpy(tokens_of(config, B))
    loss = [step(batch).item() for _ in range(steps)][-1]
    if P == 1:
        return loss, None
    seen = []
    hook = model.get_decoder().aggregator.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with torch.no_grad():
        logits = model(batch[:, :-1], use_cache=False).logits
    hook.remove()
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).item(), stream_similarity(seen[0]).item()


def test_streams_trained_with_it_are_less_alike():
    assert trained(1.0)[1] < 0.5 * trained(0.0)[1]


def test_micro_batches_and_models_without_streams_train_alike():
    whole, parts = trained(0.5, steps=3), trained(0.5, steps=3, micro_batch=1)
    assert parts == pytest.approx(whole, rel=1e-4)
    assert trained(0.5, P=1) == trained(0.0, P=1)


def test_the_reported_loss_is_the_cross_entropy_alone():
    config = run_of(PLAIN.with_streams(2))
    model, batch = build_model(config), torch.from_numpy(tokens_of(config, B))
    objective, loss = next_token(0.5)(model, model, batch, False, None)
    _, plain = NEXT_TOKEN(model, model, batch, False, None)
    assert loss.item() == plain.item()
    assert objective.item() > loss.item()


def test_it_belongs_to_the_streams_and_not_to_the_plain_phase():
    config = run_of(PLAIN.with_streams(2), steps=4, schedule="wsd", decorrelation=0.5)
    plain, last = phases(replace(config, plain_tokens=2 * config.step_tokens))[:: len(phases(config))]
    assert (plain.recipe.decorrelation, last.recipe.decorrelation) == (0.0, 0.5)
    assert not can_train_together([config, replace(config, seed=1)])
    assert config.setup != run_of(PLAIN.with_streams(2), steps=4, schedule="wsd").setup
    with pytest.raises(UsageError, match="decorrelation must not be negative"):
        Recipe(decorrelation=-1.0)
