import json

import numpy as np
import pandas as pd
import pytest

from scalelab import records
from scalelab.errors import DataError, UsageError
from scalelab.fit import group_records
from scalelab.fit.data import fit_data
from tests.support.tables import fit_table

FOREIGN = {
    "N": ["70M", "0.16B", "410e6", "1B"],
    "val_loss": ["3.9", "3.5", "3.2", "3.0"],
    "streams": ["1", "2", "1.0", "4"],
}
MAP = {"n_params": "N", "loss": "val_loss", "n_streams": "streams"}


def written(folder, form: str):
    frame, path = pd.DataFrame(FOREIGN), folder / f"table.{form}"
    if form == "parquet":
        frame.to_parquet(path)
    elif form == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in frame.to_dict("records")) + "\n")
    else:
        frame.to_csv(path, index=False, sep="\t" if form == "tsv" else ",")
    return path


@pytest.mark.parametrize("form", ["parquet", "csv", "tsv", "jsonl"])
def test_every_format_gives_the_same_records(tmp_path, form):
    table = records.load(written(tmp_path, form), MAP)
    assert table["n_params"].tolist() == [70e6, 160e6, 410e6, 1e9]
    assert table["n_streams"].tolist() == [1, 2, 1, 4]
    assert table["loss"].tolist() == [3.9, 3.5, 3.2, 3.0]
    from_pandas = records.load(pd.DataFrame(FOREIGN), MAP)
    pd.testing.assert_frame_equal(table.drop(columns="file"), from_pandas.drop(columns="file"))


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("n_params > 100M", 3),
        ("n_params >= 0.16B and loss < 3.3", 2),
        ("streams == 1", 2),
        ("name in ['a', '1B']", 2),
        ("not name == 'a'", 3),
        ("n_params > .1b", 3),
        ("n_tokens > 1", None),
    ],
)
def test_where_chooses_rows(where, left):
    frame = pd.DataFrame(FOREIGN).assign(name=["a", "1B", "b", "c"])
    if left is None:
        with pytest.raises(UsageError, match=r"where='n_tokens > 1': .*columns are"):
            records.read(frame, MAP, where)
        return
    read = records.read(frame, MAP, where)
    assert (len(read.records), read.left_out) == (left, 4 - left)


@pytest.mark.parametrize(
    "where", ["loss", "loss +", "1", "loss > ", "nothing == 1", "9**9**9 > loss", "loss.to_csv('written')"]
)
def test_a_where_that_is_no_condition_is_said(where):
    with pytest.raises(UsageError, match="where="):
        records.read(pd.DataFrame(FOREIGN), MAP, where)


def test_rows_that_cannot_be_used_are_listed_with_their_reason():
    frame = pd.DataFrame(
        {
            "n_params": ["1B", "", "x", "2B", "-5", "3B", "inf"],
            "n_streams": [1, 1, 1, 2.5, 1, 1, 1],
            "loss": [3.0, 2.9, 2.8, 2.7, 2.6, float("nan"), 2.0],
        }
    )
    read = records.read(frame)
    assert read.records["n_params"].tolist() == [1e9]
    assert [(r.row, r.column) for r in read.rejected] == [
        (2, "n_params"),
        (3, "n_params"),
        (4, "n_streams"),
        (5, "n_params"),
        (6, "loss"),
        (7, "n_params"),
    ]
    assert str(read.rejected[0]) == "table: column 'n_params', row 2: an empty cell is not a positive number"
    with pytest.raises(DataError, match=r"row 2: an empty cell is not a positive number \(6 such rows\)"):
        records.load(frame)
    with pytest.raises(DataError, match="none of 6 rows can be used"):
        records.read(frame.iloc[1:])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"n_params": "M"}, "columns={'n_params': 'M'}: table has no column 'M'; it has N, q, streams"),
        ({"size": "N"}, "columns='size': no such column; choose one of n_params, n_streams"),
        (
            {"n_params": "N"},
            r"table: no column 'loss' \(it has: .*\); map one with `columns={'loss': COLUMN}`",
        ),
    ],
)
def test_columns_that_are_not_there_are_named(columns, message):
    with pytest.raises((UsageError, DataError), match=message):
        records.load(
            pd.DataFrame(FOREIGN).rename(columns={} if "n_params" not in columns else {"val_loss": "q"}), columns
        )


@pytest.mark.parametrize(("name", "text"), [("t.csv", 'a,b\n1,2,3\n"'), ("t.jsonl", "{broken"), ("t.parquet", "x")])
def test_a_broken_file_is_named_with_its_kind(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}: not a readable"):
        records.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "n_params,n_tokens,loss\n1000000000,20000000000,3.0,1.1\n", "not a readable CSV file"),
        ("t.csv", "n_params,loss,loss\n1000000000,3.0,2.0\n", "more than one column 'loss'"),
        ("t.csv", "n_params,loss\n", "the table has no rows"),
        ("t.csv", "", "not a readable CSV file"),
        ("t.jsonl", '{"n_params": 1, "loss": 2}\n5\n', "not a readable JSONL file .line 2 is not a JSON object"),
        ("t.jsonl", '[{"n_params": 1}]', "line 1 is not a JSON object"),
    ],
)
def test_tables_that_could_be_misread_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises((DataError, UsageError), match=message):
        records.load(tmp_path / name)


