import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalelab import records
from scalelab.errors import DataError, UsageError
from scalelab.records.schema import RECORD_SCHEMA
from scalelab.records.store import record_path, write_record, write_table
from tests.conftest import DATA

ROOT = DATA.parent.parent
ROW = {"key": "abc", "n_params": 1000, "n_streams": 2, "loss": 3.0, "mixture_weights": [0.4, 0.6]}


def test_what_is_written_is_read(tmp_path):
    path = write_record(tmp_path, ROW, [(1, 512, 6.0), (2, 1024, 5.5)])
    assert path == record_path(tmp_path, "abc")
    read = records.load(tmp_path)
    assert len(read) == 1
    assert {k: read.iloc[0][k] for k in ("key", "n_params", "n_streams", "loss")} == {
        k: ROW[k] for k in ("key", "n_params", "n_streams", "loss")
    }
    assert list(read.iloc[0]["mixture_weights"]) == [0.4, 0.6]
    assert list(read.columns) == [*RECORD_SCHEMA.names, "file"]
    curve = pq.read_table(tmp_path / "curves" / "abc.parquet").to_pydict()
    assert curve == {"step": [1, 2], "n_tokens": [512, 1024], "loss": [6.0, 5.5]}
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_failed_write_leaves_nothing_behind_and_the_old_file_whole(tmp_path):
    path = write_record(tmp_path, ROW, [])
    before = path.read_bytes()
    with pytest.raises(pa.ArrowException):
        write_table(path, [ROW | {"loss": "not a number"}], RECORD_SCHEMA)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_one_key_counts_once(tmp_path):
    write_record(tmp_path / "a", ROW, [])
    write_record(tmp_path / "b", ROW, [])
    assert len(records.load(tmp_path)) == 1


def test_foreign_table_needs_only_the_three_columns(tmp_path):
    pd.DataFrame({"n_params": [10.0, 20.0], "n_streams": [1, 2], "loss": [3.0, 2.0]}).to_parquet(tmp_path / "t.parquet")
    read = records.load(tmp_path / "t.parquet")
    assert read["loss"].tolist() == [3.0, 2.0]
    assert read["corpus"].isna().all()


def test_paper_records_ship_twice_and_agree():
    package, folder = records.load("paper"), records.load(ROOT / "results" / "paper")
    assert len(package) == 48
    columns = [c for c in package.columns if package[c].notna().any() and c != "file"]
    pd.testing.assert_frame_equal(package[columns], folder[columns], check_dtype=False)
    assert folder.drop(columns=[*columns, "file"]).isna().all(axis=None)
    smallest = package[(package["corpus"] == "pile") & (package["n_streams"] == 1)].iloc[0]
    assert smallest["n_params"] == 535_813_376


def test_empty_folder_and_missing_path(tmp_path):
    with pytest.raises(UsageError, match=rf"{tmp_path}: no records \(\*.parquet\) here"):
        records.load(tmp_path)
    with pytest.raises(UsageError, match="nowhere: no such file or folder"):
        records.load("nowhere")


@pytest.mark.parametrize("bad", [-1.0, 0.0, np.nan, np.inf])
def test_bad_loss_names_file_column_and_row(tmp_path, bad):
    file = tmp_path / "t.parquet"
    pd.DataFrame({"n_params": [10, 20], "n_streams": [1, 2], "loss": [3.0, bad]}).to_parquet(file)
    with pytest.raises(DataError, match=r"t\.parquet: column 'loss', row 2"):
        records.load(tmp_path)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("n_streams", [1, 2.5], "column 'n_streams', row 2: 2.5 is not a positive whole number"),
        ("n_streams", ["1", "two"], "column 'n_streams', row 2: 'two' is not a positive whole number"),
        ("n_params", [10, 1e300], "column 'n_params', row 2"),
        ("n_tokens", [5, -5], "column 'n_tokens', row 2: -5 is not a positive number"),
        ("n_params_backbone", ["x", "y"], "column 'n_params_backbone', row 1"),
        ("loss", [3.0, 1e300], "column 'loss', row 2"),
    ],
)
def test_values_that_make_no_sense_are_named(tmp_path, column, values, message):
    good = {"n_params": [10, 20], "n_streams": [1, 2], "loss": [3.0, 2.0]}
    pd.DataFrame(good | {column: values}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        records.load(tmp_path)


def test_numbers_written_as_text_are_numbers(tmp_path):
    table = pd.DataFrame({"n_params": ["10", "20"], "n_streams": ["1", "2"], "loss": ["3.0", "2.0"]})
    table.to_parquet(tmp_path / "t.parquet")
    assert records.load(tmp_path)["n_streams"].tolist() == [1, 2]


def test_an_index_that_was_saved_is_a_column(tmp_path):
    table = pd.DataFrame({"n_params": [10, 25, 30], "n_streams": [1, 2, 4], "loss": [3.0, 2.0, 1.9]})
    table.set_index("n_params").to_parquet(tmp_path / "t.parquet")
    assert records.load(tmp_path)["n_params"].tolist() == [10, 25, 30]


def test_a_column_that_stands_twice_is_refused(tmp_path):
    columns = [pa.array([10]), pa.array([1]), pa.array([3.0]), pa.array([2.0])]
    pq.write_table(pa.table(columns, ["n_params", "n_streams", "loss", "loss"]), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="more than one column 'loss'"):
        records.load(tmp_path)


def test_two_runs_with_one_key_are_not_silently_one(tmp_path):
    write_record(tmp_path / "a", ROW, [])
    write_record(tmp_path / "b", ROW | {"loss": 9.0}, [])
    with pytest.raises(DataError, match=r"a/runs/abc\.parquet and .*b/runs/abc\.parquet: two different records"):
        records.load(tmp_path)


def test_a_table_without_rows_holds_no_records(tmp_path):
    pd.DataFrame({"n_params": [], "n_streams": [], "loss": []}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"no records \(\*.parquet\) here"):
        records.load(tmp_path)


def test_missing_column_is_named_with_what_is_there(tmp_path):
    pd.DataFrame({"N": [10], "n_streams": [1], "loss": [3.0]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: no column 'n_params' \(it has: N, n_streams, loss\)"):
        records.load(tmp_path)


def test_text_called_parquet_is_named(tmp_path):
    (tmp_path / "t.parquet").write_text("hello")
    with pytest.raises(DataError, match=r"t\.parquet: not a readable Parquet file"):
        records.load(tmp_path)


def test_truncated_record_is_named(tmp_path):
    path = write_record(tmp_path, ROW, [])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"abc\.parquet: not a readable Parquet file"):
        records.load(tmp_path)
