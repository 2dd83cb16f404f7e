"""Streams on every architecture: what must hold whatever the decoder is."""

import copy
import pickle
import threading

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from scalelab.model import add_streams
from scalelab.model.attention import record_attention_calls
from scalelab.model.banks import active_bank, attention_modules
from scalelab.model.checkpoint import load_model
from tests.support.families import COMMON, FAMILIES, make, step_by_step, tokens, warm

NAMES = sorted(FAMILIES)
P = 4
N_PREFIX = 5


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def streamed(name, seed=0, P=P, **options):
    return warm(add_streams(make(name, seed, **options), P, prefix_tokens=N_PREFIX))


@torch.no_grad()
def test_p_1_equals_the_base_exactly(name):
    model, ids = make(name), tokens()
    expected = model(ids).logits
    add_streams(model, 1)
    assert torch.equal(model(ids).logits, expected)
    add_streams(model, P, prefix_tokens=N_PREFIX)
    warm(model)
    assert (model(ids).logits - expected).abs().max() > 0.1
    model.set_streams(1)
    assert torch.equal(model(ids).logits, expected)


@torch.no_grad()
def test_cached_decoding_equals_full_forward(name):
    model, ids = streamed(name), tokens(length=17)  # beyond the sliding windows
    torch.testing.assert_close(step_by_step(model, ids), model(ids).logits, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_left_padded_rows_equal_unpadded_rows(name):
    model, ids = streamed(name), tokens()
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1)
    mask = (torch.arange(14) >= 3).long().expand(2, -1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(padded, attention_mask=mask, position_ids=positions).logits[:, 3:]
    torch.testing.assert_close(logits, model(ids).logits, atol=2e-4, rtol=1e-4)
    # and generation from a batch of unequal lengths is that of each row alone
    options = {"max_new_tokens": 6, "do_sample": False}
    mixed = torch.cat([padded[:1], tokens(1, 14, seed=3)])
    both = torch.cat([mask[:1], torch.ones(1, 14, dtype=torch.long)])
    batch = model.generate(mixed, attention_mask=both, **options)[:, 14:]
    assert torch.equal(batch[:1], model.generate(ids[:1], **options)[:, 11:])
    assert torch.equal(batch[1:], model.generate(mixed[1:], **options)[:, 14:])


@torch.no_grad()
def test_beam_search_moves_all_streams(name):
    model, ids = streamed(name), tokens()
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 3, "attention_mask": torch.ones_like(ids)}
    cached = model.generate(ids, use_cache=True, **options)
    assert torch.equal(cached, model.generate(ids, use_cache=False, **options))


@torch.no_grad()
def test_a_later_token_never_changes_an_earlier_logit(name):
    model, ids = streamed(name), tokens()
    before = model(ids).logits
    changed = ids.clone()
    changed[:, 6] = changed[:, 6] % 95 + 2
    after = model(changed).logits
    assert (changed != ids).any()
    # The mixture of experts gathers tokens by expert, so its sums may round otherwise.
    assert (after - before)[:, :6].abs().max() < 1e-4
    assert (after - before)[:, 6:].abs().max() > 1e-2


def test_gradients_reach_every_prefix_with_and_without_checkpointing(name):
    model, ids = streamed(name), tokens(length=9)
    model.train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        model.zero_grad()
        model(ids, labels=ids, use_cache=False).loss.backward()
        gradients.append({k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None})
    plain, recomputed = gradients
    prefixes = [k for k in plain if "prefix_" in k]
    assert len(prefixes) == 2 * model.config.num_hidden_layers
    for key in prefixes:
        assert (plain[key].flatten(1).norm(dim=1) > 1e-7).all(), key  # each stream of it
    assert plain.keys() == recomputed.keys()
    for key, gradient in plain.items():
        torch.testing.assert_close(recomputed[key], gradient, atol=1e-5, rtol=1e-3, msg=key)


@torch.no_grad()
def test_what_is_saved_loads_to_the_same_numbers(name, tmp_path):
    model, ids = streamed(name), tokens()
    add_streams(model, 2, prefix_tokens=3)
    warm(model)
    expected = {2: model(ids).logits}
    for p in (1, 4):
        model.set_streams(p)
        expected[p] = model(ids).logits
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.banks == {2: 3, 4: N_PREFIX}
    assert again.P == 4
    for p in (4, 2, 1):
        again.set_streams(p)
        assert torch.equal(again(ids).logits, expected[p])


