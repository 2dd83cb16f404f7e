"""Where the text comes from: documents, their digest, and the split by content.

A document goes to validation or training by the hash of its own text alone, so two copies of a
file, under whatever names, always stand on the same side.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalelab.errors import DataError, UsageError

VALIDATION_FRACTION = 0.05
STDLIB = "stdlib"
_FEW_DOCUMENTS = 40  # below this a split by whole documents is a lottery: cut them
_PIECE_CHARS = 8192


@dataclass(frozen=True)
class Corpus:
    """Documents split by content. `digest` is of the set of documents, in no order."""

    name: str
    digest: str
    train: list[str]
    validation: list[str]


def load_corpus(source: str = STDLIB, text_column: str = "text") -> Corpus:
    """The corpus named by `source`.

    ``stdlib`` is the running interpreter's own standard-library source; ``hf:NAME`` a data set
    of the `datasets` library, by name or by the folder it was saved to; anything else a file or
    folder of text, JSONL (.jsonl, .ndjson) or Parquet, the latter two with the text in
    `text_column`. Raises `UsageError` or `DataError` naming the file or column.
    """
    if source == STDLIB:
        name = f"stdlib-{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
        documents = _stdlib_documents()
    elif source.startswith("hf:"):
        name, documents = source, _dataset_documents(source.removeprefix("hf:"), text_column)
    else:
        path = Path(source)
        if not path.exists():
            raise UsageError(f"`corpus={source}`: no such file or folder (nor 'stdlib' nor 'hf:NAME')")
        # A name of a file system may be no text, and records hold text.
        name = os.fsencode(path.name or path.resolve().name).decode("utf-8", "replace")
        documents = _path_documents(path, text_column)
    return _split(name, list(documents), source)


def _split(name: str, documents: list[str], source: str) -> Corpus:
    documents = [text for text in documents if text.strip()]
    if len(documents) < _FEW_DOCUMENTS:
        documents = [piece for text in documents for piece in _pieces(text)]
    # "replace": JSON can spell lone surrogates, which are no characters and no UTF-8.
    documents = [text.encode("utf-8", "replace").decode() for text in documents]
    by_hash = {hashlib.sha256(text.encode()).hexdigest(): text for text in documents}
    corpus_hash = hashlib.sha256("".join(sorted(by_hash)).encode()).hexdigest()[:16]
    sides: tuple[list[str], list[str]] = ([], [])
    for digest in sorted(by_hash):
        sides[int(digest[:8], 16) < VALIDATION_FRACTION * 2**32].append(by_hash[digest])
    train, validation = sides
    if not train or not validation:
        raise DataError(
            f"`corpus={source}`: {len(by_hash)} different documents are too few to split into "
            "training and validation; give more text"
        )
    return Corpus(name, corpus_hash, train, validation)


def _pieces(text: str) -> Iterator[str]:
    """Cut at line ends into pieces of about `_PIECE_CHARS` characters."""
    piece: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        piece.append(line)
        size += len(line)
        if size >= _PIECE_CHARS:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def _stdlib_documents() -> Iterator[str]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts or "dist-packages" in path.parts:
            continue
        try:
            yield path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):  # test files that are broken on purpose
            continue


def _path_documents(path: Path, text_column: str) -> Iterator[str]:
    if path.is_file():
        files: Iterable[Path] = [path]
    else:
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p.relative_to(path)))
    for file in files:
        if file.suffix == ".parquet":
            yield from _parquet_documents(file, text_column)
        elif file.suffix in (".jsonl", ".ndjson"):
            yield from _jsonl_documents(file, text_column)
        else:
            try:
                yield file.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from None


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _parquet_documents(file: Path, text_column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file}: not a readable Parquet file ({error})") from None
    if text_column not in table.schema_arrow.names:
        have = ", ".join(table.schema_arrow.names)
        raise DataError(f"{file}: no column {text_column!r} (it has: {have}); name it with `text_column`")
    for batch in table.iter_batches(columns=[text_column]):
        for text in batch.column(0).to_pylist():
            if text is not None and not isinstance(text, str):
                raise DataError(f"{file}: column {text_column!r} holds {type(text).__name__}, not text")
            if text:
                yield text


def _jsonl_documents(file: Path, text_column: str) -> Iterator[str]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[text_column]
            except (ValueError, KeyError, TypeError):  # ValueError: no JSON, or no UTF-8
                text = None
            if not isinstance(text, str):
                raise DataError(f"{file}, line {number}: no JSON object with a text {text_column!r}")
            yield text


def _dataset_documents(name: str, text_column: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError:
        raise UsageError("`corpus=hf:…` needs the datasets library: pip install 'scalelab[datasets]'") from None
    try:
        saved = ("dataset_info.json", "dataset_dict.json")  # what save_to_disk writes
        if any((Path(name) / file).is_file() for file in saved):
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name)
    except Exception as error:  # the library raises many kinds, over file systems and networks
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"`corpus=hf:{name}`: {reason}") from None
    parts: list[Any] = list(loaded.values()) if isinstance(loaded, dict) else [loaded]
    for part in parts:
        if text_column not in part.column_names:
            have = ", ".join(part.column_names)
            raise DataError(f"hf:{name}: no column {text_column!r} (it has: {have}); name it with `text_column`")
        for row in part.select_columns([text_column]):
            text = row[text_column]
            if text is not None and not isinstance(text, str):
                raise DataError(f"hf:{name}: column {text_column!r} holds {type(text).__name__}, not text")
            if text:
                yield text
