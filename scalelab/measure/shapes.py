"""The shape of any model, by the table where its family is known, else as transformers builds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from scalelab.cost.config_file import plain_type, read_config, streams_of
from scalelab.cost.families import UnknownFamilyError, served_from_config
from scalelab.cost.shape import ServedModel
from scalelab.errors import DataError

_LONGEST = 100  # letters


def read_shape(path: str | Path, tell: Callable[[str], None] = lambda text: None) -> ServedModel:
    """The decoder of a model's folder or config.json, with the streams it was saved with.

    Imports torch only for a family that is not in the table, and `tell`s so. Raises `UsageError` for a path that
    holds no config and `DataError` naming file and key for one whose shape is not understood.
    """
    content, where = read_config(path)
    if not isinstance(content.get("model_type"), str) or len(content["model_type"]) > _LONGEST:
        raise DataError(f"{where}: model_type: is missing, or no model type")
    try:
        return served_from_config(content, where)
    except UnknownFamilyError:
        kind, streams = plain_type(content), streams_of(content, where)
    tell(f"{where}: model_type {kind!r} is not in the table; its shape is read off what transformers builds")
    from scalelab.measure.built import build_served

    return build_served(content, kind, streams, where)
