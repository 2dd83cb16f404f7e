"""Models on disk: loaded with their streams or ready for them, and saved with their tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM

from scalelab.atomic import atomic_folder, remove_unfinished_of
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.model.add import add_streams
from scalelab.model.classes import register_type
from scalelab.model.language_model import StreamedLM
from scalelab.model.trust import refuse_files_elsewhere, refuse_kernels
from scalelab.model_config import CONFIG_FILE, STREAMS_SUFFIX, read_config_json

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
    refuse_kernels(content, str(folder / CONFIG_FILE))
    refuse_files_elsewhere(folder)
    kind = content.get("model_type", "")
    if not any(folder.glob("*.safetensors")):
        raise DataError(f"{folder}: no safetensors beside config.json, so no weights")
    try:
        if str(kind).endswith(STREAMS_SUFFIX):
            register_type(kind)
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype or "auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, by name
        )
        if not isinstance(model, StreamedLM):
            add_streams(model, 1)
    except (
        ValueError,
        OSError,
        LookupError,
        ImportError,
        AttributeError,
        RuntimeError,
        TypeError,
        ArithmeticError,
    ) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise DataError(f"{folder}: not a model that can have streams ({reason.strip()})") from None
    except Exception as error:
        if isinstance(error, SafetensorError):
            raise DataError(f"{folder}: its safetensors are damaged or cut short ({error})") from None
        if type(error).__module__.startswith("huggingface_hub"):
            raise DataError(f"{folder}: {error}") from None
        raise
    _refuse_gaps(folder, found)
    return model.eval()


def _refuse_gaps(folder: Path, found: dict[str, Any]) -> None:
    """Raises `DataError` where weights and config do not belong together: random weights would stand in."""
    for what, trouble in (
        ("missing_keys", "config.json asks for {}, which the weights do not hold"),
        ("unexpected_keys", "the weights hold {}, which config.json does not ask for"),
        ("mismatched_keys", "{} has another shape in the weights than config.json asks for"),
    ):
        keys = sorted(map(str, found.get(what) or ()))
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise DataError(f"{folder}: {trouble.format(keys[0] + more)}; the folder is incomplete or edited")


def _read_config(folder: Path) -> dict[str, Any]:
    if folder.is_file():
        raise UsageError(f"{folder}: is a file; give the folder it is in")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give one with a model's config.json and safetensors")
    try:
        return read_config_json(folder / CONFIG_FILE)
    except FileNotFoundError:
        raise DataError(f"{folder}: no config.json, so no model") from None


def saved_dtype(folder: str | Path) -> torch.dtype:
    """The precision that the model in `folder` was saved in; fp32 where its config does not say."""
    content = _read_config(Path(folder))
    name = content.get("dtype") or content.get("torch_dtype")
    known = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.bfloat16, torch.float16, torch.float32)}
    return known.get(str(name), torch.float32)


def save_model(
    model: Any, folder: Path, tokenizer_from: Path | None = None, notes: Mapping[str, str] = MappingProxyType({})
) -> None:
    """`model` with all its banks as safetensors in a new `folder`, and the tokenizer's files of `tokenizer_from`.

    With them go `notes`, text files by name.

    The folder appears complete or not at all. Raises `ScalelabError` or OSError.
    """
    remove_unfinished_of(folder)
    try:
        with atomic_folder(folder, _put) as staging:
            model.save_pretrained(staging)
            for name in _TOKENIZER_FILES:
                if tokenizer_from is not None and (tokenizer_from / name).is_file():
                    shutil.copyfile(tokenizer_from / name, staging / name)
            for name, text in notes.items():
                (staging / name).write_text(text, encoding="utf-8")
    except SafetensorError as error:  # a full disk among others
        raise ScalelabError(f"{folder}: the model could not be written ({error})") from None


def _put(staging: Path, folder: Path) -> None:
    staging.chmod(0o755)
    if folder.is_dir():
        folder.rmdir()  # an empty one; any other is an error, and stays
    staging.rename(folder)
