"""Models constructed by transformers from a config, without remote code and without memory for weights."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from scalelab.errors import ScalelabError
from scalelab.model.attention import attention_name
from scalelab.model.trust import refuse_kernels

_LARGE = 10**6  # elements of a buffer that is not copied
_LIMITS = {"num_hidden_layers": 1_000, "hidden_size": 1_000_000}  # constructing such a model takes half a minute


def transformers_config(content: Mapping[str, Any]) -> Any:
    """Return the config object of transformers.

    It is written to a file and read back, because only reading a file decodes infinite numbers.
    """
    refuse_kernels(content, "config.json")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(content)), encoding="utf-8")
        return AutoConfig.from_pretrained(
            folder,
            local_files_only=True,  # nosec B615  # nothing is downloaded
            trust_remote_code=False,
        )


def construct_empty_model(content: Mapping[str, Any], kind: str) -> Any:
    """Construct a model of type `kind` on the meta device, which needs no memory; multimodal models are complete.

    Raises:
        ScalelabError: The config is not that of a decoder language model. Errors of transformers pass through.
    """
    if kind not in CONFIG_MAPPING:
        raise ScalelabError("this version of transformers does not have this model type")
    config = transformers_config({**content, "model_type": kind})
    if config.is_encoder_decoder:
        raise ScalelabError("encoder-decoder models cannot be priced")
    for key, most in _LIMITS.items():
        if getattr(config.get_text_config(), key, 0) > most:
            raise ScalelabError(f"{key}: must be at most {most:,}")
    make = _model_class(config)._from_config
    with torch.device("meta"):
        try:  # records what each layer attends to
            model = make(config, attn_implementation=attention_name("eager"))
        except (ValueError, KeyError):  # the model has its own attention
            model = make(config, attn_implementation="eager")
    model.eval()
    model.set_experts_implementation("batched_mm")  # other implementations depend on values, which are missing here
    return model


def _model_class(config: Any) -> Any:
    """Return the language model class of a config: the multimodal class if there is one, or that of a part's config."""
    mappings = [AutoModelForCausalLM._model_mapping, AutoModelForImageTextToText._model_mapping]
    if "text_config" in config.sub_configs:
        mappings.reverse()
    for mapping in mappings:
        if type(config) in mapping:
            return mapping[type(config)]
    for name, kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        of_this = model_type_to_module_name(name) == model_type_to_module_name(config.model_type)
        if of_this and getattr(transformers, kind).config_class is type(config):
            return getattr(transformers, kind)
    raise ScalelabError("transformers has no language model of this type")


def fill_with_zeros(model: Any) -> None:
    """Replace each meta tensor of a model by a single zero expanded to its shape, so that the model can run.

    This takes no memory, except in matrix products with the weights; the caller must skip those.
    """
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, old in module._parameters.items():
            if old is not None:
                if id(old) not in made:
                    zero = torch.zeros((), dtype=old.dtype)
                    made[id(old)] = nn.Parameter(zero.expand(old.shape), requires_grad=False)
                module._parameters[name] = made[id(old)]
        for name, old in module._buffers.items():
            if old is not None:
                zero = torch.zeros((), dtype=old.dtype).expand(old.shape)
                module._buffers[name] = zero if old.numel() > _LARGE else zero.clone()  # it may be written to


@contextmanager
def quiet() -> Iterator[None]:
    """Silence log messages and warnings of transformers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
