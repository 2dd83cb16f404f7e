"""Models read from their config.json, against the models that transformers builds from it."""

import json
import random

import pytest
import torch
import transformers

from scalelab.architecture import Architecture
from scalelab.cost.families import served_from_config
from scalelab.cost.family_table import FAMILIES as KNOWN
from scalelab.cost.shape import as_architecture, as_served
from scalelab.errors import DataError, UsageError
from scalelab.measure.shapes import read_shape
from scalelab.model import add_streams
from tests.support.decoders import VARIANTS, build
from tests.support.families import COMMON
from tests.support.paths import DATA
from tests.support.remote_configs import REMOTE

QWEN2 = {"model_type": "qwen2"} | COMMON
EXAONE_MOE = {"model_type": "exaone_moe", "sliding_window": 6, "head_dim": 8, "num_experts": 4} | {
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "num_shared_experts": 1,
}
# What the defaults of a class lack to make a model that can be priced.
LACKED = {
    "DeepseekV2Config": {"num_experts_per_tok": 2},
    "Dots1Config": {"n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "Glm4MoeConfig": {"num_attention_heads": 32},  # which 96 do not divide
}


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_and_windows_are_those_of_the_model(name):
    model, saved = build(name)
    served = served_from_config(saved, "config.json")
    assert served.total_params == sum(p.numel() for p in model.parameters())
    assert served.head_params == model.get_output_embeddings().weight.numel()
    assert served.num_layers == model.config.num_hidden_layers
    kinds = getattr(model.config, "layer_types", None)
    windowed = sum(count for layer, count in served.layers if layer.window is not None)
    if kinds is not None:
        assert windowed == kinds.count("sliding_attention")
    elif getattr(model.config, "sliding_window", None) is not None:
        assert windowed == served.num_layers
    assert {layer.window for layer, _ in served.layers} <= {None, 6}


@pytest.mark.parametrize("seed", range(3))
def test_sizes_drawn_at_random_count_as_in_the_model(seed):
    draw = random.Random(seed)
    for name in VARIANTS:
        heads = draw.choice([4, 6, 12])
        sizes = {
            "hidden_size": heads * draw.choice([4, 8]),
            "num_attention_heads": heads,
            "num_key_value_heads": draw.choice([1, 2, heads]),
            "num_hidden_layers": draw.randint(4, 7),
            "vocab_size": draw.randint(50, 300),
            "max_position_embeddings": draw.randint(8, 200),
            "tie_word_embeddings": draw.random() < 0.5,
        }
        if "ffn_dim" not in VARIANTS[name][1]:
            sizes["intermediate_size"] = draw.randint(8, 80)
        else:  # OPT
            sizes |= {"ffn_dim": draw.randint(8, 80), "word_embed_proj_dim": sizes["hidden_size"]}
        if "layer_types" in VARIANTS[name][1]:
            sizes["layer_types"] = draw.choices(["sliding_attention", "full_attention"], k=sizes["num_hidden_layers"])
        if "mlp_layer_types" in VARIANTS[name][1]:
            sizes["mlp_layer_types"] = draw.choices(["dense", "sparse"], k=sizes["num_hidden_layers"])
        if name == "dbrx":  # which knows no other
            sizes |= {"tie_word_embeddings": False, "d_model": sizes["hidden_size"]}
        if name == "helium":  # whose output matrix takes no other
            sizes["head_dim"] = sizes["hidden_size"] // heads
        model, saved = build(name, sizes)
        served = served_from_config(saved, "config.json")
        assert served.total_params == sum(p.numel() for p in model.parameters()), name
        inputs, outputs = model.get_input_embeddings().weight, model.get_output_embeddings()
        tables = {id(w): w.numel() for w in (inputs, outputs.weight, getattr(outputs, "bias", None)) if w is not None}
        assert served.embedding_params - served.position_rows * served.hidden_size == sum(tables.values()), name


def test_every_family_is_tested():
    built = {json.loads(getattr(transformers, k)().to_json_string())["model_type"] for k, _ in VARIANTS.values()}
    # Of remote code, which transformers cannot build: by the parameters of their cards.
    assert built | {content["model_type"] for content, _ in REMOTE.values()} == set(KNOWN)
    assert not built & {content["model_type"] for content, _ in REMOTE.values()}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_a_config_leaves_out_is_what_transformers_assumes(name):
    kind, _ = VARIANTS[name]
    saved = json.loads(getattr(transformers, kind)(**LACKED.get(kind, {})).to_json_string())
    full = served_from_config(saved, "config.json")
    for key in ("tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window", "layer_types"):
        assert served_from_config({k: v for k, v in saved.items() if k != key}, "config.json") == full
    if kind.startswith(("Gemma", "Qwen3Config")):
        assert served_from_config({k: v for k, v in saved.items() if k != "head_dim"}, "config.json") == full


def refusal_or_defaults(config, saved, key):
    """Return the complaint about a config without `key`, or "" if its default is that of transformers."""
    rest = {k: v for k, v in saved.items() if k != key}
    try:
        served = served_from_config(rest, "config.json")
    except DataError as error:
        return str(error)
    assert served == served_from_config(json.loads(config(**rest).to_json_string()), "config.json"), key
    return ""


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in VARIANTS.values()}))
def test_each_key_that_is_left_out_is_refused_or_what_transformers_assumes(kind):
    config = getattr(transformers, kind)
    saved = json.loads(config(**LACKED.get(kind, {})).to_json_string())
    for key in saved.keys() - {"model_type"}:
        refused = refusal_or_defaults(config, saved, key)
        assert not refused or refused.startswith(f"config.json: {key}: is missing")


