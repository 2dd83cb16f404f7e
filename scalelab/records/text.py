"""Read text tables of any delimiter and encoding, with comments, compressed, as spreadsheets or JSON."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scalelab.records.numbers import to_floats

PACKED = (".gz", ".xz", ".zip")
TEXT = (".csv", ".tsv", ".txt", ".dat")
LINES = (".jsonl", ".ndjson")
SHEETS = (".xlsx", ".xlsm")
_DELIMITERS = ("\t", ";", "|", ",")
_SUMMARY = re.compile(r"^\s*(grand )?(total|sum|mean|average|avg|median|std|min|max)s?\s*:?\s*$", re.IGNORECASE)
MOST_BYTES = 2 * 2**30  # limit for one table


def inner_suffix(file: Path) -> str:
    """Return the suffix of the content of `file`: .csv for table.csv.gz."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in PACKED else (suffixes or [""])[-1]


def unpacked(file: Path) -> tuple[bytes, str]:
    """Return the unpacked content of `file` and its suffix. Raises `ValueError` for a broken archive."""
    with file.open("rb") as packed:
        content, suffix = _all_of(packed), inner_suffix(file)
    try:
        if content[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(content)) as stream:
                content = _all_of(stream)
        elif content[:6] == b"\xfd7zXZ\x00":
            with lzma.open(io.BytesIO(content)) as stream:
                content = _all_of(stream)
        elif content[:4] == b"PK\x03\x04" and suffix not in SHEETS:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = [name for name in archive.namelist() if not name.endswith("/") and "__MACOSX" not in name]
                if len(names) != 1:
                    raise ValueError(f"the archive has {len(names)} files; pack one file only")
                suffix = Path(names[0]).suffix.lower()
                with archive.open(names[0]) as stream:
                    content = _all_of(stream)
    except (EOFError, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise ValueError(f"broken archive: {error}") from None
    return content, suffix


def _all_of(stream: Any) -> bytes:
    """Return the content of `stream`. Raises `ValueError` for more than `MOST_BYTES`."""
    content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES / 2**30:g} GiB unpacked, above the limit")
    return content


