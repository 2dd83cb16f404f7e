"""Outputs never destroy what was read, and say what they replace."""

import json
import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest

from scalelab.fit import load_fit
from scalelab.records import paper_records
from tests.support.paths import ROOT


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.csv"
    table = paper_records().query("corpus == 'pile'")[["n_params", "n_streams", "loss"]].assign(mine="kept")
    table.to_csv(file, index=False)
    return file


def test_a_table_that_is_read_is_not_written(scalelab, own):
    before = own.read_bytes()
    link = own.with_name("link.csv")
    link.symlink_to(own)
    for out in (own, link):
        code, _, error = scalelab("results", own, "-o", out)
        assert (code, own.read_bytes()) == (2, before)
        assert error == f"scalelab: -o {out}: would overwrite an input; give another file"


def test_what_is_replaced_is_said(scalelab, own, tmp_path):
    out = tmp_path / "out.csv"
    for word in ("saved", "replaced"):
        code, text, _ = scalelab("results", own, "-o", out)
        assert code == 0
        assert f"{word} {out}" in text
    assert len(pd.read_csv(out)) == 24


def test_a_figure_takes_the_place_of_a_link_and_leaves_its_target(scalelab, own, tmp_path):
    target, figure = tmp_path / "precious.txt", tmp_path / "out.png"
    target.write_text("precious")
    figure.symlink_to(target)
    code, _, _ = scalelab("fit", own, "--draws", 100, "--figure", figure, "-o", tmp_path)
    assert code == 0
    assert target.read_text() == "precious"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert not figure.is_symlink()


def test_fits_of_other_rows_stand_beside_each_other_and_say_which_they_are(scalelab, own, tmp_path):
    for where in ([], ["--where", "N > 600M"]):
        code, _, error = scalelab("fit", own, *where, "--draws", 100, "--no-figure", "-o", tmp_path / "fits")
        assert code == 0, error
    (selected,) = (tmp_path / "fits").glob("*where*.json")
    assert len(list((tmp_path / "fits").glob("*.json"))) == 2
    assert load_fit(selected).origin["where"] == "N > 600M"
    assert json.loads(selected.read_text())["origin"]["source"] == str(own)
    code, text, _ = scalelab("predict", selected, "--N", "1B")
    assert code == 0
    assert "(rows where N > 600M)" in text.splitlines()[0]


@pytest.mark.parametrize("metadata", ["pandas", "none"])
def test_a_record_that_was_edited_is_named(scalelab, tmp_path, metadata):
    folder = shutil.copytree(ROOT / "results" / "parallel-law", tmp_path / "results")
    file = min((folder / "runs").glob("*.parquet"))
    if metadata == "pandas":
        pd.read_parquet(file).assign(loss=1.0).to_parquet(file)
    else:
        pq.write_table(pq.read_table(file).replace_schema_metadata({}), file)
    code, text, error = scalelab("results", "check", folder)
    assert code == 1
    assert f"{file}: its checksum is missing" in text
    assert "1 file" in error
    code, text, error = scalelab("fit", folder, "--draws", 100, "--no-figure")
    assert "its checksum is missing" in text + error
