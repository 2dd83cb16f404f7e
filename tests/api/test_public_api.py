"""The public API: what `import scalelab` offers, and how results show themselves."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scalelab as sl
from scalelab.cli.flags import FLAGS, as_typed, describe
from scalelab.errors import DataError, NotPricedError, ScalelabError, UsageError
from scalelab.fit.derived import compute_optimal, doubling_gain, n_equivalent, predicted
from scalelab.reports import Line, Report, Table
from scalelab.units import counts, whole_numbers

ROOT = Path(sl.__file__).parent
COMMANDS = (
    "",
    "sweep",
    "results",
    "watch",
    "import",
    "fit",
    "predict",
    "isoflop",
    "versus",
    "cost",
    "compare",
    "plan",
    "convert",
    "train",
    "diagnose",
)
NAMES = {
    *("read", "fit_law", "compare_laws", "load_fit", "price", "compare_costs", "make_plan", "run_sweep", "convert"),
    *("train_streams", "diagnose", "generate", "open_chat", "add_streams", "import_runs"),
    *("isoflop", "compare_recipes"),
}


@pytest.fixture(scope="module")
def fits():
    return sl.fit_law("paper", bootstrap=200, starts=60)


@pytest.fixture(scope="module")
def fit(fits):
    return fits["stack"]


def test_importing_scalelab_imports_nothing_heavy_and_knows_all_names():
    code = "import sys, scalelab; print(*dir(scalelab)); print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, modules = (set(line.split()) for line in result.stdout.splitlines())
    assert names >= NAMES
    assert not modules & {"numpy", "pandas", "scipy", "torch", "transformers", "matplotlib", "rich", "typer"}
    for name in NAMES:
        assert callable(getattr(sl, name))
        assert getattr(sl, name).__doc__.splitlines()[0].endswith(".")


def test_one_group_is_a_fit_and_several_are_a_mapping_that_says_how_to_choose(fits, make_records):
    assert [*fits] == ["pile, D 42B", "stack-v2-python, D 42B"]
    assert fits["pile"] is fits["pile, D 42B"]
    with pytest.raises(UsageError, match=r"`predict` needs a single group, and there are 2: choose one"):
        fits.predict(N=1e9)
    with pytest.raises(KeyError, match="no such group"):
        fits["c4"]
    one = sl.fit_law(make_records(noise=1e-3), columns={"corpus": "corpus"}, bootstrap=100, starts=30)
    assert one.group == "made, D 1B"
    assert one.params.k == pytest.approx(0.4, abs=0.05)


def test_data_may_be_a_path_a_frame_records_or_a_group(make_records, tmp_path):
    frame = make_records(noise=1e-3)
    frame.to_csv(tmp_path / "runs.csv", index=False)
    renamed = frame.rename(columns={"n_params": "n", "n_streams": "P", "n_tokens": "D", "loss": "Loss"})
    sources = [frame, tmp_path / "runs.csv", str(tmp_path / "runs.csv"), sl.read(frame), renamed]
    found = [sl.fit_law(source, bootstrap=100, starts=30).params.alpha for source in sources]
    assert len({float(value) for value in found}) == 1
    far = sl.fit_law(renamed, where="N > 6e8 and P < 8", bootstrap=100, starts=30)
    assert len(far.runs) == 15
    with pytest.raises(UsageError) as caught:
        sl.fit_law(frame, columns={"n_params": "nope"})
    assert caught.value.argument == "columns"


def test_by_makes_the_groups(make_records):
    frame = pd.concat([make_records(noise=1e-3, seed=s).assign(corpus=name) for s, name in enumerate("ab")])
    assert [*sl.fit_law(frame, by="corpus", bootstrap=100, starts=30)] == ["corpus a", "corpus b"]
    assert len(sl.fit_law(frame, by=[], bootstrap=100, starts=30).runs) == len(frame)
    with pytest.raises(UsageError, match="by: column 'corpus' is empty; map a column"):
        sl.fit_law(sl.read(frame), by="corpus")
    with pytest.raises(UsageError, match="by: table has no column 'color'; it has "):
        sl.fit_law(frame, by="color")


def test_parameters_are_numbers_with_intervals_by_name_and_in_order(fit):
    assert fit.params == tuple(fit.params[name] for name in fit.law.names)
    assert fit.params.alpha == fit.params["alpha"] == fit.values["alpha"]
    assert (fit.params.alpha.low, fit.params.alpha.high) == fit.interval("alpha")
    assert str(fit.params.E).startswith("0.6912 (0.")
    assert np.array(fit.params).tolist() == [float(value) for value in fit.params.values()]
    assert pickle.loads(pickle.dumps(fit)).params.alpha == fit.params.alpha
    with pytest.raises(AttributeError, match="choose one of E, A, k, alpha"):
        fit.params.beta  # noqa: B018
    assert sl.fit_law("paper", fix={"k": 0.0}, bootstrap=100, starts=30)["pile"].params.k.low is None


def test_answers_are_those_of_the_functions_behind_them(fit):
    table, mixed = fit.predict(N=["7B", 1e9], P=[1, 8]), fit.averaged()
    assert [(row.N, row.P) for row in table] == [(7e9, 1), (7e9, 8), (1e9, 1), (1e9, 8)]
    for row in table:
        assert row.loss == predicted(mixed, row.N, row.P)
        assert row.n_equivalent == n_equivalent(mixed, row.N, row.P)
        assert row.doubling_gain == doubling_gain(mixed, row.N, row.P)
    assert np.allclose(np.array(table), mixed.losses([7e9, 7e9, 1e9, 1e9], [1, 8, 1, 8]))
    alone = fit.predict(N=["7B", 1e9], P=[1, 8], law="parallel")
    assert np.allclose(np.array(alone), fit.losses([7e9, 7e9, 1e9, 1e9], [1, 8, 1, 8]))
    assert alone[0].loss == predicted(fit, 7e9, 1)
    assert table.to_frame()["loss_low"].tolist() == [row.loss.low for row in table]
    assert fit.n_equivalent(N="2.8B", P=8) == n_equivalent(mixed, 2.8e9, 8)
    assert fit.n_equivalent(N="2.8B", P=8, law="parallel") == n_equivalent(fit, 2.8e9, 8)
    assert fit.doubling_gain(N=2.8e9, P=2) == doubling_gain(mixed, 2.8e9, 2)
    assert {note.code for note in table.notes} == {"extrapolation"}
    assert fit.residuals["percent"].abs().max() < 1
    assert np.allclose(fit.residuals["predicted"], fit.losses(fit.data.N, fit.data.P))


def test_a_budget_is_spent_as_the_function_behind_it_says(table_of):
    frame = table_of("joint", (1.2, 3e7, 0.35, 0.3, 2e9, 0.3), D=(2e9, 2e10, 6e10))
    joint = sl.fit_law(frame, "joint", bootstrap=100, starts=30)
    found = joint.compute_optimal(flops=["1e19", 1e21], P=[1, 4])
    assert list(found) == [compute_optimal(joint, f, p) for f in (1e19, 1e21) for p in (1, 4)]
    assert found.to_frame()["N"].tolist() == [row.N.value for row in found]


def every_result(fits):
    fit = fits["stack"]
    yield from (fits, fit, fit.predict(N=["7B", "20B"], P=[1, 16]), fit.profile("alpha"))
    yield sl.compare_laws("paper", where="corpus == 'pile'", starts=20)
    yield sl.price(2560, P=[1, 2, 8], batch=[1, 8], engine="both")
    yield sl.list_hardware()
    yield sl.compare_costs(1536, [2, 8], "paper", corpus="stack-v2-python", law="additive")
    yield sl.make_plan(fit, memory="4GB", latency="500ms", gpu="rtx-4090", max_P=16)
    yield sl.make_plan("sardana", serve_tokens="2T", loss=2.0453)
    yield sl.make_plan(fit, loss=1.07, gpu="rtx-4090", max_P=4)
    yield sl.read("paper")
    yield sl.list_runs("paper")


def test_every_result_shows_itself_in_one_line_as_html_and_within_80_columns(fits):
    for result in every_result(fits):
        assert "\n" not in repr(result)
        assert len(repr(result)) < 400
        html = result._repr_html_()
        assert "<table>" in html
        assert html.count("<table>") == html.count("</table>")
        for width in (80, 120):
            text = result.summary(width)
            assert max(map(len, text.splitlines())) <= width, text
        assert isinstance(result.to_frame(), pd.DataFrame)


def test_no_number_is_broken_on_a_narrow_terminal(fits):
    """Every cell of every table stands whole on one line, whatever the width."""
    for result in every_result(fits):
        text = result.summary(60)
        for block in result.report().blocks:
            if isinstance(block, Table) and not block.drops:
                for row in block.rows:
                    assert all(any(cell in line for line in text.splitlines()) for cell in row), (row, text)


@settings(deadline=None)
@given(
    st.lists(st.lists(st.text("0123456789.–()", max_size=30), min_size=4, max_size=4), min_size=1, max_size=4),
    st.integers(20, 200),
)
def test_a_table_keeps_every_cell_at_every_width(rows, width):
    table = Table("t", ["P", "loss of it", "<interval", "more"], keys=1)
    for row in rows:
        table.add(*row)
    text = Report.of([table, Line("said")]).text(width)
    for row in rows:
        for cell in row:
            assert any(cell in line for line in text.splitlines())


def test_html_escapes_what_names_say():
    table = Table("<b>x</b>", ["a"])
    table.add("<script>")
    html = Report.of([table, Line("a & b", "warning")]).html()
    assert "<script>" not in html
    assert "&lt;b&gt;x" in html
    assert "warning: a &amp; b" in html


def test_figures_are_axes_that_jupyter_shows(fit):
    axes = fit.plot()
    assert axes._repr_png_()[:4] == b"\x89PNG"
    assert fit.plot(kind="residuals").get_xlabel().startswith("N, ")
    assert len(fit.plot(kind="pairs").axes) == 6
    with pytest.raises(UsageError, match="kind='pie': choose one of loss, contours"):
        fit.plot(kind="pie")


def test_strings_with_units_work_wherever_a_number_does(fit):
    typed = sl.make_plan(fit, memory="4GB", latency="500ms", gpu="rtx-4090", max_P=4, train_flops="1e22")
    plain = sl.make_plan(fit, memory=4e9, latency=0.5, gpu="rtx-4090", max_P=4, train_flops=1e22)
    assert typed.to_dict() == plain.to_dict()
    with pytest.raises(UsageError, match="memory: '4' is not an amount of memory") as caught:
        sl.make_plan(fit, memory="4")
    assert caught.value.argument == "memory"
    with pytest.raises(UsageError, match="fit: has 2 groups; choose one"):
        sl.make_plan(sl.fit_law("paper", bootstrap=100, starts=20))


def test_a_saved_fit_is_the_same_fit(fit, tmp_path):
    assert sl.load_fit(fit.save(tmp_path / "fit.json")) == fit
    assert sl.make_plan(tmp_path / "fit.json", memory="4GB", max_P=2).winner is not None


def test_what_llm_analysis_cannot_price_the_roofline_does_and_says_so():
    prices = sl.price(2048, P=2, gpu="rtx-4090")
    assert prices.notes == ("priced by the roofline: rtx-4090: llm-analysis does not have this device",)
    assert prices.to_dict() == sl.price(2048, P=2, gpu="rtx-4090", engine="roofline").to_dict()
    assert "int4/bf16/bf16" in sl.price(2048, P=2, weights="int4").notes[0]
    assert sl.price(2048, P=2).notes == ()
    compared = sl.compare_costs(1536, 8, "paper", corpus="pile", gpu="rtx-4090")
    assert compared.question.priced_by.startswith("roofline, rtx-4090")
    assert compared.notes


def test_errors_name_the_argument_and_are_value_errors():
    for call, argument, text in (
        (lambda: sl.fit_law("paper", bootstrap="x"), "bootstrap", "bootstrap='x': choose one of residual, wild, pairs"),
        (lambda: sl.fit_law("paper", "paralel"), "law", "law='paralel': did you mean parallel?"),
        (lambda: sl.price(2560, engine="rofline"), "engine", "engine='rofline': did you mean roofline?"),
        (lambda: sl.price(0), "hidden", "hidden=0: choose between 1 and"),
        (lambda: sl.list_runs("paper", sort="los"), "sort", "sort='los': no such column; did you mean loss?"),
        (lambda: sl.run_sweep(N=5), None, "no architecture near N = 5"),
        (lambda: sl.run_sweep(P="x"), "P", "P: 'x' is not a whole number"),
        (lambda: sl.run_sweep(executor="slurm"), "executor", "executor='slurm': choose one of local, ray"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011  # its text is looked at below
            call()
        assert isinstance(caught.value, UsageError)
        assert caught.value.argument == argument
        assert text in str(caught.value)


def test_errors_cross_between_processes_with_all_they_know():
    for error in (UsageError("bad", argument="P", value=3), NotPricedError("why", "what to do"), DataError("x")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.argument) == (type(error), str(error), error.argument)
        assert describe(again) == describe(error)


def test_arguments_become_flags_in_one_place():
    assert describe(UsageError("bad", argument="max_P", value=0)) == "--max-P 0: bad"
    assert describe(UsageError("bad", argument="columns", value={"n_params": "N"})) == "--map n_params=N: bad"
    assert describe(UsageError("bad", argument="where", value="n > 1")) == "--where 'n > 1': bad"
    assert as_typed("use `engine='roofline'`, `hardware=FILE` or `D`") == (
        "use --engine roofline, --hardware FILE or --D"
    )
    assert as_typed("`columns={'n_params': COLUMN}`") == "--map n_params=COLUMN"
    assert as_typed("`nothing` and `pip install x`") == "`nothing` and `pip install x`"


def _strings(file):
    """Every string of a module with its line, docstrings among them."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    yield from ((node.value, node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Constant))


