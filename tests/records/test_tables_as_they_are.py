"""Tables as people keep them: the same records whatever the delimiter, encoding, packing and way to write numbers."""

from __future__ import annotations

import gzip
import json
import lzma
import zipfile

import numpy as np
import pandas as pd
import pytest

from scalelab import records
from scalelab.errors import DataError, UsageError
from scalelab.records.numbers import to_floats

N, D, LOSS = [125e6, 1.3e9, 7e9], [3e9, 3e11, 2e12], [3.25, 2.75, 2.125]
CSV = (
    "n_params,n_tokens,loss\n125000000,3000000000,3.25\n1300000000,300000000000,2.75\n7000000000,2000000000000,2.125\n"
)


def same(table) -> None:
    assert table["n_params"].tolist() == N
    assert table["n_tokens"].tolist() == D
    assert table["loss"].tolist() == LOSS


@pytest.mark.parametrize(
    "text",
    [
        CSV,
        CSV.replace(",", ";"),
        CSV.replace(",", "\t"),
        CSV.replace(",", "|"),
        CSV.replace(",", "  "),
        CSV.replace(",", ";").replace(".", ","),
        "# by hand\n" + CSV + "# end\n\n",
        "# " + CSV,
        CSV.replace("\n", "\r\n"),
        CSV.replace("125000000,", '"125,000,000",'),
        CSV.replace("125000000,", "125 000 000,"),
        CSV.replace("125000000,", "125M params,").replace("300000000000", "300 billion").replace("7000000000,", "7B,"),
        CSV.replace("3000000000,3", "3bn tokens,3").replace("2000000000000", "2e12").replace("7000000000,", "7x10^9,"),
        CSV.replace("3.25", "3.25 ± 0.01").replace("2.75", "2.75 (0.02)").replace("2.125", "212.5 %"),
        CSV + "Total,,\n",
        "sizes,,result\nn_params,n_tokens,loss\n" + CSV.split("\n", 1)[1],
        ",n_params,n_tokens,loss,x,x\n" + "".join(f"{i},{row},1,2\n" for i, row in enumerate(CSV.split("\n")[1:4])),
    ],
)
def test_text_is_read_as_it_stands(tmp_path, text):
    (tmp_path / "t.csv").write_bytes(text.encode())
    columns = {"n_params": "sizes n_params", "n_tokens": "sizes n_tokens", "loss": "result loss"}
    same(records.load(tmp_path / "t.csv", columns if text.startswith("sizes") else None))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes(CSV.replace("loss", "loss,größe").replace("5\n", "5,ä\n").encode(encoding))
    same(records.load(tmp_path / "t.csv"))


@pytest.mark.parametrize("form", ["gz", "xz", "zip", "xlsx", "json", "lists", "nested"])
def test_packed_and_other_forms(tmp_path, form):
    frame = pd.DataFrame({"n_params": N, "n_tokens": D, "loss": LOSS})
    columns = None
    path = tmp_path / {"xlsx": "t.xlsx"}.get(form, "t.json" if form in ("json", "lists", "nested") else f"t.csv.{form}")
    if form == "gz":
        path.write_bytes(gzip.compress(CSV.encode()))
    elif form == "xz":
        path.write_bytes(lzma.compress(CSV.encode()))
    elif form == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("t.csv", CSV)
    elif form == "xlsx":
        pytest.importorskip("openpyxl")
        frame.to_excel(path, index=False)
    elif form == "json":
        path.write_text(frame.to_json(orient="records"))
    elif form == "lists":
        path.write_text(json.dumps(frame.to_dict("list")))
    else:
        rows = [{"model": {"size": n}, "n_tokens": d, "eval": {"loss": x}} for n, d, x in zip(N, D, LOSS, strict=True)]
        path.write_text(json.dumps({"runs": rows}))
        columns = {"n_params": "model.size", "loss": "eval.loss"}
    same(records.load(path, columns))


