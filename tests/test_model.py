"""Against the released implementation's own numbers, kept in tests/data/parscale."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from scalelab.model import lm_class
from tests.conftest import DATA

GOLDENS = ("P1", "P2_hot", "P4_t5")


def load(name, implementation="sdpa"):
    folder = DATA / "parscale" / name
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation)
    expected = np.load(folder / "expected.npz", allow_pickle=False)
    return model.eval(), {k: expected[k] for k in expected.files}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", GOLDENS)
@torch.no_grad()
def test_logits_and_losses_agree(name, implementation):
    model, expected = load(name, implementation)
    ids = torch.from_numpy(expected["input_ids"])
    output = model(ids, labels=ids)
    assert np.abs(output.logits.numpy() - expected["logits"]).max() < 1e-5
    assert abs(output.loss.item() - expected["loss"]) < 1e-5
    padded, mask = (torch.from_numpy(expected[k]) for k in ("pad_input_ids", "attention_mask"))
    logits = model(padded, attention_mask=mask, position_ids=torch.from_numpy(expected["position_ids"])).logits
    real = expected["attention_mask"].astype(bool)
    assert np.abs(logits.numpy() - expected["pad_logits"])[real].max() < 1e-5


@pytest.mark.parametrize("name", GOLDENS)
def test_gradient_norms_agree(name):
    model, expected = load(name)
    ids = torch.from_numpy(expected["input_ids"])
    model.train()
    model(ids, labels=ids).loss.backward()
    gradients = {n: p.grad.norm().item() for n, p in model.named_parameters()}
    assert set(gradients) == set(map(str, expected["grad_names"]))
    for parameter, norm in zip(expected["grad_names"], expected["grad_norms"], strict=True):
        assert gradients[str(parameter)] == pytest.approx(norm, rel=1e-4), parameter


@pytest.mark.parametrize("name", GOLDENS)
@torch.no_grad()
def test_generation_agrees(name):
    model, expected = load(name)
    ids, padded, mask = (torch.from_numpy(expected[k]) for k in ("input_ids", "pad_input_ids", "attention_mask"))
    new = expected["greedy"].shape[1] - ids.shape[1]
    options = {"max_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    assert (model.generate(ids, **options).numpy() == expected["greedy"]).all()
    assert (model.generate(padded, attention_mask=mask, **options).numpy() == expected["greedy_pad"]).all()
    assert (model.generate(ids, num_beams=3, **options).numpy() == expected["beam"]).all()


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
    names = set(load_file(tmp_path / "model.safetensors"))
    assert names == set(load_file(DATA / "parscale" / "P4_t5" / "model.safetensors"))


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
    with pytest.raises(ValueError, match="leave the streams' prefixes out"):
        model(torch.tensor([[1, 2, 3]]))
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "parscale_eager"
