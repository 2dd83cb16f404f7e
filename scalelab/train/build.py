"""Initialised models from configs, and the balancing loss of models with experts."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import LlamaForCausalLM, MixtralForCausalLM, Qwen2ForCausalLM

from scalelab.architecture import Architecture
from scalelab.errors import ScalelabError
from scalelab.model import lm_class
from scalelab.model.banks import active_bank, attention_modules
from scalelab.train.frozen import build_frozen
from scalelab.train.looped import loop_layers
from scalelab.train.recipe import Recipe, RunConfig
from scalelab.train.tokens import TokenData

ROUTER_LOSS = 0.01  # weight of the balancing loss; Switch Transformer (arXiv 2101.03961), section 2.2


def build_model(config: RunConfig, data: TokenData | None = None, device: str = "cpu") -> Any:
    """Build and initialise the model of a run on `device`; for one seed every P has the same backbone weights.

    Streams of a frozen model start from the text of `data`, and without it from random numbers.
    """
    if config.frozen:
        return build_frozen(config, data, device)
    shape, recipe = config.architecture, config.recipe
    base = MixtralForCausalLM if shape.num_experts else Qwen2ForCausalLM if shape.qkv_bias else LlamaForCausalLM
    streamed: Any = lm_class(base)
    settings = streamed.config_class(
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
        parscale_banks={"1": shape.prefix_tokens} if shape.single_prefix else None,
        attn_implementation="parscale_sdpa",  # also without streams, for its choice of kernels
        **_family(shape),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        backbone = base(settings)
        torch.manual_seed(config.seed + 1_000_003)
        model = streamed(settings)
        model.load_state_dict(backbone.state_dict(), strict=False)
        if shape.has_prefixes:
            _init_streams(model, recipe)
    if shape.loops > 1:
        loop_layers(model, shape.loops)
    return model.to(device)


def _family(shape: Architecture) -> dict[str, Any]:
    """Return the settings of Mixtral and Llama, with Qwen2's values where their defaults differ."""
    if not shape.num_experts and shape.qkv_bias:
        return {}
    shared = {
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "bos_token_id": None,
        "eos_token_id": None,
    }
    if not shape.num_experts:
        return shared
    return shared | {
        "num_local_experts": shape.num_experts,
        "num_experts_per_tok": shape.experts_per_token,
        "router_aux_loss_coef": ROUTER_LOSS,
    }


@torch.no_grad()
def _init_streams(model: Any, recipe: Recipe) -> None:
    """Initialise prefixes with a spread that makes streams differ, and an aggregator with uniform weights.

    With the usual N(0, 0.02) the streams of a small model stay copies of each other, and the aggregator ends up using
    only one of them.
    """
    decoder = model.get_decoder()
    for module in attention_modules(decoder):
        bank: Any = active_bank(module)
        bank.prefix_k.normal_(std=recipe.prefix_key_std)
        bank.prefix_v.normal_(std=recipe.prefix_value_std)
    if decoder.aggregator is not None:
        decoder.aggregator.reset_to_uniform()


def training_options(model: Any) -> dict[str, Any]:
    """Return the arguments of `model.forward`, besides the tokens, that `extra_loss` needs in training."""
    # Not set in the model's config: in generation from a cache the mask is longer than the routers' logits.
    return {"output_router_logits": True} if _has_routers(model) else {}


def _has_routers(model: Any) -> bool:
    """Return true if `model` has routers; dense models of a family with experts fail when asked for logits."""
    if not getattr(model.config, "router_aux_loss_coef", None):
        return False
    recorder = model.get_decoder()._can_record_outputs.get("router_logits")
    router = getattr(recorder, "target_class", recorder)
    return router is not None and any(isinstance(module, router) for module in model.modules())


def extra_loss(model: Any, outputs: Any) -> Tensor | None:
    """Return the loss to add to the cross entropy in training, in nats; None for a dense model.

    It is the weighted balancing loss of the routers, from the outputs of a forward pass with `training_options`. Each
    expert's share and probability are means over layers, streams and tokens, as transformers defines them: P streams
    count once, and layers with opposite imbalances cancel.

    Raises:
        ScalelabError: the model has routers, but `outputs` lacks their logits.
    """
    balance = getattr(outputs, "aux_loss", None)
    if _has_routers(model) and not (outputs.router_logits and isinstance(balance, Tensor)):
        raise ScalelabError(
            f"{type(model).__name__}: the logits of its routers are missing, so it would train without a balancing "
            f"loss; transformers {transformers.__version__} is not supported, install a version that scalelab allows"
        )
    return None if balance is None else model.config.router_aux_loss_coef * balance
