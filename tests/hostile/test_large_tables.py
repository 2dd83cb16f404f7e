"""Tables that are small on disk and large in memory, and text that looks like more lines than it is."""

import gzip
import json
import lzma
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalelab.errors import DataError
from scalelab.records import files, text
from scalelab.records.files import read_file


def test_rows_are_counted_before_they_are_read(tmp_path):
    """Forty million equal rows take half a megabyte on disk."""
    file = tmp_path / "many.parquet"
    column = pa.DictionaryArray.from_arrays(np.zeros(2**22, np.int8), pa.array([3.0]))
    with pq.ParquetWriter(file, pa.schema({"loss": column.type})) as writer:
        for _ in range(2):
            writer.write_table(pa.table({"loss": column}))
    assert file.stat().st_size < 2**20
    with pytest.raises(DataError, match=r"many\.parquet: .*it has 8,388,608 rows, above the limit of 5,000,000"):
        read_file(file)


def test_bytes_are_counted_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_BYTES", 1000)
    pq.write_table(pa.table({"loss": np.random.default_rng(0).random(1000)}), tmp_path / "wide.parquet")
    with pytest.raises(DataError, match=r"it has .* GiB unpacked, above the limit of"):
        read_file(tmp_path / "wide.parquet")


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.xz", "a.zip"])
def test_what_is_unpacked_is_refused_and_never_cut(tmp_path, monkeypatch, name):
    content = b"n_params,loss\n" + b"1000,3\n" * 1000
    file = tmp_path / name
    packed = {"a.csv": content, "a.csv.gz": gzip.compress(content), "a.csv.xz": lzma.compress(content)}
    if name in packed:
        file.write_bytes(packed[name])
    else:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.csv", content)
    assert len(read_file(file).table) == 1000
    monkeypatch.setattr(text, "MOST_BYTES", len(content) - 1)
    with pytest.raises(DataError, match=r"it has more than .* GiB unpacked"):
        read_file(file)


def test_separators_of_unicode_are_no_line_ends(tmp_path):
    rows = [{"n_params": 1000, "loss": 3.0, "note": "one\u2028two\u0085three\x0bfour"}] * 3
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert read_file(tmp_path / "a.jsonl").table["note"].tolist() == [rows[0]["note"]] * 3
    (tmp_path / "a.csv").write_bytes("n_params,note\r\n1000,one\u2028two\r\n2000,three\r\n".encode())
    assert read_file(tmp_path / "a.csv").table["note"].tolist() == ["one\u2028two", "three"]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_deep_json_is_one_line(tmp_path, name):
    (tmp_path / name).write_text('{"a": ' * 100_000)
    with pytest.raises(DataError, match="not a readable JSON"):
        read_file(tmp_path / name)