@torch.no_grad()
def test_eager_and_sdpa_agree(name):
    if name == "gemma2":
        pytest.skip("the library has no SDPA for a softcap")
    ids = tokens(length=13)
    logits = [streamed(name, attn_implementation=how)(ids).logits for how in ("sdpa", "eager")]
    torch.testing.assert_close(*logits, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_hidden_states_come_with_a_row_for_each_stream(name):
    model, ids = streamed(name), tokens()
    states = model(ids, output_hidden_states=True).hidden_states
    assert len(states) == model.config.num_hidden_layers + 1
    assert all(state.shape == (P * len(ids), ids.shape[1], 32) for state in states)


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral"])
def test_router_losses_count_once(name):
    """With streams that are copies of each other the losses are those of one."""
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    inputs = {"attention_mask": mask, "labels": ids, "output_router_logits": True}
    outputs = []
    for p in (1, P):
        model = add_streams(make(name), p, prefix_tokens=2)
        with torch.no_grad():
            for module in attention_modules(model.get_decoder()):
                active_bank(module).prefix_v.zero_()
                active_bank(module).prefix_k.zero_()
        outputs.append(model(ids, **inputs))
    one, several = outputs
    assert len(several.router_logits) == P * len(one.router_logits)
    assert several.router_logits[0].shape == one.router_logits[0].shape
    assert several.aux_loss.item() == pytest.approx(one.aux_loss.item(), rel=1e-5)
    assert several.loss.item() == pytest.approx(one.loss.item(), rel=1e-5)


@torch.no_grad()
def test_static_cache_generates_the_same(name):
    model, ids = streamed(name), tokens()
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    expected = model.generate(ids, **options)
    assert torch.equal(model.generate(ids, cache_implementation="static", **options), expected)


def test_training_only_the_streams_leaves_the_rest(name):
    model, ids = streamed(name), tokens()
    own = dict(model.stream_parameters())
    assert len(own) == 2 * model.config.num_hidden_layers + 4
    model.requires_grad_(False)
    for parameter in own.values():
        parameter.requires_grad_(True)
    model(ids, labels=ids).loss.backward()
    assert {k for k, p in model.named_parameters() if p.grad is not None} == set(own)


def test_prefix_tuning_is_one_stream_with_a_prefix():
    model, ids = make("llama"), tokens()
    plain = model(ids).logits
    add_streams(model, 1, prefix_tokens=8)
    assert model.banks == {1: 8}
    assert model.get_decoder().aggregator is None
    assert len(dict(model.stream_parameters())) == 6
    assert (model(ids).logits - plain).abs().max() > 1e-3


@torch.no_grad()
def test_switching_streams_and_back_changes_nothing(tmp_path):
    model, ids = make("qwen2"), tokens()
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    add_streams(model, [2, 4, 8], prefix_tokens=N_PREFIX)
    for p in (2, 4, 8):
        model.set_streams(p)
        warm(model, seed=p)
    before = {}
    for p in (1, 2, 4, 8):
        model.set_streams(p)
        before[p] = model.generate(ids, **options)
    assert len({tuple(out.flatten().tolist()) for out in before.values()}) > 1
    for p in (8, 2, 1, 4):
        model.set_streams(p)
        assert torch.equal(model.generate(ids, **options), before[p])
    with pytest.raises(ValueError, match="no bank of 3 streams"):
        model.set_streams(3)


def test_a_bank_added_to_a_released_checkpoint_keeps_what_it_had():
    from tests.support.paths import DATA

    model = AutoModelForCausalLM.from_pretrained(DATA / "parscale" / "P4_t5")
    ids = tokens()
    expected = model(ids).logits
    add_streams(model, 2)
    model.set_streams(4)
    assert torch.equal(model(ids).logits, expected)
    model(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for _, p in model.stream_parameters())
    with pytest.raises(ValueError, match="already has a bank of 4 streams"):
        add_streams(model, 4)


REFUSED = {
    "BloomConfig": {"n_layer": 2, "n_head": 4, "hidden_size": 32},
    "MambaConfig": {"num_hidden_layers": 2, "hidden_size": 32, "state_size": 4},
    "FalconConfig": {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32},
    "GPTJConfig": {"n_layer": 2, "n_head": 4, "n_embd": 32, "rotary_dim": 4},
    "XGLMConfig": {"num_layers": 2, "attention_heads": 4, "d_model": 32, "ffn_dim": 32},
    "RwkvConfig": {"num_hidden_layers": 2, "hidden_size": 32, "attention_hidden_size": 32},
}


@pytest.mark.parametrize("kind", REFUSED)
def test_architectures_without_the_interface_are_refused_by_name(kind):
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(vocab_size=97, **REFUSED[kind])).eval()
    before = model(tokens()).logits
    with pytest.raises(ValueError, match=type(model).__name__):
        add_streams(model, 2)
    assert torch.equal(model(tokens()).logits, before)  # and left as it was


def test_encoder_decoders_are_refused_by_name():
    config = transformers.T5Config(vocab_size=97, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=4)
    with pytest.raises(ValueError, match="T5ForConditionalGeneration: encoder-decoder models"):
        add_streams(transformers.T5ForConditionalGeneration(config), 2)