def test_the_library_never_speaks_of_flags():
    """Flags of other programs, which their commands in messages have, and variables of CSS are no flags of ours."""
    flag = re.compile(r"(?<![\w-])--[A-Za-z][\w-]*|(?<![\w-])-[a-z] (?=[A-Z]{2,}|\{)")
    found = []
    for file in ROOT.rglob("*.py"):
        if "cli" in file.relative_to(ROOT).parts:
            continue
        for text, line in _strings(file):
            if isinstance(text, str) and flag.search(re.sub(r"pip install [^;)]*|var\(--[a-z]+", "", text)):
                found.append(f"{file.relative_to(ROOT)}:{line}: {text[:80]!r}")
    assert not found, "\n".join(found)


def test_every_argument_named_in_a_message_has_a_flag():
    """A name in backquotes that a message of the library refers to is translated, or is no argument at all."""
    named = set()
    for file in [*(ROOT / "fit").glob("*.py"), *(ROOT / "plan").glob("*.py"), *(ROOT / "train").glob("*.py")]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                for text in (n.value for n in ast.walk(node.exc) if isinstance(n, ast.Constant)):
                    if isinstance(text, str):
                        named |= set(re.findall(r"`([A-Za-z_]+)[`=]", text))
    assert named
    assert named <= set(FLAGS)


