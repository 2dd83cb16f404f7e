"""Loading and saving of models with streams, and their tokenizers."""

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

# Files of a tokenizer.
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
    """Load a causal language model from a folder as a `StreamedLM` with its banks, if any.

    Only safetensors are read, and no code from the folder is run.

    Args:
        folder: Folder with config.json and safetensors.
        dtype: Precision of the weights; by default as saved.

    Raises:
        UsageError: The folder does not exist.
        DataError: The folder has no such model.
    """
    folder = Path(folder)
    prepare_loading(folder)
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype or "auto",
            use_safetensors=True,
            local_files_only=True,  # nosec B615  # nothing is downloaded
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below by name
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
        raise DataError(f"{folder}: the model cannot be loaded with streams ({reason.strip()})") from None
    except Exception as error:
        if isinstance(error, SafetensorError):
            raise DataError(f"{folder}: its safetensors are damaged or truncated ({error})") from None
        if type(error).__module__.startswith("huggingface_hub"):
            raise DataError(f"{folder}: {error}") from None
        raise
    _refuse_gaps(folder, found)
    return model.eval()


def prepare_loading(folder: Path) -> dict[str, Any]:
    """Check a model folder, register its model type, and return the content of its config.json.

    After that any loader of transformers can load it without running code of the folder.

    Raises:
        UsageError: The folder does not exist.
        DataError: The folder has no model that can be loaded safely.
    """
    content = _read_config(folder)
    refuse_kernels(content, str(folder / CONFIG_FILE))
    refuse_files_elsewhere(folder)
    if not any(folder.glob("*.safetensors")):
        raise DataError(f"{folder}: no safetensors next to config.json; give a folder with weights")
    kind = str(content.get("model_type", ""))
    if kind.endswith(STREAMS_SUFFIX):
        try:
            register_type(kind)
        except (ValueError, ImportError, LookupError, AttributeError, RuntimeError) as error:
            raise DataError(f"{folder}: the model cannot be loaded with streams ({error})") from None
    return content


def saved_streams(content: Mapping[str, Any]) -> list[int]:
    """Return the numbers of streams that a model with this config.json can run with."""
    banks = content.get("parscale_banks")
    found = banks if isinstance(banks, dict) else [content.get("parscale_n")]
    return sorted({1, *(int(P) for P in found if str(P).isdigit())})


def _refuse_gaps(folder: Path, found: dict[str, Any]) -> None:
    """Raise `DataError` if weights do not match the config; the model would have random weights instead."""
    for what, problem in (
        ("missing_keys", "the safetensors lack {}, which config.json requires"),
        ("unexpected_keys", "the safetensors have {}, which config.json does not declare"),
        ("mismatched_keys", "{} has a different shape in the safetensors than in config.json"),
    ):
        keys = sorted(map(str, found.get(what) or ()))
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise DataError(f"{folder}: {problem.format(keys[0] + more)}; use matching files")


def _read_config(folder: Path) -> dict[str, Any]:
    if folder.is_file():
        raise UsageError(f"{folder}: is a file; give the folder that contains it")
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; give one with config.json and safetensors")
    try:
        return read_config_json(folder / CONFIG_FILE)
    except FileNotFoundError:
        raise DataError(f"{folder}: no config.json; give a model's folder") from None


def saved_dtype(folder: str | Path) -> torch.dtype:
    """Return the precision in which the model in `folder` was saved; fp32 if its config does not say."""
    content = _read_config(Path(folder))
    name = content.get("dtype") or content.get("torch_dtype")
    known = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.bfloat16, torch.float16, torch.float32)}
    return known.get(str(name), torch.float32)


def save_model(
    model: Any, folder: Path, tokenizer_from: Path | None = None, notes: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Save `model` with all its banks as safetensors in a new folder, which appears complete or not at all.

    Args:
        model: The model.
        folder: New or empty folder.
        tokenizer_from: Folder of which the tokenizer's files are copied.
        notes: Content of further text files by name.

    Raises:
        ScalelabError: The weights could not be written.
        OSError: The folder could not be written.
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
    except SafetensorError as error:  # for example a full disk
        raise ScalelabError(f"{folder}: the model could not be written ({error})") from None


def _put(staging: Path, folder: Path) -> None:
    staging.chmod(0o755)
    if folder.is_dir():
        folder.rmdir()  # raises if it is not empty
    staging.rename(folder)
