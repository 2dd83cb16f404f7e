"""Loss curves of tiny runs, committed, so that a change of the training code that moves losses is seen.

Made anew by ``python -m tests.train.test_golden_curves``. Another CPU or version of torch adds in another order, so
curves agree within a tolerance far below what a change of seed does (0.02 nats and more), not to the bit.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from scalelab.architecture import architecture_for
from scalelab.train.build import build_model
from scalelab.train.checkpoint import TrainState
from scalelab.train.loop import Phase, optimise
from scalelab.train.optimizer import make_optimizer
from scalelab.train.recipe import Recipe, RunConfig, TextSource
from tests.support.paths import DATA

CURVES = DATA / "golden_curves.json"
TOLERANCE = {"fp32": 2e-3, "bf16": 2e-2}  # nats
STEPS, EVERY = 60, 5
CASES = {
    "plain": {},
    "four streams": {"P": 4},
    "experts with two streams": {"P": 2, "num_experts": 4},
    "bf16 with two streams": {"P": 2, "dtype": "bf16"},
    "first ladder, two streams": {"P": 2, "ladder": 1},
}


class Words:
    """A made text with something to learn: words of four tokens, often repeated."""

    def train(self):
        rng = np.random.default_rng(0)
        words = rng.integers(0, 97, (60, 4))
        return words[rng.zipf(1.4, 6000) % 60].ravel().astype(np.uint16)


def curve(P=1, dtype="fp32", ladder=2, num_experts=0, seed=0):
    """The mean training losses of each `EVERY` steps."""
    recipe = Recipe(seq_len=32, batch_size=8, dtype=dtype)
    shape = replace(architecture_for(50e3, 97, 4, num_experts=num_experts, ladder=ladder), P=P)
    config = RunConfig(shape, STEPS * 8 * 32, seed, TextSource("made", "0", "made", "0"), recipe, ladder=ladder)
    model = build_model(config)
    state = TrainState()
    phase = Phase(recipe, STEPS, seed, lambda step: min(1.0, (step + 1) / 10), EVERY, "golden")
    optimise(model, make_optimizer(model, recipe, config.peak_lr), Words(), phase, state)
    return [loss for _, _, loss in state.curve]


@pytest.mark.parametrize("name", CASES)
def test_curves_are_those_that_are_committed(name):
    want = json.loads(CURVES.read_text())[name]
    got = curve(**CASES[name])
    assert got[-1] < got[0] - 1
    np.testing.assert_allclose(got, want, atol=TOLERANCE[CASES[name].get("dtype", "fp32")], rtol=0)


def test_another_seed_differs_by_more_than_the_tolerance():
    assert np.abs(np.subtract(curve(seed=1), curve())).max() > 5 * TOLERANCE["fp32"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    CURVES.write_text(
        json.dumps({name: [round(x, 5) for x in curve(**case)] for name, case in CASES.items()}, indent=1)
    )
