"""The shape of any model, by the table where its family is known, else as transformers builds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from scalelab.cost.config_file import plain_type, read_config, streams_of, text_part
from scalelab.cost.families import UnknownFamilyError, served_from_config
from scalelab.cost.shape import ServedModel
from scalelab.errors import DataError

_LONGEST = 100  # letters
_SLOW_S = 2.0

Say = Callable[[str], None]


def _nothing(text: str) -> None:
    pass


def read_shape(path: str | Path, tell: Say = _nothing, progress: Say = _nothing) -> ServedModel:
    """Return the decoder of a model's folder or config.json, with the streams it was saved with.

    Imports torch only for a family that is not in the table, and `tell`s so; `progress` hears of it when building takes
    longer than 2 seconds. Of a model that also sees or hears and cannot be built the part for text stands for all.

    Raises:
        UsageError: The path holds no config.
        DataError: The shape is not understood; the message names file and key.
    """
    content, where = read_config(path)
    try:
        return _shape(content, where, tell, progress)
    except DataError as error:
        part = text_part(content, where)
        if part is None:
            raise
        try:
            served = _shape(*part, tell, progress)
        except DataError:
            raise error from None
        tell(f"{part[1]} alone is priced, without what the model sees or hears with: {error}")
        return served


def _shape(content: Mapping[str, Any], where: str, tell: Say, progress: Say) -> ServedModel:
    if not isinstance(content.get("model_type"), str) or len(content["model_type"]) > _LONGEST:
        raise DataError(f"{where}: model_type: is missing, or no model type")
    try:
        return served_from_config(content, where)
    except UnknownFamilyError:
        kind, streams = plain_type(content), streams_of(content, where)
    tell(f"{where}: model_type {kind!r} is not in the table; its shape is read off what transformers builds")
    with _said_when_slow(f"building {where} without memory for its weights, to read its shape …", progress):
        from scalelab.measure.built import build_served

        return build_served(content, kind, streams, where)


@contextmanager
def _said_when_slow(text: str, say: Say) -> Iterator[None]:
    """Say the text once if what is done within takes longer than `_SLOW_S`."""
    timer = Timer(_SLOW_S, say, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
