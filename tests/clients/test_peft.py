"""LoRA of PEFT on the backbone, with trained streams."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from scalelab.model import add_streams, lora_config
from tests.support.families import make, tokens, warm

peft = pytest.importorskip("peft", reason="no PEFT: pip install 'scalelab[clients]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the clients


def saved(folder, banks):
    warm(add_streams(make("llama", num_hidden_layers=2), banks, prefix_tokens=5)).save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder)


def train(model, steps=3):
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3)
    for _ in range(steps):
        model(tokens(), labels=tokens()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.parametrize("banks", [4, [2, 4], [1, 2]], ids=str)
def test_an_adapter_with_streams_is_saved_loaded_and_merged_exactly(banks, tmp_path):
    base = saved(tmp_path / "base", banks)
    before = base(tokens()).logits.detach()
    model = peft.get_peft_model(base, lora_config(base, r=4))
    assert torch.equal(model(tokens()).logits, before)
    trainable = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert {"prefix_k", "prefix_v"} <= trainable
    train(model)
    expected = model(tokens()).logits.detach()
    assert (expected - before).abs().max() > 0.1
    model.save_pretrained(tmp_path / "adapter")

    again = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    assert torch.equal(again.eval()(tokens()).logits, expected)
    with again.disable_adapter():
        assert torch.equal(again(tokens()).logits, before)
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(tokens()).logits, expected, atol=1e-4, rtol=1e-4)
    streams = dict(merged.stream_parameters())
    merged.save_pretrained(tmp_path / "merged")
    loaded, found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(found[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded(tokens()).logits, merged(tokens()).logits)
    assert dict(loaded.stream_parameters()).keys() == streams.keys()


def test_every_bank_of_an_adapter_is_trained_when_it_is_active(tmp_path):
    base = saved(tmp_path / "base", [2, 4])
    model = peft.get_peft_model(base, lora_config(base, r=4))
    expected = {}
    for P in (2, 4):
        base.set_streams(P)
        before = model(tokens()).logits.detach()
        train(model)
        assert (model(tokens()).logits - before).abs().max() > 0.1
    for P in (1, 2, 4):
        base.set_streams(P)
        expected[P] = model(tokens()).logits
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    )
    for P in (4, 1, 2):
        again.get_base_model().set_streams(P)
        assert torch.equal(again.eval()(tokens()).logits, expected[P])


def test_prefixes_that_the_adapter_would_lose_are_refused(tmp_path):
    base = saved(tmp_path / "base", 4)
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(tmp_path / "frozen")  # nothing is lost
    for _, parameter in base.stream_parameters():
        parameter.requires_grad_(True)
    with pytest.raises(ValueError, match=r"prefix_k is trained, but the adapter would not save it: .*lora_config"):
        model.save_pretrained(tmp_path / "adapter")
    model.merge_and_unload().save_pretrained(tmp_path / "merged")  # holds them


def test_the_default_targets_are_the_linear_layers_of_the_backbone():
    model = add_streams(make("llama"), 4, prefix_tokens=5)
    config = lora_config(model, r=4, modules_to_save=["lm_head"])
    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert set(config.target_modules) == layers
    assert set(config.modules_to_save) == {"prefix_bank", "aggregate_layer", "lm_head"}
    assert set(lora_config(make("gpt2")).target_modules) == {"c_attn", "c_proj", "c_fc"}
    mean = add_streams(make("llama"), [2, 4], prefix_tokens=5, aggregation="mean")
    assert set(lora_config(mean).modules_to_save) == {"prefix_banks.2", "prefix_banks.4"}
