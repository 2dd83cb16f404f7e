"""Shapes read off what transformers builds: against the table, and against models that really run."""

import json
from dataclasses import replace

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from scalelab.cli import main
from scalelab.cost import Device
from scalelab.cost.config_file import streams_of
from scalelab.cost.families import served_from_config
from scalelab.cost.hardware import Hardware
from scalelab.cost.request import Precision
from scalelab.cost.roofline import activation_bytes, cache_bytes, decode_s, decode_step_s, find_rates, kernels
from scalelab.errors import DataError
from scalelab.measure.meta_shape import served_from_meta_model
from scalelab.model import add_streams
from scalelab.model_config import plain_type
from tests.support.decoders import VARIANTS, build
from tests.support.families import COMMON, tokens
from tests.support.flops import counted_flops
from tests.support.weights_read import WeightsRead

BOX = Device("box", 1.0, 1.0, Hardware("box", {"bf16": 1e13}, 1e11, 2**40))
RATES, INT8 = find_rates(BOX, Precision("bf16")), find_rates(BOX, Precision("8"))
FOUR = COMMON | {"num_hidden_layers": 4}
ROUTED = {"num_experts_per_tok": 4, "moe_intermediate_size": 20}  # all of four: chance has no part in it
LATENT = {"q_lora_rank": 12, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 10, "v_head_dim": 14}
LATENT |= {"num_key_value_heads": 4}
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12}

# Model type: config. No such family is in the table.
UNLISTED = {
    "axk1": FOUR | LATENT | ROUTED | {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "gpt_neo": {"vocab_size": 97, "hidden_size": 32, "num_layers": 4, "num_heads": 4, "intermediate_size": 40}
    | {"attention_types": [[["global", "local"], 2]], "max_position_embeddings": 64},
    "llama4_text": FOUR | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 4, "attn_chunk_size": 64},
    "gemma3n_text": FOUR
    | {"head_dim": 8, "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"] * 2}
    | {"num_kv_shared_layers": 2, "laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4}
    | {"vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8},
    "hrm_text": FOUR,
    "diffllama": FOUR,
    "cohere2_moe": FOUR | ROUTED | {"num_experts": 4, "sliding_window": 16},
    "granite_swa": FOUR | {"sliding_window": 16},
    "mamba": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8},
    "jamba": FOUR | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "num_experts_per_tok": 4},
    "falcon_h1": FOUR | MAMBA | {"mamba_d_ssm": 64, "head_dim": 8},
    "zamba2": FOUR | {"layers_block_type": ["linear_attention", "hybrid"] * 2, "n_mamba_heads": 2, "mamba_d_state": 8},
    "lfm2": FOUR | {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "num_heads": 8}
    | {"head_dim": 8, "n_groups": 2, "chunk_size": 8},
    "minimax": FOUR
    | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 4, "block_size": 8}
    | {"layer_types": ["linear_attention", "full_attention"] * 2},
    "jetmoe": FOUR | {"num_local_experts": 4, "num_experts_per_tok": 4, "kv_channels": 8},
    "xmod": FOUR | {"is_decoder": True, "languages": ["en_XX", "de_DE"], "default_language": "en_XX"},
    "electra": FOUR | {"is_decoder": True, "embedding_size": 20},
    "qwen3_next": FOUR | ROUTED | LINEAR | {"num_experts": 4, "head_dim": 8, "shared_expert_intermediate_size": 24},
}
# Keeps a window, and beside it one key for every four tokens, for every 128, or none.
COMPRESSED = FOUR | ROUTED | {"head_dim": 16, "q_lora_rank": 12, "o_lora_rank": 6, "o_groups": 2, "n_routed_experts": 4}
COMPRESSED |= {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 512, "sliding_window": 16}
COMPRESSED |= {"num_key_value_heads": 1, "partial_rotary_factor": 0.5, "mlp_layer_types": ["moe"] * 4}
_KINDS = ("sliding", "compressed_sparse", "heavily_compressed", "compressed_sparse")
COMPRESSED |= {"layer_types": [f"{kind}_attention" for kind in _KINDS]}
STATES = ("mamba", "jamba", "falcon_h1", "zamba2", "lfm2", "mamba2", "minimax", "qwen3_next")
BEFORE_HEAD = {"xmod": 32, "electra": 20}
UNCOUNTED = ("gpt_neo", "gemma3n_text", "xmod", "electra")  # which look up rows of further tables


def served_of(content):
    return served_from_meta_model(content, plain_type(content), streams_of(content, "config.json"), "config.json")


def make_real(kind, settings=None):
    """A real model with random weights, and its config as it would be saved."""
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**(settings or UNLISTED[kind]))
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    model.set_experts_implementation("eager")  # whose products the counter of FLOPs knows
    return model, json.loads(config.to_json_string())


def totals(served, batch, length, cached):
    done = list(kernels(served, batch, length, cached, RATES))
    return sum(k.times * k.flops for k in done), sum(k.times * k.bytes for k in done)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith(("falcon_new", "dbrx"))])
