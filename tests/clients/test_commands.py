"""`scalelab serve` and `scalelab lm-eval`, as they are started from a shell."""

import json
import os
import select
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch
from transformers import AutoTokenizer

from scalelab.model import add_streams
from scalelab.model.checkpoint import load_model
from tests.clients.words import save_tokenizer
from tests.support.families import make, warm

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the clients
WAIT_S = 300  # importing the clients takes long where other tests run
PROMPT = "t5 t6 t7"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = add_streams(make("llama", num_hidden_layers=2), [2, 4], prefix_tokens=5)
    for P in (2, 4):
        model.set_streams(P)
        warm(model, seed=P)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def words(*arguments):
    return [sys.executable, "-m", "scalelab", *map(str, arguments)]


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """Start `scalelab serve` with two streams; return its port once it answers."""
    for package in ("fastapi", "openai", "uvicorn"):
        pytest.importorskip(package, reason=f"no {package}: pip install 'scalelab[clients]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ("--host", "127.0.0.1", "--port", port, "--device", "cpu", "--dtype", "float32")
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(words("serve", folder, "--P", 2, *options), stdout=file, stderr=file)
    try:
        _wait_for(port, process)
        yield port
    except OSError as error:
        raise AssertionError(log.read_text()) from error
    finally:
        process.terminate()
        process.wait(WAIT_S)


def _wait_for(port, process):
    end = time.monotonic() + WAIT_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=WAIT_S):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.5)


@pytest.fixture(scope="module")
def texts(folder):
    """Return the greedy continuation of PROMPT for each P."""
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    found = {}
    for P in (2, 4):
        model.set_streams(P)
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        found[P] = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    assert found[2] != found[4]
    return found


def test_the_server_generates_with_the_streams_that_are_asked_for(server, folder, texts):
    body = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "model": str(folder)}
    url = f"http://127.0.0.1:{server}/v1/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as reply:
            answer = json.load(reply)
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from None
    assert answer["choices"][0]["text"].strip() == texts[2]


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_transformers_chat_shows_the_answer_of_the_served_streams(server, folder, texts, tmp_path):
    """In a terminal, with a model that never ends its turn."""
    command = [sys.executable, "-m", "transformers.cli.transformers", "chat", str(folder)]
    options = [f"http://127.0.0.1:{server}/v1", "max_new_tokens=6", "do_sample=False", "--user", "me"]
    terminal, other_end = os.openpty()
    ends = {"stdin": other_end, "stdout": other_end, "stderr": other_end}
    environment = os.environ | {"TERM": "dumb", "COLUMNS": "200"}
    # Offline, the client of the Hub that it uses refuses this machine's addresses too. So the Hub is a closed port.
    environment |= {"HF_HUB_OFFLINE": "0", "TRANSFORMERS_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    with subprocess.Popen([*command, *options], **ends, cwd=tmp_path, env=environment) as client:
        os.close(other_end)
        try:
            shown = _read_until(terminal, "<me>:")
            for typed, awaited in ((PROMPT, "Continue generating?"), ("n", "<me>:")):
                os.write(terminal, f"{typed}\n".encode())
                shown += _read_until(terminal, awaited)
            os.write(terminal, b"!exit\n")
            assert client.wait(WAIT_S) == 0
        finally:
            client.kill()
            os.close(terminal)
    assert texts[2] in " ".join(shown.rpartition(PROMPT)[2].split())


def _read_until(terminal, text):
    """Return what the terminal shows up to `text`."""
    shown, end = "", time.monotonic() + WAIT_S
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        try:
            shown += os.read(terminal, 65536).decode(errors="replace") if ready else pytest.fail(f"waits: {shown}")
        except OSError:  # the client has ended
            pytest.fail(f"ended: {shown}")
    return shown


TASK = """
task: tiny
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: ["t50 t61", "t70"]
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.mark.parametrize("P", [1, 4])
@torch.no_grad()
def test_lm_eval_scores_with_the_streams_that_are_asked_for(folder, P, tmp_path):
    pytest.importorskip("lm_eval", reason="no lm_eval: pip install 'scalelab[clients]'")
    texts = [f"t{i} t{i + 3} t{i + 1}" for i in range(40, 48)]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text, "answer": 0}) + "\n" for text in texts), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(TASK.format(data=data), encoding="utf-8")
    options = ("--tasks", "tiny", "--include_path", tmp_path, "--batch_size", 3, "--device", "cpu", "--log_samples")
    out = ("--output_path", tmp_path / "out", "--model_args", "dtype=float32")
    command = words("lm-eval", folder, "--P", P, *options, *out)
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env=environment)
    assert done.returncode == 0, done.stderr
    (samples,) = (tmp_path / "out").rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == len(texts)
    model, tokenizer = load_model(folder), AutoTokenizer.from_pretrained(folder)
    model.set_streams(P)
    for row in rows:
        for choice, ((found, _),) in zip(("t50 t61", "t70"), row["resps"], strict=True):
            expected = _log_likelihood(model, tokenizer, row["doc"]["text"], choice)
            assert float(found) == pytest.approx(expected, abs=1e-3)


def _log_likelihood(model, tokenizer, text, continuation):
    ids = tokenizer(f"{text} {continuation}", return_tensors="pt").input_ids
    n = len(continuation.split())
    scores = torch.log_softmax(model(ids).logits[0, -n - 1 : -1], -1)
    return scores.gather(-1, ids[0, -n:, None]).sum().item()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serve", "MODEL", "--P", "3"), "has banks for 1, 2, 4; choose one"),
        (("lm-eval", "MODEL", "--P", "8", "--tasks", "tiny"), "has banks for 1, 2, 4; choose one"),
        (("lm-eval", "MODEL", "--model", "hf"), "--model: the model is the folder; leave it out"),
        (("lm-eval", "MODEL", "--model_args", "pretrained=x"), "pretrained: the model is the folder"),
        (("serve", "nowhere"), "nowhere: no such folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_arguments_are_one_line(folder, scalelab, arguments, message):
    code, _, error = scalelab(*(folder if word == "MODEL" else word for word in arguments))
    assert code == 2
    assert message in error
