"""Table of facts that a family's code determines, not its config.json: biases, norms, windows, defaults.

They are taken from the family's modeling file in transformers. `scalelab.cost.families` reads configs with this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

KV_HEADS = "num_key_value_heads"
# A fixed answer, or the key that decides it and the default without that key.
Answer = bool | tuple[str, bool]


@dataclass(frozen=True)
class Family:
    """Facts about a family that its configs do not have."""

    qkv_bias: Answer = ("attention_bias", False)
    o_bias: Answer = ("attention_bias", False)
    mlp_bias: Answer = False  # of dense and shared MLPs
    expert_bias: Answer = False  # of each expert
    router_bias: Answer = False
    head_bias: Answer = False
    norms: int = 2  # per layer
    fewer_norms: Answer = False  # one less, since attention and MLP share it
    norm_vectors: int = 1  # 2: with a bias
    outer_norms: int = 1  # outside the layers
    # Norm of queries and keys: shared by all heads ("head", or "head_bias" with a bias), or of the "whole" width.
    qk_norm: str = ""
    has_qk_norm: Answer = True  # only if qk_norm is set
    latent: bool = False  # caches a latent instead of keys and values
    sinks: bool = False  # attention sinks: one learned logit per head
    mlp_matrices: int = 3
    tied: bool = False  # default of tie_word_embeddings
    head_dim: int | None = None  # default of head_dim; None: hidden / heads
    grouped: bool = True  # has num_key_value_heads
    # Layers with a sliding window, if the config has no layer_types: "none", "all", "late" (from max_window_layers on),
    # "flagged" (all, if use_sliding_window), "last" (flagged and late), "odd" (flagged; first, third and so on up to
    # max_window_layers), "unrotated" (flagged; layers without RoPE), or n: all except every n-th.
    windows: str | int = "none"
    experts: str = ""  # key of the number of experts; num_experts and num_local_experts are both accepted
    expert_width: str = "intermediate_size"
    shared_width: str = ""  # key of the width of shared experts
    shared_experts: str = ""  # key of the number of shared experts, each as wide as a routed one
    shared_gate: bool = False
    dense_first: str = ""  # key of the number of first layers without experts
    positions: str = ""  # key of the number of learned position embeddings
    position_offset: int = 0  # extra rows of that table
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # other names of keys, see `ConfigFile.names`
    width_factor: int | None = None  # MLP width over hidden size, if there is no intermediate_size
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of absent keys; a null key is present


_GPT_NAMES = {
    "hidden_size": ("n_embd",),
    "num_hidden_layers": ("n_layer",),
    "num_attention_heads": ("n_head",),
    "intermediate_size": ("n_inner",),
}
_BIASED: dict[str, Any] = {"qkv_bias": True, "o_bias": True, "mlp_bias": True}
_UNBIASED: dict[str, Any] = {"qkv_bias": False, "o_bias": False}
_PLAIN: dict[str, Any] = {"mlp_matrices": 2, "norm_vectors": 2}  # no gate, LayerNorm

_PARALLEL: dict[str, Any] = _PLAIN | {
    "mlp_bias": True,
    "head_bias": True,
    "norms": 1,
    "grouped": False,
    "names": _GPT_NAMES,
    "width_factor": 4,
}
_DEEPSEEK: dict[str, Any] = {  # experts of DeepSeek, without its latent attention
    "experts": "n_routed_experts",
    "expert_width": "moe_intermediate_size",
    "shared_experts": "n_shared_experts",
    "dense_first": "first_k_dense_replace",
}


# `scalelab.cost.latent` counts the biases of attention and the sizes of heads.
_LATENT: dict[str, Any] = _UNBIASED | {"latent": True, "grouped": False, "head_dim": 1}


def _all_biases(key: str, default: bool) -> dict[str, Any]:
    return {"qkv_bias": (key, default), "o_bias": (key, default), "mlp_bias": (key, default)}


FAMILIES: dict[str, Family] = {
    "llama": Family(mlp_bias=("mlp_bias", False)),
    "qwen2": Family(qkv_bias=True, o_bias=False, windows="last", defaults={KV_HEADS: 32}),
    # Remote code with the keys of Llama.
    "internlm2": Family(qkv_bias=("bias", False), o_bias=("bias", False)),
    "baichuan": Family(**_UNBIASED, grouped=False),
    "qwen": Family(qkv_bias=True, o_bias=False, grouped=False),
    "chatglm": Family(
        qkv_bias=("add_qkv_bias", True),
        o_bias=("add_bias_linear", False),
        mlp_bias=("add_bias_linear", False),
        names={
            "num_hidden_layers": ("num_layers",),
            "intermediate_size": ("ffn_hidden_size",),
            "vocab_size": ("padded_vocab_size", "vocab_size"),
            "head_dim": ("kv_channels",),
        },
    ),
    "qwen3": Family(qk_norm="head", head_dim=128, windows="last", defaults={KV_HEADS: 32}),
    "qwen3_moe": Family(
        qk_norm="head",
        windows="flagged",
        experts="num_local_experts",
        expert_width="moe_intermediate_size",
        defaults={KV_HEADS: 4},
    ),
    "qwen2_moe": Family(
        qkv_bias=("qkv_bias", True),
        o_bias=False,
        windows="odd",
        experts="num_experts",
        expert_width="moe_intermediate_size",
        shared_width="shared_expert_intermediate_size",
        shared_gate=True,
        defaults={KV_HEADS: 16, "sliding_window": 4096, "max_window_layers": 28},
    ),
    "mistral": Family(**_UNBIASED, windows="all", defaults={KV_HEADS: 8, "sliding_window": 4096}),
    "ministral": Family(**_UNBIASED, windows="all", defaults={KV_HEADS: 8, "sliding_window": 4096}),
    "ministral3": Family(**_UNBIASED, windows="all", defaults={KV_HEADS: 8, "head_dim": 128}),
    "mixtral": Family(**_UNBIASED, windows="all", experts="num_local_experts", defaults={KV_HEADS: 8}),
    "gemma": Family(tied=True, head_dim=256, defaults={KV_HEADS: 16}),
    "gemma2": Family(norms=4, tied=True, head_dim=256, windows=2, defaults={KV_HEADS: 4}),
    "gemma3_text": Family(norms=4, qk_norm="head", tied=True, head_dim=256, windows=6, defaults={KV_HEADS: 4}),
    "vaultgemma": Family(tied=True, head_dim=256, windows=2, defaults={KV_HEADS: 4, "sliding_window": 4096}),
    "phi": Family(
        **_BIASED, **_PLAIN, head_bias=True, norms=1, qk_norm="head_bias", has_qk_norm=("qk_layernorm", False)
    ),
    "phi3": Family(**_UNBIASED, windows="all"),
    "phimoe": Family(
        head_bias=("lm_head_bias", False),
        norm_vectors=2,
        windows="all",
        experts="num_local_experts",
        defaults={KV_HEADS: 8},
    ),
    "gpt2": Family(
        **_BIASED, **_PLAIN, tied=True, grouped=False, positions="n_positions", names=_GPT_NAMES, width_factor=4
    ),
    "gpt_bigcode": Family(**_BIASED, **_PLAIN, tied=True, positions="n_positions", names=_GPT_NAMES, width_factor=4),
    "gptj": Family(**_UNBIASED, **_PARALLEL),
    "codegen": Family(**_UNBIASED, **_PARALLEL),
    "gpt_neox": Family(
        **_PLAIN,
        qkv_bias=("attention_bias", True),
        o_bias=("attention_bias", True),
        mlp_bias=True,
        grouped=False,
    ),
    "gpt_oss": Family(
        qkv_bias=("attention_bias", True),
        o_bias=("attention_bias", True),
        expert_bias=True,
        router_bias=True,
        sinks=True,
        windows=2,
        experts="num_local_experts",
        defaults={KV_HEADS: 8, "head_dim": 64, "sliding_window": 128},
    ),
    "opt": Family(
        **_all_biases("enable_bias", True),
        **_PLAIN,
        tied=True,
        grouped=False,
        positions="max_position_embeddings",
        position_offset=2,
        names={"intermediate_size": ("ffn_dim",)},
    ),
    "biogpt": Family(
        **_BIASED, **_PLAIN, tied=True, grouped=False, positions="max_position_embeddings", position_offset=2
    ),
    "bloom": Family(
        **_BIASED,
        **_PLAIN,
        outer_norms=2,  # one directly after the embedding
        tied=True,
        grouped=False,
        names={
            "hidden_size": ("n_embed", "hidden_size"),
            "num_hidden_layers": ("num_hidden_layers", "n_layer"),
            "num_attention_heads": ("num_attention_heads", "n_head"),
            "intermediate_size": (),
        },
        width_factor=4,
    ),
    "mpt": Family(
        **_UNBIASED,
        mlp_matrices=2,
        tied=True,
        grouped=False,
        names={
            "hidden_size": ("d_model",),
            "num_hidden_layers": ("n_layers",),
            "num_attention_heads": ("n_heads",),
            "intermediate_size": (),
        },
        width_factor=4,
    ),
    "falcon": Family(
        **_all_biases("bias", False),
        **_PLAIN,
        tied=True,
        names={"hidden_size": ("n_embed", "hidden_size"), "intermediate_size": ("ffn_hidden_size",)},
        width_factor=4,
    ),
    "persimmon": Family(**_BIASED, **_PLAIN, grouped=False, qk_norm="head_bias", has_qk_norm=("qk_layernorm", True)),
    "stablelm": Family(
        qkv_bias=("use_qkv_bias", False),
        o_bias=False,
        norm_vectors=2,
        fewer_norms=("use_parallel_residual", False),
        qk_norm="whole",
        has_qk_norm=("qk_layernorm", False),
        defaults={KV_HEADS: 32},
    ),
    "starcoder2": Family(**_all_biases("use_bias", True), **_PLAIN, tied=True, windows="all", defaults={KV_HEADS: 2}),
    "nemotron": Family(**_PLAIN, mlp_bias=("mlp_bias", False)),
    "jais2": Family(
        **_PLAIN, qkv_bias=("attention_bias", True), o_bias=("attention_bias", True), mlp_bias=("mlp_bias", True)
    ),
    "arcee": Family(mlp_matrices=2, mlp_bias=("mlp_bias", False)),
    "apertus": Family(mlp_matrices=2, qk_norm="head", defaults={"hidden_act": "xielu"}),
    "nanochat": Family(mlp_matrices=2, norm_vectors=0),
    "cohere": Family(norms=1, qk_norm="whole", has_qk_norm=("use_qk_norm", False), tied=True),
    "cohere2": Family(norms=1, tied=True, windows=4, defaults={"sliding_window": 4096}),
    "glm": Family(qkv_bias=("attention_bias", True), o_bias=False, head_dim=128, defaults={KV_HEADS: 2}),
    "glm4": Family(qkv_bias=("attention_bias", True), o_bias=False, norms=4, head_dim=128, defaults={KV_HEADS: 2}),
    "glm4_moe": Family(
        o_bias=False,
        qk_norm="head",
        has_qk_norm=("use_qk_norm", False),
        **_DEEPSEEK,
        defaults={KV_HEADS: 8, "first_k_dense_replace": 1},
    ),
    "deepseek_v2": Family(
        **_LATENT,
        **_DEEPSEEK,
        mlp_bias=("mlp_bias", False),
        defaults={"q_lora_rank": 1536, "first_k_dense_replace": 0},
    ),
    "deepseek_v3": Family(**_LATENT, **_DEEPSEEK, defaults={"q_lora_rank": 1536, "first_k_dense_replace": 3}),
    "glm4_moe_lite": Family(**_LATENT, **_DEEPSEEK, defaults={"q_lora_rank": 768, "first_k_dense_replace": 1}),
    "minicpm3": Family(**_LATENT, tied=True, mlp_bias=("mlp_bias", False), defaults={"q_lora_rank": 768}),
    "youtu": Family(**_LATENT, tied=True, defaults={"q_lora_rank": 1536}),
    "dbrx": Family(
        experts="num_experts",
        names={"hidden_size": ("d_model",), "num_hidden_layers": ("n_layers",), "num_attention_heads": ("n_heads",)},
    ),
    "dots1": Family(
        qk_norm="head",
        windows="late",
        **_DEEPSEEK,
        defaults={KV_HEADS: 32, "first_k_dense_replace": 0, "sliding_window": 4096, "max_window_layers": 62},
    ),
    "granite": Family(mlp_bias=("mlp_bias", False)),
    "granitemoe": Family(experts="num_local_experts"),
    "granitemoeshared": Family(
        experts="num_local_experts", shared_width="shared_intermediate_size", defaults={"shared_intermediate_size": 0}
    ),
    "olmo": Family(norm_vectors=0),
    "olmo2": Family(qk_norm="whole"),
    "olmo3": Family(qk_norm="whole", windows=4),
    "olmoe": Family(qk_norm="whole", experts="num_experts"),
    "flex_olmo": Family(qk_norm="whole", experts="num_experts"),
    "minimax_m2": Family(
        **_UNBIASED, qk_norm="whole", experts="num_local_experts", defaults={KV_HEADS: 8, "head_dim": 128}
    ),
    "smollm3": Family(mlp_bias=("mlp_bias", False), tied=True, windows="unrotated", defaults={KV_HEADS: 4}),
    "seed_oss": Family(
        qkv_bias=("attention_bias", True),
        o_bias=("attention_out_bias", False),
        mlp_bias=("mlp_bias", False),
        defaults={KV_HEADS: 8, "head_dim": 128},
    ),
    "ernie4_5": Family(**_all_biases("use_bias", False), tied=True, defaults={KV_HEADS: 2, "head_dim": 128}),
    "ernie4_5_moe": Family(
        **_all_biases("use_bias", False),
        router_bias=True,  # corrects the choice of experts
        head_bias=("use_bias", False),
        tied=True,
        experts="moe_num_experts",
        expert_width="moe_intermediate_size",
        shared_experts="moe_num_shared_experts",
        dense_first="moe_layer_start_index",
        names={"num_experts_per_tok": ("num_experts_per_tok", "moe_k"), "decoder_sparse_step": ("moe_layer_interval",)},
        defaults={KV_HEADS: 4, "moe_layer_start_index": 1},
    ),
    "exaone4": Family(**_UNBIASED, qk_norm="head", windows=4, defaults={KV_HEADS: 32, "sliding_window": 4096}),
    "exaone_moe": Family(
        **_UNBIASED,
        qk_norm="head",
        windows=4,
        experts="num_experts",
        expert_width="moe_intermediate_size",
        shared_experts="num_shared_experts",
        dense_first="first_k_dense_replace",
        defaults={KV_HEADS: 32, "sliding_window": 4096, "first_k_dense_replace": 1},
    ),
    "hunyuan_v1_dense": Family(qk_norm="head"),
    "helium": Family(o_bias=False, mlp_bias=("mlp_bias", False), defaults={KV_HEADS: 20, "head_dim": 128}),
}
