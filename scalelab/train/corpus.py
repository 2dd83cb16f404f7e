"""Corpora: documents from files or data sets, their digest, and the split by content.

The hash of a document's text decides between training and validation, so two copies of a file are always in the same
split, whatever their names.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from scalelab.errors import DataError, UsageError, first_line

VALIDATION_FRACTION = 0.05
STDLIB = "stdlib"
_FEW_DOCUMENTS = 40  # fewer are cut into pieces: a split of so few whole documents is too random
_PIECE_CHARS = 8192


@dataclass(frozen=True)
class Corpus:
    """Documents, split by content. `digest` does not depend on their order."""

    name: str
    digest: str
    train: list[str]
    validation: list[str]


def load_corpus(source: str = STDLIB, text_column: str = "text") -> Corpus:
    """Load the corpus named by `source`.

    Args:
        source: ``stdlib`` for the source of the Python standard library; ``hf:NAME`` for a data set of the `datasets`
            library, by name or by the folder it was saved to; otherwise a file or folder of text, JSONL (.jsonl,
            .ndjson), JSON lists, CSV, TSV or Parquet.
        text_column: Column of the text, in all formats but plain text.

    Raises:
        UsageError: `source` does not exist, or a library is missing.
        DataError: a file cannot be read, or lacks the column.
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
        # File names need not be valid Unicode; records hold only text.
        name = os.fsencode(path.name or path.resolve().name).decode("utf-8", "replace")
        documents = _path_documents(path, text_column)
    return _split(name, list(documents), source)


def _split(name: str, documents: list[str], source: str) -> Corpus:
    documents = [text for text in documents if text.strip()]
    if len(documents) < _FEW_DOCUMENTS:
        documents = [piece for text in documents for piece in _pieces(text)]
    # "replace": JSON can contain lone surrogates, which UTF-8 cannot encode.
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
        except (UnicodeDecodeError, OSError):  # deliberately broken test files
            continue


def _path_documents(path: Path, text_column: str) -> Iterator[str]:
    for file in [path] if path.is_file() else _files_below(path):
        kind = file.suffix.lower()
        if kind == ".parquet":
            yield from _parquet_documents(file, text_column)
        elif kind in (".jsonl", ".ndjson"):
            yield from _jsonl_documents(file, text_column)
        elif kind in (".json", ".csv", ".tsv"):
            yield from _table_documents(file, text_column)
        else:
            yield _read_text(file)


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from None


def _files_below(folder: Path) -> list[Path]:
    """Return all files of a folder except hidden ones, sorted. Raises `DataError` if a folder cannot be read."""

    def refuse(error: OSError) -> NoReturn:
        raise DataError(f"{error.filename}: {error.strerror}; make it readable, or move it out of the corpus")

    root, files = folder.resolve(), []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in (*folders, *names) if not name.startswith(".")):
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise DataError(
                    f"{path}: links to a file outside the corpus; replace it by a copy, or use its target as the corpus"
                )
            if path.is_file():
                files.append(path)
    return sorted(files)


def _table_documents(file: Path, text_column: str) -> Iterator[str]:
    """Yield the texts of a JSON list of texts or objects, or of a column of a CSV or TSV file."""
    if file.suffix.lower() == ".json":
        try:
            rows = json.loads(_read_text(file))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}: not JSON ({error})") from None
        rows = rows if isinstance(rows, list) else [rows]
    else:
        lines = io.StringIO(_read_text(file), newline="")
        csv.field_size_limit(sys.maxsize)
        table = csv.DictReader(lines, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        if text_column not in (table.fieldnames or ()):
            have = ", ".join(map(str, table.fieldnames or ()))[:200]
            raise DataError(f"{file}: no column {text_column!r} (it has: {have}); name it with `text_column`")
        rows = table
    for number, row in enumerate(rows, 1):
        text = row if isinstance(row, str) else row.get(text_column) if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise DataError(
                f"{file}, entry {number}: neither text nor an object with text in {text_column!r}; "
                "name the key of the text with `text_column`"
            )
        yield text


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
                raise DataError(
                    f"{file}: column {text_column!r} has {type(text).__name__}, not text; choose another `text_column`"
                )
            if text:
                yield text


def _jsonl_documents(file: Path, text_column: str) -> Iterator[str]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                text = json.loads(line)[text_column]
            except (ValueError, KeyError, TypeError, RecursionError):  # ValueError: invalid JSON or UTF-8
                text = None
            if not isinstance(text, str):
                raise DataError(
                    f"{file}, line {number}: not a JSON object with text in {text_column!r}; "
                    "name the key of the text with `text_column`"
                )
            yield text


def _dataset_documents(name: str, text_column: str) -> Iterator[str]:
    try:
        import datasets
    except ImportError:
        raise UsageError("`corpus=hf:…` needs the datasets library: pip install 'scalelab[datasets]'") from None
    try:
        saved = ("dataset_info.json", "dataset_dict.json")  # written by save_to_disk
        if any((Path(name) / file).is_file() for file in saved):
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name)  # nosec B615  # the user's choice; none of its code is run
    except Exception as error:  # file systems and networks raise many kinds
        reason = first_line(error)
        raise DataError(f"`corpus=hf:{name}`: {reason}") from None
    parts: list[Any] = list(loaded.values()) if isinstance(loaded, dict) else [loaded]
    for part in parts:
        if text_column not in part.column_names:
            have = ", ".join(part.column_names)
            raise DataError(f"hf:{name}: no column {text_column!r} (it has: {have}); name it with `text_column`")
        for row in part.select_columns([text_column]):
            text = row[text_column]
            if text is not None and not isinstance(text, str):
                raise DataError(
                    f"hf:{name}: column {text_column!r} has {type(text).__name__}, not text; "
                    "choose another `text_column`"
                )
            if text:
                yield text
