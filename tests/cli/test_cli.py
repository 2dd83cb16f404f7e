"""The commands as a person types them, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from scalelab import records
from scalelab.cli.lists import spread
from tests.support.paths import DATA
from tests.support.tables import fit_table

ROOT = DATA.parent.parent


def run(*args, cwd=None, timeout=300):
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "scalelab", *map(str, args)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        check=False,
    )


def complaint(result, code):
    """The one line of an error."""
    assert result.returncode == code, result.stderr + result.stdout
    *notes, last = result.stderr.strip().splitlines()
    assert last.startswith("scalelab: "), result.stderr
    assert not [line for line in notes if line.startswith(("scalelab: ", "Traceback"))], result.stderr
    return last


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--P 1 2 4", "--P=1 --P=2 --P=4"),
        ("--P 1 --P 2", "--P=1 --P=2"),
        ("--P 1,2,4", "--P=1,2,4"),
        ("--P=1 2", "--P=1 --P=2"),
        ("--P 1 2 --out x", "--P=1 --P=2 --out x"),
        ("--P 1 2 specs/a.yaml", "--P=1 --P=2 specs/a.yaml"),
        ("--P a.yaml specs/b.yaml", "--P=a.yaml specs/b.yaml"),
        ("a.yaml --P 1 2", "a.yaml --P=1 --P=2"),
        ("--P 1 x", "--P=1 --P=x"),
        ("--P -1", "--P=-1"),
        ("--P", "--P"),
        ("--P --out x", "--P --out x"),
        ("--N 50k 0.2M --P 1 2", "--N=50k --N=0.2M --P=1 --P=2"),
        ("--out x y", "--out x y"),
        ("--P 1 -- 2", "--P=1 -- 2"),
    ],
)
def test_lists_after_one_option(typed, meant):
    assert spread(typed.split(), {"--P", "--N"}, takes_path=True) == meant.split()


def on_a_terminal(*args, cwd):
    """Return the output of a command on a terminal of 80 columns."""
    ours, theirs = os.openpty()
    environment = os.environ | {"TERM": "dumb"}  # 80 columns without colours, for rich
    command = [sys.executable, "-m", "scalelab", *map(str, args)]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, cwd=cwd, env=environment) as process:
        os.close(theirs)
        written = b""
        while part := _read(ours):
            written += part
    os.close(ours)
    assert process.returncode == 0
    return written.decode()


def _read(terminal):
    try:
        return os.read(terminal, 4096)
    except OSError:  # as Linux tells that the other side is closed
        return b""


@pytest.mark.parametrize(
    "words",
    [
        "plan {} --memory 4GB --max-P 16",
        "compare --hidden 1536 --fit {}",
        "predict {} --N 20B --P 4",
        "cost --list-hardware",
    ],
)
def test_a_terminal_breaks_sentences_between_words_and_a_pipe_not_at_all(saved_fit, tmp_path, words):
    args = words.format(saved_fit).split()
    result = run(*args, cwd=tmp_path)
    piped = result.stdout + result.stderr
    long = [line for line in piped.splitlines() if len(line) > 80]
    sentences = [line for line in long if "  " not in line and "──" not in line]  # of no table
    assert sentences
    shown = on_a_terminal(*args, cwd=tmp_path)
    for sentence in sentences:
        assert " ".join(sentence.split()) in " ".join(shown.split())
    starts = {sentence[:30] for sentence in sentences}
    first = [line for line in shown.splitlines() if line[:30] in starts]
    assert len(first) == len(sentences)
    assert all(len(line.rstrip()) <= 80 for line in first)


HEAVY = {"numpy", "pandas", "pyarrow", "scipy", "matplotlib", "torch", "transformers", "llm_analysis"}
ASK, TABLES = {"numpy"}, {"numpy", "pandas", "pyarrow"}


@pytest.mark.parametrize(
    ("args", "needs"),
    [
        ("--help", set()),
        ("--version", set()),
        *((f"{name} --help", set()) for name in ("sweep", "fit", "cost", "plan")),
        ("cost --list-hardware", set()),
        ("cost --hidden 2560 --P 2 --engine roofline", set()),
        ("cost --hidden 2560 --P 2", {"llm_analysis"}),
        ("predict {fit} --N 3B --P 4", ASK),
        ("plan {fit} --memory 4GB", ASK),
        ("plan {fit} --memory 4GB --engine llm-analysis", ASK | {"llm_analysis"}),
        ("compare --hidden 2560 --fit {fit} --engine roofline", ASK),
        ("compare --hidden 1280 --P 2 --data paper --engine roofline", TABLES),
        ("fit paper --draws 100 --no-figure --out {out}", TABLES | {"scipy"}),
        ("fit paper --draws 100 --out {out}", TABLES | {"scipy", "matplotlib"}),
    ],
)
def test_what_a_command_imports(args, needs, saved_fit, tmp_path):
    """Most of a short command's time is imports, so each has those that it needs and no others."""
    code = (
        "import sys; from scalelab.cli import main; code = main(sys.argv[2:]); "
        "print(*set(sys.argv[1].split()) & set(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    words = args.format(fit=saved_fit, out=tmp_path).split()
    command = [sys.executable, "-W", "error", "-c", code, " ".join(HEAVY), *words]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert set(result.stderr.split("\n")[-2].split()) == needs  # below the notes


@pytest.fixture(scope="module")
def saved_fit(tmp_path_factory):
    from scalelab.fit import save_fit

    paper = records.paper_records()
    path = tmp_path_factory.mktemp("fit") / "pile.json"
    save_fit(fit_table(paper[paper["corpus"] == "pile"], draws=100), path)
    return path


def test_the_package_of_fits_names_what_it_imports_late():
    import scalelab.fit

    assert {*scalelab.fit.__all__} <= {*dir(scalelab.fit)}
    for name in scalelab.fit.__all__:
        assert getattr(scalelab.fit, name) is not None
    with pytest.raises(AttributeError, match=r"module 'scalelab\.fit' has no attribute 'nothing'"):
        scalelab.fit.nothing  # noqa: B018


def test_cost_as_typed_in_the_readme():
    result = run("cost", "--hidden", 2560, "--P", 2, "--batch", 2)
    assert result.returncode == 0, result.stderr
    assert "8.951" in result.stdout
    assert "0.354" in result.stdout


def test_cost_json_holds_all_p_and_batches():
    rows = json.loads(run("cost", "--hidden", 2560, "--P", 1, 2, 4, "--batch", 1, 2, "--json").stdout)
    assert [(r["P"], r["batch"]) for r in rows] == [(p, b) for b in (1, 2) for p in (1, 2, 4)]
    (row,) = [r for r in rows if (r["P"], r["batch"]) == (2, 2)]
    assert row["memory_bytes"] == pytest.approx(9_610_820_608, rel=1e-9)
    assert row["latency_s"] == pytest.approx(0.35350382062801405, rel=1e-9)
    assert row["memory_over_P1_bytes"] == pytest.approx(row["memory_bytes"] - 9_534_780_416)


def test_cost_flags_act_and_are_checked():
    plain = json.loads(run("cost", "--hidden", 1024, "--P", 2, "--json").stdout)[0]
    assert plain["intermediate"] == 5504
    other = json.loads(
        run("cost", "--hidden", 1024, "--P", 2, "--intermediate", 4096, "--gpu", "h100-sxm-80gb", "--json").stdout
    )[0]
    assert other["intermediate"] == 4096
    assert other["latency_s"] < plain["latency_s"]
    assert "--gpu abacus: unknown" in complaint(run("cost", "--hidden", 1024, "--gpu", "abacus"), 2)
    assert "1025 does not divide into 16 heads" in complaint(run("cost", "--hidden", 1025), 2)
    assert "give --hidden, or --model with a model folder" in complaint(run("cost"), 2)
    assert "'0' is not a whole number" in complaint(run("cost", "--hidden", 1024, "--batch", 0), 2)
    assert "--batch: needs at least one value" in complaint(run("cost", "--hidden", 1024, "--batch", ","), 2)
    assert "--layers 0: choose between 1 and" in complaint(run("cost", "--hidden", 1024, "--layers", 0), 2)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--tokens-in", 512),
        ("--tokens-out", 256),
        ("--layers", 12),
        ("--heads", 32),
        ("--kv-heads", 4),
        ("--vocab", 32_000),
        ("--prefix-tokens", 480),
        ("--flops-efficiency", 0.1),
        ("--memory-efficiency", 0.3),
    ],
)
def test_every_cost_flag_reaches_its_own_place(flag, value, capsys):
    from scalelab.architecture import Architecture, mlp_width
    from scalelab.cli import main
    from scalelab.cost import Device, Workload, price

    assert main(["cost", "--hidden", "1024", "--P", "2", flag, str(value), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    place = flag.removeprefix("--").replace("-", "_")
    shape = {"layers": "num_layers", "heads": "num_heads", "kv_heads": "num_kv_heads", "vocab": "vocab_size"}
    sizes = {"num_layers": 36, "num_heads": 16, "num_kv_heads": 2, "vocab_size": 151_936, "prefix_tokens": 48}
    work, device = {}, {}
    if place.startswith("tokens"):
        work[place] = value
    elif place.endswith("efficiency"):
        device[place] = value
    else:
        sizes[shape.get(place, place)] = value
    cost = price(Architecture(1024, mlp_width(1024), P=2, **sizes), Workload(**work), Device(**device))
    assert row["latency_s"] == cost.latency_s
    assert row["memory_bytes"] == cost.memory_bytes
    assert row["n_params"] == cost.architecture.n_params


def test_the_defaults_of_fit_are_the_librarys():
    """Written twice, since importing the library's would load SciPy for `--help`."""
    from inspect import signature

    from scalelab.api.fitting import DEFAULT_LAW, fit_law
    from scalelab.cli.fit import fit
    from scalelab.fit import FitOptions, fit_group

    command, library = signature(fit).parameters, FitOptions()
    for name in ("objective", "delta", "starts", "bootstrap", "draws", "seed"):
        assert command[name].default == getattr(library, name)
    assert command["count"].default == library.convention
    assert command["law"].default is signature(fit_law).parameters["law"].default is None
    assert signature(fit_group).parameters["law"].default == DEFAULT_LAW


def test_fit_prints_and_saves_both_corpora(tmp_path):
    result = run("fit", ROOT / "results" / "paper", "--out", tmp_path, "--draws", 200)
    assert result.returncode == 0, result.stderr
    for text in ("0.6912", "1.131e7", "0.3935", "0.1894", "0.9978", "0.3344", "0.1963", "0.9987"):
        assert text in result.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "pile-d-42b.json",
        "pile-d-42b.png",
        "stack-v2-python-d-42b.json",
        "stack-v2-python-d-42b.png",
    ]
    assert (tmp_path / "pile-d-42b.png").stat().st_size > 20_000


def _table(folder, **columns):
    good = {"n_params": [10, 20, 40, 80, 160], "n_streams": [1, 2, 1, 2, 4], "loss": [5.0, 4.0, 3.5, 3.0, 2.8]}
    pd.DataFrame({k: v for k, v in (good | columns).items() if v is not None}).to_parquet(folder / "t.parquet")


def test_rows_that_cannot_be_used_are_listed_and_the_rest_is_fitted(tmp_path):
    _table(tmp_path, loss=[5.0, -4.0, 3.5, 3.0, 2.8])
    result = run("fit", tmp_path / "t.parquet", "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "column 'loss', row 2: -4.0 is not a positive number" in result.stderr
    assert "4 rows used, 1 not usable" in result.stderr
    assert "4 runs;" in result.stdout


def test_a_column_that_the_law_needs_is_asked_for(tmp_path):
    _table(tmp_path, n_streams=None)
    said = complaint(run("fit", tmp_path, cwd=tmp_path), 1)
    assert "the law 'parallel' needs P, and there is no column 'n_streams'" in said
    assert "--map n_streams=COLUMN" in said
    _table(tmp_path, loss=None)
    said = complaint(run("fit", tmp_path, cwd=tmp_path), 1)
    assert "t.parquet: no column 'loss'" in said


def test_fit_refuses_what_holds_no_records(tmp_path):
    assert "no records (*.parquet) here" in complaint(run("fit", tmp_path), 2)
    assert "no such file or folder" in complaint(run("fit", tmp_path / "nowhere"), 2)
    assert "--count nothing" in complaint(run("fit", "paper", "--count", "nothing"), 2)
    (tmp_path / "t.parquet").write_text("hello")
    assert "not a readable Parquet file" in complaint(run("fit", tmp_path), 1)


def test_places_that_cannot_be_written_are_named(tmp_path, text_folder):
    (tmp_path / "file").write_text("")
    assert f"cannot save {tmp_path / 'file' / 'pile-d-42b.json'}: File exists" in complaint(
        run("fit", "paper", "--out", tmp_path / "file"), 1
    )
    swept = run("sweep", "--corpus", text_folder, "--out", tmp_path / "file")
    assert f"{tmp_path / 'file'}: File exists" in complaint(swept, 1)


def test_names_are_text_and_not_markup(tmp_path):
    for name in ("wiki[en]", "wiki[/en]", "a$b$c", "x/../y"):
        _table(tmp_path, corpus=name, loss=[5.0, 4.0, 3.5, 3.0, 2.9])
        # Five runs carry no law, which is beside the point here.
        result = run("fit", tmp_path, "--map", "corpus=corpus", "--force", "--out", tmp_path / "out", "--draws", 100)
        assert result.returncode == 0, result.stderr
        assert name in result.stdout
    assert {p.parent for p in (tmp_path / "out").rglob("*.png")} == {tmp_path / "out"}


def test_a_reader_that_leaves_early_is_no_error(tmp_path):
    command = f"{sys.executable} -W error -m scalelab fit paper --out {tmp_path} --draws 100 | head -1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
    assert "Broken pipe" not in result.stderr


def test_each_way_to_count_n_has_a_file_of_its_own(tmp_path):
    for count in ("paper", "backbone"):
        run("fit", "paper", "--out", tmp_path, "--draws", 100, "--no-figure", "--count", count)
    names = [f"{corpus}-d-42b{end}.json" for corpus in ("pile", "stack-v2-python") for end in ("-backbone", "")]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)


def test_output_that_knows_no_greek_is_no_error():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "scalelab", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""


def test_an_unfinished_sweep_is_no_success_and_repeated_text_is_noted(text_folder, tmp_path):
    sweep = f"{sys.executable} -m scalelab sweep --N 12k --P 1 --D 900k --corpus {text_folder} --out {tmp_path} 2>&1"
    result = subprocess.run(
        ["bash", "-c", f"{sweep} | head -4; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 141
    assert "passes over this text" in result.stdout


def test_too_few_runs_is_a_failure_that_names_the_group(tmp_path):
    _table(tmp_path, **{"n_params": [10, 20], "n_streams": [1, 2], "loss": [3.0, 2.0]})
    result = run("fit", tmp_path, cwd=tmp_path)
    assert "t: 2 distinct (N, P) cannot determine 4 parameters; add runs" in complaint(result, 1)


@pytest.mark.parametrize("others", [2, 3])
def test_groups_that_are_not_fitted_for_one_reason_are_one_line(scalelab, tmp_path, make_records, others):
    large = make_records(noise=1e-3).assign(corpus="large")
    small = [large.iloc[:2].assign(corpus=f"small {i}") for i in range(others)]
    pd.concat([large, *small]).to_csv(tmp_path / "t.csv", index=False)
    options = ["--map", "corpus=corpus", "--no-figure", "--draws", "100", "--starts", "20"]
    status, out, error = scalelab("fit", tmp_path / "t.csv", *options)
    assert status == 0, error
    lines = [line for line in out.splitlines() if "not fitted" in line]
    reason = "the law 'parallel' needs more than one value of N; add runs or choose another --law"
    together = [f"left out: not fitted: {others} groups, the first of them small 0, D 1B: {reason}"]
    apart = [f"left out: not fitted: small {i}, D 1B: {reason}" for i in range(others)]
    assert lines == (together if others == 3 else apart)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--P", "1", "x"], "--P: 'x' is not a whole number"),
        (["--P", "0"], "--P: '0' is not a whole number"),
        (["--P", "1", "1"], "--P: has a value twice"),
        (["--N", "50q"], "--N: '50q' is not a positive count"),
        (["--N", "3"], "no architecture near N = 3"),
        (["--lr", "0"], "--lr: must be positive"),
        (["--device", "tpu"], "--device tpu"),
        (["--corpus", "nowhere"], "--corpus nowhere: no such file"),
        (["--tokenizer", "7"], "--tokenizer 7: a vocabulary needs 257"),
        (["nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--bogus"], "No such option: --bogus"),
        (["--P", "²"], "--P: '²' is not a whole number"),
        (["--tokenizer", "²"], "--tokenizer ²: neither a vocabulary size nor a path"),
        (["--dtype", "fp8"], "dtype must be auto, fp32 or bf16"),
        (["--seed", "-1"], "--seed: '-1' is not a whole number of at least 0"),
    ],
)
def test_sweep_names_the_bad_value(args, message, text_folder):
    corpus = [] if "--corpus" in args else ["--corpus", text_folder]
    assert message in complaint(run("sweep", *args, *corpus), 2)


@pytest.fixture
def small(text_folder):
    return ["sweep", "--N", "12k", "25k", "--P", "1", "2", "--D", "20k", "--seed", "0", "--corpus", text_folder]


def test_sweep_trains_resumes_and_fits(small, tmp_path):
    first = run(*small[:4], "--P", "1", *small[7:], "--out", tmp_path / "s")
    assert first.returncode == 0, first.stderr
    assert "2 runs to train" in first.stderr
    before = {p: p.read_bytes() for p in (tmp_path / "s" / "runs").iterdir()}
    second = run(*small, "--out", tmp_path / "s")
    assert second.returncode == 0, second.stderr
    assert "2 runs to train" in second.stderr
    assert "2 of 4 runs recorded already" in second.stderr
    assert all(p.read_bytes() == content for p, content in before.items())
    third = run(*small, "--out", tmp_path / "s")
    assert "nothing to do: all 4 runs are recorded" in third.stderr
    table = records.load(tmp_path / "s")
    assert sorted(table["n_streams"]) == [1, 1, 2, 2]
    assert table["loss"].between(1, 6).all()
    assert (table["loss_stderr"] > 0).all()
    assert len(list((tmp_path / "s" / "curves").iterdir())) == 4
    fitted = run("fit", tmp_path / "s", "--out", tmp_path / "fits", "--draws", 100)
    assert fitted.returncode == 0, fitted.stderr
    assert "no_freedom" in fitted.stderr


def test_a_record_that_cannot_be_trusted_is_neither_done_nor_overwritten(small, tmp_path):
    run(*small[:3], "--P", "1", *small[7:], "--out", tmp_path)
    (path,) = (tmp_path / "runs").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    said = complaint(run(*small, "--out", tmp_path), 1)
    assert f"{path}: not a readable Parquet file" in said
    assert path.stat().st_size == 100
    path.write_bytes(whole)
    other = next(iter({"0" * 16} - {path.stem}))
    table = records.load(path).drop(columns="file").assign(key=other)
    table.to_parquet(path)
    assert f"{path}: has the record of another run" in complaint(run(*small, "--out", tmp_path), 1)


def test_ctrl_c_leaves_finished_runs_and_the_same_command_goes_on(small, tmp_path):
    command = [sys.executable, "-m", "scalelab", *map(str, small), "--out", str(tmp_path)]
    command[command.index("--seed") + 1 : command.index("--corpus")] = ["0", "1", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while len(list(tmp_path.glob("runs/*.parquet"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the parent and its workers
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    done = records.load(tmp_path)
    assert 2 <= len(done) < 12
    kept = f"{len(done)} of 12 runs recorded below {tmp_path}"
    assert errors.strip().splitlines()[-1] == f"scalelab: interrupted: {kept}; run the same command again to resume"
    after = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{len(done)} of 12 runs recorded already" in after.stderr
    assert len(records.load(tmp_path)) == 12


def test_a_failing_run_does_not_stop_the_others(small, tmp_path):
    """A record's place taken by a folder makes that one run fail when it writes."""
    from dataclasses import replace

    from scalelab.sweep.resolve import resolve
    from scalelab.sweep.spec import SweepSpec
    from scalelab.train.recipe import Recipe

    spec = SweepSpec(D=(20e3,), seeds=(0,), corpus=str(small[-1]), recipe=Recipe(dtype="fp32"))
    victim = resolve(replace(spec, N=(12e3,), P=(1,))).runs[0]
    (tmp_path / "curves" / f"{victim.key}.parquet").mkdir(parents=True)
    result = run(*small, "--out", tmp_path)
    assert "1 of 4 runs ended without a loss (1 failed), the first: IsADirectoryError" in complaint(result, 1)
    # The failure is recorded like the losses, for which its curve is not needed.
    assert sorted(pd.read_parquet(file)["status"].iloc[0] for file in tmp_path.glob("runs/*.parquet")) == [
        "failed",
        *["ok"] * 3,
    ]
    assert "Traceback" in (tmp_path / "logs" / f"{victim.key}.txt").read_text()
    assert not list(tmp_path.rglob("*.tmp"))
