import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scalelab import records
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.fit import FitOptions, fit_group, group_records
from scalelab.records.files import read_curve, read_parquet
from scalelab.records.schema import RECORD_SCHEMA
from scalelab.records.store import curve_path, record_path, record_status, write_record, write_table
from scalelab.status import RunStatus
from tests.support.paths import DATA

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
    with pytest.raises(ScalelabError, match="loss 'not a number' cannot be in a record"):
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


def test_folders_that_begin_with_an_underscore_are_read_by_name_only(tmp_path):
    write_record(tmp_path / "mine", ROW, [])
    write_record(tmp_path / "_studies" / "other", ROW | {"key": "other", "loss": 2.5}, [])
    assert records.load(tmp_path)["key"].tolist() == ["abc"]
    assert records.load(tmp_path / "_studies")["key"].tolist() == ["other"]


def test_a_run_repeated_on_another_machine_counts_once(tmp_path):
    """Rounding differs between machines, and training amplifies it."""
    write_record(tmp_path / "a", ROW, [])
    write_record(tmp_path / "b", ROW | {"loss": ROW["loss"] * 1.005}, [])
    table = records.read(tmp_path)
    assert table.records["loss"].tolist() == [ROW["loss"]]
    assert table.notes == (
        f"1 run with several records, whose losses differ by up to {0.005 * ROW['loss']:.2g}: "
        "the first of each is used",
    )
    write_record(tmp_path / "b", ROW, [])
    assert records.read(tmp_path).notes == ()


def test_a_table_without_rows_holds_no_records(tmp_path):
    pd.DataFrame({"n_params": [], "n_streams": [], "loss": []}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"no records \(\*.parquet\) here"):
        records.load(tmp_path)


