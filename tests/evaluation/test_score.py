"""Scores through lm-eval against the model's own likelihoods, paired differences against SciPy, and their records."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy import stats

import scalelab as sl
from scalelab.architecture import architecture_for
from scalelab.errors import DataError, ScalelabError, UsageError
from scalelab.evaluation.paired import paired_differences
from scalelab.evaluation.programs import program_task
from scalelab.evaluation.sandbox import run_program
from scalelab.evaluation.score import Score, main_metric, score_model
from scalelab.evaluation.tasks import task_set
from scalelab.records.evaluations import read_evaluation, read_evaluations
from scalelab.train.build import build_model
from scalelab.train.corpus import load_corpus
from scalelab.train.recipe import Recipe, RunConfig
from scalelab.train.run import run_tokenizer, save_run_model
from scalelab.train.tokens import tokenise
from scalelab.train.trainer import TrainResult

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the extra eval"),
]


@pytest.fixture(scope="module")
def corpus(text_folder):
    return load_corpus(str(text_folder))


@pytest.fixture(scope="module")
def data(corpus):
    return tokenise(corpus, 300)


@pytest.fixture(scope="module")
def model(data):
    """An untrained model with two streams, whose weights are large enough for different answers with P = 1 and 2."""
    shape = architecture_for(12e3, data.vocab_size, prefix_tokens=4).with_streams(2)
    model = build_model(RunConfig(shape, 512, 0, data.text, Recipe())).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


@pytest.fixture(scope="module")
def tasks(corpus):
    made = task_set(["next-line", "brackets"], lambda: ("text", corpus.validation), items=30)
    return made, made.load()


@pytest.fixture(scope="module")
def scores(model, data, tasks):
    return score_model(model, run_tokenizer(data), tasks[1], [(1, False), (2, False)], batch_size=8)


@torch.no_grad()
def chosen(model, tokenizer, item, gain):
    """The choice by the model's own log-probabilities, one sequence at a time, less those without the context."""

    def log_probability(context, choice):
        ids = tokenizer.encode(context + choice)
        n = len(ids) - len(tokenizer.encode(context))
        ids = ids[-65:]
        logits = model(torch.tensor([ids[:-1]]), use_cache=False).logits[0].log_softmax(-1)
        return sum(logits[t, ids[t + 1]].item() for t in range(len(ids) - 1 - n, len(ids) - 1))

    totals = [log_probability(item.context, choice) for choice in item.choices]
    if gain:
        totals = [
            all_ - log_probability("<|endoftext|>", choice) for all_, choice in zip(totals, item.choices, strict=True)
        ]
    return int(np.argmax(totals))


def test_accuracy_is_the_share_of_answers_that_the_model_finds_most_likely(model, data, corpus, tasks, scores):
    assert [(s.task, s.metric, s.P) for s in scores] == [
        (task, metric, P) for P in (1, 2) for task, metric in (("next-line", "acc_mutual_info"), ("brackets", "acc"))
    ]
    tokenizer = run_tokenizer(data)
    for score in scores:
        items = tasks[0].items[score.task]
        model.set_streams(score.P)
        right = [chosen(model, tokenizer, item, score.task == "next-line") == item.answer for item in items]
        assert score.values.tolist() == right
        assert score.value == np.mean(right)
        assert score.n_docs == 30
        assert score.clusters.tolist() == [item.document for item in items]
    model.set_streams(2)


def test_batches_of_one_and_eight_agree(model, data, tasks, scores):
    single = score_model(model, run_tokenizer(data), tasks[1], [(1, False), (2, False)], batch_size=1)
    for one, eight in zip(single, scores, strict=True):
        assert one.values.tolist() == eight.values.tolist()


def test_nan_logits_are_an_error(data, model, tasks):
    class Broken(type(model)):
        def forward(self, *args, **options):
            found = super().forward(*args, **options)
            found.logits[..., 0] = float("nan")
            return found

    broken = build_model(RunConfig(architecture_for(12e3, data.vocab_size, 4), 512, 0, data.text, Recipe()))
    broken.__class__ = Broken
    with pytest.raises(ScalelabError, match="logits are NaN"):
        score_model(broken, run_tokenizer(data), tasks[1], [(1, False)])


def one(task, P, values, clusters):
    values = np.array(values, dtype=float)
    return Score(task, "acc", P, False, values.mean(), 0.1, values, np.array(clusters), len(values), "d", True)


def test_paired_differences_are_those_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    first, second = (rng.random((2, 50)) < [[0.4], [0.6]]).astype(float)
    (found,) = paired_differences([one("t", 1, first, range(50)), one("t", 4, second, range(50))])
    wanted = stats.ttest_rel(second, first)
    low, high = wanted.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert (found.P, found.base) == (4, 1)


def test_documents_of_one_text_count_as_dependent():
    first, second = np.zeros(40), np.r_[np.ones(10), np.zeros(30)]
    apart = next(paired_differences([one("t", 1, first, range(40)), one("t", 2, second, range(40))]))
    four_texts = np.repeat(range(4), 10)
    (together,) = paired_differences([one("t", 1, first, four_texts), one("t", 2, second, four_texts)])
    assert together.value == apart.value
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_the_main_metric_is_an_accuracy():
    def named(metric, stderr=0.1):
        return Score("t", metric, 1, False, 0.5, stderr, np.ones(2), np.arange(2), 2, "d", True)

    assert main_metric([named("acc_norm"), named("acc")]).metric == "acc"
    assert main_metric([named("bleu", None), named("score")]).metric == "score"
    assert main_metric([named("bleu", None)]) is None


