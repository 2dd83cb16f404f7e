"""One run on two processes ends where it ends on one: launched for real, data parallel and with FSDP."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from scalelab.cli import main
from scalelab.errors import UsageError
from scalelab.model import add_streams
from scalelab.model.banks import attention_modules
from scalelab.model.checkpoint import save_model
from scalelab.train import parallel
from scalelab.train.corpus import load_corpus
from scalelab.train.tokens import tokenise
from tests.support.families import FAMILIES, make, warm

STEPS = 20
OPTIONS = ["--seq-len", "32", "--batch-size", "4", "--tokens", str(STEPS * 128), "--val-tokens", "1024"]


@pytest.fixture(scope="module")
def source(text_folder, tmp_path_factory):
    """Three layers with tied embeddings and two banks, with the tokenizer of the text."""
    data = tokenise(load_corpus(str(text_folder)), 300)
    model = warm(add_streams(make("llama", vocab_size=300, tie_word_embeddings=True), [2, 4], prefix_tokens=3))
    out = tmp_path_factory.mktemp("source") / "model"
    save_model(model, out, data.folder)
    return out


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _launch(folder, distributed_type, arguments):
    """`scalelab train` on two CPU processes of this machine that talk over its loopback."""
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": distributed_type,
        "num_machines": 1,
        "num_processes": 2,
        "machine_rank": 0,
        "main_process_ip": "127.0.0.1",
        "main_process_port": _free_port(),
        "mixed_precision": "no",
        "use_cpu": False,  # for accelerate that would mean a single process; --device cpu says it to scalelab
    }
    if distributed_type == "FSDP":
        config["fsdp_config"] = {"fsdp_version": 2}
    file = folder / "accelerate.yaml"
    file.write_text(yaml.safe_dump(config))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    launch += ["--num_cpu_threads_per_process", "1"]
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return subprocess.run(
        [*launch, "-m", "scalelab", "train", *arguments, "--device", "cpu"],
        env=os.environ | loopback,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.parametrize(
    ("distributed_type", "part", "P"),
    [("MULTI_GPU", "all", 1), ("MULTI_GPU", "streams", 4), ("FSDP", "all", 4), ("FSDP", "streams", 4)],
)
def test_two_processes_end_where_one_does(distributed_type, part, P, source, text_folder, tmp_path):
    arguments = [str(source), "--P", str(P), "--train", part, "--corpus", str(text_folder), *OPTIONS]
    if part == "all":
        arguments += ["--lr", "1e-3"]
    assert main(["train", *arguments, "-o", str(tmp_path / "one")]) == 0
    done = _launch(tmp_path, distributed_type, [*arguments, "-o", str(tmp_path / "two")])
    assert done.returncode == 0, done.stderr
    held = "a part" if distributed_type == "FSDP" else "all"
    assert done.stderr.count(f", on 2 processes, each with {held} of the model") == 1
    assert done.stdout.count("saved ") == 1
    assert done.stderr.count("FSDP saves no checkpoints") == (distributed_type == "FSDP")

    one, two = (json.loads((tmp_path / name / "training.json").read_text()) for name in ("one", "two"))
    steps = [point[:2] for point in one["curve"]]
    assert len(steps) == STEPS
    assert [point[:2] for point in two["curve"]] == steps
    assert [point[2] for point in two["curve"]] == pytest.approx([point[2] for point in one["curve"]], rel=2e-6)
    for when in ("before", "after"):
        assert two[when]["loss"] == pytest.approx(one[when]["loss"], rel=1e-6)
        if P > 1:
            assert two[when]["streams"]["losses"] == pytest.approx(one[when]["streams"]["losses"], rel=1e-6)
    assert abs(one["after"]["loss"] - one["before"]["loss"]) > 1e-3  # so that being equal says something

    config = [(tmp_path / name / "config.json").read_text() for name in ("one", "two")]
    assert config[0] == config[1]
    before, after_one, after_two = (
        load_file(f / "model.safetensors") for f in (source, tmp_path / "one", tmp_path / "two")
    )
    assert after_two.keys() == after_one.keys()
    for name, weight in after_two.items():
        torch.testing.assert_close(
            weight, after_one[name], atol=2e-5, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )
        if torch.equal(after_one[name], before[name]):  # another bank, or a frozen backbone
            assert torch.equal(weight, before[name]), name


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_architecture_is_split_by_its_layers(name):
    decoder = add_streams(make(name), 2, prefix_tokens=4).get_decoder()
    layers = parallel.decoder_layers(decoder)
    assert len(layers) == 3
    for layer, module in zip(layers, attention_modules(decoder), strict=True):
        assert module in set(layer.modules())


def test_a_batch_is_dealt_out_whole():
    class Two(parallel.Parallel):
        size = 2

    batch = torch.arange(12).view(6, 2).numpy()
    ranks = [Two(), Two()]
    ranks[1].rank = 1
    dealt = [r.local_rows(batch) for r in ranks]
    assert sorted(row for rows in dealt for row in rows[:, 0].tolist()) == [0, 2, 4, 6, 8, 10]
    assert {len(rows) for rows in dealt} == {3}
    with pytest.raises(UsageError, match="`batch_size=5`: give a multiple of the 2 processes"):
        ranks[0].check(5, False)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed is not supported"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "mixed precision is bf16; set it to no"),
        ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, "set it to no and give --compile"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "1"}, "set fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, "Megatron-LM is not supported"),
        ({}, r"need accelerate: pip install 'scalelab\[distributed\]'"),
    ],
)
def test_a_launcher_that_asks_for_more_is_told(environment, message, source, tmp_path, monkeypatch, capsys):
    for name, value in ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"} | environment).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(sys.modules, "accelerate", None)  # as where it is not installed
    assert main(["train", str(source), "-o", str(tmp_path / "x"), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
