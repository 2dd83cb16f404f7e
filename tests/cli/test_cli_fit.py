"""`scalelab fit` and `scalelab predict` as a person types them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scalelab.cli.fit import FIGURES
from scalelab.fit import load_fit
from tests.support.own_law import OWN


@pytest.fixture
def table(table_of, tmp_path):
    """A foreign CSV of joint losses with names and units of its own."""
    frame = table_of("joint", (0.7, 1e7, 0.5, 0.3, 1e9, 0.35), D=(1e9, 1e10, 1e11), noise=1e-3)
    frame = frame.rename(columns={"n_params": "N", "n_streams": "P", "n_tokens": "tokens", "loss": "val_loss"})
    frame["N"] = [f"{n / 1e9}B" for n in frame["N"]]
    frame.to_csv(tmp_path / "mine.csv", index=False)
    return frame


COLUMNS = ("--map", "n_params=N", "n_streams=P", "n_tokens=tokens", "loss=val_loss")


def test_a_foreign_table_is_fitted_with_a_joint_law_and_predicts(scalelab, table):
    code, out, _ = scalelab("fit", "mine.csv", "--law", "joint", *COLUMNS, "--draws", 200, "--out", "o")
    assert code == 0
    assert re.search(r"60 runs; converged, \d+ of 300 starts agree within", out)
    (path,) = [line.split()[1].rstrip(",") for line in out.splitlines() if line.startswith("saved")]
    code, out, _ = scalelab("predict", path, "--N", "7B", "--P", 1, 16, "--D", "1T")
    assert code == 0
    assert "serious: D 1T is a factor of 10 outside the runs" in out
    assert re.search(r"7B +16 +1T", out)
    code, out, _ = scalelab("predict", path, "--flops", "1e22", "--P", 4)
    assert code == 0
    assert "best N" in out


def test_the_printed_equation_gives_the_printed_prediction(scalelab):
    scalelab("fit", "paper", "--draws", 100, "--no-figure")
    for name, law in (("pile-d-42b", "parallel"), ("stack-v2-python-d-42b", "parallel"), ("pile-d-42b", "additive")):
        _, out, _ = scalelab("predict", f"fits/{name}.json", "--N", "536M", "7B", "--P", 1, 16, "--law", law)
        (equation,) = [line for line in out.splitlines() if line.startswith("L = ")]
        code = re.sub(r"ln (\w)", r"log(\1)", equation.split("   ")[0][4:].replace("·", "*").replace("^", "**"))
        rows = [line.split() for line in out.splitlines() if re.match(r"\s*(536M|7B)\s", line)]
        assert len(rows) == 4
        for size, streams, loss, *_ in rows:
            names = {"N": {"536M": 536e6, "7B": 7e9}[size], "P": int(streams), "log": math.log}
            assert f"{eval(code, {'__builtins__': {}}, names):.4f}" == loss


def test_saved_json_predicts_to_the_last_digit(scalelab):
    scalelab("fit", "paper", "--draws", 100, "--no-figure")
    fit = load_fit("fits/pile-d-42b.json")
    _, out, _ = scalelab("predict", "fits/pile-d-42b.json", "--N", "7B", "--P", 16, "--json")
    (row,) = json.loads(out)
    assert row["loss"]["value"] == float(fit.predict(7e9, 16))
    saved = json.loads(Path("fits/pile-d-42b.json").read_text())
    assert saved["data_hash"] == fit.data_hash == fit.data.digest
    assert {"scalelab", "numpy", "scipy", "python"} <= set(saved["versions"])
    assert len(saved["draws"]) == 100
    assert len(saved["covariance"]) == 4


def test_law_all_prints_tables_and_a_verdict_and_saves_nothing(scalelab, tmp_path):
    code, out, _ = scalelab("fit", "paper", "--law", "all")
    assert code == 0
    text = " ".join(out.split())
    assert text.count("additive is best supported") == 2
    assert re.search(r"parallel\s+4\s+0\.0034\s+-291\.4\s+39\.1\s+-288\.8\s+0\.000\s+0\.0071\s+0\.0055", out)
    assert not (tmp_path / "fits").exists()


def test_law_all_over_d(scalelab, table):
    code, out, _ = scalelab("fit", "mine.csv", "--law", "all", *COLUMNS)
    assert code == 0
    assert out.rindex("joint is best supported") > out.rindex("parallel is best supported")
    assert "chinchilla" in out


def test_a_law_of_ones_own(scalelab, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    code, out, _ = scalelab("fit", "paper", "--law", "mine.py:Saturating", "--draws", 100, "--no-figure", "--details")
    assert code == 0
    assert "saturating(N, P) with E = " in out
    code, _, error = scalelab("predict", "fits/pile-d-42b-saturating.json", "--N", "7B")
    assert code == 2
    assert "give it with --law file.py:NAME" in error
    code, out, _ = scalelab("predict", "fits/pile-d-42b-saturating.json", "--N", "7B", "--law", "mine.py:ready")
    assert code == 0
    code, _, error = scalelab("predict", "fits/pile-d-42b-saturating.json", "--N", "7B", "--law", "power")
    assert (code, "a fit of the custom law 'saturating'; give it with --law file.py:NAME" in error) == (2, True)


def test_a_law_that_fails_far_out_is_one_line(scalelab, tmp_path):
    text = OWN.replace(
        "        return E", "        if len(at.N) > 3: raise RuntimeError('too\\nmany')\n        return E"
    )
    (tmp_path / "mine.py").write_text(text)
    code, _, error = scalelab("fit", "paper", "--law", "mine.py:ready", "--where", "corpus == 'pile'")
    assert code == 1
    assert "the law 'saturating' fails: RuntimeError: too many" in error


def test_a_law_of_n_alone_has_figures(scalelab, tmp_path):
    text = OWN.replace('variables = ("N", "P")', 'variables = ("N",)').replace("(1 - s * (1 - 1 / at.P))", "(1 + s)")
    (tmp_path / "mine.py").write_text(text)
    args = ("--where", "corpus == 'pile'", "--fix", "s=0.1", "--figures", "loss", "residuals", "--draws", 100)
    code, out, _ = scalelab("fit", "paper", "--law", "mine.py:ready", *args)
    assert code == 0
    assert re.search(r"fits/pile-d-42b-saturating-s-0\.1-where-corpus-pile-\w{6}\.png", out)


def test_one_free_parameter_has_a_profile(scalelab):
    args = ("--fix", "E=.7", "A=1.1e7", "alpha=.2", "--profile", "--no-figure", "--draws", 100)
    code, out, _ = scalelab("fit", "paper", "--where", "corpus == 'stack-v2-python'", *args)
    assert code == 0
    assert "profile interval" in out


@pytest.mark.parametrize("change", ["runs", "status", "deep", "params", "hash"])
def test_a_damaged_fit_is_named(scalelab, tmp_path, change):
    scalelab("fit", "paper", "--draws", 100, "--no-figure")
    path = tmp_path / "fits/pile-d-42b.json"
    saved = json.loads(path.read_text())
    saved |= {"runs": {"runs": []}, "status": {"status": "fine"}, "hash": {"data_hash": "x"}}.get(change, {})
    if change == "params":
        saved["params"][0] *= 1.01
    path.write_text("[" * 100_000 if change == "deep" else json.dumps(saved))
    code, _, error = scalelab("predict", path, "--N", "1B")
    assert code == 1
    assert "pile-d-42b.json: " in error


def test_tables_are_never_cut(scalelab, table):
    _, out, _ = scalelab("fit", "mine.csv", "--law", "all", *COLUMNS)
    assert "…" not in out.replace("without …", "")


def test_of_a_folder_the_fits_that_can_answer_do(scalelab, table):
    scalelab("fit", "paper", "--draws", 100, "--no-figure")
    scalelab("fit", "mine.csv", "--law", "joint", *COLUMNS, "--draws", 100, "--no-figure")
    code, out, _ = scalelab("predict", "fits", "--N", "1B", "--P", 2)
    assert code == 0
    assert out.count("law's share: of the variance") == 2
    assert "left out: the law 'joint' depends on D" in out


def test_fix_bound_where_and_strict(scalelab):
    code, out, _ = scalelab(
        "fit", "paper", "--fix", "k=0", "--where", "corpus == 'pile'", "--no-figure", "--draws", 100
    )
    assert code == 0
    assert "0 (fixed)" in out
    assert "24 rows used, 24 left out by --where, 0 not usable" in out
    args = ("--bound", "alpha=0.3:1", "E=0.1:", "--no-figure", "--draws", 100)
    code, out, _ = scalelab("fit", "paper", *args)
    assert (code, "serious: alpha ended at its bound 0.3" in out) == (0, True)
    code, _, error = scalelab("fit", "paper", *args, "--strict")
    assert (code, error) == (1, "scalelab: paper: --strict fails for serious notes: at_bound")
    assert scalelab("fit", "paper", "--no-figure", "--draws", 100, "--strict")[0] == 0


def test_profile_intervals_and_every_figure(scalelab, tmp_path):
    pd.DataFrame(
        {"n_params": np.repeat([1e9, 2e9, 4e9, 8e9], 3), "n_streams": [1, 2, 4] * 4, "loss": np.linspace(1.2, 1.0, 12)}
    ).to_csv(tmp_path / "t.csv", index=False)
    code, out, _ = scalelab("fit", "t.csv", "--profile", "--figures", "all", "--draws", 100)
    assert code == 0
    assert "profile interval" in out
    names = {f"t{'' if name == 'loss' else f'-{name}'}.png" for name in FIGURES if name != "panels"}
    assert {p.name for p in (tmp_path / "fits").glob("*.png")} == names


def test_figures_for_a_paper(scalelab, tmp_path):
    """Any format, size and kind, from every command that draws."""
    paper = ("--figure-size", "one-column")
    args = ("--figures", "residuals,panels", "--figure-format", "pdf", "--figure", "f.svg", "--figure-kind", "contours")
    _, out, _ = scalelab("fit", "paper", "--draws", 100, *args, *paper)
    names = ["panels.pdf", "pile-d-42b-residuals.pdf", "stack-v2-python-d-42b-residuals.pdf"]
    assert sorted(path.name for path in (tmp_path / "fits").glob("*.pdf")) == names
    assert all(name in out for name in names)
    for group in ("pile-d-42b", "stack-v2-python-d-42b"):
        assert 'width="234pt"' in (tmp_path / f"f-{group}.svg").read_text()  # 3.25 inches
    fit = "fits/pile-d-42b.json"
    scalelab("predict", fit, "--N", "1B", "8B", "--P", 1, 8, "--figure", "predict.pdf", *paper)
    limits = ("--memory", "4GB", "--gpu", "rtx-4090", "--P", 1, 2)
    scalelab("plan", fit, *limits, "--figure", "plan.pdf", "--figure-kind", "contours", *paper)
    scalelab("cost", "--hidden", 2560, "--engine", "roofline", "--figure", "cost.pdf", *paper)
    for name in ("predict", "plan", "cost"):
        raw = (tmp_path / f"{name}.pdf").read_bytes()
        assert raw.startswith(b"%PDF")
        assert b"/MediaBox [ 0 0 234 " in raw


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--figure-size", "poster"], "--figure-size poster: choose one of screen, one-column, two-columns"),
        (["--figure-format", "doc"], "--figure-format doc: choose one of"),
        (["--figure-kind", "contours"], "--figure-kind contours: needs --figure"),
        (["--figure", "f.doc"], "--figure f.doc: must end in one of ."),
        (["--law", "parralel"], "--law parralel: did you mean parallel? choose one of parallel"),
        (["--law", "all", "--fix", "k=0"], "--law all compares laws by least squares"),
        (["--law", "all", "--objective", "raw"], "--law all compares laws by least squares"),
        (["--no-figure", "--figures", "all"], "--figures and --no-figure: choose one"),
        (["--fix", "k"], "--fix k: give NAME=VALUE"),
        (["--fix", "k=x"], "--fix k: 'x' is not a number"),
        (["--fix", "k=nan"], "--fix k: 'nan' is not a finite number"),
        (["--fix", "k=1", "k=2"], "--fix: k is given twice"),
        (["--fix", "q=1"], "--fix q: the law 'parallel' has parameters E, A, k, alpha"),
        (["--bound", "k=1"], "--bound k: give LOW:HIGH"),
        (["--bound", "k=2:1"], "--bound k: the lower bound 2 must be below 1"),
        (["--map", "n_params=nope"], "--map n_params=nope: paper has no column 'nope'"),
        (["--where", "n_params >"], "--where 'n_params >'"),
        (["--where", "n_params > 1T"], "none of 48 rows satisfies --where 'n_params > 1T'"),
        (["--objective", "l2"], "--objective l2: choose one of huber, log, raw"),
        (["--bootstrap", "none"], "--bootstrap none: choose one of residual, wild, pairs"),
        (["--figures", "pie"], "--figures pie: choose one of loss, contours"),
        (["--delta", "0"], "--delta 0: choose between"),
    ],
)
def test_misuse_of_fit_is_one_line(scalelab, args, message):
    code, _, error = scalelab("fit", "paper", *args)
    assert code == 2
    assert message in error


def test_misuse_of_predict_is_one_line(scalelab, tmp_path):
    scalelab("fit", "paper", "--draws", 100, "--no-figure")
    fit = "fits/pile-d-42b.json"
    for args, message in (
        ((fit,), "give either --N for predictions, or --flops"),
        ((fit, "--N", "x"), "--N: 'x' is not a positive count"),
        ((fit, "--N", "1B", "--P", "0"), "--P: '0' is not a whole number"),
        ((fit, "--N", "1B", "--D", "1B"), "has no D: it is valid for the D of its data"),
        ((fit, "--flops", "1e20"), "does not depend on both N and D"),
        ((fit, "--flops", "1e20", "--D", "1B"), "--flops finds the best D: leave --D out"),
        ((tmp_path, "--N", "1B"), "no saved fits (*.json) in this folder"),
    ):
        code, _, error = scalelab("predict", *args)
        assert (code, message in error) == (2, True), error
    (tmp_path / "bad.json").write_text("{}")
    code, _, error = scalelab("predict", "bad.json", "--N", "1B")
    assert (code, "bad.json: not a saved fit" in error) == (1, True)


@pytest.mark.parametrize(
    "words",
    ["predict {} --N 1B", "plan {}", "compare --hidden 1536 --fit {}", "compare --hidden 1536 --data paper --fit {}"],
)
def test_a_fit_that_is_not_there_is_misuse_and_says_what_makes_one(scalelab, tmp_path, words):
    code, out, error = scalelab(*words.format("nowhere.json").split())
    assert (code, out) == (2, "")
    assert error == "scalelab: nowhere.json: no such file; save a fit first, with scalelab fit or FitResult.save"
    if not words.startswith("predict"):  # which asks all fits of a folder
        code, _, error = scalelab(*words.format(tmp_path).split())
        assert (code, f"{tmp_path}: is a folder; give a saved fit" in error) == (2, True)


@pytest.mark.parametrize("width", [80, 120])
def test_commands_average_over_the_laws_of_a_fit_and_take_one_of_them(scalelab, monkeypatch, width):
    """AICc prefers the additive law on Python code by 11 (test_select), and the parallel law is left out."""
    monkeypatch.setenv("COLUMNS", str(width))
    where = "corpus == 'stack-v2-python'"
    code, out, _ = scalelab("fit", "paper", "--where", where, "--no-figure", "--draws", 200, "--starts", 50)
    said = " ".join(out.split())
    assert code == 0
    assert "k 0.3935" in said
    assert "These data support additive, c = 1/2 and additive: the AICc of the parallel law is 11.3 higher." in said
    (file,) = map(str, Path("fits").glob("*.json"))
    code, out, _ = scalelab("predict", file, "--N", "7B", "--P", 8)
    assert "average of 85 % additive, c = 1/2 + 15 % additive" in " ".join(out.split())
    assert "law's" in out
    assert all(len(line) <= width for line in out.splitlines() if "─" in line)  # tables; sentences are not broken
    code, alone, _ = scalelab("predict", file, "--N", "7B", "--P", 8, "--law", "parallel")
    assert "0.9556" in alone
    assert "0.9556" not in out
    assert "law's share" not in alone
    limits = ("--gpu", "rtx-4090", "--memory", "4GB", "--latency", "500ms", "--P", 1, 4, 8)
    code, out, _ = scalelab("plan", file, *limits)
    said = " ".join(out.split())
    assert "averaged over 85 % additive, c = 1/2 + 15 % additive" in said
    assert "by additive, c = 1/2 alone in" in said
    assert "of the variance of its loss is between the laws" in said
    code, out, _ = scalelab("plan", file, *limits, "--law", "parallel")
    assert "if the parallel law is right" in " ".join(out.split())
    code, out, _ = scalelab("compare", "--hidden", 1536, "--P", 8, "--fit", file, "--batch", 1)
    assert "the average of 85 % additive, c = 1/2 + 15 % additive" in " ".join(out.split())
    code, out, _ = scalelab("compare", "--hidden", 1536, "--P", 8, "--fit", file, "--batch", 1, "--law", "additive")
    assert "the additive law" in out
    for command in (["predict", file, "--N", "7B"], ["plan", file], ["compare", "--hidden", 1536, "--fit", file]):
        code, _, error = scalelab(*command, "--law", "diversity")
        assert (code, "holds 'parallel' and 'additive, c = 1/2' and 'additive'" in error) == (2, True)
    code, out, _ = scalelab("predict", file, "--N", "7B", "--json")
    (row,) = json.loads(out)
    assert [law["law"] for law in row["laws"]] == ["additive, c = 1/2", "additive"]
    assert 0 <= row["law_share"] <= 1


def test_a_law_that_was_chosen_is_alone_unless_average_is_asked_for(scalelab):
    where = "corpus == 'stack-v2-python'"
    quick = ("--where", where, "--no-figure", "--draws", 100, "--starts", 30)
    assert "Predictions and plans" not in scalelab("fit", "paper", "--law", "parallel", *quick)[1]
    assert "Predictions and plans average" in scalelab("fit", "paper", "--law", "parallel", "--average", *quick)[1]
    assert "Predictions and plans" not in scalelab("fit", "paper", "--no-average", *quick)[1]
    code, _, error = scalelab("fit", "paper", "--average", "--fix", "k=0", *quick)
    assert (code, "--average: compares laws with free parameters: leave out --fix, --bound and --tie" in error) == (
        2,
        True,
    )
