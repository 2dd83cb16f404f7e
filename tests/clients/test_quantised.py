"""Quantised backbones of bitsandbytes and torchao, and weights that are offloaded."""

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from scalelab.model import add_streams
from tests.support.families import make, tokens, warm

KINDS = ("bnb-4bit", "bnb-8bit", "torchao")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the clients


@pytest.fixture(params=KINDS)
def quantisation(request):
    if request.param == "torchao":
        reason = "no torchao: pip install 'scalelab[clients]'"
        kinds = pytest.importorskip("torchao.quantization", reason=reason)
        return TorchAoConfig(kinds.Int8WeightOnlyConfig())
    pytest.importorskip("bitsandbytes", reason="no bitsandbytes: pip install 'scalelab[clients]'")
    return BitsAndBytesConfig(load_in_4bit=request.param == "bnb-4bit", load_in_8bit=request.param == "bnb-8bit")


def plain():
    return make("llama", num_hidden_layers=2, hidden_size=64, intermediate_size=64)


def floats(model):
    """Return the stream parameters of all banks that are ordinary numbers."""
    return {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if ("prefix_" in name or "aggregate_" in name) and type(parameter) is torch.nn.Parameter
    }


def _packs_4bit_weights():
    from bitsandbytes.functional import has_avx512bf16

    return has_avx512bf16()


@pytest.mark.parametrize("banks", [4, [2, 4]], ids=str)
@torch.no_grad()
def test_streams_stay_in_floating_point(quantisation, banks, tmp_path):
    model = warm(add_streams(plain(), banks, prefix_tokens=5))
    model.save_pretrained(tmp_path / "model")
    expected = floats(model)
    options = {"quantization_config": quantisation, "dtype": torch.float32}
    quantised = AutoModelForCausalLM.from_pretrained(tmp_path / "model", **options)
    own = quantised.model.layers[0].self_attn.q_proj.weight
    assert own.element_size() == 1 or type(own) is not torch.nn.Parameter  # the backbone is quantised
    found = floats(quantised)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    quantised.save_pretrained(tmp_path / "quantised")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "quantised")
    assert torch.equal(again(tokens()).logits, quantised(tokens()).logits)


def test_streams_on_a_quantised_backbone_can_be_trained(quantisation, tmp_path):
    if getattr(quantisation, "load_in_4bit", False) and _packs_4bit_weights():
        pytest.skip(
            "bitsandbytes packs 4-bit weights at the first inference on this processor, and cannot train them then"
        )
    plain().save_pretrained(tmp_path / "model")
    options = {"quantization_config": quantisation, "dtype": torch.float32}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", **options)
    expected = model(tokens()).logits.detach()
    add_streams(model, [2, 4], prefix_tokens=5)
    model.set_streams(1)
    assert torch.equal(model(tokens()).logits, expected)
    model.set_streams(4)
    warm(model)
    assert {p.dtype for _, p in model.stream_parameters()} == {torch.float32}
    model(tokens(), labels=tokens()).loss.backward()
    assert all(p.grad.abs().max() > 0 for _, p in model.stream_parameters())
    logits = model(tokens()).logits.detach()
    model.save_pretrained(tmp_path / "streamed")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "streamed")
    assert torch.equal(again(tokens()).logits, logits)


@torch.no_grad()
def test_half_precision_is_of_the_whole_model(tmp_path):
    """Modules that quantisers skip would be kept in fp32."""
    warm(add_streams(plain(), 4, prefix_tokens=5)).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float16)
    assert {p.dtype for p in model.parameters()} == {torch.float16}


@pytest.mark.parametrize("banks", [4, [2, 4]], ids=str)
@pytest.mark.parametrize("place", ["cpu", "disk"])
@torch.no_grad()
def test_offloaded_weights_are_fetched_for_every_bank(banks, place, tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="no Accelerate: pip install 'scalelab[distributed]'")
    model = warm(add_streams(plain(), banks, prefix_tokens=5))
    expected = {P: _logits(model, P) for P in model.banks}
    model.save_pretrained(tmp_path / "model")
    if place == "cpu":
        accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        aggregator = "model.aggregate_layer" if banks == 4 else "model.aggregate_banks"
        kept = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
        places = dict.fromkeys(kept, "cpu") | dict.fromkeys(("model.layers.1", aggregator), "disk")
        options = {"device_map": places, "offload_folder": tmp_path / "offloaded"}
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", **options)
    prefix = dict(model.stream_parameters())
    assert any(p.is_meta for p in prefix.values())
    for P, logits in expected.items():
        assert torch.equal(_logits(model, P), logits)


def _logits(model, P):
    model.set_streams(P)
    return model(tokens()).logits
