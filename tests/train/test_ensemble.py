"""Several runs trained as one have the losses that each has by itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scalelab import records
from scalelab.architecture import architecture_for
from scalelab.errors import DivergedError, UsageError
from scalelab.sweep.run import Execution, run_sweep
from scalelab.sweep.spec import SweepSpec
from scalelab.sweep.tasks import make_tasks
from scalelab.train.corpus import load_corpus
from scalelab.train.ensemble import can_train_together, train_ensemble
from scalelab.train.recipe import Recipe, RunConfig, whole_steps
from scalelab.train.tokens import tokenise
from scalelab.train.trainer import train_run


@pytest.fixture(scope="module")
def data(text_folder):
    return tokenise(load_corpus(str(text_folder)), 300)


def config(data, P=1, D=20e3, **changes):
    recipe = Recipe(val_tokens=4096, dtype=changes.pop("dtype", "fp32"), lr=changes.pop("lr", 1e-2))
    shape = architecture_for(12e3, data.vocab_size, prefix_tokens=4).with_streams(P)
    return RunConfig(shape, whole_steps(D, recipe), changes.get("seed", 0), data.text, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("P", [1, 3])
def test_each_member_has_the_losses_of_a_run_by_itself(P, data):
    members = [config(data, P, seed=0), config(data, P, seed=1), config(data, P, seed=0, lr=3e-3)]
    together = train_ensemble(members, data)
    for member, result in zip(members, together, strict=True):
        alone = train_run(member, data)
        ours, theirs = (np.array([loss for _, _, loss in r.curve]) for r in (result, alone))
        assert [row[:2] for row in result.curve] == [row[:2] for row in alone.curve]
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
        assert result.evaluation.loss == pytest.approx(alone.evaluation.loss, abs=2e-4)
        if P > 1:
            assert result.evaluation.streams.correlation == pytest.approx(
                alone.evaluation.streams.correlation, abs=1e-3
            )
    # Members do differ: the tolerance above is no accident.
    losses = [r.evaluation.loss for r in together]
    assert min(abs(a - b) for a, b in zip(losses, losses[1:] + losses[:1], strict=True)) > 2e-3


def test_a_member_that_diverges_leaves_the_others_alone(data):
    members = [config(data, seed=0), config(data, seed=0, lr=300.0)]
    good, bad = train_ensemble(members, data)
    assert isinstance(bad, DivergedError)
    assert good.evaluation.loss == pytest.approx(train_run(members[0], data).evaluation.loss, abs=2e-4)


def test_what_differs_in_more_than_seed_and_rate_is_refused(data):
    one = config(data)
    others = [config(data, P=2), config(data, D=30e3), replace(one, recipe=replace(one.recipe, beta2=0.9))]
    for other in others:
        assert not can_train_together([one, other])
        with pytest.raises(UsageError, match="differ in nothing but seed and learning rate"):
            train_ensemble([one, other], data)
    wsd = [replace(c, recipe=replace(c.recipe, schedule="wsd")) for c in (one, config(data, seed=1))]
    assert not can_train_together(wsd)  # which share a stable phase instead


def test_tasks_put_together_what_can_be(data):
    configs = [config(data, P, seed=seed) for P in (1, 2) for seed in range(3)]
    tasks = make_tasks(configs, together=2)
    groups = [task for task in tasks if task.members]
    assert sorted(len(task.members) for task in groups) == [2, 2]
    assert all(len({c.architecture.P for c in task.members}) == 1 for task in groups)
    own = [task for task in tasks if not task.shared]
    assert {task.config.key for task in own} == {c.key for c in configs}
    assert sum(task.needs is not None for task in own) == 4
    assert len(make_tasks(configs)) == 6


@pytest.mark.slow
def test_a_sweep_records_members_as_it_records_single_runs(text_folder, tmp_path):
    spec = SweepSpec(
        "t", N=(12e3,), P=(1, 2), D=(10e3,), seeds=(0, 1), corpus=str(text_folder), tokenizer=300,
        recipe=Recipe(val_tokens=4096, dtype="fp32"),
    )  # fmt: skip
    execution = Execution("cpu", workers=2)
    single = run_sweep(spec, tmp_path / "single", execution)
    together = run_sweep(spec, tmp_path / "together", replace(execution, together=8))
    assert set(single["key"]) == set(together["key"])
    both = single.merge(together, on="key", suffixes=("", "_together"))
    np.testing.assert_allclose(both["loss"], both["loss_together"], atol=2e-4)
    same = ["n_params", "n_streams", "n_tokens", "seed", "setup", "corpus_digest", "train_flops", "micro_batch_size"]
    for name in same:
        assert (both[name] == both[f"{name}_together"]).all(), name
    assert len(records.load(tmp_path / "together")) == 4
    assert not list((tmp_path / "together").glob("logs/*"))
    # Nothing is trained again.
    torch.manual_seed(0)
    again = run_sweep(spec, tmp_path / "together", replace(execution, together=8))
    assert (again["created_utc"] == together["created_utc"]).all()