def test_lists_and_thousands_are_read():
    assert counts("7,000,000,000", "N") == (7e9,)
    assert counts(["1M,2M", 3e6], "D") == (1e6, 2e6, 3e6)
    assert counts(np.array([1e9, 2e9]), "N") == (1e9, 2e9)
    assert whole_numbers((1, 2, 4), "P") == (1, 2, 4)
    assert whole_numbers(np.int64(8), "P") == (8,)
    with pytest.raises(UsageError, match=r"P: '1\.5' is not a whole number"):
        whole_numbers(1.5, "P")


def cli(*words, env=None, cwd=None):
    command = [sys.executable, "-W", "error", "-m", "scalelab", *map(str, words)]
    environment = os.environ | (env or {})
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)


def test_results_go_to_standard_output_and_notes_to_standard_error(fit, tmp_path):
    path = fit.save(tmp_path / "fit.json")
    loud = cli("predict", path, "--N", "70B", "--P", 8)
    assert "warning: " not in loud.stdout
    assert loud.stderr.startswith("serious: N 70B is a factor of")
    quiet = cli("predict", path, "--N", "70B", "--P", 8, "--quiet")
    assert (quiet.stdout, quiet.stderr) == (loud.stdout, "")
    as_json = cli("predict", path, "--N", "70B", "--P", 8, "--json", "-o", tmp_path / "out.csv")
    assert json.loads(as_json.stdout)[0]["N"] == 70e9
    assert as_json.stderr == ""
    assert pd.read_csv(tmp_path / "out.csv")["N"].tolist() == [70e9]