def test_families_of_the_table_are_priced_alike(name):
    _, saved = build(name)
    listed, built = served_from_config(saved, "config.json"), served_of(saved)
    assert built.total_params == listed.total_params
    # The table counts a learned position's row among what each token reads.
    positions = listed.position_rows * listed.hidden_size
    assert built.other_embeddings == positions
    assert (built.n_params, built.head_params) == (listed.n_params, listed.head_params)
    listed = replace(listed, position_rows=0).with_streams(3)
    built = built.with_streams(3)
    assert built.stream_params == listed.stream_params
    assert cache_bytes(built, 2, 50, RATES) == cache_bytes(listed, 2, 50, RATES)
    assert activation_bytes(built, 2, 50, RATES) == pytest.approx(activation_bytes(listed, 2, 50, RATES), rel=0.3)
    for length, cached in ((9, 0), (1, 9), (1, 60)):
        assert totals(built, 2, length, cached) == pytest.approx(totals(listed, 2, length, cached), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNLISTED)
def test_parameters_caches_and_products_are_those_of_the_real_model(kind):
    model, saved = make_real(kind)
    served = served_of(saved)
    assert served.total_params == sum(p.numel() for p in model.parameters())
    B, T, past, name = 2, 9, None, "past_key_values"
    for length, cached in ((T, 0), (1, T)):
        counter, reads = FlopCounterMode(display=False), WeightsRead(model)
        with torch.no_grad(), reads, counter:
            output = model(tokens(B, length), use_cache=True, logits_to_keep=1, **({name: past} if past else {}))
        name = "past_key_values" if hasattr(output, "past_key_values") else "cache_params"
        past = getattr(output, name)
        assert cache_bytes(served, B, cached + length, RATES) == 2 * numbers(past)
        if kind not in UNCOUNTED:
            assert reads.count == pytest.approx(weights_read(served, B, length, cached), rel=1e-12)
        if kind in STATES:  # whose arithmetic is no product of matrices, or another one for a prompt
            continue
        hidden = 0 if cached else sum(4 * B * c * layer.heads * T * (T - 1) / 2 for layer, c in served.layers)
        # A matrix between the last layer and the output embedding is priced for all tokens of a prompt.
        hidden -= 2 * B * (length - 1) * 32 * BEFORE_HEAD.get(kind, 0)
        counted = totals(served, B, length, cached)[0] + hidden
        assert counted_flops(counter) == pytest.approx(counted, rel=1e-12), (length, cached)


@pytest.mark.slow
@pytest.mark.parametrize(("kinds", "P"), [(_KINDS, 1), (_KINDS, 3), (("heavily_compressed",) * 4, 1)])
def test_keys_that_are_kept_as_one_are_seen_over_many_tokens(kinds, P):
    model, _ = make_real("deepseek_v4", COMPRESSED | {"layer_types": [f"{kind}_attention" for kind in kinds]})
    if P > 1:
        add_streams(model, P, prefix_tokens=5)
    served = served_of(json.loads(model.config.to_json_string()))
    assert served.other_params == 0
    close = 1e-12 if P == 1 else 0.01  # products that are not attention's count as if they saw the prefix
    assert served.total_params == sum(p.numel() for p in model.parameters())
    past, before = None, 0
    for length, cached in ((255, 0), (1, 255), (127, 256), (1, 383)):
        counter, reads = FlopCounterMode(display=False), WeightsRead(model)
        with torch.no_grad(), reads, counter:
            past = model(tokens(2, length), use_cache=True, past_key_values=past).past_key_values
        if length == 1:
            # Some of its rotary angles are products, in some versions of transformers.
            assert counter.get_total_flops() == pytest.approx(totals(served, 2, 1, cached)[0], rel=max(close, 1e-4))
            assert reads.count == pytest.approx(weights_read(served, 2, 1, cached), rel=close)
            # Tokens that wait to be kept as one count half; the oldest key of a window made room before the step.
            held, room = (before + numbers(past)) / 2, P * 2 * 32 * kinds.count("sliding")
            assert cache_bytes(served, 2, cached + 1, RATES) == pytest.approx(2 * (held + room), rel=0.01)
        before = numbers(past)


def test_layers_that_read_what_others_keep_have_their_own_windows():
    model, saved = make_real("gemma3n_text")
    served = served_of(saved)
    assert [layer.window for layer, _ in served.layers] == [16, None, 16, None]
    past = model(tokens(2, 30), use_cache=True).past_key_values
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(tokens(2, 1), use_cache=True, past_key_values=past)
    assert counted_flops(counter) == totals(served, 2, 1, 30)[0]


