"""The shape of any model, by the table where its family is known, else as transformers builds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

from scalelab.cost.config_file import read_config, streams_of, text_part
from scalelab.cost.families import UnknownFamilyError, served_from_config
from scalelab.cost.shape import ServedModel
from scalelab.errors import DataError
from scalelab.model_config import plain_type

_MAX_TYPE_LENGTH = 100
_SLOW_S = 2.0

Emit = Callable[[str], None]


def _ignore(text: str) -> None:
    pass


def read_shape(path: str | Path, emit: Emit = _ignore, on_progress: Emit = _ignore) -> ServedModel:
    """Return the decoder of a model's folder or config.json, with the streams it was saved with.

    Imports torch only for a family that is not in the table, and `emit`s so; `on_progress` hears of it when building takes
    longer than 2 seconds. Of a model that also sees or hears and cannot be built the part for text stands for all.

    Raises:
        UsageError: The path holds no config.
        DataError: The shape is not understood; the message names file and key.
    """
    content, where = read_config(path)
    try:
        return _shape(content, where, emit, on_progress)
    except DataError as error:
        part = text_part(content, where)
        if part is None:
            raise
        try:
            served = _shape(*part, emit, on_progress)
        except DataError:
            raise error from None
        emit(f"{part[1]} alone is priced, without what the model sees or hears with: {error}")
        return served


def _shape(content: Mapping[str, Any], where: str, emit: Emit, on_progress: Emit) -> ServedModel:
    if not isinstance(content.get("model_type"), str) or len(content["model_type"]) > _MAX_TYPE_LENGTH:
        raise DataError(f"{where}: model_type: is missing, or no model type")
    try:
        return served_from_config(content, where)
    except UnknownFamilyError:
        kind, streams = plain_type(content), streams_of(content, where)
    emit(f"{where}: model_type {kind!r} is not in the table; its shape is read off what transformers builds")
    with _announce_if_slow(f"building {where} without memory for its weights, to read its shape …", on_progress):
        from scalelab.measure.meta_shape import served_from_meta_model

        return served_from_meta_model(content, kind, streams, where)


@contextmanager
def _announce_if_slow(text: str, emit: Emit) -> Iterator[None]:
    """Emit the text once if what is done within takes longer than `_SLOW_S`."""
    timer = Timer(_SLOW_S, emit, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
