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
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from scalelab.errors import ScalelabError
from scalelab.model.attention import attention_name

_MOST = {"num_hidden_layers": 1_000, "hidden_size": 1_000_000}  # with which it takes half a minute


def library_config(content: Mapping[str, Any]) -> Any:
    """The config object of transformers. By way of a file: only reading one undoes how infinite numbers are kept."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(dict(content)), encoding="utf-8")
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def build_empty(content: Mapping[str, Any], kind: str) -> Any:
    """A model of type `kind` on the meta device, without memory; of one that sees or hears, too, all of it.

    Raises `ScalelabError` for what is no language model, and whatever transformers raises.
    """
    if kind not in CONFIG_MAPPING:
        raise ScalelabError("this version of transformers knows no such model")
    config = library_config({**content, "model_type": kind})
    if config.is_encoder_decoder:
        raise ScalelabError("an encoder, and attention to what it gives, are not priced")
    for key, most in _MOST.items():
        if getattr(config.get_text_config(), key, 0) > most:
            raise ScalelabError(f"{key}: models of more than {most:,} are not built")
    classes = [AutoModelForCausalLM, AutoModelForImageTextToText]
    if "text_config" in config.sub_configs:
        classes.reverse()
    known = [auto for auto in classes if type(config) in auto._model_mapping]
    if not known:
        raise ScalelabError("it is no language model in transformers")
    with torch.device("meta"):
        try:  # which tells what it attends to
            model = known[0].from_config(config, attn_implementation=attention_name("eager"))
        except (ValueError, KeyError):  # attention of its own
            model = known[0].from_config(config, attn_implementation="eager")
    model.eval()
    model.set_experts_implementation("batched_mm")  # others hang on numbers, and there are none
    return model


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
