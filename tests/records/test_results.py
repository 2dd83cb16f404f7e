"""`scalelab results`: what is shown, exported, drawn and found, against records written here."""

import json
import os
import time

import numpy as np
import pandas as pd
import pytest

from scalelab import records
from scalelab.cli import main
from scalelab.errors import UsageError
from scalelab.plot.curves import plot_curves
from scalelab.records.check import STALE_S, apply_actions, check_folder
from scalelab.records.store import curve_path, record_path, write_record

CURVE = [(1, 1000, 6.0), (2, 2000, 5.0), (3, 4000, 4.0)]
LOST = {"diverged": "loss is nan after step 7", "out_of_memory": "16 sequences do not fit"}


def record(key, N=1000, P=1, loss=3.0, **more):
    return {
        "key": key, "n_params": N, "n_params_backbone": N, "n_streams": P, "n_tokens": 10**6, "seed": 0, "loss": loss,
        "corpus": "made", "setup": "made", "tokens_per_s": 5e4, "created_utc": f"2026-01-0{P}T00:00:00", **more,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Four runs that are ok, and two that are not."""
    out = tmp_path / "sweep"
    for i, (N, P) in enumerate([(1000, 1), (1000, 2), (4000, 1), (4000, 2)]):
        loss = 3.0 + 1 / 3 - i / 7
        write_record(out, record(f"k{i}", N, P, loss, mixture_weights=[0.1, 0.9] if P > 1 else None), CURVE)
    for i, (status, message) in enumerate(LOST.items()):
        write_record(out, record(f"x{i}", 9000, 4, None, status=status, message=message), CURVE[:i])
    return out


def shown(capsys, *args, code=0):
    assert main([*map(str, args)]) == code
    return capsys.readouterr()


def test_the_table_holds_every_run_and_says_what_became_of_it(folder, capsys):
    out = shown(capsys, "results", folder).out
    lines = out.splitlines()
    assert lines[2].split() == ["N", "backbone", "P", "D", "seed", "status", "loss", "tokens/s"]
    assert [line.split()[:4] + line.split()[5:6] for line in lines[4:6]] == [
        ["9k", "9k", "4", "1M", s] for s in ("diverged", "out")
    ]
    assert "6 runs: 4 ok, 1 diverged, 1 out of memory" in out
    assert "diverged: N 9k  P 4  D 1M  seed 0: loss is nan after step 7" in out
    assert "3.3333" in out


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["--sort", "loss"], ["k3", "k2", "k1", "k0", "x0", "x1"]),
        (["--sort", "loss", "--descending"], ["k0", "k1", "k2", "k3", "x0", "x1"]),
        (["--sort", "key", "--descending"], ["x1", "x0", "k3", "k2", "k1", "k0"]),
        (["--sort", "N", "--where", "Q < 3 and n_params > 2k"], None),
        (["--sort", "N", "--where", "P < 3 and N > 2k"], ["k2", "k3"]),
        (["--sort", "N", "--where", "n_streams < 3 and n_params > 2k"], ["k2", "k3"]),
        (["--where", "status != 'ok'", "--sort", "status", "--descending"], ["x1", "x0"]),
        (["--where", "loss < 3"], ["k3"]),
    ],
)
def test_runs_are_chosen_and_sorted(folder, capsys, options, keys):
    said = shown(capsys, "results", folder, "--columns", "key", *options, "--csv", code=0 if keys else 2)
    if keys is None:
        assert "--where 'Q < 3 and n_params > 2k'" in said.err
    else:
        assert said.out.split() == ["key", *keys]


def test_exports_hold_every_digit_and_are_read_again(folder, capsys, tmp_path):
    table, text = tmp_path / "runs.csv", tmp_path / "runs.json"
    for file in (table, text):
        said = shown(capsys, "results", folder, "-o", file, "--sort", "key")
        assert said.err == f"saved {file}\n"
    assert shown(capsys, "results", folder, "--csv", "--sort", "key").out == table.read_text()
    before, after = records.read(folder), records.read(table)
    assert after.unfinished == before.unfinished == {"diverged": 1, "out_of_memory": 1}
    for name in ("key", "loss", "n_params", "seed", "corpus"):
        assert after.records[name].tolist() == before.records[name].tolist()
    rows = json.loads(text.read_text())
    assert [row["loss"] for row in rows] == [*before.records["loss"], None, None]
    assert rows[1]["mixture_weights"] == [0.1, 0.9]
    assert rows[4]["message"] == LOST["diverged"]
    assert "peak_lr" not in rows[0]
    assert json.loads(shown(capsys, "results", "--json", folder, "--sort", "key").out) == rows


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["DIR", "--sort", "size"], "--sort size: no such column; "),
        (["DIR", "--columns", "N", "size"], "--columns size: no such column"),
        (["DIR", "--descending"], "--descending: needs --sort COLUMN"),
        (["DIR", "--quarantine"], "--quarantine: needs check"),
        (["DIR", "--csv", "--json"], "--csv and --json: give one of them"),
        (["DIR", "--figure", "x.txt"], "--figure x.txt: must end in one of "),
        (["DIR", "--where", "loss < 0"], "none of 6 rows satisfies --where 'loss < 0'"),
        (["DIR", "nowhere"], "give one folder or file"),
        (["check", "DIR", "--sort", "N"], "the only option is --quarantine"),
        (["check"], "results check: give one folder of records"),
        (["check", "nowhere"], "nowhere: no such folder"),
        (["nowhere"], "nowhere: no such file or folder"),
    ],
)
def test_a_wrong_request_is_one_line(folder, capsys, args, message):
    said = shown(capsys, "results", *(folder if word == "DIR" else word for word in args), code=2)
    assert message in said.err
    assert said.err.count("\n") == 1


def test_a_folder_without_records_is_said(tmp_path, capsys):
    for words in (["results", tmp_path], ["results", "check", tmp_path]):
        assert f"{tmp_path}: no records (*.parquet) here" in shown(capsys, *words, code=2).err


def test_a_file_that_cannot_be_read_is_told_after_the_others_are_shown(folder, capsys):
    bad = record_path(folder, "k0")
    bad.write_bytes(bad.read_bytes()[:-9])
    said = shown(capsys, "results", folder, code=1)
    assert "5 runs: 3 ok, 1 diverged, 1 out of memory" in said.out
    assert f"{bad}: not a readable Parquet file" in said.err
    assert f"scalelab results check {folder} finds all such files" in said.err


def test_check_finds_each_fault_and_quarantine_ends_them(folder, capsys, tmp_path):
    assert check_folder(folder).findings == ()
    cut, foreign, named, swapped = (record_path(folder, key) for key in ("k0", "f0", "m0", "s0"))
    cut.write_bytes(b"")
    pd.DataFrame({"a": [1]}).to_parquet(foreign)
    named.write_bytes(record_path(folder, "k1").read_bytes())
    swapped.write_bytes(curve_path(folder, "k1").read_bytes())
    curve = curve_path(folder, "k2")
    curve.write_bytes(curve.read_bytes()[50:])
    write_record(folder.parent / "other", record("k3", 4000, 2, 9.9, created_utc="2027-01-01T00:00:00"), CURVE)
    doubled = record_path(folder.parent / "other", "k3")
    wrong = {cut, foreign, named, swapped, curve, doubled}

    write_record(folder.parent / "other", record("k1", 1000, 2, 3.0 + 1 / 3 - 1 / 7), CURVE)  # a copy is not wrong
    stale, fresh = (folder / "runs" / f".k9.parquet.{letter * 32}.tmp" for letter in "ab")
    for file in (stale, fresh):
        file.write_bytes(b"half")
    os.utime(stale, (time.time() - 2 * STALE_S,) * 2)
    (folder / "checkpoints" / "k1" / "step-7").mkdir(parents=True)
    (folder / "checkpoints" / "k1" / "step-7" / "model.safetensors").write_bytes(b"0" * 2**20)
    write_record(folder, record("alone", 1000, 1, 3.1), CURVE)
    curve_path(folder, "alone").unlink()

    found = check_folder(tmp_path)
    assert {finding.file for finding in found.wrong} == wrong
    notes = {str(f.file.relative_to(tmp_path)): f.message for f in found.findings if f not in found.wrong}
    assert "temporary file of an interrupted write" in notes.pop(str(stale.relative_to(tmp_path)))
    assert "of a running or interrupted write" in notes.pop(str(fresh.relative_to(tmp_path)))
    assert "checkpoints of a finished run, 1.0 MiB" in notes.pop("sweep/checkpoints/k1")
    assert "record without a readable loss curve" in notes.pop("sweep/runs/alone.parquet")
    assert "its loss is used anyway: to get the curve, remove this record" in notes.pop("sweep/runs/k2.parquet")
    assert "loss curve without a record" in notes.pop("sweep/curves/k0.parquet")
    assert any("it is used once" in message for message in notes.values())

    said = shown(capsys, "results", "check", tmp_path, code=1)
    assert "6 files cannot be used" in said.err
    assert all(file.exists() for file in wrong)
    before = {file: file.read_bytes() for file in wrong}
    said = shown(capsys, "results", "check", tmp_path, "--quarantine")
    for file, content in before.items():
        assert not file.exists()
        assert (tmp_path / "quarantine" / file.relative_to(tmp_path)).read_bytes() == content
    assert not stale.exists()
    assert fresh.exists()
    assert not check_folder(tmp_path).wrong
    shown(capsys, "results", "check", tmp_path)
    assert sorted(records.load(tmp_path)["key"]) == ["alone", "k1", "k2", "k3"]


def test_quarantine_never_overwrites(folder):
    contents = [b"", b"x", b"yy"]
    for content in contents:
        record_path(folder, "k0").write_bytes(content)
        assert len(apply_actions(folder, check_folder(folder).wrong)) == 1
    moved = sorted((folder / "quarantine" / "runs").iterdir())
    assert [file.name for file in moved] == ["k0.1.parquet", "k0.2.parquet", "k0.parquet"]
    assert {file.read_bytes() for file in moved} == {*contents}


def test_curves_are_drawn_in_a_panel_for_each_size(folder, capsys, tmp_path):
    picture = tmp_path / "curves.png"
    said = shown(capsys, "results", folder, "--figure", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"saved {picture} with the loss curves of 5 runs; 1 run has no curve" in said.err
    table = records.gather(folder)
    runs = pd.concat([table.records, table.others], ignore_index=True)
    points = pd.DataFrame(CURVE, columns=["step", "n_tokens", "loss"])
    broken = pd.concat([points, points.assign(loss=[np.nan, np.inf, -1.0])])  # of a run that diverged
    figure = plot_curves(runs, dict.fromkeys(runs["key"], points) | {"x0": broken})
    assert [axes.get_title() for axes in figure.axes] == ["N = 1k", "N = 4k", "N = 9k"]
    sizes = {f"N = {size // 1000}k": mine for size, mine in runs.groupby("n_params_backbone")}
    for axes in figure.axes:
        mine = sizes[axes.get_title()]
        assert len(axes.lines) == len(mine) + (mine["status"] != "ok").sum()  # runs that are not ok end with a cross
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlim() == figure.axes[0].get_xlim()
        for line in axes.lines[:1]:
            assert line.get_xdata().tolist() == points["n_tokens"].tolist()
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["P = 1", "P = 2", "P = 4", "not ok"]
    with pytest.raises(UsageError, match="no loss curves to draw"):
        plot_curves(runs, {"k0": points.iloc[:0]})


def test_paper_and_tables_of_others_are_shown_too(capsys, tmp_path):
    assert "48 runs: 48 ok" in shown(capsys, "results", "paper").out
    table = tmp_path / "t.csv"
    table.write_text("n_params,loss,status\n7B,3.0,finished\n8B,,crashed\n9B,2,running\n")
    said = shown(capsys, "results", table)
    assert "2 runs: 2 ok" in said.out  # the status of others' tables counts only where it is mapped
    assert "left out: " in said.err
    assert "column 'loss', row 2: an empty cell is not a positive number" in said.err


def test_fit_says_how_many_runs_are_not_ok(make_records, tmp_path, capsys):
    for i, row in enumerate(make_records(noise=1e-3).to_dict("records")):
        lost = {"status": "diverged", "loss": None} if i == 0 else {}
        write_record(tmp_path / "sweep", row | {"key": f"k{i}"} | lost, [])
    out = tmp_path / "fits"
    said = shown(capsys, "fit", tmp_path / "sweep", "--draws", "100", "--starts", "20", "--no-figure", "--out", out)
    assert "23 rows used, not ok: 1 diverged, 0 not usable" in said.err
    assert "warning: runs without a loss are left out: 1 diverged" in said.err
    (saved,) = out.iterdir()
    (note,) = [note for note in json.loads(saved.read_text())["notes"] if note["code"] == "unfinished"]
    assert note["figures"] == {"diverged": 1}