NOT_CAUSAL = [
    (transformers.LlamaConfig, {"is_causal": False}, "some of its attention is not causal"),
    (transformers.BertConfig, {"is_decoder": False}, "some of its attention is not causal"),
    (transformers.GPT2Config, {"add_cross_attention": True}, "cross-attention to another model"),
]


@pytest.mark.parametrize(("kind", "change", "message"), NOT_CAUSAL)
def test_what_is_no_causal_decoder_is_refused(kind, change, message):
    common = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = AutoModelForCausalLM.from_config(kind(**common, intermediate_size=48, **change)).eval()
    with pytest.raises(ValueError, match=message):
        add_streams(model, 2)


@torch.no_grad()
def test_layers_of_unequal_shape(tmp_path):
    """Gemma 4 has other heads in its global layers; the config then says so, and a checkpoint comes back."""
    config = transformers.Gemma4TextConfig(
        vocab_size=97, vocab_size_per_layer_input=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, global_head_dim=16, hidden_size_per_layer_input=8,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"], sliding_window=6, pad_token_id=0,
    )  # fmt: skip
    model = warm(add_streams(AutoModelForCausalLM.from_config(config).eval(), 2, prefix_tokens=4))
    assert len({tuple(shape) for shape in model.config.parscale_kv_shapes}) == 2
    expected = model(tokens()).logits
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(load_model(tmp_path)(tokens()).logits, expected)


@torch.no_grad()
def test_a_model_type_that_borrows_a_class_comes_back(tmp_path):
    """InternLM3 is Llama's class with a config of its own, which is no family that is registered."""
    if "internlm3" not in transformers.CONFIG_MAPPING:
        pytest.skip("this version of transformers does not have it")
    config = transformers.AutoConfig.for_model("internlm3", **COMMON, head_dim=8)
    model = warm(add_streams(AutoModelForCausalLM.from_config(config).eval(), 2, prefix_tokens=4))
    expected = model(tokens()).logits
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert torch.equal(again(tokens()).logits, expected)
    assert again.config.model_type == "internlm3_parscale"


@torch.no_grad()
def test_buffers_that_are_not_saved_come_back(tmp_path):
    """Falcon-H1 computes a buffer when its weights are initialised; left out it made NaN of everything."""
    config = transformers.FalconH1Config(
        **COMMON, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=8
    )
    model = warm(add_streams(AutoModelForCausalLM.from_config(config).eval(), 2, prefix_tokens=4))
    expected = model(tokens()).logits
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(load_model(tmp_path)(tokens()).logits, expected)


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
@torch.no_grad()
def test_models_can_be_copied_and_pickled(name):
    model = streamed(name)
    expected = model(tokens()).logits
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(tokens()).logits, expected)


def test_wrong_options_leave_the_model_as_it_was(tmp_path):
    model = make("llama")
    for options in ({"aggregation": "sum"}, {"smooth": 1.0}, {"smooth": float("nan")}):
        with pytest.raises(ValueError, match=r"aggregation 'sum'|smooth must lie"):
            add_streams(model, 2, **options)
    assert type(model) is transformers.LlamaForCausalLM
    add_streams(model, 2)
    assert model.banks == {2: 48}


def test_watching_is_of_one_thread_and_one_block():
    model = streamed("llama")
    with record_attention_calls() as outer:
        with record_attention_calls() as inner:
            threading.Thread(target=model, args=(tokens(),)).run()  # in this thread
            other = threading.Thread(target=model, args=(tokens(),))
            other.start()
            other.join()
        model(tokens())
    assert len(inner.modules) == 3
    assert len(outer.modules) == 6
    model(tokens())
    assert len(outer.modules) == 6


@torch.no_grad()
def test_one_prepared_mask_serves_all_rows():
    model, ids = streamed("llama"), tokens()
    causal = torch.ones(1, 1, 11, 11).tril() == 1
    torch.testing.assert_close(model(ids, attention_mask=causal).logits, model(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_layer_that_passes_the_interface_by_is_caught_at_its_first_run():
    """Were one to slip through the check on adding, no output would be given."""
    model = streamed("llama")
    model.get_decoder().prefixes_verified = False
    attention = model.model.layers[1].self_attn
    attention.forward = lambda hidden_states, **kwargs: (hidden_states, None)
    with pytest.raises(ValueError, match="1 of 3 layers do not use transformers' attention interface"):
        model(tokens())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "P must be a whole number of at least 1, not 0"),
        (("3",), "P must be a whole number of at least 1, not '3'"),
        ((2.5,), "P must be a whole number of at least 1, not 2.5"),
        (([],), r"P must be a whole number of at least 1, not \[\]"),
        ((2, 0), "prefix_tokens must be at least 1"),
    ],
)
def test_senseless_numbers_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        add_streams(make("llama"), *arguments)
