"""Measured prefill, decoding and memory of real models, and profiles of this device."""

import json
import os

import pandas as pd
import pytest
import torch
from transformers import BloomConfig, GPT2Config, LlamaConfig

from scalelab.cli import main
from scalelab.cost.hardware import read_hardware
from scalelab.cost.request import Device, Precision, Workload
from scalelab.cost.roofline import price
from scalelab.errors import DataError, MemoryShortError, ScalelabError
from scalelab.measure import shapes
from scalelab.measure.calibrate import calibrate
from scalelab.measure.clock import MeasuredModel, Measurement, _weight_bytes, load, measure, run_in_subprocess
from scalelab.measure.measured_vs_predicted import MeasuredRow, median_error, with_streams
from scalelab.measure.shapes import read_shape
from tests.support.paths import DATA

HOT = DATA / "parscale" / "P2_hot"
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
    seen = measure(MeasuredModel(config, P=4, prefix_tokens=8), workload, seconds=0.01)
    served = read_shape(config).with_streams(4).with_prefix(8)
    counted = price(served, workload, Device(), Precision("fp32")).memory_bytes
    assert counted > 1.8 * 4 * served.total_params
    assert seen.memory_bytes == pytest.approx(counted, rel=0.15)
    assert seen.prefill_s > 0 < seen.decode_s


def test_a_measured_model_has_its_own_streams_or_new_ones(config):
    own = load(MeasuredModel(DATA / "parscale" / "P2_hot", P=2, prefix_tokens=5))
    assert (own.P, own.banks) == (2, {2: 48})
    new = load(MeasuredModel(DATA / "parscale" / "P1", P=4, prefix_tokens=5))
    assert (new.P, new.banks) == (4, {4: 5})
    for P, asked in ((2, None), (2, 5), (4, None), (4, 5)):
        subject, served = with_streams(MeasuredModel(DATA / "parscale" / "P2_hot", P, asked))
        model = load(subject)
        assert (model.P, model.banks[P]) == (served.P, served.prefix_length)
    plain = load(MeasuredModel(config, P=1, dtype="bf16"))
    assert not hasattr(plain, "banks")
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}


def test_the_command_measures_saves_and_uses_a_profile(config, tmp_path, capsys):
    profile, table = tmp_path / "box.yaml", tmp_path / "seen.csv"
    words = ["--P", "1", "2", "--tokens-in", "16", "--tokens-out", "4", "--seconds", "0.02", "--threads", "1"]
    saves = ["--save-profile", str(profile), "-o", str(table), "--figure", str(tmp_path / "seen.png")]
    assert main(["cost", "--measure", str(config), *words, *saves]) == 0
    out = capsys.readouterr().out
    assert "small: 16 tokens in, 4 out; fp32, priced on box" in out
    assert "median |predicted / measured - 1| of roofline: prefill" in out
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
        said = seen[seen["P"] == row["P"]].iloc[0]
        assert said[f"{row['engine'].replace('-', '_')}_latency_s"] == pytest.approx(row["latency_s"])
    assert main(["cost", "--measure", str(config), *words, *saves]) == 2
    assert f"--save-profile {profile}: exists; give a new file" in capsys.readouterr().err


def test_a_profile_is_of_this_device_at_this_precision():
    found = calibrate("cpu", "bf16", threads=1, seconds=0.01)
    assert set(found.flops_per_s) == {"fp32", "bf16"}
    assert min(found.flops_per_s.values()) > 1e8  # any CPU of this century
    assert found.bytes_per_s > 1e7
    assert 0 < found.launch_s < 1
    assert [rows for rows, _ in found.row_shares][:3] == [1, 2, 4]
    assert "bf16" in found.source


def test_want_of_memory_is_said():
    with pytest.raises(MemoryShortError, match="the measuring process was killed, most likely because memory ran out"):
        run_in_subprocess(os.abort)
    with pytest.raises(MemoryShortError, match="too little memory"):
        run_in_subprocess(torch.empty, 10**15)  # four petabytes
    with pytest.raises(ScalelabError, match=r"the model cannot be measured \(ValueError: invalid literal"):
        run_in_subprocess(int, "nothing")