@pytest.mark.parametrize("name", VARIANTS)
def test_each_key_that_a_variant_leaves_out_is_refused_or_what_transformers_assumes(name):
    _, saved = build(name)
    config = getattr(transformers, VARIANTS[name][0])
    for key in saved.keys() - {"model_type"}:
        refused = refusal_or_defaults(config, saved, key)
        # What transformers assumes need not go with the other sizes.
        expected = (f"config.json: {key}: is missing", "config.json: num_key_value_heads: ")
        assert not refused or refused.startswith(expected)


def test_the_older_names_that_bloom_was_released_with_are_read():
    content = {"model_type": "bloom", "n_embed": 64, "n_layer": 3, "num_attention_heads": 8, "vocab_size": 97}
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.BloomConfig(**content))
    assert served_from_config(content, "config.json").total_params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("Qwen2Config", {"use_sliding_window": True, "max_window_layers": 2}),
        ("Qwen3Config", {"use_sliding_window": True, "max_window_layers": 0}),
        ("Qwen3MoeConfig", {"use_sliding_window": True, "num_experts": 8}),
        ("Qwen2MoeConfig", {"use_sliding_window": True, "max_window_layers": 4}),
        ("Dots1Config", {"max_window_layers": 3, "first_k_dense_replace": 4} | LACKED["Dots1Config"]),
        ("ExaoneMoeConfig", {}),
        ("SmolLM3Config", {"use_sliding_window": True}),
        ("SmolLM3Config", {"use_sliding_window": True, "no_rope_layer_interval": 2}),
        ("SmolLM3Config", {"use_sliding_window": True, "no_rope_layers": [0, 1, 1, 0, 1, 1, 0]}),
        ("MixtralConfig", {}),
        ("Gemma2Config", {}),
        ("Gemma3TextConfig", {}),
        ("Olmo3Config", {}),
        ("MinistralConfig", {}),
        ("PhimoeConfig", {}),
        ("Starcoder2Config", {}),
        ("Cohere2Config", {}),
        ("Exaone4Config", {"sliding_window_pattern": 3}),
        ("GptOssConfig", {}),
        ("VaultGemmaConfig", {}),
    ],
)
def test_windows_without_layer_types_are_those_that_transformers_gives(kind, own):
    changes = COMMON | {"num_hidden_layers": 7, "sliding_window": 6, "head_dim": 8} | own
    config = getattr(transformers, kind)(**changes)
    content = json.loads(config.to_json_string())
    kinds = content.pop("layer_types", None) or ["sliding_attention"] * 7
    served = served_from_config(content, "config.json")
    windows = [window for layer, count in served.layers for window in [layer.window] * int(count)]
    assert windows.count(6) == kinds.count("sliding_attention") > 0
    assert windows.count(None) == kinds.count("full_attention")


@pytest.mark.parametrize("name", ["qwen2", "llama", "gemma2", "gpt2", "gpt_neox", "olmo2", "qwen3_moe"])
@pytest.mark.parametrize(("P", "prefix_tokens"), [(2, 48), (4, 3)])
def test_streams_count_as_those_that_are_added(name, P, prefix_tokens):
    _, saved = build(name)
    plain = served_from_config(saved, "config.json").total_params
    kind, own = VARIANTS[name]
    real = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**(COMMON | own)))
    add_streams(real, P, prefix_tokens=prefix_tokens)
    served = served_from_config(json.loads(real.config.to_json_string()), "config.json")
    assert served.P == P
    assert served.prefix_length == prefix_tokens
    assert served.total_params == sum(p.numel() for p in real.parameters())
    assert served.with_streams(1).total_params == plain


def test_a_model_of_several_banks_is_priced_with_the_one_in_use():
    content = QWEN2 | {"model_type": "qwen2_parscale", "parscale_n": 2, "parscale_banks": {"2": 5, "8": 3, "1": 7}}
    served = served_from_config(content, "config.json")
    kv = 3 * 2 * 2 * 8
    for P, tokens in ((1, 7), (2, 5), (8, 3), (4, 48)):
        assert served.with_streams(P).prefix_params == P * tokens * kv
    assert served_from_config(content | {"parscale_active": 8}, "config.json").P == 8


