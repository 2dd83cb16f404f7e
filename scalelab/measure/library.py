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

_MOST_LAYERS = 1_000  # as many take a minute


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
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if layers > _MOST_LAYERS:
        raise ScalelabError(
            f"num_hidden_layers: more than {_MOST_LAYERS:,} layers are not built, and there are {layers:,}"
        )
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
    """Of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


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
