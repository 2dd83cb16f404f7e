"""Runs without data: configs, tokens, a forward and backward pass."""

import numpy as np
import torch
from torch.nn import functional as F

from scalelab.architecture import Architecture
from scalelab.train.recipe import Recipe, RunConfig, TextSource

TEXT = TextSource("made", "0", "made", "0")

T, B, PREFIX = 32, 4, 6

PLAIN = Architecture(64, 168, 2, 8, 2, 300, prefix_tokens=PREFIX)


def run_of(shape, steps=1, seed=0, **recipe):
    recipe = Recipe(**({"seq_len": T, "batch_size": B, "dtype": "fp32", "val_tokens": 2048} | recipe))
    return RunConfig(shape, steps * recipe.seq_len * recipe.batch_size, seed, TEXT, recipe)


def tokens_of(config, rows):
    shape = (rows, config.recipe.seq_len + 1)
    return np.random.default_rng(0).integers(0, config.architecture.vocab_size, shape)


def forward_and_backward(model, batch, bf16=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(batch[:, :-1], use_cache=False).logits
    F.cross_entropy(logits.float().flatten(0, 1), batch[:, 1:].flatten()).backward()
