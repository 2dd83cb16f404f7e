"""Hostile flags of cost, compare and plan: a result or one clear line, and never a figure that is no number."""

from __future__ import annotations

import json
import math

import pytest

from scalelab.cli import main
from scalelab.fit import save_fit
from scalelab.records import paper_records
from tests.support.tables import fit_table

MISUSE, FAILURE = 2, 1
CONFIG = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
}
LATENT = CONFIG | {
    "model_type": "deepseek_v3",
    "q_lora_rank": None,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder with fit.json, models and a hardware file."""
    path = tmp_path_factory.mktemp("hostile")
    table = paper_records()
    save_fit(fit_table(table[table["corpus"] == "stack-v2-python"], draws=100), path / "fit.json")
    for name, content in {
        "dense": CONFIG,
        "latent": LATENT,
        "awq": CONFIG | {"quantization_config": {"quant_method": "awq"}},
        "odd": CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": True}},
        "text": CONFIG | {"hidden_size": "512", "num_hidden_layers": 4.0},
        "deep": CONFIG | {"num_hidden_layers": 10**8},
    }.items():
        (path / name).mkdir()
        (path / name / "config.json").write_text(json.dumps(content))
    box = "tflops: {fp32: 1}, bandwidth: 10, memory: 8, source: me"
    for name, more in {
        "class": ", class: abacus",
        "usable": ", usable: 9",
        "watts": ", watts: -1",
        "link": ", link: fast",
        "graph": ", graph_launch_us: -2",
        "fine": ", class: apple, usable: 5, watts: 20, graph_launch_us: 3",
        "full": ", class: datacentre",
    }.items():
        (path / f"{name}.yaml").write_text(f"box: {{{box}{more}}}")
    return path


H100 = "--engine roofline --gpu h100-sxm-80gb"
# (words, exit code, what the one line says); FOLDER is where the files above lie.
COST = [
    ("--weights int3", MISUSE, "--weights int3: choose one of fp32, bf16"),
    ("--weights 0", MISUSE, "--weights 0: choose one of"),
    ("--weights -4", MISUSE, "--weights -4: choose one of"),
    ("--weights nan", MISUSE, "--weights nan: choose one of"),
    ("--weights 1e9", MISUSE, "--weights 1e9: choose one of"),
    ("--weights 65", MISUSE, "--weights 65: choose one of"),
    ("--weights 4.5", 0, ""),
    ("--weights 4.5bpw", 0, ""),
    ("--weights 16", 0, ""),
    ("--weights mxfp4", 0, ""),
    ("--weights nvfp4 --compute fp4", 0, ""),
    ("--weights q4_k_m --kv q8_0", 0, ""),
    ("--kv q4_k_m", MISUSE, "--kv q4_k_m: did you mean q4_0? choose one of"),
    ("--kv 4.5", MISUSE, "--kv 4.5: choose one of"),
    ("--compute q4_0", MISUSE, "--compute q4_0: choose one of"),
    ("--runtime fastest", MISUSE, "--runtime fastest: choose one of graphs, eager, llama.cpp, vllm"),
    ("--runtime GRAPHS", MISUSE, "--runtime GRAPHS: did you mean graphs? choose one of"),
    ("--runtime eager", 0, ""),
    ("--runtime vllm --weights awq", 0, ""),
    ("--launch-us -1", MISUSE, "--launch-us -1: must be a number of at least 0"),
    ("--launch-us nan", MISUSE, "--launch-us nan: must be a number of at least 0"),
    ("--launch-us inf", MISUSE, "--launch-us inf: must be a number of at least 0"),
    ("--launch-us 0", 0, ""),
    ("--memory-efficiency 0", MISUSE, "--memory-efficiency 0: must lie in (0, 1]"),
    ("--memory-efficiency nan", MISUSE, "--memory-efficiency nan: must lie in (0, 1]"),
    ("--flops-efficiency 1.01", MISUSE, "--flops-efficiency 1.01: must lie in (0, 1]"),
    ("--flops-efficiency -0.5", MISUSE, "--flops-efficiency -0.5: must lie in (0, 1]"),
    ("--reserve 3", MISUSE, "--reserve: '3' is not an amount of memory"),
    ("--reserve -1GB", MISUSE, "--reserve: '-1GB' is not an amount of memory"),
    ("--reserve 0", 0, ""),
    ("--reserve 100GiB", MISUSE, "--reserve '100 GiB': h100-sxm-80gb has 80 GiB for programs"),
    ("--tensor-parallel 0", MISUSE, "--tensor-parallel 0: must lie between 1 and 72"),
    ("--tensor-parallel -2", MISUSE, "--tensor-parallel -2: must lie between 1 and 72"),
    ("--tensor-parallel 1000", MISUSE, "--tensor-parallel 1000: must lie between 1 and 72"),
    ("--tensor-parallel 3", MISUSE, "16 heads cannot be divided among 3 devices"),
    ("--tensor-parallel 8", 0, ""),
    ("--price-per-hour -1", MISUSE, "--price-per-hour -1: must be a number of at least 0"),
    ("--price-per-hour nan", MISUSE, "--price-per-hour nan: must be a number of at least 0"),
    ("--price-per-hour 0", 0, ""),
    ("--watts inf", MISUSE, "--watts inf: must be a number of at least 0"),
    ("--watts 0", 0, ""),
    ("--batch max", 0, ""),
    ("--batch max --ttft 1us", 0, ""),
    ("--batch max --ttft 500ms --tpot 30ms", 0, ""),
    ("--batch max --tpot soon", MISUSE, "--tpot: 'soon' is not a duration"),
    ("--batch max --ttft 3", MISUSE, "--ttft: '3' is not a duration"),
    ("--batch 4 --ttft 1s", MISUSE, "--ttft and --tpot need --batch max; add it"),
    ("--batch most", MISUSE, "'most' is not a whole number"),
    ("--batch max --tokens-out 1 --tpot 1ms", 0, ""),
    ("--tokens-out 1", 0, ""),
    ("--tokens-in 1000000 --tokens-out 1000000", 0, ""),
    ("--P 4096 --batch 4096", 0, ""),
    ("--gpu l40", MISUSE, "--gpu l40: unknown; did you mean"),
    ("--gpu apple-m3-max --compute fp8", 0, ""),
    ("--gpu raspberry-pi-5 --weights fp32", 0, ""),
    ("--gpu snapdragon-8-elite-npu --weights int4 --compute int8", 0, ""),
    ("--gpu b300-sxm-270gb --weights nvfp4 --compute fp4", 0, ""),
]
MODELS = [
    (f"--model FOLDER/dense {H100}", 0, ""),
    (f"--model FOLDER/latent {H100}", 0, ""),
    (f"--model FOLDER/latent {H100} --runtime eager", 0, ""),
    (f"--model FOLDER/latent {H100} --tensor-parallel 4", 0, ""),
    (f"--model FOLDER/text {H100}", 0, ""),
    (f"--model FOLDER/awq {H100}", 0, ""),
    ("--model FOLDER/awq", 0, "note: priced by the roofline: llm-analysis prices only bf16 throughout, not awq"),
    (f"--model FOLDER/odd {H100}", FAILURE, "bits: must be a whole number from 2 to 8, not True"),
    (f"--model FOLDER/deep {H100}", FAILURE, "num_hidden_layers: must be at most 100,000"),
    (f"--model meta/llama {H100}", MISUSE, "if this is a name on a model hub, download its config.json first"),
    ("--hidden 512 --engine roofline --hardware FOLDER/class.yaml", FAILURE, "box: class: 'abacus' is unknown"),
    ("--hidden 512 --engine roofline --hardware FOLDER/usable.yaml", FAILURE, "box: usable: must not exceed memory"),
    ("--hidden 512 --engine roofline --hardware FOLDER/watts.yaml", FAILURE, "box: watts: must be a number above 0"),
    ("--hidden 512 --engine roofline --hardware FOLDER/link.yaml", FAILURE, "box: link: must be a number above 0"),
    ("--hidden 512 --engine roofline --hardware FOLDER/graph.yaml", FAILURE, "graph_launch_us: must be a number of at"),
    ("--hidden 512 --engine roofline --hardware FOLDER/fine.yaml", 0, ""),
    (
        "--hidden 512 --engine roofline --hardware FOLDER/full.yaml --reserve 9GiB",
        MISUSE,
        "has 8 GiB for programs",
    ),
    ("--hidden 512 --tensor-parallel 2", 0, "note: priced by the roofline: llm-analysis prices only one device"),
    ("--hidden 512 --reserve 1GiB", 0, "note: priced by the roofline: llm-analysis does not reserve memory"),
    ("--hidden 512 --watts 300 --price-per-hour 2", 0, ""),
    ("--hidden 512 --runtime eager", 0, "note: priced by the roofline: llm-analysis has no runtimes"),
]
PLAN = [
    ("--ttft 0s", MISUSE, "--ttft: '0s' is not a duration"),
    ("--tpot 1us", FAILURE, "no decoder is within"),
    ("--ttft 1us --loss 1.1", FAILURE, "nothing reaches a loss of 1.1 within"),
    ("--loss 1.1 --by tpot", 0, ""),
    ("--train-gpu abacus", MISUSE, "--train-gpu abacus: unknown"),
    ("--gpu apple-a18-pro --weights int4 --tpot 100ms", 0, ""),
    ("--gpu h100-sxm-80gb --tensor-parallel 8 --batch 64 --tpot 30ms", 0, ""),
    ("--gpu rtx-4090 --reserve 30GiB", MISUSE, "--reserve '30 GiB': rtx-4090 has 24 GiB for programs"),
    ("--tokens-out 1 --ttft 20ms", 0, ""),
]


def test_there_are_eighty_one_and_more():
    assert len(COST) + len(MODELS) + len(PLAN) >= 81


def check(capsys, words, code, message):
    assert main(words) == code
    said = capsys.readouterr()
    assert message in said.err
    assert "Traceback" not in said.err
    if code:
        assert said.err.count("\n") == 1
        return
    for word in ("nan", "inf ", "None"):
        assert word not in said.out


def finite(value):
    if isinstance(value, dict | list):
        return all(map(finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or not math.isnan(value)


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code", "message"), COST)
def test_cost(words, code, message, capsys):
    gpu = [] if "--gpu" in words else ["--gpu", "h100-sxm-80gb"]
    words = ["cost", "--hidden", "512", "--engine", "roofline", *gpu, *words.split()]
    check(capsys, words, code, message)
    if code == 0:
        assert main([*words, "--json"]) == 0
        for row in json.loads(capsys.readouterr().out):
            assert finite(row)
            assert row["memory_bytes"] > 0
            assert row["latency_s"] > 0


@pytest.mark.parametrize(("words", "code", "message"), MODELS)
def test_cost_of_models_and_own_devices(words, code, message, folder, capsys):
    check(capsys, ["cost", *words.replace("FOLDER", str(folder)).split()], code, message)


@pytest.mark.parametrize(("words", "code", "message"), PLAN)
def test_plan(words, code, message, folder, capsys):
    check(capsys, ["plan", str(folder / "fit.json"), "--max-P", "4", *words.split()], code, message)