@pytest.mark.parametrize("name", ["P1", "P2_hot", "P4_t5"])
def test_released_checkpoints_are_read_from_their_folder(name):
    folder = DATA / "parscale" / name
    served = read_shape(folder)
    from safetensors.torch import load_file

    (weights,) = folder.glob("*.safetensors")
    held = sum(w.numel() for key, w in load_file(weights).items() if not key.endswith("rotary_emb.inv_freq"))
    assert served.total_params == held
    assert read_shape(folder / "config.json") == served


@pytest.mark.parametrize("changes", [{}, {"num_experts": 4}, {"tied_embeddings": False}, {"aggregation": "channel"}])
@pytest.mark.parametrize("P", [1, 4])
def test_an_architecture_keeps_its_counts(changes, P):
    architecture = Architecture(64, 160, 3, 4, 2, 257, P=P, **changes)
    served = as_served(architecture)
    for name in ("backbone_params", "stream_params", "embedding_params", "n_params", "total_params"):
        assert getattr(served, name) == getattr(architecture, name)
    assert as_architecture(served) == architecture


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma2", "different kinds of layers"),
        ("mistral", "sliding windows"),
        ("gpt2", "without a gate"),
        ("qwen2_moe", "llm-analysis cannot price shared experts"),
        ("gemma", "head_dim of 16, since hidden / heads is 8"),
    ],
)
def test_what_llm_analysis_cannot_hold_is_named(name, reason):
    served = served_from_config(build(name)[1], "config.json")
    with pytest.raises(UsageError, match=reason):
        as_architecture(served)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": None}, "model_type None is unknown; known: llama, qwen2, "),
        ({"model_type": "mamba"}, "model_type 'mamba' is unknown"),
        ({"model_type": "opt", "word_embed_proj_dim": 16}, "word_embed_proj_dim: must equal hidden_size"),
        ({"hidden_size": None}, "hidden_size: is missing"),
        ({"hidden_size": "64x"}, "hidden_size: must be a whole number of at least 1, not '64x'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: must be a whole number of at least 1, not 0"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: must be at most 100,000"),
        ({"vocab_size": 10**400}, "vocab_size: must be at most 1,000,000,000"),
        ({"num_hidden_layers": True}, "num_hidden_layers: must be a whole number"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 KV heads do not divide 4 heads"),
        ({"hidden_size": 33}, "num_attention_heads: 4 heads do not divide the hidden size of 33"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: must be true or false, not 'yes'"),
        ({"use_sliding_window": True, "layer_types": ["linear_attention"] * 3}, "'linear_attention' layers cannot"),
        ({"use_sliding_window": True, "layer_types": ["full_attention"]}, "layer_types: must be a list of 3 entries"),
        (
            {"use_sliding_window": True, "layer_types": ["sliding_attention"] * 3},
            "sliding_window: is missing; the model's shape depends on it",
        ),
        ({"model_type": "qwen2_parscale", "parscale_n": -1}, "parscale_n: must be a whole number of at least 1"),
        ({"model_type": "qwen2_parscale", "parscale_banks": {"x": 1}}, "parscale_banks: must be a mapping of P"),
        ({"model_type": "qwen2_parscale", "parscale_banks": {"0": 1}}, "parscale_banks: must be a mapping of P"),
        ({"model_type": "qwen2_parscale", "parscale_aggregation": "vote"}, "'vote' is not one of dynamic, mean, chan"),
        (
            {"model_type": "smollm3", "use_sliding_window": True, "sliding_window": 6, "no_rope_layers": [1]},
            "no_rope_layers: must be a list of 3 entries, one for each layer",
        ),
        (
            EXAONE_MOE | {"mlp_layer_types": ["sparse"]},
            "mlp_layer_types: must be a list of 3 entries, 'dense' or 'sparse'",
        ),
        (EXAONE_MOE | {"num_shared_experts": -1}, "num_shared_experts: must be a whole number of at least 0, not -1"),
        (
            {"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3},
            "3 exceeds the number of experts",
        ),
    ],
)
def test_a_shape_that_is_not_understood_is_refused_naming_the_key(changes, message):
    with pytest.raises(DataError, match=message) as caught:
        served_from_config(QWEN2 | changes, "some/config.json")
    assert str(caught.value).startswith("some/config.json: ")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_config_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere: no config\.json found"):
        read_shape(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"no config\.json found"):
        read_shape(tmp_path)
    for text in ("{", "[1]", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(DataError, match=r"config\.json: not a model's config"):
            read_shape(tmp_path)
