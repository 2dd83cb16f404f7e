"""Addition of streams to a loaded model, after checking that its architecture supports them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from scalelab.aggregation import get_aggregation
from scalelab.architecture import PREFIX_TOKENS
from scalelab.model.attention import attention_name, record_attention_calls
from scalelab.model.banks import active_bank, attention_modules, kv_shapes
from scalelab.model.classes import config_class, lm_class, set_up_streams
from scalelab.model.language_model import StreamedLM


def add_streams(
    model: PreTrainedModel,
    P: int | Sequence[int],
    prefix_tokens: int | None = None,
    smooth: float = 0.01,
    aggregation: str = "dynamic",
    seed: int = 0,
) -> Any:
    """Add banks of P streams to a causal language model, in place, and return it with the last bank active.

    Works for every decoder of transformers that uses its attention interface. Prefixes start at
    N(0, initializer_range²) and the aggregator uniform; for a pretrained model `prefix_init.start_from_text` starts
    better. A model with banks gets more of them.

    Args:
        model: A causal language model.
        P: Number of streams, or several for several banks. P = 1 is the plain model, unless `prefix_tokens` is given:
            then it is a trained prefix without aggregator (prefix tuning).
        prefix_tokens: Length of each stream's prefix; by default 48.
        smooth: Smoothing ε of the aggregator's weights; ignored if the model has banks.
        aggregation: A name of `scalelab.aggregation.AGGREGATIONS`; ignored if the model has banks.
        seed: Seed of the initial values.

    Raises:
        ValueError: An argument is wrong, or the architecture cannot have streams; the message says why.
    """
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"model must be a model of transformers, not {type(model).__name__}; load it first")
    wanted = [P] if isinstance(P, int) else list(P) if isinstance(P, Sequence) else [P]
    if not wanted or not all(type(p) is int and p >= 1 for p in wanted):
        raise ValueError(f"P must be a whole number of at least 1, not {P!r}")
    if prefix_tokens is not None and prefix_tokens < 1:
        raise ValueError(f"prefix_tokens must be at least 1, not {prefix_tokens}")
    get_aggregation(aggregation)
    if not 0 <= smooth < 1:
        raise ValueError(f"smooth must lie in [0, 1), not {smooth}")
    sizes = {p: prefix_tokens or PREFIX_TOKENS for p in wanted if p > 1 or prefix_tokens}
    with _own_config(model):
        if not isinstance(model, StreamedLM):
            _make_streamed(model)
    new = {p: n for p, n in sizes.items() if p not in model.banks}
    if taken := [p for p in sizes if p not in new]:
        raise ValueError(f"the model already has a bank of {taken[0]} streams")
    if new:
        if model.banks:
            model.convert_to_bank_dict()
        before = {name: value for name, value in vars(model.config).items() if name.startswith("parscale_")}
        try:
            _declare(model, new, smooth, aggregation)
            model.create_banks()
        except Exception:  # out of memory
            vars(model.config).update(before)
            raise
        model.set_attn_implementation(model.config._attn_implementation)
    for p in new:
        model.set_streams(p)
        _initialise(model, seed + p)
    model.set_streams(wanted[-1])
    return model


@contextmanager
def _own_config(model: PreTrainedModel) -> Iterator[None]:
    """Give the model a copy of its config, which other models may share; after an error it has the old one again."""
    shared = model.config
    own = copy.deepcopy(shared)
    own._attn_implementation = shared._attn_implementation
    _replace_config(model, shared, own)
    try:
        yield
    except Exception:
        _replace_config(model, own, shared)
        raise


def _replace_config(model: PreTrainedModel, old: Any, new: Any) -> None:
    for module in model.modules():
        if getattr(module, "config", None) is old:
            module.config = new


def _declare(model: StreamedLM, new: dict[int, int], smooth: float, aggregation: str) -> None:
    config = model.config
    if not model.banks:
        config.parscale_attn_smooth, config.parscale_aggregation = smooth, aggregation
        if len(new) == 1 and 1 not in new:
            ((config.parscale_n, config.parscale_n_tokens),) = new.items()
            return
        config.parscale_banks = {}
    banks = {**config.parscale_banks, **{str(p): n for p, n in new.items()}}
    config.parscale_banks = banks
    config.parscale_n = max(map(int, banks))
    config.parscale_n_tokens = banks[str(config.parscale_n)]


@torch.no_grad()
def _initialise(model: StreamedLM, seed: int) -> None:
    """Initialise the active bank."""
    decoder = model.get_decoder()
    std = getattr(model.config, "initializer_range", 0.02)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in attention_modules(decoder):
            bank = active_bank(module)
            for prefix in (bank.prefix_k, bank.prefix_v):
                # Drawn on the CPU in fp32, so that all devices and dtypes start with the same values.
                prefix.copy_(torch.randn(prefix.shape) * std)
        if decoder.aggregator is not None:
            for part in decoder.aggregator.modules():
                if isinstance(part, nn.Linear):
                    part.weight.copy_(torch.randn(part.weight.shape) * std)
                    part.bias.zero_()
            decoder.aggregator.reset_to_uniform()


def _make_streamed(model: PreTrainedModel) -> None:
    """Change the class of `model` to the one with streams, without a bank, if its layers can see prefixes."""
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise ValueError(f"{name}: encoder-decoder models cannot have streams")
    decoder = model.get_decoder()
    if decoder is model or not isinstance(decoder, PreTrainedModel) or decoder.config is not model.config:
        raise ValueError(f"{name}: it has no separate decoder module below its head, which streams need")
    if not name.endswith(("ForCausalLM", "LMHeadModel")):
        raise ValueError(f"{name}: not a causal language model")
    modules = attention_modules(decoder)
    if not all(getattr(part, "is_causal", True) for part in (model.config, *modules)):
        raise ValueError(
            f"{name}: some of its attention is not causal (cross-attention, or is_causal or is_decoder is false in "
            "its config)"
        )
    if getattr(model.config, "add_cross_attention", False):
        raise ValueError(f"{name}: it has cross-attention to another model, which streams do not support")
    shapes = _probe_kv_shapes(model, modules)
    config = model.config
    own_config = type(config)
    streamed = lm_class(type(model), None if own_config is type(model).config_class else own_config)
    config.__class__ = config_class(own_config)
    if shapes != _kv_shapes_from_config(config, len(modules)):
        config.parscale_kv_shapes = [list(shape) for shape in shapes]
    model.__class__ = streamed
    set_up_streams(model)


def _kv_shapes_from_config(config: Any, count: int) -> list[tuple[int, int, int]] | None:
    """Return the shapes of keys and values from the config alone; None if it does not have them."""
    try:
        return kv_shapes(config, count)
    except Exception:  # configs with different layers raise their own errors
        return None


def _probe_kv_shapes(model: PreTrainedModel, modules: list[nn.Module]) -> list[tuple[int, int, int]]:
    """Return (kv_heads, key_dim, value_dim) of each layer, from a run of two tokens.

    Raises:
        ValueError: A layer does not use the attention interface, so that its prefix would have no effect.
    """
    name, layers = type(model).__name__, model.config.num_hidden_layers
    own = model.config._attn_implementation
    training = model.training
    try:
        model.set_attn_implementation(attention_name(own))
        with record_attention_calls(keep=True) as calls, torch.no_grad():
            model.eval()(torch.zeros((1, 2), dtype=torch.long, device=model.device), use_cache=False)
    except Exception as error:  # architectures that need more than tokens raise anything
        raise ValueError(f"{name}: it cannot run on two tokens ({type(error).__name__}: {error})") from error
    finally:
        model.train(training)
        model.config._attn_implementation = own
    if calls.biased:
        raise ValueError(f"{name}: its attention adds a position bias, which has no values for a prefix")
    if any(keys.shape[2] != 2 for keys in calls.keys):
        raise ValueError(f"{name}: its layers attend to more than the tokens, so a prefix cannot come first")
    seen = {id(m): (k, v) for m, k, v in zip(calls.modules, calls.keys, calls.values, strict=True)}
    if len(modules) != layers or set(seen) != {id(m) for m in modules} or len(calls.modules) != layers:
        raise ValueError(
            f"{name}: its {layers} layers have {len(modules)} attention modules, and {len(seen)} modules use "
            f"transformers' attention interface, {len(calls.modules)} times in total; streams need one per layer"
        )
    return [(seen[id(m)][0].shape[1], seen[id(m)][0].shape[3], seen[id(m)][1].shape[3]) for m in modules]
