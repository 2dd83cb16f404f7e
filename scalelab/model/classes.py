"""Classes with streams for the causal language models of transformers.

``LlamaForCausalLM`` becomes ``LlamaParScaleForCausalLM`` with model_type ``llama_parscale``. For Qwen2 this is the
format of the released ParScale checkpoints. With the separate model type, the Auto classes load a checkpoint with its
streams, or fail where scalelab is not imported. ``LlamaForCausalLM.from_pretrained`` only warns of another type and of
weights that it does not use. So checkpoints also name an attention function of scalelab, without which such a model
fails; but not those in the released format, which the original code must be able to read, nor those of models
that were saved with eager attention.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import _CAN_RECORD_REGISTRY
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from scalelab.model.attention import NAMES, attention_name
from scalelab.model.banks import bank_sizes, check_keys
from scalelab.model.decoder import StreamedDecoder
from scalelab.model.language_model import AGGREGATORS, StreamedLM
from scalelab.model_config import STREAMS_SUFFIX

_HEADS = ("ForCausalLM", "LMHeadModel")

# Registered on import, so that AutoModelForCausalLM knows them; the tests cover each.
FAMILIES = (
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "GPT2LMHeadModel",
    "GPTNeoXForCausalLM",
    "Olmo2ForCausalLM",
    "Phi3ForCausalLM",
    "SmolLM3ForCausalLM",
)


@cache
def config_class(base: type[PreTrainedConfig]) -> type[PreTrainedConfig]:
    """Return a subclass of config class `base` with the keys of streams."""

    class ParScaleConfig(base):
        model_type = base.model_type + STREAMS_SUFFIX

        # Keys of the released checkpoints
        parscale_n: int = 1
        parscale_n_tokens: int = 48
        parscale_attn_smooth: float = 0.01  # ε of the aggregator
        # Keys of scalelab
        parscale_aggregation: str = "dynamic"
        parscale_banks: dict[str, int] | None = None  # {P: prefix tokens}; None: only the bank above
        parscale_active: int | None = None  # active P, if it is not parscale_n
        parscale_kv_shapes: list | None = None  # if they do not follow from the config

        def to_diff_dict(self) -> dict[str, Any]:  # what is written to config.json
            return super().to_diff_dict() | _keys_for_transformers_4(self) | _keys_against_plain_classes(self)

    return _set_class_name(ParScaleConfig, base.__name__.replace("Config", "ParScaleConfig"))


def _keys_for_transformers_4(config: PreTrainedConfig) -> dict[str, Any]:
    """Return the keys that transformers 4 and the original code read, for which transformers 5 has other names."""
    keys: dict[str, Any] = {}
    if config.dtype is not None:
        keys["torch_dtype"] = str(config.dtype).removeprefix("torch.")
    rope = getattr(config, "rope_parameters", None)
    if isinstance(rope, dict) and "rope_theta" in rope:  # not a separate set for each kind of layer
        keys["rope_theta"] = rope["rope_theta"]
        scaling = {k: v for k, v in rope.items() if k != "rope_theta"}
        keys["rope_scaling"] = None if scaling.get("rope_type") == "default" else scaling
    return keys


def _keys_against_plain_classes(config: PreTrainedConfig) -> dict[str, Any]:
    """Return keys that make the plain class fail on a checkpoint with banks, unless the original code reads it."""
    if not isinstance(config.parscale_banks, dict | None):  # refused when a model is made
        return {}
    original = config.model_type == "qwen2" + STREAMS_SUFFIX and config.parscale_banks is None
    if original or not bank_sizes(config) or config._attn_implementation != NAMES["sdpa"]:
        return {}
    return {"attn_implementation": NAMES["sdpa"]}


@cache
def decoder_class(base: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return a subclass of decoder class `base` that repeats its inputs and aggregates its outputs."""

    class ParScaleDecoder(StreamedDecoder, base):
        argument_names = tuple(inspect.signature(base.forward).parameters)[1:]
        accepts_mask_dict = "causal_mask_mapping" in inspect.unwrap(base.forward).__code__.co_varnames

    return _set_class_name(ParScaleDecoder, base.__name__.removesuffix("Model") + "ParScaleModel")


