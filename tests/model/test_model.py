"""Against the released implementation's own numbers, kept in tests/data/parscale."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from scalelab.model import lm_class
from tests.support.goldens import GOLDENS, compare, load
from tests.support.paths import DATA


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", GOLDENS)
def test_every_released_number_agrees(name, implementation):
    errors = compare(name, implementation)
    assert len(errors) == 17
    for what, error in errors.items():
        limit = 1e-4 if "gradient" in what else 0 if "tokens" in what else 1e-5
        assert error <= limit, what


@pytest.mark.parametrize("name", ["P2_hot", "P4_t5"])
@torch.no_grad()
def test_long_sequences_take_another_path_to_the_same_numbers(name, monkeypatch):
    """Zero queries (long) against an explicit mask (short), and eager against both."""
    from scalelab.model import attention

    ids = torch.randint(0, 257, (2, 40), generator=torch.Generator().manual_seed(0))
    model, _ = load(name)
    explicit = model(ids).logits
    monkeypatch.setattr(attention, "_ZERO_QUERY_LENGTH", 8)
    zero_queries = model(ids).logits
    assert (explicit - zero_queries).abs().max() < 1e-4
    assert (load(name, "eager")[0](ids).logits - zero_queries).abs().max() < 1e-4


@torch.no_grad()
def test_prefixes_matter_and_causality_holds():
    model, expected = load("P4_t5")
    ids = torch.from_numpy(expected["input_ids"])
    before = model(ids).logits
    changed = ids.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 257
    assert (model(changed).logits - before)[:, :-1].abs().max() == 0
    for layer in model.model.layers:
        layer.self_attn.prefix_v.mul_(3.0)
    assert (model(ids).logits - before).abs().max() > 1e-3


def test_plain_model_is_p_1():
    torch.manual_seed(0)
    settings = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    settings |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    streamed = lm_class(Qwen2ForCausalLM)
    plain = Qwen2ForCausalLM(Qwen2Config(**settings)).eval()
    ours = streamed(streamed.config_class(**settings)).eval()
    ours.load_state_dict(plain.state_dict())
    ids = torch.randint(0, 97, (2, 11))
    assert torch.equal(ours(ids).logits, plain(ids).logits)


def test_saved_model_loads_to_the_same_numbers(tmp_path):
    model, expected = load("P4_t5")
    ids = torch.from_numpy(expected["input_ids"])
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, model(ids).logits)
    released = DATA / "parscale" / "P4_t5"
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == set(load_file(released / "model.safetensors"))
    written, theirs = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, released))
    for key in theirs.keys() - {"transformers_version"}:
        assert written[key] == theirs[key], key
    assert written["rope_theta"] == model.config.rope_parameters["rope_theta"]


def test_prefixes_missing_from_a_checkpoint_are_initialised_not_left_as_memory_was(tmp_path):
    model, _ = load("P4_t5")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = {k: v for k, v in load_file(file).items() if "prefix" not in k and "aggregate" not in k}
    save_file(weights, file, metadata={"format": "pt"})
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    prefix = again.model.layers[0].self_attn.prefix_k
    assert prefix.std().item() == pytest.approx(0.02, rel=0.3)
    assert again.model.aggregate_layer[0].weight.abs().max() < 1
    assert torch.isfinite(again(torch.tensor([[1, 2, 3]])).logits).all()


def test_an_attention_that_would_drop_the_prefixes_is_refused():
    model, _ = load("P4_t5")
    with pytest.raises(ValueError, match="streams work with attention"):
        model.set_attn_implementation("flex_attention")
    model.config._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match="would ignore the prefixes of the streams"):
        model(torch.tensor([[1, 2, 3]]))
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "parscale_eager"
