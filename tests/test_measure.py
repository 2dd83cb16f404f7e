"""Measured prefill, decoding and memory of real models, and profiles of this device."""

import json
import os

import pandas as pd
import pytest
import torch
from transformers import LlamaConfig

from scalelab.cli import main
from scalelab.cost.families import read_model
from scalelab.cost.hardware import read_hardware
from scalelab.cost.model import Device, Precision, Workload
from scalelab.cost.roofline import price
from scalelab.errors import MemoryShortError
from scalelab.measure.against import Row, median_error, with_streams
from scalelab.measure.calibrate import calibrate
from scalelab.measure.clock import Measured, Subject, alone, load, measure
from tests.conftest import DATA

SHAPE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 512}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "small.json"
    path.write_text(json.dumps(LlamaConfig(**SHAPE).to_dict()))
    return path


def test_memory_is_weights_cache_and_activations(config):
    """The roofline's count, which knows nothing of torch: P = 4 at batch 4 holds twice what the weights take."""
    workload = Workload(batch=4, tokens_in=192, tokens_out=3)
    seen = measure(Subject(config, P=4, prefix_tokens=8), workload, seconds=0.01)
    served = read_model(config).with_streams(4).with_prefix(8)
    counted = price(served, workload, Device(), Precision("fp32")).memory_bytes
    assert counted > 1.8 * 4 * served.total_params
    assert seen.memory_bytes == pytest.approx(counted, rel=0.15)
    assert seen.prefill_s > 0 < seen.decode_s


def test_a_measured_model_has_its_own_streams_or_new_ones(config):
    own = load(Subject(DATA / "parscale" / "P2_hot", P=2, prefix_tokens=5))
    assert (own.P, own.banks) == (2, {2: 48})
    new = load(Subject(DATA / "parscale" / "P1", P=4, prefix_tokens=5))
    assert (new.P, new.banks) == (4, {4: 5})
    for P, asked in ((2, None), (2, 5), (4, None), (4, 5)):
        subject, served = with_streams(Subject(DATA / "parscale" / "P2_hot", P, asked))
        model = load(subject)
        assert (model.P, model.banks[P]) == (served.P, served.prefix_length)
    plain = load(Subject(config, P=1, dtype="bf16"))
    assert plain.P == 1
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}


def test_the_command_measures_saves_and_uses_a_profile(config, tmp_path, capsys):
    profile, table = tmp_path / "box.yaml", tmp_path / "seen.csv"
    words = ["--P", "1", "2", "--tokens-in", "16", "--tokens-out", "4", "--seconds", "0.02", "--threads", "1"]
    saves = ["--save-profile", str(profile), "--csv", str(table), "--figure", str(tmp_path / "seen.png")]
    assert main(["cost", "--measure", str(config), *words, *saves]) == 0
    out = capsys.readouterr().out
    assert "small: 16 tokens in, 4 out; fp32 on box" in out
    assert "median |predicted / measured - 1| by roofline: prefill" in out
    assert (tmp_path / "seen.png").stat().st_size > 10_000
    seen = pd.read_csv(table)
    assert list(seen["P"]) == [1, 2]
    assert (seen["latency_s"] == seen["prefill_s"] + seen["decode_s"]).all()
    box = read_hardware(profile)["box"]
    assert box.measured
    assert box.row_shares[-1] == (512, pytest.approx(1, abs=0.01))
    # What is said beside the measurement is what the profile says later.
    priced = ["--engine", "both", "--hardware", str(profile), "--weights", "fp32", "--json", "--prefix-tokens", "48"]
    assert main(["cost", "--model", str(config), *words[:7], *priced]) == 0
    for row in json.loads(capsys.readouterr().out):
        told = seen[seen["P"] == row["P"]].iloc[0]
        assert told[f"{row['engine'].replace('-', '_')}_latency_s"] == pytest.approx(row["latency_s"])
    assert main(["cost", "--measure", str(config), *words, *saves]) == 2
    assert f"--save-profile {profile}: is there already; name a new file" in capsys.readouterr().err


def test_a_profile_is_of_this_device_at_this_precision():
    found = calibrate("cpu", "bf16", threads=1, seconds=0.01)
    assert set(found.flops_per_s) == {"fp32", "bf16"}
    assert min(found.flops_per_s.values()) > 1e8  # any CPU of this century
    assert found.bytes_per_s > 1e7
    assert 0 < found.launch_s < 1
    assert [rows for rows, _ in found.row_shares][:3] == [1, 2, 4]
    assert "bf16" in found.source


def test_want_of_memory_is_said():
    with pytest.raises(MemoryShortError, match="the measuring process was killed, most likely for want of memory"):
        alone(os.abort)
    with pytest.raises(MemoryShortError, match="too little memory"):
        alone(torch.empty, 10**15)  # four petabytes


def test_errors_are_of_what_was_predicted_over_what_was_seen():
    cost = price(read_model(DATA / "parscale" / "P1"), Workload(), Device())
    rows = [
        Row("m", 1, Workload(), Measured(cost.prefill_s * f, cost.decode_s * f, None), {"roofline": cost})
        for f in (0.5, 1.0, 4.0)
    ]
    assert rows[2].ratio("roofline", "latency_s") == pytest.approx(4.0)
    assert median_error(rows, "roofline", "latency_s") == pytest.approx(0.75)  # of 1, 0 and 0.75
    assert median_error(rows, "roofline", "memory_bytes") is None
    assert rows[0].ratio("llm-analysis", "latency_s") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--measure", "nowhere"], "--measure nowhere: not there; give a model's folder or a config.json"),
        (["--measure", "CONFIG", "--weights", "int4"], "--weights int4: models are measured at fp32 or bf16"),
        (["--measure", "CONFIG", "--seconds", "0"], "--seconds 0: must be above 0"),
        (["--measure", "CONFIG", "--kv", "int8", "--hidden", "64"], "by both engines; leave out --hidden, --kv"),
        (["--measure", "CONFIG", "--figure", "out.abc"], "--figure out.abc: end it in one of"),
        (["--hidden", "1024", "--device", "cpu", "--csv", "x"], "for --measure MODEL; leave out --device, --csv"),
    ],
)
def test_bad_requests_are_named(config, capsys, words, message):
    assert main(["cost", *(str(config) if word == "CONFIG" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_file_that_is_no_config_is_named(tmp_path, capsys):
    file = tmp_path / "bad.json"
    for text in ("[]", "{}", "nothing", json.dumps({"model_type": "bert"})):
        file.write_text(text)
        assert main(["cost", "--measure", str(file), "--seconds", "0.01"]) == 1
        error = capsys.readouterr().err
        assert str(file) in error
        assert error.count("\n") == 1