def test_missing_column_is_named_with_what_is_there(tmp_path):
    pd.DataFrame({"Q": [10], "n_streams": [1], "loss": [3.0]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: no column 'n_params' \(it has: Q, n_streams, loss\)"):
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


def test_a_run_that_is_not_ok_is_recorded_and_never_fitted(tmp_path, make_records):
    for i, row in enumerate(make_records(noise=1e-3).to_dict("records")):
        write_record(tmp_path, row | {"key": f"k{i}"}, [])
    lost = {"n_params": 10**10, "n_streams": 1, "n_tokens": 10**9, "corpus": "made", "setup": "made", "loss": None}
    for i, status in enumerate(("diverged", "diverged", "out_of_memory", "failed", "interrupted")):
        write_record(tmp_path, lost | {"key": f"x{i}", "status": status, "message": "why", "mfu": 0.5}, [])
    write_record(tmp_path, lost | {"key": "other", "status": "failed", "corpus": "another"}, [])
    table = records.read(tmp_path)
    assert (len(table.records), len(table.rejected), table.left_out) == (24, 0, 0)
    assert table.unfinished == {"diverged": 2, "failed": 2, "out_of_memory": 1, "interrupted": 1}
    assert table.others["message"].dropna().tolist() == ["why"] * 5
    assert set(table.records["status"]) == {"ok"}
    (group,) = group_records(table)
    assert group.unfinished == {"diverged": 2, "failed": 1, "out_of_memory": 1, "interrupted": 1}
    fit = fit_group(group, options=FitOptions(starts=20, draws=100))
    assert len(fit.runs) == 24
    (note,) = [note for note in fit.notes if note.code == "unfinished"]
    assert "runs without a loss are left out: 2 diverged, 1 out of memory, 1 failed, 1 interrupted" in note.message
    assert note.severity == "warning"
    # Also where somebody puts them together again.
    (again,) = group_records(pd.concat([table.records, table.others], ignore_index=True))
    assert (len(again.records), again.unfinished) == (24, group.unfinished)
    assert records.read(tmp_path, where="status == 'ok'").left_out == 6
    assert records.read(tmp_path, where="n_params < 10B").unfinished == {}


def test_where_no_run_is_ok_a_reader_says_why(tmp_path):
    write_record(tmp_path, ROW | {"loss": None, "status": "diverged"}, [])
    with pytest.raises(DataError, match=r"no run is ok, so there is no loss to fit \(1 diverged\)"):
        records.read(tmp_path)
    assert records.gather(tmp_path).unfinished == {"diverged": 1}


def test_a_repeated_run_is_not_missing(tmp_path):
    write_record(tmp_path / "a", ROW | {"loss": None, "status": "failed"}, [])
    write_record(tmp_path / "b", ROW | {"loss": None, "status": "interrupted"}, [])
    assert records.gather(tmp_path).unfinished == {"failed": 1}
    write_record(tmp_path / "c", ROW, [])
    table = records.read(tmp_path)
    assert (len(table.records), table.unfinished) == (1, {})


def test_a_finished_run_is_never_replaced_by_one_that_is_not(tmp_path):
    path = record_path(tmp_path, "abc")
    assert record_status(path) is None
    for status in [*RunStatus][1:]:
        write_record(tmp_path, ROW | {"loss": None, "status": status}, [])
        assert record_status(path) == status
    write_record(tmp_path, ROW, [(1, 512, 6.0)])
    before = {file: file.read_bytes() for file in (path, curve_path(tmp_path, "abc"))}
    write_record(tmp_path, ROW | {"loss": None, "status": "interrupted"}, [(1, 512, 9.0)])
    assert {file: file.read_bytes() for file in before} == before
    assert record_status(path) == "ok"


def test_a_run_that_ended_before_its_first_point_has_no_curve(tmp_path):
    curve_path(tmp_path, "abc").mkdir(parents=True)  # so that none can be written
    write_record(tmp_path, ROW | {"loss": None, "status": "failed"}, [])
    assert record_status(record_path(tmp_path, "abc")) == "failed"


@pytest.mark.parametrize("bad", [{"loss": None}, {"loss": float("nan")}, {"status": "fine"}, {"loss": float("inf")}])
def test_a_record_that_readers_would_refuse_is_not_written(tmp_path, bad):
    with pytest.raises(ValueError, match=r"status 'fine' must be one of|is ok, so its loss must be finite"):
        write_record(tmp_path, ROW | bad, [])
    assert not list(tmp_path.rglob("*"))


def test_records_of_before_statuses_read_as_ever(tmp_path):
    """As they were written before: neither the newer columns nor a digest."""
    names = ["n_params", "n_streams", "loss", "key", "corpus"]
    schema = pa.schema([RECORD_SCHEMA.field(name) for name in names], metadata={b"scalelab.kind": b"record"})
    path = record_path(tmp_path, "old")
    path.parent.mkdir()
    row = {"n_params": 10, "n_streams": 1, "loss": 3.0, "key": "old", "corpus": "c4"}
    pq.write_table(pa.Table.from_pylist([row], schema=schema), path)
    (read,) = records.load(tmp_path).to_dict("records")
    assert {name: read[name] for name in names} == row
    assert read["status"] == record_status(path) == "ok"


def test_any_damage_to_a_record_is_named_or_harmless(tmp_path):
    """Cut at any length, with any bit turned: what is read is what was written, or the file is named."""
    path = write_record(tmp_path, ROW | {"corpus": "c4", "seed": 3, "message": "x" * 300}, [(1, 512, 6.0)])
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    expected = repr(read_parquet(path).table.to_dict("records"))
    damaged = [whole[:length] for length in (*range(16), *rng.integers(0, len(whole), 80), len(whole) - 1)]
    for position in (*rng.integers(0, len(whole), 200), *range(len(whole) - 12, len(whole))):
        turned = bytearray(whole)
        turned[position] ^= 1 << rng.integers(8)
        damaged.append(bytes(turned))
    named = []
    for content in damaged:
        path.write_bytes(content)
        try:
            assert repr(read_parquet(path).table.to_dict("records")) == expected
        except DataError as error:
            named.append(str(error))
    assert len(named) > len(damaged) / 2
    assert all(line.startswith(f"{path}: ") and "\n" not in line for line in named)


def test_what_is_no_record_where_one_should_be_is_named(tmp_path):
    path = write_record(tmp_path, ROW, [(1, 512, 6.0)])
    curve = curve_path(tmp_path, "abc")
    strange = path.with_name("strange.parquet")
    table = pd.DataFrame({"n_params": [10], "n_streams": [1], "loss": [3.0]})
    for make, message in (
        (lambda: strange.write_bytes(b""), "not a readable Parquet file .*0 bytes"),
        (lambda: table.to_csv(strange), "not a readable Parquet file"),
        (lambda: table.to_parquet(strange), "another table in place of a run's record"),
        (lambda: strange.write_bytes(curve.read_bytes()), "a loss curve in place of a run's record"),
        (lambda: strange.write_bytes(path.read_bytes()), r"has the record of another run \('abc'\)"),
        (lambda: strange.symlink_to(tmp_path / "nowhere"), "no such file"),
        (lambda: os.mkfifo(strange), "not a regular file"),
    ):
        make()
        with pytest.raises(DataError, match=rf"strange\.parquet: .*{message}"):
            records.load(tmp_path)
        strange.unlink()
    strange.mkdir()  # as other tools write a table in parts
    table.to_parquet(strange / "part-0.parquet")
    assert len(records.load(tmp_path)) == 2
    with pytest.raises(DataError, match=r"abc\.parquet: not a loss curve"):
        read_curve(path)
    curve.write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"curves/abc\.parquet: not a loss curve"):
        records.load(tmp_path)


def test_a_folder_called_runs_may_be_anyones(tmp_path):
    (tmp_path / "runs").mkdir()
    pd.DataFrame({"n_params": [10], "n_streams": [1], "loss": [3.0]}).to_parquet(tmp_path / "runs" / "t.parquet")
    assert len(records.load(tmp_path)) == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path):
    path = write_record(tmp_path, ROW, [])
    path.chmod(0)
    with pytest.raises(DataError, match=r"abc\.parquet: not a readable Parquet file .Permission denied"):
        records.load(tmp_path)
    path.parent.chmod(0)  # not passed over, as if there were no records
    try:
        with pytest.raises(OSError, match="Permission denied"):
            records.load(tmp_path)
    finally:
        path.parent.chmod(0o700)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's list of a process's threads")
