"""Sweeps with `eval`: accuracies in the records, unchanged losses, and laws of the error rate."""

import math
from importlib.util import find_spec

import pytest

import scalelab as sl
from scalelab.errors import UsageError
from scalelab.records.evaluations import accuracies, accuracy_columns
from scalelab.records.files import read_record
from scalelab.records.store import record_path
from scalelab.sweep.run import Execution, run_sweep
from scalelab.sweep.spec import SweepSpec, parse
from scalelab.train.recipe import Recipe

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the extra eval"),
]


@pytest.fixture(scope="module")
def spec(text_folder):
    recipe = Recipe(val_tokens=2048)
    return SweepSpec("t", (12e3,), (2,), (5e3,), (0,), str(text_folder), tokenizer=300, recipe=recipe)


def with_tasks(spec, *names):
    return SweepSpec(**{**vars(spec), "eval": names})


def test_accuracies_are_columns_and_losses_stay_the_same(spec, tmp_path):
    at_once = Execution(device="cpu", workers=1, save_models=True)
    plain = run_sweep(spec, tmp_path / "plain", Execution(device="cpu", workers=1))
    assert not accuracies(plain.columns)
    run = run_sweep(with_tasks(spec, "brackets"), tmp_path / "tasks", at_once).iloc[0]
    assert (run["key"], run["loss"]) == (plain["key"][0], plain["loss"][0])
    name, stderr, docs = accuracy_columns("brackets")
    assert 0 < run[name] < 1
    assert run[docs] > 20
    assert 0 < run[stderr] < 3 * math.sqrt(run[name] * (1 - run[name]) / run[docs])
    # More tasks: the saved model is evaluated without training, and what is known stays.
    again = run_sweep(with_tasks(spec, "next-line"), tmp_path / "tasks", at_once).iloc[0]
    assert again[name] == run[name]
    assert 0 <= again[accuracy_columns("next-line")[0]] <= 1
    assert again["train_seconds"] == run["train_seconds"]
    listed = sl.list_runs(tmp_path / "tasks")
    assert "brackets" in listed.summary()
    assert "next line" in listed.summary()
    stored = read_record(record_path(tmp_path / "tasks", run["key"]))
    assert stored[name] == run[name]
    errors = sl.read(tmp_path / "tasks", {"loss": "error_brackets"}).records
    assert errors["loss"].tolist() == [pytest.approx(1 - run[name])]


def test_a_law_of_the_error_rate_is_recovered(tmp_path):
    """1 − accuracy that falls as 0.3 + (40 / N)^0.5: the power law finds these numbers."""
    from scalelab.records.store import write_record

    (tmp_path / "curves").mkdir()
    for i in range(8):
        N = round(1000 * 2**i)
        error = 0.3 + math.sqrt(40 / N)
        columns = dict(zip(accuracy_columns("cloze"), (1 - error, 0.01, 400), strict=True))
        record = {
            "key": f"k{i}",
            "n_params": N,
            "n_streams": 1,
            "n_tokens": 10**6,
            "loss": 3.0,
            "seed": 0,
            "setup": "s",
        }
        write_record(tmp_path, record | {"corpus": "c", "status": "ok"} | columns, [])
    fit = sl.fit_law(tmp_path, "params", columns={"loss": "error_cloze"}, draws=0)
    assert fit.values["E"] == pytest.approx(0.3, rel=0.01)
    assert fit.values["alpha"] == pytest.approx(0.5, rel=0.01)
    assert fit.loss_label == "error_cloze"


def test_wrong_tasks_stop_a_sweep_before_it_trains(spec, tmp_path):
    with pytest.raises(UsageError, match=r"eval: no\.yaml: no such file"):
        run_sweep(with_tasks(spec, "no.yaml"), tmp_path, Execution(device="cpu", workers=1))
    assert not list(tmp_path.rglob("*.parquet"))
    with pytest.raises(UsageError, match="eval has a value twice"):
        with_tasks(spec, "cloze", "cloze")
    assert parse({"eval": "cloze"}) == {"eval": ("cloze",)}
