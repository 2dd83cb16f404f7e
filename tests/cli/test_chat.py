"""A conversation in the terminal and through a pipe, against generation by transformers."""

import io
import os
import re
import subprocess
import sys
import time

import pytest
import torch

import scalelab as sl
from scalelab.cli import main
from scalelab.errors import UsageError
from scalelab.train import stage
from scalelab.visible import visible
from tests.support.chats import PLAIN, make_tokenizer, save_chat_model, talk


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_chat_model(tmp_path_factory.mktemp("chat") / "model", banks=(2, 4))


def reply(folder, P, messages, n=6):
    """The answer to `messages` by transformers' own greedy generation."""
    tokenizer, model = make_tokenizer(PLAIN), stage.open_model(folder, P)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.no_grad():
        out = model.generate(**ids, max_new_tokens=n, do_sample=False, eos_token_id=2, pad_token_id=0)
    return tokenizer.decode(out[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_conversation_keeps_its_history_across_numbers_of_streams(folder):
    chat = sl.open_chat(folder, 2, system="day", max_new_tokens=6, device="cpu")
    pieces = []
    first = chat.send("red", pieces.append)
    head = [{"role": "system", "content": "day"}]
    assert first.text == reply(folder, 2, head + talk("red"))
    assert "".join(pieces) == first.text
    chat.set_streams(4)
    second = chat.send("blue")
    assert second.text == reply(folder, 4, head + talk("red", first.text, "blue"))
    assert second.P == chat.P == 4
    assert chat.messages == head + talk("red", first.text, "blue", second.text)
    assert second.text != reply(folder, 2, head + talk("red", first.text, "blue"))
    chat.reset()
    assert chat.messages == head
    assert chat.send("red").text == reply(folder, 4, head + talk("red"))
    with pytest.raises(UsageError, match="the model has only P = 1, 2, 4"):
        chat.set_streams(3)
    with pytest.raises(UsageError, match="text: is empty"):
        chat.send("  ")
    assert sl.generate(folder, "red", 4, chat=True, system="day", max_new_tokens=6, device="cpu").text == reply(
        folder, 4, head + talk("red")
    )


@pytest.fixture
def converse(folder, monkeypatch, capsys):
    """Run the command on piped lines: (exit code, output, errors)."""

    def run(lines, *words):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        code = main(["chat", str(folder), "--max-new-tokens", "6", "--device", "cpu", *words])
        return code, *capsys.readouterr()

    return run


def test_a_pipe_reads_as_a_conversation(folder, converse):
    code, out, errors = converse(b"red\n/P 4\n\nblue\n/reset\nblue\n/quit\nnever\n", "--P", "2")
    assert code == 0, errors
    first = reply(folder, 2, talk("red"))
    answers = [first, reply(folder, 4, talk("red", first, "blue")), reply(folder, 4, talk("blue"))]
    lines = ["> red", answers[0], "> /P 4", "> ", "> blue", answers[1], "> /reset", "> blue", answers[2], "> /quit"]
    assert out == visible("\n".join(lines) + "\n")
    speeds = re.findall(r"^P = (\d): \d+ tokens? in [\d.]+ s, [\d.]+ tokens/s$", errors, re.MULTILINE)
    assert speeds == ["2", "4", "4"]


@pytest.mark.parametrize(
    ("lines", "wanted", "message"),
    [
        (b"/P 3\nred\n", 2, "/P 3: the model has P = 1, 2, 4; choose one of them"),
        (b"/P many\n", 2, "/P many: the model has P = 1, 2, 4"),
        (b"/frobnicate\n", 2, "/frobnicate: no such command; /P N uses N streams"),
        (b"\xff\xfe\n", 1, "standard input, line 1: not UTF-8 text"),
    ],
)
def test_a_mistake_in_a_pipe_ends_it_in_one_line(lines, wanted, message, converse):
    code, _, errors = converse(lines, "--quiet")
    assert code == wanted
    assert errors.startswith("scalelab: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_a_terminal_goes_on_after_a_mistake(folder):
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "scalelab", "chat", str(folder), "--max-new-tokens", "6", "--device", "cpu"]
    environment = os.environ | {"TERM": "dumb"}
    seen = Screen(ours)
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        for line, answer in (
            ("/P 3", "the model has P = 1, 2, 4"),
            ("/P 2", "P = 2\r\n"),
            ("red", "P = 2: 6 tokens in "),
            ("/help", "/reset starts again"),
        ):
            seen.wait_for("> ")
            os.write(ours, f"{line}\n".encode())
            seen.wait_for(answer)
        seen.wait_for("> ")
        os.write(ours, b"/quit\n")
        assert process.wait(60) == 0
    os.close(ours)


class Screen:
    """What a terminal shows, read up to one text after the other."""

    def __init__(self, terminal):
        self.terminal, self.rest = terminal, b""

    def wait_for(self, text):
        deadline = time.monotonic() + 240
        while text.encode() not in self.rest:
            assert time.monotonic() < deadline, self.rest
            self.rest += os.read(self.terminal, 4096)
        self.rest = self.rest.split(text.encode(), 1)[1]


def test_a_model_without_a_template_is_refused(tmp_path, scalelab):
    folder = save_chat_model(tmp_path / "bare", template=None)
    for words in (["chat", folder], ["generate", folder, "--chat", "--prompt", "a"]):
        code, _, error = scalelab(*words, "--device", "cpu")
        assert code == 2
        assert "has no chat template; put a chat_template.jinja there" in error
    code, _, error = scalelab("generate", folder, "--prompt", "a", "--system", "b")
    assert (code, "--system b: is only used with --chat" in error) == (2, True)
