"""Configs as model hubs hold them: remote code, nested decoders, numbers as text, quantised checkpoints."""

from __future__ import annotations

import json

import pytest

from scalelab.cli import main
from scalelab.cost.config_file import read_config
from scalelab.cost.families import served_from_config
from scalelab.cost.quantised import checkpoint_precision
from scalelab.errors import DataError
from tests.support.remote_configs import REMOTE

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("name", REMOTE)
def test_remote_code_families_have_the_parameters_of_their_cards(name):
    content, params = REMOTE[name]
    assert served_from_config(content, name).total_params == params


def test_numbers_may_be_written_as_text_or_with_a_point():
    written = {**LLAMA, "hidden_size": 4096.0, "num_hidden_layers": "32", "tie_word_embeddings": "False"}
    assert served_from_config(written, "x") == served_from_config(LLAMA, "x")
    for wrong in (4096.5, "4096x", "", [4096]):
        with pytest.raises(DataError, match="x: hidden_size: must be a whole number"):
            served_from_config({**LLAMA, "hidden_size": wrong}, "x")


@pytest.mark.parametrize("outer", [{}, {"model_type": "internvl_chat", "auto_map": {"AutoModel": "x.Y"}}])
@pytest.mark.parametrize("key", ["text_config", "llm_config"])
def test_a_decoder_inside_another_config_is_found(tmp_path, outer, key):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**outer, key: LLAMA, "quantization_config": {"quant_method": "awq"}}))
    content, where = read_config(tmp_path)
    assert where == f"{file}: {key}"
    assert served_from_config(content, where) == served_from_config(LLAMA, "x")
    assert checkpoint_precision(tmp_path).weights == "awq"


@pytest.mark.parametrize(
    ("found", "weights", "arithmetic"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptq", "bf16"),
        ({"quant_method": "gptq", "bits": 8}, "gptq-int8", "bf16"),
        ({"quant_method": "gptq", "bits": 3}, "3.15", "bf16"),
        ({"quant_method": "awq", "bits": 4}, "awq", "bf16"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8", "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8", "fp8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4", "bf16"),
        ({"load_in_4bit": False, "load_in_8bit": True}, "llm-int8", "bf16"),
        ({"quant_method": "mxfp4"}, "mxfp4", "bf16"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", "bf16"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {
                        "weights": {"num_bits": 8, "type": "float"},
                        "input_activations": {"num_bits": 8, "type": "float"},
                    }
                },
            },
            "fp8",
            "fp8",
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}, "input_activations": None}},
            },
            "gptq",
            "bf16",
        ),
    ],
)
def test_quantised_checkpoints_are_priced_as_they_are(tmp_path, capsys, found, weights, arithmetic):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": found}))
    precision = checkpoint_precision(tmp_path)
    assert (precision.weights, precision.arithmetic) == (weights, arithmetic)
    words = ["cost", "--model", str(tmp_path), "--P", "1", "--engine", "roofline", "--gpu", "h100-sxm-80gb", "--json"]

    def priced(*more):
        assert main([*words, *more]) == 0
        return json.loads(capsys.readouterr().out)[0]["weight_bytes"]

    assert priced() == priced("--weights", weights) < 0.6 * priced("--weights", "bf16")


def test_sizes_of_quantised_checkpoints_are_those_of_the_published_files(tmp_path):
    """Llama 3 8B: bytes of the files that others serve."""
    from scalelab.cost import Device, Workload
    from scalelab.cost.request import Precision
    from scalelab.cost.roofline import price

    llama = {**LLAMA, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}
    served = served_from_config(llama, "llama-3-8b")
    files = {"q4_0": 4.66e9, "q4_k_m": 4.92e9, "q5_k_m": 5.73e9, "q6_k": 6.60e9, "q8_0": 8.54e9, "q3_k_m": 4.02e9}
    files |= {"awq": 5.73e9, "gptq": 5.73e9, "bf16": 16.06e9, "fp8": 9.08e9, "nf4": 5.70e9}
    for name, size in files.items():
        assert price(served, Workload(), Device(), Precision(name)).weight_bytes == pytest.approx(size, rel=0.015), name


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (
            {"quant_method": "wishful"},
            "quant_method 'wishful' is not supported; give the format of the weights as --weights",
        ),
        ({"quant_method": "gptq", "bits": 40}, "bits: must be a whole number from 2 to 8, not 40"),
        ({"quant_method": "gptq", "bits": "four"}, "bits: must be a whole number from 2 to 8, not 'four'"),
        ({"quant_method": "compressed-tensors"}, "config_groups: must have a group with weights"),
        ([], r"quantization_config: must be an object, not \[\]"),
    ],
)
def test_what_is_not_understood_is_named(tmp_path, capsys, found, message):
    import re

    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": found}))
    assert main(["cost", "--model", str(tmp_path), "--engine", "roofline"]) in (1, 2)
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert main(["cost", "--model", str(tmp_path), "--engine", "roofline", "--weights", "int4"]) == 0


def test_a_quantised_checkpoint_is_not_priced_as_if_it_were_16_bits(tmp_path, capsys):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": {"quant_method": "awq"}}))
    assert main(["cost", "--model", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "note: priced by the roofline: llm-analysis prices only bf16 throughout, not awq" in said.err
    assert "weights awq" in said.out


def test_a_name_on_a_hub_is_told_from_a_folder(capsys):
    assert main(["cost", "--model", "someone/some-model-7b"]) == 2
    error = capsys.readouterr().err
    assert "someone/some-model-7b: no config.json found; if this is a name on a model hub, download" in error
