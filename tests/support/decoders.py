"""Small configs of every decoder family that can be priced, in variants that change the shape."""

import json

import torch
import transformers

from tests.support.families import COMMON, FAMILIES

_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_WINDOW = {"sliding_window": 6}
_NARROW = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
_ROUTED = _NARROW | {"n_routed_experts": 4, "n_shared_experts": 2}
_LATENT = {"q_lora_rank": 12, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 10, "v_head_dim": 14}
_LATENT |= {"num_key_value_heads": 4}
_ONE_GROUP = {"n_group": 1, "topk_group": 1}

# name: (config class, changes to the common settings)
VARIANTS = {
    **FAMILIES,
    "llama_biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama_head_dim": ("LlamaConfig", {"head_dim": 20}),
    "qwen2_windows": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3_biases": ("Qwen3Config", {"head_dim": 16, "attention_bias": True}),
    "gemma2_pattern": ("Gemma2Config", {"head_dim": 8, "sliding_window": 6, "num_hidden_layers": 5}),
    "gemma3_pattern": ("Gemma3TextConfig", {"head_dim": 8, "sliding_window": 6, "num_hidden_layers": 13}),
    "gpt_neox_no_bias": ("GPTNeoXConfig", {"attention_bias": False, "tie_word_embeddings": True}),
    "olmo": ("OlmoConfig", {}),
    "olmo2_biases": ("Olmo2Config", {"attention_bias": True}),
    "olmo3": ("Olmo3Config", {"sliding_window": 6, "num_hidden_layers": 9}),
    "granite": ("GraniteConfig", {"mlp_bias": True}),
    "smollm3_untied": ("SmolLM3Config", {"tie_word_embeddings": False, "attention_bias": True}),
    "qwen3_moe_some_dense": (
        "Qwen3MoeConfig",
        {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2}
        | {"decoder_sparse_step": 2, "mlp_only_layers": [3], "num_hidden_layers": 6},
    ),
    "ministral": ("MinistralConfig", _WINDOW | {"head_dim": 16}),
    "ministral3": ("Ministral3Config", {"head_dim": 16}),
    "vaultgemma": ("VaultGemmaConfig", {"head_dim": 16, "num_hidden_layers": 5} | _WINDOW),
    "phi": ("PhiConfig", {}),
    "phi_norms": ("PhiConfig", {"qk_layernorm": True, "num_key_value_heads": None}),
    "phimoe": ("PhimoeConfig", _EXPERTS | _WINDOW | {"lm_head_bias": True}),
    "phimoe_biases": ("PhimoeConfig", _EXPERTS | {"attention_bias": True}),
    "gpt_bigcode": ("GPTBigCodeConfig", {"n_inner": 40}),
    "gpt_bigcode_all_heads": ("GPTBigCodeConfig", {"multi_query": False}),
    "gptj": ("GPTJConfig", {"rotary_dim": 4}),
    "codegen": ("CodeGenConfig", {"rotary_dim": 4, "n_inner": 40}),
    "gpt_oss": ("GptOssConfig", _EXPERTS | _WINDOW | {"head_dim": 12, "num_hidden_layers": 5}),
    "gpt_oss_no_bias": ("GptOssConfig", _EXPERTS | {"attention_bias": False, "sliding_window": 6}),
    "opt": ("OPTConfig", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt_oldest": ("OPTConfig", {"ffn_dim": 48, "do_layer_norm_before": False, "enable_bias": False}),
    "opt_bare": ("OPTConfig", {"ffn_dim": 48, "layer_norm_elementwise_affine": False, "tie_word_embeddings": False}),
    "biogpt": ("BioGptConfig", {}),
    "bloom": ("BloomConfig", {}),
    "mpt": ("MptConfig", {}),
    "falcon": ("FalconConfig", {"ffn_hidden_size": 40}),
    "falcon_all_heads": ("FalconConfig", {"multi_query": False, "bias": True, "parallel_attn": False, "alibi": True}),
    "falcon_new": ("FalconConfig", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_new_one_norm": (
        "FalconConfig",
        {"new_decoder_architecture": True, "num_ln_in_parallel_attn": 1, "tie_word_embeddings": False},
    ),
    "persimmon": ("PersimmonConfig", {}),
    "persimmon_no_norms": ("PersimmonConfig", {"qk_layernorm": False, "tie_word_embeddings": True}),
    "stablelm": ("StableLmConfig", {}),
    "stablelm_parallel": (
        "StableLmConfig",
        {"use_parallel_residual": True, "use_qkv_bias": True, "qk_layernorm": True},
    ),
    "starcoder2": ("Starcoder2Config", _WINDOW),
    "starcoder2_no_bias": ("Starcoder2Config", {"use_bias": False, "tie_word_embeddings": False}),
    "nemotron": ("NemotronConfig", {}),
    "nemotron_biases": ("NemotronConfig", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "jais2": ("Jais2Config", {}),
    "jais2_no_bias": ("Jais2Config", {"attention_bias": False, "mlp_bias": False}),
    "arcee": ("ArceeConfig", {"mlp_bias": True}),
    "apertus": ("ApertusConfig", {}),
    "apertus_silu": ("ApertusConfig", {"hidden_act": "silu", "attention_bias": True}),
    "nanochat": ("NanoChatConfig", {}),
    "cohere": ("CohereConfig", {}),
    "cohere_norms": ("CohereConfig", {"use_qk_norm": True, "attention_bias": True, "tie_word_embeddings": False}),
    "cohere2": ("Cohere2Config", _WINDOW | {"num_hidden_layers": 9}),
    "glm": ("GlmConfig", {"head_dim": 8}),
    "glm4": ("Glm4Config", {"head_dim": 8, "attention_bias": False}),
    "granitemoe": ("GraniteMoeConfig", _EXPERTS),
    "granitemoeshared": ("GraniteMoeSharedConfig", _EXPERTS | {"shared_intermediate_size": 24}),
    "granitemoeshared_none": ("GraniteMoeSharedConfig", _EXPERTS | {"attention_bias": True}),
    "qwen2_moe": ("Qwen2MoeConfig", _NARROW | {"num_experts": 4, "shared_expert_intermediate_size": 24}),
    "qwen2_moe_some_dense": (
        "Qwen2MoeConfig",
        _NARROW
        | {"num_experts": 4, "shared_expert_intermediate_size": 20, "qkv_bias": False, "mlp_only_layers": [3]}
        | {"decoder_sparse_step": 2, "num_hidden_layers": 7, "use_sliding_window": True, "max_window_layers": 5}
        | _WINDOW,
    ),
    "glm4_moe": ("Glm4MoeConfig", _ROUTED),
    "glm4_moe_norms": (
        "Glm4MoeConfig",
        _ROUTED | {"use_qk_norm": True, "attention_bias": True, "head_dim": 16, "first_k_dense_replace": 2},
    ),
    "ernie4_5_moe": ("Ernie4_5_MoeConfig", _NARROW | {"moe_num_experts": 4}),
    "ernie4_5_moe_biases": (
        "Ernie4_5_MoeConfig",
        _NARROW
        | {"moe_num_experts": 4, "moe_num_shared_experts": 0, "use_bias": True, "moe_layer_interval": 2}
        | {"moe_layer_start_index": 2, "moe_layer_end_index": 4, "num_hidden_layers": 7, "tie_word_embeddings": False},
    ),
    "ernie4_5_moe_shared_biases": ("Ernie4_5_MoeConfig", _NARROW | {"moe_num_experts": 4, "use_bias": True}),
    "deepseek_v2": ("DeepseekV2Config", _LATENT | _ROUTED),
    "deepseek_v2_wide": (
        "DeepseekV2Config",
        _LATENT | _ROUTED | {"q_lora_rank": None, "attention_bias": True, "mlp_bias": True, "first_k_dense_replace": 2},
    ),
    "deepseek_v3": ("DeepseekV3Config", _LATENT | _ROUTED | {"first_k_dense_replace": 1} | _ONE_GROUP),
    "deepseek_v3_biases": ("DeepseekV3Config", _LATENT | _ROUTED | {"attention_bias": True} | _ONE_GROUP),
    "glm4_moe_lite": ("Glm4MoeLiteConfig", _LATENT | _ROUTED),
    "glm4_moe_lite_listed": (
        "Glm4MoeLiteConfig",
        _LATENT | _ROUTED | {"num_hidden_layers": 4, "mlp_layer_types": ["sparse", "dense", "dense", "sparse"]},
    ),
    "minicpm3": ("MiniCPM3Config", _LATENT),
    "minicpm3_biases": ("MiniCPM3Config", _LATENT | {"attention_bias": True, "mlp_bias": True}),
    "youtu": ("YoutuConfig", _LATENT),
    "youtu_wide": ("YoutuConfig", _LATENT | {"q_lora_rank": None, "attention_bias": True}),
    "dbrx": (
        "DbrxConfig",
        {"attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0}, "d_model": 32}
        | {"ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 4, "moe_top_k": 4}},
    ),
    "dots1": ("Dots1Config", _ROUTED),
    "dots1_windows": (
        "Dots1Config",
        _ROUTED | _WINDOW | {"max_window_layers": 1, "attention_bias": True, "first_k_dense_replace": 1},
    ),
    "exaone_moe": ("ExaoneMoeConfig", _NARROW | _WINDOW | {"num_experts": 4, "num_hidden_layers": 6}),
    "exaone_moe_listed": (
        "ExaoneMoeConfig",
        _NARROW
        | _WINDOW
        | {"num_experts": 4, "num_shared_experts": 2, "head_dim": 12, "num_hidden_layers": 4}
        | {"mlp_layer_types": ["sparse", "dense", "dense", "sparse"]},
    ),
    "olmoe": ("OlmoeConfig", {"num_experts": 4, "num_experts_per_tok": 2}),
    "flex_olmo": ("FlexOlmoConfig", {"num_experts": 4, "num_experts_per_tok": 2, "attention_bias": True}),
    "minimax_m2": ("MiniMaxM2Config", _EXPERTS | {"head_dim": 16, "rotary_dim": 4}),
    "seed_oss": ("SeedOssConfig", {"head_dim": 16}),
    "seed_oss_biases": ("SeedOssConfig", {"head_dim": 16, "attention_out_bias": True, "mlp_bias": True}),
    "ernie4_5": ("Ernie4_5Config", {"head_dim": 16}),
    "ernie4_5_biases": ("Ernie4_5Config", {"head_dim": None, "use_bias": True, "tie_word_embeddings": False}),
    "exaone4": ("Exaone4Config", _WINDOW | {"num_hidden_layers": 9}),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", {"head_dim": 16}),
    "helium": ("HeliumConfig", {"head_dim": 8, "mlp_bias": True, "attention_bias": True}),
}


def build(name, changes=None):
    """Return a model of the variant without memory for weights, and its config as it would be saved."""
    kind, own = VARIANTS[name]
    config = getattr(transformers, kind)(**(COMMON | own | (changes or {})))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return model, json.loads(config.to_json_string())


def make_variant(name, changes=None, seed=0):
    """Return a model of the variant with random weights, in eval mode and with eager attention."""
    kind, own = VARIANTS[name]
    config = getattr(transformers, kind)(**(COMMON | own | (changes or {})))
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
