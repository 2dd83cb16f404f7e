"""From a resolved config to an initialised model."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import Qwen2ForCausalLM

from scalelab.model import lm_class
from scalelab.model.banks import active_bank, attention_modules
from scalelab.train.recipe import Recipe, RunConfig

_StreamedQwen2: Any = lm_class(Qwen2ForCausalLM)


def build_model(config: RunConfig) -> Any:
    """The model of a run, initialised so that for one seed every P shares the backbone's weights."""
    shape, recipe = config.architecture, config.recipe
    settings = _StreamedQwen2.config_class(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        tie_word_embeddings=shape.tied_embeddings,
        initializer_range=recipe.init_gain / math.sqrt(shape.hidden_size),
        max_position_embeddings=recipe.seq_len,
        parscale_n=shape.P,
        parscale_n_tokens=shape.prefix_tokens,
        parscale_attn_smooth=recipe.smooth,
        parscale_aggregation=shape.aggregation,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = Qwen2ForCausalLM(settings)
        torch.manual_seed(config.seed + 1_000_003)
        model = _StreamedQwen2(settings)
        model.load_state_dict(backbone.state_dict(), strict=False)
        if shape.P > 1:
            _init_streams(model, recipe)
    return model


@torch.no_grad()
def _init_streams(model: Any, recipe: Recipe) -> None:
    """Prefixes wide enough to make streams differ, and a mixture that starts uniform.

    With the ordinary N(0, 0.02) the streams of a small model stay copies of each other, and the
    mixture falls onto one of them.
    """
    decoder = model.get_decoder()
    for module in attention_modules(decoder):
        bank: Any = active_bank(module)
        bank.prefix_k.normal_(std=recipe.prefix_key_std)
        bank.prefix_v.normal_(std=recipe.prefix_value_std)
    decoder.mixture.start_uniform()