def test_errors_are_of_what_was_predicted_over_what_was_seen():
    cost = price(read_shape(DATA / "parscale" / "P1"), Workload(), Device())
    rows = [
        MeasuredRow("m", 1, Workload(), Measurement(cost.prefill_s * f, cost.decode_s * f, None), {"roofline": cost})
        for f in (0.5, 1.0, 4.0)
    ]
    assert rows[2].ratio("roofline", "latency_s") == pytest.approx(4.0)
    assert median_error(rows, "roofline", "latency_s") == pytest.approx(0.75)  # of 1, 0 and 0.75
    assert median_error(rows, "roofline", "memory_bytes") is None
    assert rows[0].ratio("llm-analysis", "latency_s") is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--measure", "nowhere"], "--measure nowhere: does not exist; give a model folder or config.json"),
        (["--measure", "CONFIG", "--weights", "int4"], "--weights int4: models are measured at fp32 or bf16"),
        (["--measure", "CONFIG", "--seconds", "0"], "--seconds 0: must be above 0"),
        (["--measure", "CONFIG", "--seconds", "nan"], "--seconds nan: must be above 0 and finite"),
        (["--measure", "CONFIG", "--threads", "99999999999"], "--threads 99999999999: this machine has"),
        (["--measure", "CONFIG", "--prefix-tokens", "0"], "--prefix-tokens 0: must be at least 1"),
        (["--measure", str(HOT), "--P", "2", "--prefix-tokens", "9"], "the model has 48 for P = 2; leave it out"),
        (["--measure", "CONFIG", "-o", "."], "-o .: must end in .json or .csv"),
        (["--measure", "CONFIG", "--kv", "int8", "--hidden", "64"], "with both cost models; leave out --hidden, --kv"),
        (["--measure", "CONFIG", "--figure", "out.abc"], "--figure out.abc: must end in one of"),
        (["--hidden", "1024", "--device", "cpu", "--seconds", "1"], "need --measure MODEL; leave out --device, --sec"),
    ],
)
def test_bad_requests_are_named(config, capsys, words, message):
    assert main(["cost", *(str(config) if word == "CONFIG" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_learned_positions_end(tmp_path, capsys):
    file = tmp_path / "gpt2.json"
    file.write_text(json.dumps(GPT2Config(n_positions=64, n_embd=64, n_layer=2, n_head=2).to_dict()))
    assert main(["cost", "--measure", str(file), "--tokens-in", "60", "--tokens-out", "6"]) == 2
    assert "the model has positions for 64 tokens; give fewer" in capsys.readouterr().err


def test_what_cannot_be_held_is_left_out(config, tmp_path, capsys):
    table = tmp_path / "seen.csv"
    words = ["--P", "1", "--tokens-in", "8", "--tokens-out", "2", "--seconds", "0.01", "--gpu", "epyc-9654"]
    assert main(["cost", "--measure", str(config), *words, "--batch", "900000000", "1", "-o", str(table)]) == 0
    said = capsys.readouterr()
    assert "left out: P = 1, batch 900000000: needs about" in said.err
    assert "not priced by llm-analysis" in said.out  # which has no such device
    assert list(pd.read_csv(table)["batch"]) == [1]
    assert main(["cost", "--measure", str(config), *words, "--batch", "900000000"]) == 1
    assert "P = 1, batch 900000000: needs about" in capsys.readouterr().err


def test_a_folder_without_weights_is_refused_before_the_work(tmp_path, capsys):
    (tmp_path / "config.json").write_text((HOT / "config.json").read_text())
    assert main(["cost", "--measure", str(tmp_path)]) == 1
    assert "no safetensors in this folder" in capsys.readouterr().err


def test_only_the_bank_in_use_is_weighed():
    model = load(MeasuredModel(HOT, P=4, prefix_tokens=5))
    served = read_shape(HOT)
    for P, n in ((4, 5), (2, 48), (1, None)):
        model.set_streams(P)
        bank = sum(p.nbytes for _, p in model.stream_parameters())
        assert _weight_bytes(model) - bank == 4 * served.with_streams(1).total_params
        assert (bank > 0) == (P > 1), n


def test_a_model_that_cannot_have_streams_is_measured_plain(tmp_path):
    file = tmp_path / "bloom.json"
    file.write_text(json.dumps(BloomConfig(vocab_size=512, hidden_size=64, n_layer=2, n_head=2).to_dict()))
    seen = measure(MeasuredModel(file, P=1), Workload(1, 8, 3), seconds=0.01)
    assert seen.memory_bytes >= 4 * read_shape(file).total_params  # so small that it may fit into what was held
    with pytest.raises(DataError, match=r"bloom\.json: "):
        load(MeasuredModel(file, P=2))


def test_a_file_that_is_no_config_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shapes, "_SLOW_S", 60.0)  # no line on progress on a busy machine
    file = tmp_path / "bad.json"
    for text in ("[]", "{}", "nothing", json.dumps({"model_type": "bert"})):
        file.write_text(text)
        assert main(["cost", "--measure", str(file), "--seconds", "0.01"]) == 1
        error = capsys.readouterr().err
        assert str(file) in error
        assert error.count("\n") == 1