def test_sparse_activations_change_no_shape():
    """Gemma 3n cuts activations off by a normal distribution, which torch would check for numbers."""
    content = UNLISTED["gemma3n_text"] | {"model_type": "gemma3n_text"}
    assert served_of(content | {"activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0]}) == served_of(content)


def test_a_short_window_is_seen_as_a_longer_one_is():
    content = UNLISTED["cohere2_moe"] | {"model_type": "cohere2_moe"}
    longer, short = (served_of(content | {"sliding_window": window}) for window in (16, 3))
    windows = [None if layer.window is None else 3 for layer, _ in longer.layers]
    assert set(windows) == {3, None}
    layers = [(replace(layer, window=w), count) for (layer, count), w in zip(longer.layers, windows, strict=True)]
    assert short == replace(longer, layers=tuple(layers))


def weights_read(served, batch, length, cached):
    one_byte_less = sum(k.times * k.bytes for k in kernels(served, batch, length, cached, INT8))
    return totals(served, batch, length, cached)[1] - one_byte_less


def numbers(part):
    """Count the elements of all tensors in a cache."""
    if torch.is_tensor(part):
        return part.numel() if part.is_floating_point() else 0
    parts = part if isinstance(part, list) else part.values() if isinstance(part, dict) else vars(part).values()
    parts = {id(p): p for p in parts}.values()
    return sum(numbers(p) for p in parts if torch.is_tensor(p) or isinstance(p, list | dict) or hasattr(p, "__dict__"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["axk1", "gemma3n_text", "falcon_h1", "granite_swa", "jetmoe", "electra", "deepseek_v4"]
)
def test_streams_count_as_those_that_are_added(kind):
    model, saved = make_real(kind, COMPRESSED if kind == "deepseek_v4" else None)
    plain = served_of(saved)
    add_streams(model, 3, prefix_tokens=5)
    served = served_of(json.loads(model.config.to_json_string()))
    assert (served.P, served.prefix_length) == (3, 5)
    assert served.total_params == sum(p.numel() for p in model.parameters())
    assert served.with_streams(1).total_params == plain.total_params


@pytest.mark.slow
@pytest.mark.parametrize("kind", UNLISTED)
def test_the_sum_of_decoding_steps_is_their_sum(kind):
    served = replace(served_of(UNLISTED[kind] | {"model_type": kind}), P=4)
    expected = sum(decode_step_s(served, 2, cached, RATES) for cached in range(7, 47))
    assert decode_s(served, 2, 7, 40, RATES) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model_type": "nothing"},
            "'nothing' cannot be priced: this version of transformers does not have this model type",
        ),
        ({"model_type": "bert"}, r"it has no cache of keys, values or states \(is it a decoder\?\)"),
        (
            {"model_type": "mamba", "num_hidden_layers": 10**6},
            "num_hidden_layers: must be at most 1,000",
        ),
        ({"model_type": "t5"}, "encoder-decoder models cannot be priced"),
        ({"model_type": "bart"}, "encoder-decoder models cannot be priced"),
        ({"model_type": "vit"}, "transformers has no language model of this type"),
        (
            {"model_type": "hy_v3", "num_experts_per_tok": 0},
            "the number of experts per token, out of 192, is not in its config",
        ),
        (
            COMPRESSED | {"model_type": "deepseek_v4", "sliding_window": 300},
            "its windows of 256 keys or more cannot be distinguished",
        ),
        (
            COMPRESSED | {"model_type": "deepseek_v4", "sliding_window": 1024},
            "its windows of 256 keys or more cannot be distinguished",
        ),
        (
            COMPRESSED | {"model_type": "deepseek_v4", "compress_rate_hca": 1024},
            "it stores one key for 1,024 tokens, which is not supported",
        ),
        (
            {"model_type": "deepseek_v3", "hidden_size": "wide"},
            "error for field 'hidden_size': TypeError",
        ),
        ({"model_type": "deepseek_v3", "num_hidden_layers": -1}, "transformers reports: |it has no cache of keys"),
    ],
)
@pytest.mark.slow
def test_what_cannot_be_built_is_refused_in_one_line(content, message):
    with pytest.raises(DataError, match=message) as caught:
        served_of(content)
    assert str(caught.value).startswith("config.json: model_type ")
    assert "\n" not in str(caught.value)


def test_the_command_says_where_a_shape_is_from(tmp_path, capsys):
    file = tmp_path / "config.json"
    content = UNLISTED["axk1"] | {"model_type": "axk1", "auto_map": {"AutoConfig": "code.Config"}}
    file.write_text(json.dumps(content))
    assert main(["cost", "--model", str(file), "--engine", "roofline", "--P", "1", "2", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == (
        f"note: {file}: model_type 'axk1' is not in the table; its shape is read from the model that transformers "
        "makes\n"
    )
    served = served_of(content)
    rows = json.loads(said.out)
    assert [row["weight_bytes"] for row in rows] == [2 * served.total_params] * 2
    assert [row["kv_cache_bytes"] for row in rows] == [2 * P * 127 * 4 * 24 for P in (1, 2)]  # a latent of 16 and 8
    assert main(["cost", "--model", str(file)]) == 0
    assert (
        "priced by the roofline: axk1: llm-analysis cannot price different kinds of layers" in capsys.readouterr().err
    )
    file.write_text(json.dumps({"model_type": "rwkv"}))
    assert main(["cost", "--model", str(file), "--engine", "roofline"]) == 1
    assert "model_type 'rwkv' cannot be priced: it has no cache of keys" in capsys.readouterr().err.splitlines()[-1]
