"""Outputs never destroy what was read, and say what they replace."""

import json
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow.parquet as pq
import pytest

import scalelab as sl
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


def _corpora(own, tmp_path, *names):
    """A table of the same runs under each of the names."""
    rows = pd.read_csv(own)[["n_params", "n_streams", "loss"]]
    file = tmp_path / "corpora.csv"
    pd.concat([rows.assign(corpus=name) for name in names]).to_csv(file, index=False)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x" * 230, "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 80, "/../" * 60])
def test_a_fit_whose_corpus_has_a_long_name_is_saved(scalelab, own, tmp_path, name):
    file = _corpora(own, tmp_path, name, f"{name}2")
    out = tmp_path / "fits"
    code, text, error = scalelab("fit", file, "--map", "corpus=corpus", "--draws", 100, "-o", out)
    assert code == 0, error
    assert len(list(out.glob("*.json"))) == len(list(out.glob("*.png"))) == 2
    assert {load_fit(path).group for path in out.glob("*.json")} == {name, f"{name}2"}
    table = [line for line in text.splitlines() if not line.startswith("saved") and "Predictions and plans" not in line]
    assert max(map(len, table)) < 130
    assert name not in text.partition("saved")[0]
    assert "Glyph" not in text + error


def test_a_group_that_cannot_be_saved_does_not_lose_the_others(scalelab, own, tmp_path):
    file, out = _corpora(own, tmp_path, "first", "second", "third"), tmp_path / "fits"
    (out / "second.json").mkdir(parents=True)
    code, text, error = scalelab("fit", file, "--map", "corpus=corpus", "--draws", 100, "--no-figure", "-o", out)
    assert f"second: cannot save {out / 'second.json'}: Is a directory" in text + error
    assert code == 0
    assert [path.name for path in sorted(out.glob("*.json")) if path.is_file()] == ["first.json", "third.json"]
    assert "second" in text


def test_groups_that_differ_in_case_alone_have_files_of_their_own(own, tmp_path):
    rows = pd.read_csv(own)
    fits = sl.fit_law(pd.concat([rows.assign(mine=name) for name in ("Web", "web", "web-2")]), by="mine", draws=100)
    assert len(set(fits.save(tmp_path / "fits").values())) == 3


def test_a_reader_that_goes_away_loses_no_fit(own, tmp_path):
    file, out = _corpora(own, tmp_path, "first", "second"), tmp_path / "fits"
    command = [
        sys.executable,
        "-m",
        "scalelab",
        "fit",
        str(file),
        "--map",
        "corpus=corpus",
        "--draws",
        "100",
        "-o",
        str(out),
    ]
    with subprocess.Popen(
        [*command, "--details"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert "Traceback" not in error
    assert len(list(out.glob("*.json"))) == 2


@pytest.mark.parametrize("link", ["quarantine", "quarantine/runs"])
def test_quarantine_never_follows_a_link_out_of_the_folder(scalelab, tmp_path, link):
    folder, outside = tmp_path / "results", tmp_path / "outside"
    (folder / "runs").mkdir(parents=True)
    outside.mkdir()
    damaged = folder / "runs" / "k.parquet"
    damaged.write_bytes(b"PAR1")
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(outside)
    code, text, error = scalelab("results", "check", folder, "--quarantine")
    assert code == 1
    assert f"{folder / link}: a symbolic link, through which files would leave {folder}; remove it" in text + error
    assert damaged.exists()
    assert not [*outside.iterdir()]