def test_several_groups_are_a_compact_table_and_in_full_with_details(scalelab, tmp_path):
    words = ("fit", "paper", "--draws", 100, "--starts", 30, "--no-figure")
    code, out, _ = scalelab(*words)
    assert code == 0
    assert "2 groups of comparable runs, parallel law" in out
    assert "predicted over measured" not in out
    code, out, _ = scalelab(*words, "--details")
    assert out.count("predicted over measured") == 2
    code, out, _ = scalelab(*words, "--json")
    assert [row["group"] for row in json.loads(out)] == ["pile, D 42B", "stack-v2-python, D 42B"]
    assert json.loads(out)[0]["parameters"]["k"]["value"] == pytest.approx(0.3344424, rel=1e-5)


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    "command", ["", *["sweep", "results", "watch", "fit", "predict", "cost", "compare", "plan", "convert", "train"]]
)
def test_help_keeps_to_the_terminal_and_its_sentences_are_whole(command, width):
    result = cli(*command.split(), "--help", env={"COLUMNS": str(width), "TERMINAL_WIDTH": str(width)})
    assert result.returncode == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= width
    if command:
        assert "<bool>  Show" in result.stdout or "Show this message" in result.stdout
        switches = [line for line in result.stdout.splitlines() if re.search(r"--(json|quiet|details|retry)\b", line)]
        assert not any("<bool>" in line for line in switches)


