"""Tasks that lm-eval ships, by name and without a network, on data that this machine has."""

import json
from importlib.util import find_spec
from itertools import islice

import pytest
import torch
from transformers import AutoTokenizer

import scalelab as sl
from scalelab.errors import DataError, UsageError
from scalelab.evaluation.tasks import TaskSet, documents_digest
from scalelab.model import add_streams
from scalelab.model.checkpoint import load_model
from tests.clients.words import save_tokenizer
from tests.support.chats import write_lines
from tests.support.families import make, warm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the extra eval"),
]
CHOICES = ["t50 t61", "t70", "t81 t82 t83", "t44"]
N = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = warm(add_streams(make("llama", num_hidden_layers=2), 2, prefix_tokens=5))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@torch.no_grad()
def right_answers(folder, P, prompts, answers):
    """Return, for each prompt, true if the right choice has the highest log-probability under the model."""
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    model.set_streams(P)
    right = []
    for prompt, answer in zip(prompts, answers, strict=True):
        totals = []
        for choice in CHOICES:
            ids, n = tokenizer(f"{prompt} {choice}", return_tensors="pt").input_ids, len(choice.split())
            scores = torch.log_softmax(model(ids).logits[0, -n - 1 : -1], -1)
            totals.append(scores.gather(-1, ids[0, -n:, None]).sum().item())
        right.append(totals.index(max(totals)) == answer)
    return right


def check(folder, task, prompts, answers, tmp_path):
    found = sl.evaluate(folder, task, P=[1, 2], device="cpu", records=tmp_path / "records")
    scores = {score.P: score for score in found.scores if score.metric == "acc"}
    for P in (1, 2):
        assert scores[P].values.tolist() == right_answers(folder, P, prompts, answers)
        assert scores[P].n_docs == N


def test_a_data_set_in_the_cache(folder, tmp_path, monkeypatch):
    """The cache as load_dataset of datasets writes it, but for the name of the Hub's namespace."""
    import datasets

    rows = [
        {
            "question": f"t{40 + i} t{60 - i}",
            "choices": {"text": CHOICES, "label": ["A", "B", "C", "D"]},
            "answerKey": "ABCD"[i % 4],
        }
        for i in range(N)
    ]
    source, cache = tmp_path / "ai2_arc", tmp_path / "cache"
    source.mkdir()
    files = {"train": rows[:1], "validation": rows[:1], "test": rows}
    for split, content in files.items():
        datasets.Dataset.from_list(content).to_parquet(source / f"{split}.parquet")
    places = [{"split": split, "path": f"{split}.parquet"} for split in files]
    card = {"configs": [{"config_name": "ARC-Easy", "data_files": places}]}
    (source / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    datasets.load_dataset(str(source), "ARC-Easy", cache_dir=str(cache))
    (cache / "ai2_arc").rename(cache / "allenai___ai2_arc")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    prompts = [f"Question: {row['question']}\nAnswer:" for row in rows]
    check(folder, "arc_easy", prompts, [i % 4 for i in range(N)], tmp_path)
    with pytest.raises(DataError, match="task piqa: its data are not on this machine"):
        sl.evaluate(folder, "piqa", device="cpu", records=tmp_path / "records")


def test_a_data_set_in_a_folder_of_its_name(folder, tmp_path, monkeypatch):
    rows = [
        {"activity_label": f"t{40 + i}", "ctx_a": f"t{41 + i}", "ctx_b": "t45", "endings": CHOICES, "label": str(i % 4)}
        for i in range(N)
    ]
    data = tmp_path / "Rowan" / "hellaswag"
    write_lines(data / "train.jsonl", rows[:1])
    write_lines(data / "validation.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    prompts = [f"t{40 + i}: t{41 + i} T45" for i in range(N)]  # the task writes the second part with a capital
    check(folder, "hellaswag", prompts, [i % 4 for i in range(N)], tmp_path)


def test_tasks_that_make_their_data_with_the_tokenizer(folder, tmp_path, monkeypatch):
    """RULER's needle in a haystack: an untrained model finds no number, and all texts have at most 4,096 tokens.

    nltk only has to find a folder of its sentences, which this task does not use.
    """
    pytest.importorskip("wonderwords")
    import nltk
    from lm_eval.utils import hash_string

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "none")])
    with pytest.raises(DataError, match="task niah_single_1: its data are not on this machine"):
        sl.evaluate(folder, "niah_single_1", limit=2, device="cpu", records=tmp_path / "records")
    (tmp_path / "nltk" / "tokenizers" / "punkt_tab").mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])
    found = sl.evaluate(folder, "niah_single_1", P=2, limit=2, device="cpu", records=tmp_path / "records")
    assert [(score.P, score.metric, score.value, score.n_docs) for score in found.scores] == [(2, "4096", 0.0, 2)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    task = TaskSet(others=("niah_single_1",)).load(tokenizer)["niah_single_1"]
    docs = list(islice(task.eval_docs, 2))
    hashes = [hash_string(json.dumps(doc, indent=2, ensure_ascii=False)) for doc in docs]
    assert {score.documents for score in found.scores} == {documents_digest(hashes)}  # made anew, and the same
    assert 3000 < max(len(tokenizer(doc["input"]).input_ids) for doc in docs) <= 4096 - 128
    with pytest.raises(UsageError, match="makes its data with a tokenizer"):
        TaskSet(others=("niah_single_1",)).load()