def test_a_comma_at_the_end_of_rows_is_no_cell(tmp_path):
    (tmp_path / "t.csv").write_text("n_params,loss\n1000000000,3.0,\n")
    assert records.load(tmp_path / "t.csv")["loss"].tolist() == [3.0]


def test_jsonl_keeps_every_digit(tmp_path):
    losses = np.random.default_rng(0).uniform(1, 4, 500)
    lines = [json.dumps({"n_params": 10**9, "loss": loss}) for loss in losses]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert records.load(tmp_path / "t.jsonl")["loss"].tolist() == losses.tolist()


def test_what_a_fit_does_not_use_is_no_reason_to_refuse_a_row():
    frame = pd.DataFrame(FOREIGN).assign(seed="a", train_seconds="1h20", key="exp1")
    assert len(records.load(frame, MAP)) == 4


def test_rows_say_how_their_run_ended():
    words = ["ok", None, " OK ", "", "finished", "diverged", "Out of memory", "crashed", "running", 5]
    table = pd.DataFrame({"n_params": 1e9, "loss": [3.0] * 5 + [None, np.inf, "x", 3.0, 3.0], "status": words})
    assert len(records.read(table.drop(index=[5, 6, 7])).records) == 7  # not mapped: it says nothing
    read = records.read(table, {"status": "status"})
    assert read.records["status"].tolist() == ["ok"] * 5
    assert read.others["status"].tolist() == ["diverged", "out_of_memory", "failed"]
    assert [str(row).split(": ", 1)[1] for row in read.rejected] == [
        f"column 'status', row {row}: {value} is not one of ok, diverged, out_of_memory, failed, interrupted"
        for row, value in ((9, "'running'"), (10, "5"))
    ]
    assert len(records.read(table, {"status": "status"}, where="status in ['ok', 'failed']").others) == 1
    with pytest.raises(DataError, match=r"row 9: 'running' is not one of ok, .* .2 such rows"):
        records.load(table, {"status": "status"})


def test_rows_that_where_does_not_ask_for_are_not_missed():
    frame = pd.DataFrame(FOREIGN).assign(run=[1, 2, 3, 4], val_loss=["3.9", "3.5", "diverged", "3.0"])
    read = records.read(frame, MAP, "run != 3")
    assert (len(read.records), len(read.rejected), read.left_out) == (3, 0, 1)
    read = records.read(frame, MAP, "loss > 3.1")  # of this row nobody knows
    assert (len(read.records), len(read.rejected), read.left_out) == (2, 1, 1)


def test_a_file_gives_its_name_to_what_is_fitted(tmp_path):
    (group,) = group_records(records.load(written(tmp_path, "csv"), MAP))
    assert (group.title, group.slug) == ("table", "table")


def test_a_file_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "t.docx").write_text("")
    with pytest.raises(UsageError, match=r"t\.docx: not a table; its name must end in one of \.parquet, \.csv"):
        records.load(tmp_path / "t.docx")


@pytest.mark.parametrize("objective", ["huber", "log", "raw"])
def test_doubling_a_weight_equals_repeating_a_row(make_records, objective):
    table = make_records(noise=4e-3, seed=1)
    weighted = fit_table(table.assign(weight=np.where(table.index < 5, 2.0, 1.0)), objective=objective, draws=0)
    repeated = fit_table(pd.concat([table, table.iloc[:5]], ignore_index=True), objective=objective, draws=0)
    plain = fit_table(table, objective=objective, draws=0)
    assert weighted.params == pytest.approx(repeated.params, rel=1e-6)
    assert weighted.objective == pytest.approx(repeated.objective, rel=1e-9)
    assert weighted.r_squared == pytest.approx(repeated.r_squared, rel=1e-9)
    assert weighted.params != pytest.approx(plain.params, rel=1e-4)


def test_n_is_counted_in_any_unit(make_records):
    table = make_records(noise=2e-3)
    billions = table.assign(n_params=table["n_params"] / 1e9)
    one, other = fit_table(table), fit_table(billions)
    assert other.values["A"] == pytest.approx(one.values["A"] / 1e9, rel=1e-6)
    for name in ("E", "k", "alpha"):
        assert other.values[name] == pytest.approx(one.values[name], rel=1e-6)
        assert other.interval(name) == pytest.approx(one.interval(name), rel=1e-4)


def test_the_order_of_rows_changes_nothing(make_records):
    table = make_records(noise=2e-3)
    assert fit_table(table.sample(frac=1, random_state=3)) == fit_table(table)


def test_some_records_without_p_are_an_error(make_records):
    table = make_records().astype({"n_streams": float})
    table.loc[3, "n_streams"] = np.nan
    (group,) = group_records(table)
    with pytest.raises(DataError, match="1 of 24 records without 'n_streams': fill it in for all, or leave these out"):
        fit_data(group.records)