def set_up_streams(model: StreamedLM) -> None:
    """Set up a model of an `lm_class`: the class of its decoder, and the banks that its config declares."""
    check_keys(model.config)
    decoder = model.get_decoder()
    if not isinstance(decoder, StreamedDecoder):
        decoder.__class__ = decoder_class(type(decoder))
        # The hooks for `output_hidden_states` and router logits are registered at construction: by transformers 5.23
        # under the decoder itself, by earlier versions under the name of its class.
        for key in (decoder, str(type(decoder))):
            _CAN_RECORD_REGISTRY[key] = decoder._can_record_outputs
    # Quantisers leave these modules in floating point.
    model._keep_in_fp32_modules = {*(model._keep_in_fp32_modules or ()), *AGGREGATORS}
    if model.banks:
        model.config._attn_implementation = attention_name(model.config._attn_implementation)
    model.create_banks()
    active = model.config.parscale_active if _initial_streams is None or not model.banks else _initial_streams
    model.set_streams(model.config.parscale_n if active is None else active)


_initial_streams: int | None = None


@contextmanager
def initial_streams(P: int | None) -> Iterator[None]:
    """Activate P streams in every model with banks that is loaded in the body, in any thread; None: as saved."""
    global _initial_streams
    before, _initial_streams = _initial_streams, P
    try:
        yield
    finally:
        _initial_streams = before


@cache
def lm_class(base: type[PreTrainedModel], config: type[PreTrainedConfig] | None = None) -> type[PreTrainedModel]:
    """Return a subclass of causal language model `base` with streams, registered with the Auto classes.

    Args:
        base: Class of a causal language model.
        config: Config class, for a model type that uses the model class of another type.
    """

    class ParScaleLM(StreamedLM, base):
        def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
            super().__init__(config, *args, **kwargs)
            set_up_streams(self)
            self.init_weights()  # of the banks; all other weights are initialised

    ParScaleLM.config_class = config_class(base.config_class if config is None else config)
    for head in _HEADS:
        if base.__name__.endswith(head):
            stem = base.__name__.removesuffix(head) if config is None else config.__name__.removesuffix("Config")
            _set_class_name(ParScaleLM, f"{stem}ParScale{head}")
    _register(ParScaleLM)
    return ParScaleLM


def _register(model_class: type[PreTrainedModel]) -> None:
    """Make a class known wherever transformers and its clients look for one: by type, config, and name."""
    config, kind = model_class.config_class, model_class.config_class.model_type
    AutoConfig.register(kind, config, exist_ok=True)
    AutoModelForCausalLM.register(config, model_class, exist_ok=True)
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind] = model_class.__name__  # Trainer shifts labels of these
    # transformers serve, and trainers that are given a path, look there. While transformers imports its processors, it
    # replaces the module that others may have imported already.
    for module in (transformers, sys.modules["transformers"]):
        for found in (config, model_class):
            setattr(module, found.__name__, found)


def register_type(model_type: str) -> None:
    """Register `model_type`, such as ``cohere_parscale``, with the Auto classes.

    Raises:
        ValueError: transformers has no causal language model of that type.
    """
    plain = model_type.removesuffix(STREAMS_SUFFIX)
    names = {t: n for t, n in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items() if not t.endswith(STREAMS_SUFFIX)}
    name = names.get(plain) or next((n for t, n in names.items() if _is_text_part(plain, t, n)), None)
    if not model_type.endswith(STREAMS_SUFFIX) or name is None:
        raise ValueError(f"model_type {model_type!r} is not a causal language model with streams")
    base = getattr(transformers, name)
    own = base.config_class.model_type == plain
    lm_class(base, None if own else type(AutoConfig.for_model(plain)))


def _is_text_part(plain: str, model_type: str, name: str) -> bool:
    """Return whether `plain`, such as ``emu3_text_model``, is the config type of class `name` of `model_type`."""
    return plain.startswith(model_type + "_") and getattr(transformers, name).config_class.model_type == plain


def _set_class_name(kind: type, name: str) -> type:
    """Name a class and make it an attribute of this module, where pickle looks for it."""
    kind.__name__ = kind.__qualname__ = name
    globals()[name] = kind
    return kind


def __getattr__(name: str) -> Any:
    """Create the class of a pickled model whose family is not in `FAMILIES`."""
    plain = name.replace("ParScale", "")
    base = getattr(transformers, plain, None) if plain != name else None
    if base is None and plain.endswith(_HEADS):
        return _class_of_borrowed_type(name)
    if base is None or not isinstance(base, type):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if issubclass(base, PreTrainedConfig):
        return config_class(base)
    return lm_class(base) if plain.endswith(_HEADS) else decoder_class(base)


def _class_of_borrowed_type(name: str) -> type:
    """Create a class that is named after its config, since the model class is that of another type."""
    stem = name.partition("ParScale")[0]
    config = getattr(transformers, stem + "Config", None)
    if not isinstance(config, type):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register_type(config.model_type + STREAMS_SUFFIX)
    return globals()[name]