@pytest.fixture(scope="module")
def saved(model, data, tmp_path_factory):
    """The model, as a sweep saves it."""
    out = tmp_path_factory.mktemp("sweep")
    (out / "runs").mkdir()
    folder = out / "models" / "abc"
    folder.parent.mkdir()
    save_run_model(TrainResult(None, [], 0.0, model, 8, ["cpu"]), data, folder)
    return folder


def test_evaluate_writes_a_record_beside_the_runs(saved, text_folder, monkeypatch):
    found = sl.evaluate(saved, ["brackets"], P=[1, 2], limit=20, corpus=str(text_folder), device="cpu")
    assert found.file == saved.parent.parent / "evaluations" / "abc.parquet"
    rows = read_evaluation(found.file)
    assert rows["n_streams"].tolist() == [1, 2]
    assert rows["value"].tolist() == [s.value for s in found.scores]
    assert [list(values) for values in rows["values"]] == [s.values.tolist() for s in found.scores]
    sl.evaluate(saved, "next-line", P=2, limit=10, corpus=str(text_folder), device="cpu")
    sl.evaluate(saved, "brackets", P=2, limit=20, corpus=str(text_folder), device="cpu")
    rows = read_evaluations(saved.parent.parent)
    assert rows[["task", "n_streams"]].values.tolist() == [["brackets", 1], ["brackets", 2], ["next-line", 2]]
    text = found.summary(width=80)
    assert "2 − 1" in text
    assert str(found.differences[0].n_docs) in text
    assert json.dumps(found.to_dict())
    assert len(found.to_frame()) == 2


YAML = """task: colours
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
"""


def test_a_task_of_a_yaml_file_with_local_data(saved, tmp_path, monkeypatch):
    rows = [{"question": f"colour {i}:", "choices": ["red", "green"], "answer": i % 2} for i in range(6)]
    (tmp_path / "data.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "colours.yaml").write_text(YAML.replace("DATA", str(tmp_path / "data.json")))
    found = sl.evaluate(saved, str(tmp_path / "colours.yaml"), P=1, device="cpu", records=tmp_path / "r")
    assert [(s.task, s.metric) for s in found.scores] == [("colours", "acc"), ("colours", "acc_norm")]
    assert found.scores[0].n_docs == 6
    assert found.file == tmp_path / "r" / "evaluations" / "abc.parquet"
    (tmp_path / "far.yaml").write_text(YAML.replace("json", "nobody/such-data-set").replace("DATA", "x.json"))
    with pytest.raises(DataError, match="its data are not on this machine"):
        sl.evaluate(saved, str(tmp_path / "far.yaml"), P=1, device="cpu")


def test_programs_are_run_only_on_request_and_judged_by_their_tests(saved, tmp_path):
    row = {"prompt": "def add(a, b):\n", "test": "def check(f):\n    assert f(1, 2) == 3", "entry_point": "add"}
    file = tmp_path / "sums.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(UsageError, match="allow it with `run_code`"):
        sl.evaluate(saved, str(file), device="cpu")
    try:
        run_program("pass")
    except ScalelabError as error:
        pytest.skip(str(error))
    task = program_task(file)
    for answer, right in (("    return a + b", 1.0), ("    return a - b", 0.0), ("    import os; os._exit(0)", 0.0)):
        assert task.process_results(row, [answer]) == {"pass@1": right}
    found = sl.evaluate(saved, str(file), P=2, run_code=True, device="cpu")
    assert [(s.task, s.metric, s.value) for s in found.scores] == [("sums", "pass@1", 0.0)]
    file.write_text('{"prompt": "x"}')
    with pytest.raises(DataError, match=r"sums\.jsonl, line 1: not a JSON object with the texts prompt, test"):
        sl.evaluate(saved, str(file), run_code=True, device="cpu")


def test_wrong_requests_are_one_line(saved, tmp_path, text_folder):
    with pytest.raises(UsageError, match="has only P = 1, 2"):
        sl.evaluate(saved, "cloze", P=3, device="cpu")
    with pytest.raises(UsageError, match=r"tasks='none.yaml': no such file"):
        sl.evaluate(saved, "none.yaml", device="cpu")
    with pytest.raises(UsageError, match="is there twice"):
        sl.evaluate(saved, ["cloze", "cloze"], device="cpu")
    with pytest.raises(UsageError, match="limit=1"):
        sl.evaluate(saved, "cloze", limit=1)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((saved / name).read_bytes())
    with pytest.raises(DataError, match=r"tokenizer.json is missing"):
        sl.evaluate(bare, "cloze", device="cpu")


def test_the_extra_is_named(saved, monkeypatch):
    monkeypatch.setattr("scalelab.evaluation.tasks.find_spec", lambda name: None)
    with pytest.raises(ScalelabError, match=r"pip install 'scalelab\[eval\]'"):
        sl.evaluate(saved, "cloze", device="cpu")
