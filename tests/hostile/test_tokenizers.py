"""Tokenizers that are damaged or do not fit their model: one line, and nothing is executed or waited for."""

import json
import shutil

import pytest

from scalelab.model import add_streams
from scalelab.model.checkpoint import save_model
from scalelab.train.corpus import load_corpus
from scalelab.train.tokens import tokenise
from tests.support.families import make


@pytest.fixture(scope="module")
def whole(tmp_path_factory, text_folder):
    """A streamed model with its tokenizer."""
    folder = tmp_path_factory.mktemp("model") / "m"
    data = tokenise(load_corpus(str(text_folder)), 300)
    save_model(add_streams(make("llama", vocab_size=300), 2, prefix_tokens=4), folder, data.folder)
    assert (folder / "tokenizer.json").is_file()
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "m")


def _edit(folder, change):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def _beyond(content):
    """Give a frequent token an id that the model has no embedding for."""
    vocab = content["model"]["vocab"]
    vocab["e"] = 5_000


def _far_beyond(content):
    content["model"]["vocab"]["e"] = 2**31 - 1


def _gap(content):
    """Leave ids out that no text needs."""
    del content["model"]["vocab"]["\u00c0"]


def _no_vocabulary(content):
    content["model"]["vocab"] = {}
    content["model"]["merges"] = []


def _merge_of_nothing(content):
    content["model"]["merges"] = [["zz", "qq"]]


DAMAGE = {
    "empty": b"",
    "text": b"hello",
    "list": b"[]",
    "object": b"{}",
    "deep": b"[" * 200_000,
    "deep model": b'{"model": ' * 100_000,
    "bytes": bytes(range(256)),
    "huge number": b'{"version": 1e999}',
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("command", ["generate", "diagnose", "train"])
def test_a_damaged_tokenizer_is_one_line(scalelab, folder, text_folder, tmp_path, command, name):
    (folder / "tokenizer.json").write_bytes(DAMAGE[name])
    code, text, error = scalelab(*_command(command, folder, text_folder, tmp_path))
    assert code in (1, 2)
    assert error.count("\n") == 0
    assert "tokenizer" in error, error
    assert "Traceback" not in text + error


@pytest.mark.parametrize("change", [_beyond, _far_beyond, _no_vocabulary, _merge_of_nothing])
@pytest.mark.parametrize("command", ["generate", "diagnose", "train"])
def test_a_tokenizer_that_does_not_fit_is_one_line(scalelab, folder, text_folder, tmp_path, command, change):
    _edit(folder, change)
    code, text, error = scalelab(*_command(command, folder, text_folder, tmp_path))
    assert code in (1, 2), text
    assert error.count("\n") == 0
    assert "token" in error, error


@pytest.mark.parametrize("command", ["generate", "diagnose"])
def test_ids_that_are_left_out_do_no_harm(scalelab, folder, text_folder, tmp_path, command):
    _edit(folder, _gap)
    code, _, error = scalelab(*_command(command, folder, text_folder, tmp_path))
    assert code == 0, error


@pytest.mark.parametrize("content", [b"[" * 200_000, b"[]", b"7", b'{"tokenizer_class": "Nothing"}', b"\xff\xfe", b"{"])
def test_a_damaged_tokenizer_config_is_one_line_or_ignored(scalelab, folder, text_folder, tmp_path, content):
    (folder / "tokenizer_config.json").write_bytes(content)
    code, text, error = scalelab(*_command("generate", folder, text_folder, tmp_path))
    assert code in (0, 1, 2)
    assert "Traceback" not in text + error
    assert error.count("\n") == 0


def test_code_beside_a_tokenizer_is_not_run(scalelab, folder, text_folder, tmp_path):
    marker = tmp_path / "ran"
    (folder / "tok.py").write_text(f"open({str(marker)!r}, 'w')\nclass T: pass\n")
    config = {"auto_map": {"AutoTokenizer": ["tok.T", None]}, "tokenizer_class": "T"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    scalelab(*_command("generate", folder, text_folder, tmp_path))
    assert not marker.exists()


def _command(name, folder, text_folder, tmp_path):
    if name == "generate":
        return "generate", folder, "--prompt", "e e e", "--max-new-tokens", "2"
    if name == "diagnose":
        return "diagnose", folder, "--corpus", text_folder, "--val-tokens", "512"
    return "train", folder, "-o", tmp_path / "out", "--corpus", text_folder, "--tokens", "1k"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no') }}", "the chat template fails (no); repair it"),
        ("{{ messages[7].content }}", "the chat template fails"),
        ("{% for %}", "the chat template fails"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "the chat template fails"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "takes more than 0.5 s"),
    ],
)
def test_a_chat_template_that_fails_or_never_ends_is_one_line(scalelab, folder, monkeypatch, template, message):
    monkeypatch.setattr("scalelab.train.chat_template._TEMPLATE_S", 0.5)
    (folder / "chat_template.jinja").write_text(template)
    code, text, error = scalelab("generate", folder, "--prompt", "e", "--chat", "--max-new-tokens", "1")
    assert code == 1, text
    assert message in error