def test_reading_starts_no_thread(tmp_path):
    """One that Arrow started could still hold the Python stream when the interpreter ends, and abort the process."""
    path = write_record(tmp_path, ROW | {"message": "x"}, [(1, 512, 6.0)])
    program = """if True:
        import os, sys
        from pathlib import Path
        import pyarrow.parquet as pq
        from scalelab.records.files import read_curve, read_record

        def threads():
            return len(os.listdir("/proc/self/task"))

        pq.ParquetFile(sys.argv[1]).schema_arrow  # what Arrow starts for its memory
        before = threads()
        read_record(Path(sys.argv[1]))
        read_curve(Path(sys.argv[2]))
        print(threads() - before)
        pq.ParquetFile(sys.argv[1]).read()
        print(threads() - before)
    """
    command = [sys.executable, "-c", program, str(path), str(curve_path(tmp_path, "abc"))]
    ours, with_threads = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(ours) == 0 < int(with_threads)


def test_what_a_killed_process_leaves_trips_no_reader(tmp_path):
    path = write_record(tmp_path, ROW, [])
    for folder in (path.parent, tmp_path / "curves"):
        (folder / f".abc.parquet.{'0' * 32}.tmp").write_bytes(b"half a file")
    assert len(records.load(tmp_path)) == 1


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    path = write_record(tmp_path, ROW, [])
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_record(tmp_path, ROW | {"loss": 2.0}, [(1, 512, 6.0)])
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_reader_beside_a_writer_sees_whole_records(tmp_path):
    losses = [1.0 + i / 100 for i in range(60)]

    def write():
        for loss in losses:
            write_record(tmp_path, ROW | {"loss": loss}, [(1, 512, loss)])

    write_record(tmp_path, ROW | {"loss": losses[0]}, [])
    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        assert records.load(tmp_path)["loss"].item() in losses
    writer.join()
    assert records.load(tmp_path)["loss"].item() == losses[-1]


def test_a_folder_is_known_by_its_own_name(tmp_path, monkeypatch):
    path = write_record(tmp_path, ROW, [])
    path.rename(path.with_name("named.parquet"))
    monkeypatch.chdir(path.parent)
    with pytest.raises(DataError, match=r"named\.parquet: has the record of another run"):
        records.load(Path())


def test_of_many_records_the_one_that_cannot_be_used_is_named(tmp_path):
    for i in range(3):
        write_record(tmp_path, ROW | {"key": f"k{i}", "n_params": 1000 + i}, [])
    write_table(record_path(tmp_path, "k1"), [ROW | {"key": "k1", "loss": None}], RECORD_SCHEMA)
    table = records.read(tmp_path)
    assert [(Path(row.file).name, row.row, row.column) for row in table.rejected] == [("k1.parquet", 1, "loss")]
    assert table.records[["key", "n_params"]].to_numpy().tolist() == [["k0", 1000], ["k2", 1002]]
    assert [Path(file).name for file in table.records["file"]] == ["k0.parquet", "k2.parquet"]
    record_path(tmp_path, "k1").unlink()
    again = records.read(tmp_path, where="n_params > 1000")
    assert [Path(file).name for file in again.records["file"]] == ["k2.parquet"]
