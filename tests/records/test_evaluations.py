"""Accuracies in run records, and records of evaluations beside the runs of a sweep."""

import pandas as pd
import pytest

from scalelab import records
from scalelab.errors import DataError
from scalelab.records.check import check_folder
from scalelab.records.evaluations import (
    accuracies,
    accuracy_columns,
    read_evaluation,
    read_evaluations,
    write_evaluations,
)
from scalelab.records.files import read_record
from scalelab.records.store import record_path, update_record, write_record


def record(key, **more):
    return {"key": key, "n_params": 1000, "n_streams": 1, "n_tokens": 1000, "loss": 2.0, "status": "ok"} | more


def score(task="cloze", P=1, value=0.5, **more):
    row = {"model": "k", "task": task, "metric": "acc", "n_streams": P, "plain": False, "value": value, "n_docs": 2}
    return row | {"documents": "d", "values": [1.0, 0.0], "clusters": [0, 1], "higher_is_better": True} | more


def test_columns_of_a_task():
    assert accuracy_columns("next-line") == tuple("accuracy_next_line" + end for end in ("", "_stderr", "_docs"))
    names = [*accuracy_columns("next-line"), *accuracy_columns("a.b"), "accuracy", "loss", "my_accuracy_x"]
    assert accuracies(names) == ["accuracy_next_line", "accuracy_a_b"]


def test_accuracies_are_read_with_the_runs_and_as_errors(tmp_path):
    name, stderr, docs = accuracy_columns("cloze")
    write_record(tmp_path, record("a"), [(1, 10, 3.0)])
    write_record(tmp_path, record("b"), [(1, 10, 3.0)])
    update_record(tmp_path, "b", {name: 0.6, stderr: 0.1, docs: 50})
    table = records.read(tmp_path).records.set_index("key")
    assert table.loc["b", [name, stderr, docs]].tolist() == [0.6, 0.1, 50]
    assert pd.isna(table.loc["a", name])
    mapped = records.read(tmp_path, {"loss": "error_cloze"}, where="accuracy_cloze > 0")
    assert mapped.records["loss"].tolist() == [pytest.approx(0.4)]
    assert mapped.left_out == 1
    # A run that is trained again keeps what is known, and one that fails replaces nothing.
    write_record(tmp_path, record("b", loss=1.9), [])
    write_record(tmp_path, record("b", loss=None, status="failed"), [])
    stored = read_record(record_path(tmp_path, "b"))
    assert (stored["loss"], stored[name]) == (1.9, 0.6)
    assert not check_folder(tmp_path).wrong


def test_scores_of_a_model_accumulate_in_one_file(tmp_path):
    write_record(tmp_path, record("k"), [(1, 10, 3.0)])
    path = write_evaluations(tmp_path, "k", [score(), score(P=2)])
    assert write_evaluations(tmp_path, "k", [score(P=2, value=0.75), score("brackets")]) == path
    table = read_evaluations(tmp_path)
    assert table[["task", "n_streams", "value"]].values.tolist() == [
        ["cloze", 1, 0.5],
        ["cloze", 2, 0.75],
        ["brackets", 1, 0.5],
    ]
    assert len(records.read(tmp_path).records) == 1  # they are no runs
    assert not check_folder(tmp_path).findings


def test_a_damaged_evaluation_is_named(tmp_path):
    write_record(tmp_path, record("k"), [(1, 10, 3.0)])
    path = write_evaluations(tmp_path, "k", [score()])
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"k\.parquet"):
        read_evaluation(path)
    faults = []
    assert not len(read_evaluations(tmp_path, faults))
    assert len(faults) == 1
    assert [finding.file for finding in check_folder(tmp_path).wrong] == [path]
    with pytest.raises(DataError, match="not an evaluation"):
        read_evaluation(record_path(tmp_path, "k"))
