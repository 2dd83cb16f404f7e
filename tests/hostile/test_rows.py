"""Rows that contradict themselves, or that are not what they look like."""

import numpy as np
import pandas as pd
import pytest

import scalelab as sl
from scalelab.errors import DataError, UsageError
from scalelab.records.expressions import rows_where

DIGITS = pd.DataFrame({"corpus": ["007", "008", "7", "10"], "n": [7, 8, 9, 10], "model size": ["1", "2", "10", "3"]})


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("corpus != '007'", [0, 1, 1, 1]),
        ("corpus == '007'", [1, 0, 0, 0]),
        ("corpus == 7", [1, 0, 1, 0]),
        ("corpus in ['007', '10']", [1, 0, 0, 1]),
        ("'007' == corpus or n > 9", [1, 0, 0, 1]),
        ("corpus < 9 and corpus != '007'", [0, 1, 1, 0]),
        ("n == '7'", [1, 0, 0, 0]),
        ("`model size` == '10'", [0, 0, 1, 0]),
        ("'model size' > 2", [0, 0, 1, 1]),
    ],
)
def test_digits_in_quotes_are_text(where, rows):
    assert rows_where(DIGITS, where)[0].astype(int).tolist() == rows


def test_counts_that_contradict_each_other_are_faults_of_their_rows():
    rows = {"n_params": [1e8, 2e8, 4e8, 8e8], "loss": [3.0, 2.9, 2.8, 2.7]}
    counts = {"n_params_backbone": [9e7, 2.5e8, 3e8, 8e8], "n_params_total": [1e8, 3e8, 1e8, 9e8]}
    table = sl.read(pd.DataFrame(rows | counts))
    assert table.records["n_params"].tolist() == [1e8, 8e8]
    assert [str(fault) for fault in table.rejected] == [
        "table: column 'n_params_backbone', row 2: 250000000 is not at most n_params",
        "table: column 'n_params_total', row 3: 100000000 is not at least n_params",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "values", "severity", "words"),
    [
        ("dtype", ["fp32", "bf16"], "warning", "precision (bf16 and fp32)"),
        ("vocab_size", [512, 50_257], "warning", "vocabulary (50.3k and 512)"),
        ("device", ["cpu", "H100"], "info", "device (H100 and cpu)"),
        ("code", ["0f" * 8, "1e" * 8], "info", "scalelab's code (2 versions)"),
        ("versions", ['{"torch": "2.11.0"}', '{"torch": "2.13.0"}'], "info", "library versions (2 versions)"),
    ],
)
def test_runs_that_differ_in_what_no_law_knows_get_a_note(column, values, severity, words):
    runs = sl.read("paper").records.query("corpus == 'pile'")
    assert not [note for note in sl.fit_law(runs, draws=100).notes if note.code == "mixed_runs"]
    (note,) = (n for n in sl.fit_law(runs.assign(**{column: values * 12}), draws=100).notes if n.code == "mixed_runs")
    assert (note.severity, words in note.message) == (severity, True)


def test_only_columns_that_are_needed_are_read(tmp_path, monkeypatch):
    file = tmp_path / "wide.parquet"
    runs = pd.DataFrame({"N": np.geomspace(1e8, 1e9, 100), "D": 1e9, "loss": np.linspace(3, 2, 100)})
    runs.assign(blob="x" * 5_000, other=range(100)).to_parquet(file, compression=None, use_dictionary=False)
    monkeypatch.setattr("scalelab.records.files.MOST_BYTES", 100_000)
    assert len(sl.read(file)) == 100
    assert len(sl.read(file, where="other < 30")) == 30
    with pytest.raises(DataError, match="unpacked, above the limit of"):
        sl.read(file, where="blob == 'x'")
    with pytest.raises(UsageError, match="no column 'nothere'; it has N, D, loss, blob, other"):
        sl.read(file, columns={"loss": "nothere"})
