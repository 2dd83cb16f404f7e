"""Shape of any model: from the family table, or else from the model that transformers constructs."""

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
    """Return the decoder of a model, with the streams it was saved with.

    torch is imported only for families that are not in the table. If a multimodal model cannot be constructed, its
    text model is returned.

    Args:
        path: A model's folder or config.json.
        emit: Receives notes on where the shape is from.
        on_progress: Receives one line if constructing the model takes longer than 2 seconds.

    Raises:
        UsageError: The path has no config.json.
        DataError: The config is not understood; the message names file and key.
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
        emit(f"only {part[1]} is priced, without the vision or audio parts of the model: {error}")
        return served


def _shape(content: Mapping[str, Any], where: str, emit: Emit, on_progress: Emit) -> ServedModel:
    kind = content.get("model_type")
    if kind is None:
        raise DataError(f"{where}: model_type: is missing")
    if not isinstance(kind, str) or len(kind) > _MAX_TYPE_LENGTH:
        raise DataError(f"{where}: model_type: must be a string of at most {_MAX_TYPE_LENGTH} characters")
    try:
        return served_from_config(content, where)
    except UnknownFamilyError:
        kind, streams = plain_type(content), streams_of(content, where)
    emit(f"{where}: model_type {kind!r} is not in the table; its shape is read from the model that transformers makes")
    with _announce_if_slow(f"constructing {where} without weights to read its shape …", on_progress):
        from scalelab.measure.meta_shape import served_from_meta_model

        return served_from_meta_model(content, kind, streams, where)


@contextmanager
def _announce_if_slow(text: str, emit: Emit) -> Iterator[None]:
    """Emit the text once if the body takes longer than `_SLOW_S`."""
    timer = Timer(_SLOW_S, emit, [text])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