@pytest.mark.parametrize("form", ["json", "csv", "parquet"])
def test_a_file_a_run(tmp_path, form):
    for i, (n, d, x) in enumerate(zip(N, D, LOSS, strict=True)):
        frame = pd.DataFrame({"n_params": [n], "n_tokens": [d], "loss": [x]})
        path = tmp_path / f"run{i}.{form}"
        if form == "parquet":
            frame.to_parquet(path)
        else:
            path.write_text(json.dumps(frame.to_dict("records")[0]) if form == "json" else frame.to_csv(index=False))
    table = records.load(tmp_path)
    same(table)
    assert table["file"].nunique() == 1


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1.234,5", "2,5"], [1234.5, 2.5]),
        (["1,234.5", "2,000"], [1234.5, 2000.0]),
        (["3,14", "2,71"], [3.14, 2.71]),
        (["1,000", "2,000"], [1000.0, 2000.0]),
        (["~7B", "1.5 trillion", "12 %", "x", None], [7e9, 1.5e12, 0.12, np.nan, np.nan]),
        (["1_000", "6.9e+20 FLOPs", "1.2×10^9", "-3"], [1000.0, 6.9e20, 1.2e9, -3.0]),
    ],
)
def test_numbers_as_people_write_them(cells, values):
    assert to_floats(pd.Series(cells, dtype=object)).tolist() == pytest.approx(values, nan_ok=True)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("model_size", "train_tokens", "val_loss"), "'model_size' as N, 'train_tokens' as D, 'val_loss' as loss"),
        (("non_embedding_params", "tokens", "eval/loss"), "'non_embedding_params' as N"),
        (("Params", "Training Tokens", "Validation Loss"), "'Params' as N, 'Training Tokens' as D"),
        (("N", "D", "loss"), "using 'N', 'D'"),
    ],
)
def test_usual_names_are_recognised_and_said(names, said):
    frame = pd.DataFrame(dict(zip(names, (N, D, LOSS), strict=True)))
    read = records.read(frame)
    same(read.records)
    assert said in read.notes[0]


def test_ambiguous_names_are_an_error_that_lists_them():
    frame = pd.DataFrame({"params": N, "num_params": N, "tokens": D, "loss": LOSS})
    with pytest.raises(DataError, match="n_params could be one of 'params', 'num_params'; choose one with `columns="):
        records.read(frame)
    same(records.load(frame, {"n_params": "params"}))


@pytest.mark.parametrize(
    ("frame", "columns"),
    [
        (
            {"n_params": N, "flops": [6 * n * d for n, d in zip(N, D, strict=True)], "loss": LOSS},
            {"n_tokens": "flops/(6*n_params)"},
        ),
        ({"n_params": N, "n_tokens": D, "ppl": np.exp(LOSS)}, {"loss": "ln(ppl)"}),
        ({"n_params": N, "n_tokens": D, "bpb": np.array(LOSS) / np.log(2) / 4}, {"loss": "bpb*ln(2)*4"}),
        (
            {"size (B)": [0.125, 1.3, 7], "ratio": [24, 3000 / 13, 2000 / 7], "loss": LOSS},
            {"n_params": "`size (B)` * 1e9", "n_tokens": "ratio*n_params"},
        ),
    ],
)
def test_columns_are_computed(frame, columns):
    table = records.load(pd.DataFrame(frame), columns)
    for name, values in (("n_params", N), ("n_tokens", D), ("loss", LOSS)):
        assert table[name].tolist() == pytest.approx(values, rel=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("6*nope", "has no column 'nope'"),
        ("open('x')", "unknown function 'open'"),
        ("loss.real*2", "only column names, numbers"),
        ("loss*", "not an expression"),
        ("ln(loss, 2)", "ln takes 1 argument"),
    ],
)
def test_what_cannot_be_computed_is_said(text, message):
    with pytest.raises(UsageError, match=f"columns={{'n_tokens': .*{message}".replace("(", r"\(")):
        records.read(pd.DataFrame({"n_params": N, "loss": LOSS}), {"n_tokens": text})


@pytest.mark.parametrize("where", ["`model size` > 1B", "model size > 1B", '"model size" > 1B', "n_params > 1B"])
def test_where_names_any_column(where):
    frame = pd.DataFrame({"model size": N, "train/tokens": D, "val/loss": LOSS})
    read = records.read(frame, {"n_params": "model size"}, where)
    assert (len(read.records), read.left_out) == (2, 1)


def test_names_of_many_columns_are_shortened():
    frame = pd.DataFrame({f"c{i}": [1.0] for i in range(90)})
    with pytest.raises(DataError, match=r"c11 and 78 more"):
        records.read(frame)
