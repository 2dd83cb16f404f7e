"""What transformers makes of a config, without code from elsewhere."""

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

_LARGE = 10**6  # numbers
_MOST = {"num_hidden_layers": 1_000, "hidden_size": 1_000_000}  # with which it takes half a minute


def transformers_config(content: Mapping[str, Any]) -> Any:
    """The config object of transformers. By way of a file: only reading one undoes how infinite numbers are kept."""
    refuse_kernels(content, "config.json")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(content)), encoding="utf-8")
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def construct_empty_model(content: Mapping[str, Any], kind: str) -> Any:
    """A model of type `kind` on the meta device, without memory; of one that sees or hears, too, all of it.

    Raises `ScalelabError` for what is no language model, and whatever transformers raises.
    """
    if kind not in CONFIG_MAPPING:
        raise ScalelabError("this version of transformers knows no such model")
    config = transformers_config({**content, "model_type": kind})
    if config.is_encoder_decoder:
        raise ScalelabError("an encoder, and attention to what it gives, are not priced")
    for key, most in _MOST.items():
        if getattr(config.get_text_config(), key, 0) > most:
            raise ScalelabError(f"{key}: models of more than {most:,} are not built")
    make = _model_class(config)._from_config
    with torch.device("meta"):
        try:  # which tells what it attends to
            model = make(config, attn_implementation=attention_name("eager"))
        except (ValueError, KeyError):  # attention of its own
            model = make(config, attn_implementation="eager")
    model.eval()
    model.set_experts_implementation("batched_mm")  # others hang on numbers, and there are none
    return model


def _model_class(config: Any) -> Any:
    """The language model of a config: that of its text and more, where there is one, or the one of a part's config."""
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
    raise ScalelabError("it is no language model in transformers")


def fill_with_zeros(model: Any) -> None:
    """Puts one number in place of all those of each weight of a model on the meta device: it can run, in no memory.

    Only products with its weights would take any; who runs it leaves these out.
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
                module._buffers[name] = zero if old.numel() > _LARGE else zero.clone()  # which may be written


def first_line(error: Exception) -> str:
    """Of what an error says, and the next where it ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


@contextmanager
def quiet() -> Iterator[None]:
    """Without what transformers says of configs and slow paths."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
