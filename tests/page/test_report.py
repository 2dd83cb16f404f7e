"""A report holds what the objects of a report hold, and its data and fits can be read again."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import scalelab as sl
from scalelab.api.reporting import default_law
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.reports.advice import advice_of
from scalelab.reports.blocks import Table
from scalelab.reports.plans import plan_report
from tests.page.reading import data_of, parsed, without_scripts
from tests.support.paths import ROOT

FAST = {"starts": 20, "draws": 100, "laws": False, "plan": False}


def has_rows(page, table: Table) -> bool:
    return all([cell.strip() for cell in row] in page for row in table.rows)


def cells(path):
    return [[cell.strip() for cell in row] for row in parsed(path).rows]


def test_the_papers_runs_take_less_than_3_MB_and_fetch_nothing(paper):
    assert paper.n_runs == 48
    assert paper.n_bytes == paper.path.stat().st_size < 3_000_000
    page = without_scripts(paper.path)
    assert not re.findall(r"(?:src|href|action)\s*=\s*[\"']?(?!#)[^\"'\s>]", page)
    assert not re.findall(r"https?:", page)
    assert "url(" not in page


def test_tables_are_those_of_the_terminal(paper):
    page = cells(paper.path)
    for fit in paper.fits.values():
        for table in (block for block in fit.report().blocks if isinstance(block, Table)):
            assert has_rows(page, table), table.title
    runs = next(block for block in sl.list_runs("paper").report().blocks if isinstance(block, Table))
    assert len(runs.rows) == 48
    assert has_rows(page, runs)


@pytest.mark.slow
def test_the_plan_and_the_choice_of_law_are_those_of_the_library(make_records, tmp_path):
    data = make_records(noise=1e-3)
    made = sl.report(data, out=tmp_path / "r.html", starts=20, draws=100)
    (fit,) = made.fits.values()
    page = cells(made.path)
    assert has_rows(page, sl.compare_laws(sl.read(data)).report().blocks[0])
    commands = data_of(made.path)["groups"][0]["plan"]
    limits = {name: commands["limits"][name] for name in ("memory", "latency")}
    plan = sl.make_plan(fit, P=fit.P_levels, **limits)
    options = {option["P"]: option for option in commands["options"]}
    for option in plan.options:
        assert options[option.P]["loss"] == pytest.approx(option.loss.value, rel=1e-9)
        assert options[option.P]["best"] == (plan.winner is not None and option.P == plan.winner.P)
    shown = next(block for block in plan_report(plan).blocks if isinstance(block, Table))
    assert has_rows(page, shown)
    # The largest plain run sets the limits, so it is the best plain model.
    plain = next(option for option in plan.options if option.P == 1)
    assert plain.N.value == pytest.approx(fit.data.N[fit.data.P == 1].max(), rel=1e-3)


def test_figure_4_has_the_costs_of_the_comparison(paper):
    for group, fit in zip(data_of(paper.path)["groups"], paper.fits.values(), strict=True):
        step = group["costs"]["steps"]["1"][0]
        compared = sl.compare_costs(round(step["hidden"]), step["P"], "paper", fit=fit, batch=1)
        (row,) = next(a for a in compared if a.title == fit.group).rows
        assert step["streams"] == {"memory": row.streams.memory_bytes, "latency": row.streams.latency_s}
        assert row.plain is not None
        assert step["plain"]["memory"] == row.plain.memory_bytes
        assert len(group["costs"]["runs"]["1"]) == 24


def test_curves_and_points_are_those_of_the_fit(paper):
    for group, fit in zip(data_of(paper.path)["groups"], paper.fits.values(), strict=True):
        charts = group["charts"]
        assert np.allclose(charts["points"]["loss"], fit.data.loss, rtol=1e-6)
        assert np.allclose(charts["points"]["predicted"], fit.losses(fit.data.N, fit.data.P), rtol=1e-6)
        assert {curve["P"] for curve in charts["curves"]} == {1, 2, 4, 8}
        for curve in charts["curves"]:
            N = np.array(curve["x"])
            assert np.allclose(curve["y"], fit.losses(N, curve["P"]), rtol=1e-6)
            for end, mine in zip(fit.band(N, curve["P"]), ("low", "high"), strict=True):
                assert np.allclose(curve[mine], end, rtol=1e-5)


def test_data_and_fits_can_be_downloaded_and_read_again(paper, tmp_path):
    data = data_of(paper.path)
    (source,) = data["sources"]
    assert source["csv"] == sl.list_runs("paper").to_csv()
    again = sl.read(pd.read_csv(io.StringIO(source["csv"])), columns={"corpus": "corpus"})
    assert len(again) == 48
    for group, (title, fit) in zip(data["groups"], paper.fits.items(), strict=True):
        file = tmp_path / f"{group['slug']}.json"
        file.write_text(group["fit"])
        loaded = sl.load_fit(file)
        assert group["title"] == title
        assert loaded.params == fit.params
        assert loaded.draws == fit.draws


def test_every_note_says_what_to_do(sweep):
    (fit,) = sweep.fits.values()
    page = without_scripts(sweep.path)
    assert {"streams_in_N", "k_unresolved"} <= {note.code for note in fit.notes}
    for note in fit.notes:
        assert f"<code>{note.code}</code>" in page
        advice = advice_of(note.code)
        assert advice is not None
        assert not advice.do or "What to do" in page
    assert "What to do: compare with <code>count=&#x27;backbone&#x27;</code>." in page


def test_loss_curves_and_diagnostics_are_those_of_the_records(sweep):
    (source,) = data_of(sweep.path)["sources"]
    runs = sl.list_runs(ROOT / "results" / "parallel-law")
    assert len(source["curves"]) == len(runs.curves) == 48
    one = next(c for c in source["curves"] if (c["P"], c["seed"]) == (8, 1))
    row = runs.frame[(runs.frame["n_params"] == one["N"]) & (runs.frame["n_streams"] == 8) & (runs.frame["seed"] == 1)]
    curve = runs.curves[row["key"].item()]
    assert np.allclose(one["x"], curve["n_tokens"])
    assert np.allclose(one["y"], curve["loss"], rtol=1e-4)
    assert len(source["health"]) == 36  # P > 1
    for run in source["health"]:
        w = np.array(run["weights"])
        assert run["effective"] == pytest.approx(np.exp(-(w * np.log(w)).sum()), rel=1e-2)
        assert 1 <= run["effective"] <= run["P"]


def test_a_long_curve_is_averaged():
    from scalelab.page.runs import _averaged

    x, y = _averaged(np.arange(10.0), np.arange(10.0) ** 2, 4)
    assert x.tolist() == [1.0, 4.0, 7.0, 9.0]
    assert y.tolist() == [(0 + 1 + 4) / 3, (9 + 16 + 25) / 3, (36 + 49 + 64) / 3, 81.0]


@pytest.mark.slow
def test_every_kind_of_source(make_records, tmp_path):
    data = make_records(noise=1e-3)
    data.to_csv(tmp_path / "runs.csv", index=False)
    fit = sl.fit_law(data, starts=20, draws=100)
    fit.save(tmp_path / "fits" / "one.json")
    fit.save(tmp_path / "fits" / "two.json")
    sources = [data, tmp_path / "runs.csv", sl.read(data), fit, tmp_path / "fits" / "one.json", sl.list_runs("paper")]
    for number, source in enumerate(sources):
        made = sl.report(source, out=tmp_path / f"{number}.html", **FAST)
        assert made.n_runs == (48 if number == 5 else 24)
        assert len(made.fits) == (2 if number == 5 else 1)
    folder = sl.report(tmp_path / "fits", out=tmp_path / "folder.html", **FAST)
    assert list(folder.fits) == ["table, D 1B", "table, D 1B (fits/two.json)"]
    both = sl.report(tmp_path / "runs.csv", fit, out=tmp_path / "both.html", **FAST)
    assert len(data_of(both.path)["sources"]) == 2
    assert [g["source"] for g in data_of(both.path)["groups"]] == [0, 1]
    assert sl.report(sl.fit_law("paper", starts=20, draws=100), out=tmp_path / "fits.html", **FAST).n_runs == 48


def test_the_law_follows_from_what_varies(table_of):
    joint = table_of("joint", (0.7, 1e8, 0.3, 0.3, 1e9, 0.3), D=(1e9, 1e10, 1e11))
    plain = joint[joint["n_streams"] == 1]
    assert default_law(sl.read(joint)).name == "joint"
    assert default_law(sl.read(plain)).name == "chinchilla"
    assert default_law(sl.read(plain[plain["n_tokens"] == 1e9])).name == "parallel"
    compute = pd.DataFrame({"train_flops": [1e18, 1e19, 1e20], "loss": [3.0, 2.5, 2.2]})
    assert default_law(sl.read(compute)).name == "compute"
    assert default_law(sl.read(pd.DataFrame({"N": [1e9, 1e10], "loss": [3.0, 2.5]}))).name == "params"
    assert default_law(sl.read(pd.DataFrame({"D": [1e9, 1e10], "loss": [3.0, 2.5]}))).name == "tokens"


def test_a_group_that_cannot_be_fitted_is_said_and_the_others_are_shown(make_records, tmp_path):
    small = make_records(N=(1e9,), P=(1,)).assign(corpus="<i>tiny</i>")
    data = pd.concat([make_records(noise=1e-3), small])
    made = sl.report(sl.read(data, {"corpus": "corpus"}), out=tmp_path / "r.html", **FAST)
    assert len(made.fits) == 1
    assert len(made.left_out) == 1
    page = parsed(made.path)
    assert "Not fitted: " in page.text
    assert "<i>tiny</i>" in page.text
    assert [group["law"] for group in data_of(made.path)["groups"]].count(None) == 1
    with pytest.raises(ScalelabError):
        sl.report(small, out=tmp_path / "none.html", **FAST)
    assert not (tmp_path / "none.html").exists()


def test_runs_that_are_not_ok_are_listed_with_their_status(make_records, tmp_path):
    data = make_records(noise=1e-3).assign(status="ok", message="", key=[str(i) for i in range(24)])
    data.loc[3, ["status", "message", "loss"]] = ["diverged", "the loss rose to <inf>", None]
    data.to_parquet(tmp_path / "runs.parquet")
    mapped = {"status": "status", "message": "message"}
    made = sl.report(tmp_path / "runs.parquet", out=tmp_path / "r.html", columns=mapped, **FAST)
    page = parsed(made.path)
    (fit,) = made.fits.values()
    assert (made.n_runs, len(fit.runs)) == (24, 23)
    assert sum("diverged" in row for row in page.rows) == 1
    assert "the loss rose to <inf>" in page.text
    nothing = sl.list_runs("paper")
    table = replace(nothing.table, records=nothing.table.records[:0], others=nothing.frame.assign(status="failed"))
    with pytest.raises(DataError, match=r"no run is ok.*48 failed"):
        sl.report(replace(nothing, table=table), out=tmp_path / "none.html", **FAST)


def test_files_that_are_not_reports_are_kept(make_records, tmp_path):
    data, out = make_records(noise=1e-3), tmp_path / "page.html"
    out.write_text("<html>mine</html>")
    with pytest.raises(UsageError, match="is not a report of scalelab") as caught:
        sl.report(data, out=out, **FAST)
    assert caught.value.argument == "out"
    assert out.read_text() == "<html>mine</html>"
    sl.report(data, out=out, force=True, **FAST)
    first = out.read_bytes()
    sl.report(data, out=out, **FAST)  # a report is replaced
    assert out.read_bytes() == first


def test_a_link_is_replaced_and_what_it_points_to_is_not(make_records, tmp_path):
    target, out = tmp_path / "target.html", tmp_path / "link.html"
    made = sl.report(make_records(noise=1e-3), out=target, **FAST)
    before = target.read_bytes()
    out.symlink_to(target)
    sl.report(make_records(noise=1e-3, seed=1), out=out, **FAST)
    assert not out.is_symlink()
    assert target.read_bytes() == before
    assert made.path == target
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.html", "target.html"]


@pytest.mark.parametrize(
    ("sources", "options", "said"),
    [
        ((), {}, "give at least one source"),
        (("no-such-folder",), {}, "no-such-folder"),
        (("paper",), {"out": "report.pdf"}, "must end in .html"),
        (("paper",), {"out": "missing/report.html"}, "create it first"),
        (("paper",), {"law": "no-law"}, "no-law"),
        (("paper",), {"where": "loss >"}, "where"),
        (("paper",), {"memory": "four", "plan": True}, "amount of memory"),
        (("paper",), {"gpu": "abacus", "plan": True}, "abacus"),
    ],
)
def test_wrong_requests(sources, options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UsageError, DataError), match=said):
        sl.report(*sources, **(FAST | options))
    assert not list(tmp_path.iterdir())


def test_rows_of_a_fit_cannot_be_selected(make_records, tmp_path):
    fit = sl.fit_law(make_records(noise=1e-3), starts=20, draws=100)
    with pytest.raises(UsageError, match="every source is a fit"):
        sl.report(fit, out=tmp_path / "r.html", where="P < 4", **FAST)


def test_the_command_line(scalelab, make_records, tmp_path):
    make_records(noise=1e-3).to_csv("runs.csv", index=False)
    args = ("--starts", 20, "--draws", 100, "--no-laws", "--no-plan")
    code, out, error = scalelab("report", "runs.csv", *args, "--title", "A & B", "--where", "P < 8")
    assert (code, error) == (0, "")
    assert "saved report.html (1." in out
    page = parsed(tmp_path / "report.html")
    assert "A & B" in page.text
    typed = "scalelab report runs.csv --where 'P < 8' --starts 20 --draws 100 --no-laws --no-plan --title 'A & B'"
    assert typed in page.text
    assert "fit = sl.fit_law('runs.csv', 'parallel', where='P < 8', starts=20, draws=100)" in page.text
    code, _, error = scalelab("report", "runs.csv", "-o", "runs.csv")
    assert (code, error) == (2, "scalelab: -o runs.csv: must end in .html")
    code, _, error = scalelab("report", "missing.csv")
    assert code == 2
    assert "missing.csv" in error
    assert scalelab("report", "runs.csv", *args, "--quiet")[1] == ""


@pytest.mark.slow
def test_torch_is_not_imported(tmp_path):
    code = (
        "import sys, scalelab as sl\n"
        "sl.report('paper', out='r.html', starts=10, draws=100, laws=False)\n"
        "print([m for m in ('torch', 'transformers', 'matplotlib.pyplot') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_hostile_names_are_text(hostile):
    page = parsed(hostile.path)
    data = data_of(hostile.path)
    assert [tag for tag, _ in page.tags].count("img") == 0
    assert "<script>window.hacked = 1</script>" in page.text
    assert "\x1b" not in hostile.path.read_text()
    assert "\u202e" not in page.text
    assert len(data["groups"]) == 4
    assert not any("\u202e" in group["title"] or "\x1b" in group["title"] for group in data["groups"])
    assert "\u202e" in data["sources"][0]["csv"]  # which holds the data as they are