def test_a_figure_whose_folder_is_not_there_is_refused_and_nothing_is_made(fit, tmp_path, scalelab):
    path = fit.save(tmp_path / "fit.json")
    code, _, error = scalelab("plan", path, "--figure", tmp_path / "no" / "x.png")
    assert (code, "is not a folder; create it first" in error) == (2, True)
    assert not (tmp_path / "no").exists()
    code, _, error = scalelab("plan", path, "--figure", tmp_path / "x.doc")
    assert (code, "must end in one of" in error) == (2, True)


BLOCK = """
import sys
class Blocked:
    names = {"torch", "transformers", "tokenizers", "safetensors", "filelock", "platformdirs", "llm_analysis"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in Blocked.names else find(name, package)
from scalelab.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("cost --hidden 2560 --P 2", 0, "pip install --no-deps llm-analysis"),
        ("fit paper --draws 100 --starts 20 --out {out}", 0, ""),
        ("compare --hidden 1536 --data paper --corpus pile", 0, "llm-analysis is not installed"),
        ("results paper", 0, ""),
        ("sweep --P 1", 1, "pip install 'scalelab[train]'"),
        ("convert {out} -o {out}/new", 1, "pip install 'scalelab[train]'"),
        ("diagnose {out}", 1, "pip install 'scalelab[train]'"),
        ("generate {out} --prompt hi", 1, "pip install 'scalelab[train]'"),
    ],
)
def test_the_base_install_does_what_needs_no_torch_and_says_what_the_rest_needs(words, code, said, tmp_path):
    command = [sys.executable, "-c", BLOCK, *words.format(out=tmp_path).split()]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    if code:
        assert result.stderr.count("\n") == 1


def test_noise_free_data_are_not_told_that_streams_made_it_worse(make_records):
    fitted = sl.fit_law(make_records(k=0.0), bootstrap=100, starts=60)
    assert abs(fitted.params.k) < 1e-9
    assert not {note.code for note in fitted.notes} & {"k_against"}


def test_the_api_page_is_made_from_this_code():
    """`python docs/generate_api.py` makes it anew."""
    sys.path.insert(0, str(ROOT.parent / "docs"))
    try:
        import generate_api
    finally:
        sys.path.pop(0)
    assert (ROOT.parent / "docs" / "api.md").read_text(encoding="utf-8") == generate_api.text()
    for name in NAMES:
        assert f"### {name}\n" in generate_api.text()


def test_scalelab_errors_have_exit_codes_and_messages():
    assert issubclass(UsageError, ScalelabError)
    assert (UsageError("x").exit_code, ScalelabError("x").exit_code) == (2, 1)
