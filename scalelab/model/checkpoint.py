"""Models on disk: loaded with their streams or ready for them, and saved with their tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from scalelab.errors import DataError, UsageError
from scalelab.model.add import add_streams
from scalelab.model.classes import SUFFIX, register_type
from scalelab.model.language_model import StreamedLM

# What a tokenizer is made of, besides the vocabulary's own files.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


def load_model(folder: str | Path, dtype: torch.dtype | None = None) -> Any:
    """A causal language model from a folder, as a `StreamedLM` with the banks that it holds, perhaps none.

    Safetensors only, and no code from the folder. Raises `UsageError` for a folder that is none and
    `DataError` for one that holds no such model.
    """
    folder = Path(folder)
    content = _read_config(folder)
    kind = content.get("model_type", "")
    try:
        if str(kind).endswith(SUFFIX):
            register_type(kind)
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or "auto", use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
        if not isinstance(model, StreamedLM):
            add_streams(model, 1)
    except (ValueError, OSError, KeyError, ImportError, AttributeError, RuntimeError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(f"{folder}: not a model that can have streams ({reason.strip()})") from None
    except Exception as error:
        if type(error).__module__.startswith(("safetensors", "huggingface_hub")):
            raise DataError(f"{folder}: {error}") from None
        raise
    return model.eval()


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give one with a model's config.json and safetensors")
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: no config.json, so no model") from None
    except (ValueError, OSError) as error:
        raise DataError(f"{file}: not a model's config ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: not a model's config")
    return content


def save_model(model: Any, folder: Path, tokenizer_from: Path | None = None) -> None:
    """`model` with all its banks as safetensors below `folder`, and the tokenizer's files of `tokenizer_from`."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    if tokenizer_from is None or tokenizer_from.resolve() == folder.resolve():
        return
    for name in _TOKENIZER_FILES:
        if (tokenizer_from / name).is_file():
            shutil.copyfile(tokenizer_from / name, folder / name)
