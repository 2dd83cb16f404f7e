"""Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), as transformers computes it.

The cache has a latent and one rotated key per token, shared by all heads, and each pass computes the keys and values of
all tokens from them. Serving engines fold these matrices into those of queries and output instead.
"""

from __future__ import annotations

from dataclasses import replace

from scalelab.cost.config_file import ConfigFile
from scalelab.cost.shape import Layer


def with_latent(config: ConfigFile, layer: Layer, hidden: int) -> Layer:
    """Return `layer` with latent attention. Raises `DataError` naming the key."""
    heads, latent, rotated = layer.heads, config.count("kv_lora_rank"), config.count("qk_rope_head_dim")
    flat, values = config.count("qk_nope_head_dim"), config.count("v_head_dim")
    queries, kept = heads * (flat + rotated), latent + rotated
    narrow = config.count("q_lora_rank", 0, least=0)
    into = [(hidden, narrow), (narrow, queries), (hidden, kept)] if narrow else [(hidden, queries + kept)]
    biases = narrow + kept + hidden if config.flag("attention_bias", False) else 0
    return replace(
        layer,
        kv_heads=heads,
        head_dim=(flat + rotated + values) / 2,
        vectors=layer.vectors + narrow + latent + biases,  # both latents have norms
        explicit_blocks=((*into, (heads * values, hidden)), *layer.blocks(hidden)[1:]),
        kv_expansion=((latent, heads * (flat + values)),),
        cached_numbers=kept,
    )
