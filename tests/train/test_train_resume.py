"""A second stage that is killed, stopped or diverges: the same command goes on, and ends as if nothing had been."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file
from transformers import PreTrainedModel

from scalelab.cli import main
from scalelab.model import add_streams
from scalelab.model.checkpoint import save_model
from scalelab.train import checkpoint, loop, stage
from scalelab.train.checkpoint import saved_steps
from scalelab.train.corpus import load_corpus
from scalelab.train.stage_recipe import stage_recipe
from scalelab.train.step import TrainingStep
from scalelab.train.tokens import tokenise
from scalelab.train.trainer import Options
from tests.support.families import make, warm

STEPS = 200  # a point of the curve every other: states stand between them too
HANGS_S = 300.0  # cores may be busy


@pytest.fixture(scope="module")
def tokenizer(text_folder):
    return tokenise(load_corpus(str(text_folder)), 300).folder


@pytest.fixture(scope="module")
def source(tokenizer, tmp_path_factory):
    """Three layers with two banks."""
    out = tmp_path_factory.mktemp("source") / "model"
    save_model(warm(add_streams(make("llama", vocab_size=300), [2, 4], prefix_tokens=3)), out, tokenizer)
    return out


@pytest.fixture
def command(source, text_folder):
    """The words of a training of so many steps, with a state after each."""

    def words(out, steps=STEPS, *more):
        sizes = ["--seq-len", "32", "--batch-size", "4", "--tokens", str(steps * 128), "--val-tokens", "1024"]
        rest = ["--checkpoint-minutes", "0", "--device", "cpu", *more]
        return ["train", str(source), "-o", str(out), "--corpus", str(text_folder), *sizes, *rest]

    return words


def states_of(out):
    """The folder of the only command that has left anything beside `out`."""
    (folder,) = (path for path in out.with_name(f"{out.name}.checkpoints").iterdir() if path.is_dir())
    return folder


def latest(out):
    folders = out.with_name(f"{out.name}.checkpoints").glob("*/")
    return max((step for folder in folders for step in saved_steps(folder)), default=0)


def start(words, launcher=(), **options):
    command = [sys.executable, "-m", *launcher, "scalelab", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, **options)


def send_at(process, out, step, number):
    """Send a signal to it and all that it started once a state of `step` or later is there; returns what it printed."""
    deadline = time.monotonic() + HANGS_S
    while latest(out) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parent = psutil.Process(process.pid)
    for one in (parent, *parent.children(recursive=True)):
        one.send_signal(number)
    return process.communicate(timeout=HANGS_S)


def content(folder):
    return json.loads((folder / "training.json").read_text())


def assert_same(first, second):
    """Weights and losses of two trained models, to the bit."""
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []
    a, b = content(first), content(second)
    assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


@pytest.mark.parametrize(("kills", "options"), [(2, ("--P", "2")), (1, ("--P", "4", "--train", "all", "--lr", "1e-3"))])
def test_killed_it_ends_where_it_would_have(kills, options, command, source, tmp_path, capsys):
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    before = 0
    for _ in range(kills):
        send_at(start(command(killed, STEPS, *options)), killed, before + 10, signal.SIGKILL)
        assert not killed.exists()
        assert before < latest(killed) < STEPS
        before = latest(killed)
    assert content(states_of(killed))["status"] == "unfinished"
    newest = load_file(states_of(killed) / f"{before:09d}" / "weights.safetensors")
    learning = {"banks.2"} if "2" in options else {"banks.4", "mlp", "self_attn.q_proj", "embed_tokens"}
    assert all(any(part in name for name in newest) for part in learning)
    assert not any("banks.4" in name or "mlp" in name for name in newest) or "all" in options
    assert not any("banks.2" in name for name in newest) or "all" not in options

    seldom = ("--checkpoint-minutes", "5")  # how often is nobody's business
    assert main(command(killed, STEPS, *options, *seldom)) == 0
    said = capsys.readouterr().err
    assert f"resuming at step {before} of {STEPS} from " in " ".join(said.split())
    assert main(command(undisturbed, STEPS, *options, *seldom)) == 0
    assert "resuming" not in capsys.readouterr().err
    assert_same(killed, undisturbed)
    assert len(content(killed)["curve"]) > 90
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "undisturbed"]
    if "all" not in options:
        was, after = (load_file(folder / "model.safetensors") for folder in (source, killed))
        assert all(torch.equal(after[name], was[name]) for name in was if "banks.2" not in name)


def cut(monkeypatch, at, number=signal.SIGINT):
    """A signal comes after so many steps."""
    update = loop._Meter.update

    def stop(self, loss):
        point = update(self, loss)
        if self.state.step == at:
            signal.raise_signal(number)
        return point

    monkeypatch.setattr(loop._Meter, "update", stop)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_person_stops_it(number, code, command, tmp_path, monkeypatch, capsys):
    out = tmp_path / "x"
    cut(monkeypatch, 20, number)
    assert main(command(out, 40)) == code
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("scalelab: interrupted")
    assert err.count("scalelab: ") == 1
    assert "at step 20 of 40; run the same command again to resume at step 19, saved in " in err
    assert not out.exists()
    left = content(states_of(out))
    assert (left["status"], left["step"], left["steps"]) == ("interrupted", 20, 40)
    assert [row[:2] for row in left["curve"]] == [[step, step * 128] for step in range(1, 21)]


def test_states_of_another_command_are_told_and_left(command, text_folder, tmp_path, monkeypatch, capsys):
    out, alone = tmp_path / "x", tmp_path / "alone"
    with monkeypatch.context() as patch:
        cut(patch, 20)
        assert main(command(out, 40, "--P", "2")) == 130
    assert "interrupted at step 20 of 40; run the same command again to resume at step 19" in capsys.readouterr().err
    first = states_of(out)
    texts = tmp_path / "texts"
    texts.mkdir()
    for file in sorted(text_folder.iterdir())[:50]:
        shutil.copy(file, texts)
    kept = {file.name: file.read_bytes() for file in first.rglob("*") if file.is_file()}
    # Each but for one thing the same.
    for words, name in (
        (command(out, 40, "--P", "2", "--seed", "1"), "seed"),
        (command(out, 41, "--P", "2"), "n_tokens"),
        (command(out, 40, "--P", "2", "--lr", "0.01"), "lr"),
        (command(out, 40, "--P", "4"), "P"),
        (command(out, 40, "--P", "2", "--train", "all"), "train, lr, aggregator_lr_scale"),
        (command(out, 40, "--P", "2", "--corpus", str(texts)), "corpus"),
    ):
        with monkeypatch.context() as patch:
            cut(patch, 1)
            assert main(words) == 130
        err = capsys.readouterr().err
        reason = f"not used, since the checkpoints (up to step 19) are of a command with other settings ({name})"
        assert reason in " ".join(err.split())
        assert "resuming" not in err
        assert "at step 1 of" in err
        assert {file.name: file.read_bytes() for file in first.rglob("*") if file.is_file()} == kept

    other = command(out, 40, "--P", "2", "--seed", "1")
    assert main(other) == 0
    assert first.is_dir()  # hours of somebody's, perhaps
    assert main([str(alone) if word == str(out) else word for word in other]) == 0
    assert_same(out, alone)


def test_another_model_or_a_changed_one_is_another_command(command, source, tokenizer, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        cut(patch, 20)
        assert main(command(tmp_path / "x", 40)) == 130
    changed = tmp_path / "changed"
    save_model(warm(add_streams(make("llama", vocab_size=300, seed=1), [2, 4], prefix_tokens=3)), changed, tokenizer)
    assert main([str(changed) if w == str(source) else w for w in command(tmp_path / "x", 40)]) == 0
    assert "(up to step 19) are of a command with other settings (model)" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(("lr", "message"), [("1e39", "the loss is not a number"), ("1000", "diverged: loss")])
def test_divergence_is_recorded_and_leaves_no_states(lr, message, command, tmp_path, capsys):
    out = tmp_path / "x"
    assert main(command(out, 100, "--train", "all", "--lr", lr)) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("scalelab: ") == 1
    assert not out.exists()
    left = states_of(out)
    assert str(left / "training.json") in err
    assert [file.name for file in left.iterdir()] == ["training.json"]
    record = content(left)
    assert record["status"] == "diverged"
    assert message in record["message"]
    assert record["step"] == record["curve"][-1][0] < 100
    assert main(command(out, 10)) == 0  # with sound settings
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("where", ["_gradients", "evaluation"])
def test_memory_that_does_not_suffice_is_recorded(where, command, tmp_path, monkeypatch, capsys):
    def short(*args):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    if where == "evaluation":
        monkeypatch.setattr("scalelab.train.evaluate.evaluate", short)
    else:
        monkeypatch.setattr(TrainingStep, "_gradients", short)
    assert main(command(tmp_path / "x", 10)) == 1
    err = capsys.readouterr().err
    assert "P = 4: out of memory" in err
    assert err.count("scalelab: ") == 1
    assert not (tmp_path / "x").exists()
    assert content(states_of(tmp_path / "x"))["status"] == "out_of_memory"


def test_a_mistake_leaves_nothing(command, tmp_path, capsys):
    assert main(command(tmp_path / "x", 10, "--batch-size", "100000")) == 1
    assert "less than one batch" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_costs_states_and_not_the_training(command, tmp_path, monkeypatch):
    tried = []

    def full(*args):
        tried.append(args)
        raise OSError(28, "No space left on device")

    assert main(command(tmp_path / "undisturbed", 20)) == 0
    monkeypatch.setattr(checkpoint, "save_state", full)
    assert main(command(tmp_path / "full", 20)) == 0
    assert len(tried) == 20
    assert_same(tmp_path / "full", tmp_path / "undisturbed")


def test_a_trained_model_that_cannot_be_written_is_not_lost(command, tmp_path, monkeypatch, capsys):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    assert main(command(tmp_path / "undisturbed", 20)) == 0
    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", full)
        assert main(command(tmp_path / "x", 20)) == 1
    assert "No space left" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    assert content(states_of(tmp_path / "x"))["status"] == "failed"
    assert main(command(tmp_path / "x", 20)) == 0
    assert "resuming at step 20 of 20" in capsys.readouterr().err
    assert_same(tmp_path / "x", tmp_path / "undisturbed")


def test_damaged_states_are_told(command, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        cut(patch, 20)
        assert main(command(tmp_path / "x", 40)) == 130
    for file in states_of(tmp_path / "x").glob("0*/*"):
        file.write_bytes(b"damaged")
    assert main(command(tmp_path / "x", 40)) == 0
    assert (
        "checkpoints are damaged or from another version; training starts from the beginning" in capsys.readouterr().err
    )
    assert main(command(tmp_path / "undisturbed", 40)) == 0
    assert_same(tmp_path / "x", tmp_path / "undisturbed")


def test_two_at_once_do_not_mix(command, tmp_path, capsys):
    beside = tmp_path / "x.checkpoints"
    (beside / "mine").mkdir(parents=True)
    with FileLock(beside / ".lock"):
        assert main(command(tmp_path / "x", 10)) == 2
    assert "another process is training into it" in capsys.readouterr().err
    assert main(command(tmp_path / "x", 10)) == 0
    assert [path.name for path in beside.iterdir()] == ["mine"]


def test_the_folder_one_is_in_can_be_the_new_one(command, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(command(".", 10)) == 0
    assert content(tmp_path / "here")["status"] == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_noise_is_the_same_after_a_cut(tokenizer, text_folder, tmp_path):
    """GPT-2 as it is trained drops out; seeds are those of the steps."""
    options = {"vocab_size": 300, "resid_pdrop": 0.1, "attn_pdrop": 0.1, "embd_pdrop": 0.1}
    source = tmp_path / "gpt2"
    save_model(warm(add_streams(make("gpt2", **options), 2, prefix_tokens=3)), source, tokenizer)
    recipe = stage_recipe("all", 1e-3, 32, 4, 1024, "fp32")

    def trained(**more):
        model = stage.open_model(source)
        data = stage.read_text(model, source, str(text_folder))
        stage.train_stage(model, data, recipe, 20 * 128, "all", options=Options(save_every_s=0.0, **more))
        return model.state_dict()

    def stop(state):
        if state.step == 10:
            raise InterruptedError

    undisturbed = trained()
    with pytest.raises(InterruptedError):
        trained(checkpoints=tmp_path / "states", observer=stop)
    again = trained(checkpoints=tmp_path / "states")
    assert all(torch.equal(value, again[name]) for name, value in undisturbed.items())


def launch():
    """Command that launches `scalelab` on two CPU processes, each with the whole model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    words += ["--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1"]
    return [*words, "--main_process_port", str(port), "-m"]


def test_processes_go_on_together(command, tmp_path, capsys):
    killed, alone = tmp_path / "killed", tmp_path / "alone"
    environment = os.environ | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
    slow = ("--lr", "1e-3")  # rounding would grow with a larger one
    send_at(start(command(killed, STEPS, *slow), launch(), env=environment), killed, 5, signal.SIGKILL)
    step = latest(killed)
    seldom = ("--checkpoint-minutes", "5", *slow)
    process = start(command(killed, STEPS, *seldom), launch(), env=environment)
    _, err = process.communicate(timeout=HANGS_S)
    assert process.returncode == 0, err
    assert err.count(f"resuming at step {step} of {STEPS}") == 1
    assert not killed.with_name("killed.checkpoints").exists()

    assert main(command(alone, STEPS, *seldom)) == 0
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (killed, alone))
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=1e-4, rtol=1e-4)
    ours, theirs = (content(folder)["curve"] for folder in (killed, alone))
    assert [row[:2] for row in ours] == [row[:2] for row in theirs]
    # The first after the cut too: half of the steps that it is the mean of are in the state, of all processes.
    assert [row[2] for row in ours] == pytest.approx([row[2] for row in theirs], rel=1e-5)