def lines_of(text: str) -> list[str]:
    """Return the lines of `text`, split at line ends only, not at separators such as U+2028."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def decoded(content: bytes) -> str:
    """Return `content` decoded as UTF-8 or UTF-16, else as Windows-1252."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return content.decode("utf-16")
    zeros = content[:4000].count(0)
    if zeros > len(content[:4000]) // 3:
        return content.decode("utf-16-le" if content[1:2] == b"\0" else "utf-16-be")
    if zeros:
        raise ValueError("it contains zero bytes, so it is not text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def read_delimited(text: str, suffix: str = ".csv") -> pd.DataFrame:
    """Return the table in `text`, with all cells as text. Raises `ValueError` if rows are longer than the header."""
    lines = lines_of(text)
    comments = [line for line in lines if line.lstrip().startswith(("#", "//"))]
    body = [line for line in lines if line.strip() and not line.lstrip().startswith(("#", "//"))]
    if not body:
        raise ValueError("it has no columns")
    if comments and _is_data(_cells(body[0], _delimiter(body, suffix))):  # the header is a comment
        heading = comments[-1].lstrip().lstrip("#/").strip()
        delimiter = _delimiter(body, suffix)
        if len(_cells(heading, delimiter)) == len(_cells(body[0], delimiter)):
            body = [heading, *body]
    delimiter = _delimiter(body, suffix)
    if delimiter == " ":
        rows = [line.split() for line in body]
    else:
        joined = "\n".join(body)
        rows = [
            [cell.strip() for cell in row]
            for row in csv.reader(io.StringIO(joined), delimiter=delimiter, skipinitialspace=True, strict=True)
        ]
    return _table([row for row in rows if any(row)])


def read_json(text: str) -> pd.DataFrame:
    """Return the table in a JSON list of objects, object of lists, or single object; nested keys get dots."""
    return frame_of(json.loads(text))


def frame_of(value: Any) -> pd.DataFrame:
    """Return a JSON value as a table."""
    if isinstance(value, dict):
        lists = [key for key, item in value.items() if isinstance(item, list) and item and isinstance(item[0], dict)]
        if len(lists) == 1:
            value = value[lists[0]]  # {"runs": [...]}
        elif value and all(isinstance(item, list) for item in value.values()):
            return pd.DataFrame(value)
        else:
            value = [value]
    if not (isinstance(value, list) and value and all(isinstance(row, dict) for row in value)):
        raise ValueError("not a list of JSON objects")
    return pd.json_normalize(value)


def read_sheet(content: bytes) -> pd.DataFrame:
    """Return the first sheet of an Excel file. Raises `ValueError`, also where openpyxl is not installed."""
    try:
        import openpyxl  # noqa: F401
    except ImportError:
        raise ValueError("Excel files need openpyxl: pip install 'scalelab[excel]', or save the file as CSV") from None
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if (
                sum(part.file_size for part in archive.infolist()) > MOST_BYTES // 8
            ):  # cells take more memory than their text
                raise ValueError("it is too large for a spreadsheet; save it as CSV")
        frame = pd.read_excel(io.BytesIO(content), header=None, dtype=object, engine="openpyxl")
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise ValueError(str(error)) from None
    rows = [["" if pd.isna(cell) else str(cell).strip() for cell in row] for row in frame.to_numpy().tolist()]
    return _table([row for row in rows if any(row) and not row[0].startswith("#")])


def _table(rows: Sequence[list[str]]) -> pd.DataFrame:
    """Return the table of rows of text with a header of one or two rows."""
    heading, body = list(rows[0]), list(rows[1:])
    while heading and not heading[-1] and all(len(row) < len(heading) or not row[len(heading) - 1] for row in body):
        heading.pop()
    if len(body) > 1 and _is_second_heading(body[0], body[1:]):
        upper = ""
        joined = []
        for i, below in enumerate(body[0]):
            upper = (heading[i] if i < len(heading) else "") or upper
            joined.append(f"{upper} {below}".strip() if below else upper)
        heading, body = joined, body[1:]
    width = len(heading)
    for number, row in enumerate(body, start=1):
        if any(row[width:]):
            raise ValueError(f"row {number} has {len(row)} cells, and the header has {width}")
    cells = [[cell if cell else None for cell in [*row, *[""] * width][:width]] for row in body]
    frame = pd.DataFrame(cells, columns=range(width), dtype=object).set_axis(heading, axis=1)
    return without_summaries(frame)


def without_summaries(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `frame` without trailing rows of totals and means."""
    while len(frame) and any(isinstance(v, str) and _SUMMARY.match(v) for v in frame.iloc[-1]):
        frame = frame.iloc[:-1]
    return frame


def _is_second_heading(row: list[str], rest: list[list[str]]) -> bool:
    """Return true if `row` has text where the rows below have numbers."""
    numeric = [i for i in range(len(row)) if rest[0][i : i + 1] and _is_number(rest[0][i])]
    return len(numeric) >= 2 and all(i < len(row) and row[i] and not _is_number(row[i]) for i in numeric)


def _is_data(cells: list[str]) -> bool:
    return bool(cells) and sum(map(_is_number, cells)) * 2 > len(cells)


def _is_number(text: str) -> bool:
    return bool(text) and bool(to_floats(pd.Series([text], dtype=object)).notna().iloc[0])


def _cells(line: str, delimiter: str) -> list[str]:
    return line.split() if delimiter == " " else [cell.strip() for cell in line.split(delimiter)]


def _delimiter(lines: list[str], suffix: str) -> str:
    """Return the delimiter that splits every line into the same number of cells."""
    if suffix == ".tsv":
        return "\t"
    some = [re.sub(r'"[^"]*"', '""', line) for line in lines[:50]]
    for delimiter in _DELIMITERS:
        if some[0].count(delimiter) and all(line.count(delimiter) == some[0].count(delimiter) for line in some):
            return delimiter
    found = max(_DELIMITERS, key=some[0].count)
    if some[0].count(found):
        return found
    widths = {len(line.split()) for line in some}
    return " " if len(widths) == 1 and widths != {1} else ","
