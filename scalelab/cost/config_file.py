"""Validated access to the keys of a model's config.json, and the streams it was saved with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.aggregation import AGGREGATIONS
from scalelab.architecture import PREFIX_TOKENS
from scalelab.errors import DataError, UsageError
from scalelab.model_config import CONFIG_FILE, plain_type, read_config_json

REQUIRED: Any = object()  # default of a key that must be present
_MAX_COUNT = 10**9
_FLAGS = {"true": True, "false": False}
_NESTED = ("text_config", "llm_config", "language_config")  # keys of multimodal models


def _whole(value: Any) -> Any:
    """Convert 4096.0 and "4096", which some tools write, to an int; return anything else unchanged."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 12:
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


@dataclass(frozen=True)
class ConfigFile:
    """Keys of a config by their usual names. All methods raise `DataError` naming `where` and the key."""

    content: Mapping[str, Any]
    where: str
    names: Mapping[str, tuple[str, ...]]  # other names of keys, by precedence; the last is the one for messages

    def error(self, key: str, reason: str) -> DataError:
        """Return an error that names the file and key."""
        return DataError(f"{self.where}: {key}: {reason}")

    def get(self, key: str, default: Any = REQUIRED) -> Any:
        """Return the value of a key by any of its names; null is the same as missing."""
        for name in self.names.get(key, (key,)):
            if self.content.get(name) is not None:
                return self.content[name]
        if default is REQUIRED:
            raise self.error(self.name(key), "is missing; the model's shape depends on it")
        return default

    def name(self, key: str) -> str:
        """Return the name of a key in this config."""
        return (self.names.get(key) or (key,))[-1]

    def count(self, key: str, default: Any = REQUIRED, least: int = 1) -> int:
        """Return a whole number from `least` to 10⁹."""
        value = _whole(self.get(key, default))
        name = self.name(key)
        if type(value) is int and value > _MAX_COUNT:
            raise self.error(name, f"must be at most {_MAX_COUNT:,}")
        if type(value) is not int or value < least:
            raise self.error(name, f"must be a whole number of at least {least}, not {value!r}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean, which may be written as a string."""
        value = self.get(key, default)
        value = _FLAGS.get(value.lower(), value) if isinstance(value, str) else value
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, not {value!r}")
        return value

    def choice(self, key: str, default: str, known: Mapping[str, Any]) -> str:
        """Return one of the names in `known`."""
        value = self.get(key, default)
        if value not in known:
            raise self.error(key, f"{value!r} is not one of {', '.join(known)}")
        return value


def read_config(path: str | Path) -> tuple[dict[str, Any], str]:
    """Return the decoder's part of a config.json, and its place for messages.

    Args:
        path: A model's folder, or the file itself.

    Raises:
        UsageError: The path has no config.json.
        DataError: The file is not a config.
    """
    path = Path(path)
    file = path / CONFIG_FILE if path.is_dir() else path
    try:
        return _decoder(read_config_json(file), str(file))
    except FileNotFoundError:
        raise UsageError(_no_config(path)) from None


def _no_config(path: Path) -> str:
    if not path.exists() and len(path.parts) == 2 and not path.is_absolute() and path.parts[0] not in (".", ".."):
        return (
            f"{path}: no config.json found; if this is a name on a model hub, download its config.json first, since "
            "scalelab reads only local files"
        )
    return f"{path}: no config.json found; give a model's folder or its config.json"


def _decoder(content: dict[str, Any], where: str) -> tuple[dict[str, Any], str]:
    """Return the text part if transformers cannot construct the whole: remote code, or no model type."""
    if content.get("model_type") is not None and "auto_map" not in content:
        return content, where
    return text_part(content, where) or (content, where)


def text_part(content: Mapping[str, Any], where: str) -> tuple[dict[str, Any], str] | None:
    """Return the text part of a multimodal model and its place for messages; None if there is none."""
    for key in _NESTED:
        part = content.get(key)
        if isinstance(part, dict) and part.get("model_type") is not None:
            shared = {"quantization_config": content.get("quantization_config")}
            return {**{k: v for k, v in shared.items() if v is not None}, **part}, f"{where}: {key}"
    return None


@dataclass(frozen=True)
class Streams:
    """Streams declared by a config; fields as in `ServedModel`."""

    P: int
    prefix_tokens: int
    aggregation: str
    banks: tuple[tuple[int, int], ...]


def streams_of(content: Mapping[str, Any], where: str) -> Streams:
    """Return the streams that a model was saved with.

    Raises:
        DataError: A key is invalid; the message names `where` and the key.
    """
    config = ConfigFile(content, where, {})
    banks, P = _banks(config) if plain_type(content) != content.get("model_type") else ((), 1)
    tokens = config.count("parscale_n_tokens", PREFIX_TOKENS)
    return Streams(P, tokens, config.choice("parscale_aggregation", "dynamic", AGGREGATIONS), banks)


def _banks(config: ConfigFile) -> tuple[tuple[tuple[int, int], ...], int]:
    """Return (P, prefix tokens) of each bank, and the active P."""
    P = config.count("parscale_n", 1)
    held = config.get("parscale_banks", None)
    if held is None:
        banks = {P: config.count("parscale_n_tokens", PREFIX_TOKENS)} if P > 1 else {}
    elif isinstance(held, dict) and all(_is_bank(*item) for item in held.items()):
        banks = {int(p): n for p, n in held.items()}
    else:
        raise config.error("parscale_banks", f"must be a mapping of P to prefix tokens, not {held!r}")
    return tuple(sorted(banks.items())), config.count("parscale_active", P)


def _is_bank(P: Any, tokens: Any) -> bool:
    """Return whether an item of parscale_banks is a valid P and number of prefix tokens."""
    valid = str(P).isdecimal() and len(str(P)) < 10 and int(P) > 0
    return valid and type(tokens) is int and 0 < tokens <= _MAX_COUNT
