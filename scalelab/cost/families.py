"""Reading of a Hugging Face config.json as a `ServedModel`, without torch or transformers.

`scalelab.cost.family_table` has the facts that a family's code determines, not its configs. Families that are not in
the table are read by `scalelab.measure.meta_shape` instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scalelab.cost.config_file import REQUIRED, ConfigFile, streams_of
from scalelab.cost.family_table import FAMILIES, KV_HEADS, Answer, Family
from scalelab.cost.latent import with_latent
from scalelab.cost.shape import Layer, ServedModel
from scalelab.errors import DataError
from scalelab.model_config import plain_type

_WINDOWED, _FULL = "sliding_attention", "full_attention"
_MAX_LAYERS = 100_000
_EXPERT_KEYS = ("num_experts", "num_local_experts")
_XIELU_PARAMS = 2  # parameters of the learned activation xIELU


class UnknownFamilyError(DataError):
    """The model type of a config is not in the table."""


def served_from_config(content: Mapping[str, Any], where: str) -> ServedModel:
    """Return the decoder that a config describes.

    Raises:
        UnknownFamilyError: The model type is not in the table.
        DataError: A key is invalid; the message names `where` and the key.
    """
    kind = content.get("model_type")
    plain = plain_type(content)
    if plain not in FAMILIES:
        raise UnknownFamilyError(f"{where}: model_type {kind!r} is unknown; known: {', '.join(FAMILIES)}")
    family = FAMILIES[plain]
    config = _Config({**family.defaults, **content}, where, family.names, family)
    config = _ADAPTERS.get(plain, _unchanged)(config)
    family = config.family
    hidden = config.count("hidden_size")
    layers = config.layers(hidden)
    streams = streams_of(content, where)
    return ServedModel(
        hidden_size=hidden,
        vocab_size=config.count("vocab_size"),
        layers=tuple(Counter(layers).items()),
        norm_params=family.outer_norms * family.norm_vectors * hidden,
        tied_embeddings=config.flag("tie_word_embeddings", family.tied),
        position_rows=config.count(family.positions) + family.position_offset if family.positions else 0,
        head_bias=config.answer(family.head_bias),
        P=streams.P,
        prefix_tokens=streams.prefix_tokens,
        aggregation=streams.aggregation,
        banks=streams.banks,
        name=str(kind),
    )


@dataclass(frozen=True)
class _Config(ConfigFile):
    """Config of a known family."""

    family: Family

    def answer(self, answer: Answer) -> bool:
        """Return a fixed answer, or the value of the key that decides it."""
        return answer if isinstance(answer, bool) else self.flag(*answer)

    def layers(self, hidden: int) -> list[Layer]:
        """Return the decoder layers in order."""
        family, count = self.family, self.count("num_hidden_layers")
        if count > _MAX_LAYERS:
            raise self.error("num_hidden_layers", f"must be at most {_MAX_LAYERS:,}")
        heads = self.count("num_attention_heads")
        kv_heads = self.count(KV_HEADS, heads) if family.grouped else heads
        if heads % kv_heads:
            raise self.error(KV_HEADS, f"{kv_heads} KV heads do not divide {heads} heads")
        default = family.head_dim or hidden // heads
        if default * heads != hidden and not family.head_dim and self.get("head_dim", None) is None:
            raise self.error("num_attention_heads", f"{heads} heads do not divide the hidden size of {hidden}")
        head_dim = self.count("head_dim", default) if family.grouped else default
        width = self.count("intermediate_size", family.width_factor * hidden if family.width_factor else REQUIRED)
        vectors = self._vectors(hidden, heads, kv_heads, head_dim)
        mlp_vectors = self._mlp_vectors(hidden, width, family.mlp_bias)
        dense = Layer(heads, kv_heads, head_dim, width, family.mlp_matrices, vectors + mlp_vectors)
        routed = self._routed(dense, hidden, vectors) if family.experts else dense
        if family.latent:
            dense, routed = (with_latent(self, layer, hidden) for layer in (dense, routed))
        sparse = self._sparse(count) if family.experts else set()
        return [
            replace(routed if i in sparse else dense, window=window) for i, window in enumerate(self.windows(count))
        ]

    def _vectors(self, hidden: int, heads: int, kv_heads: int, head_dim: int) -> int:
        """Count the parameters of a layer's norms and of its attention's biases."""
        family, q, kv = self.family, heads * head_dim, kv_heads * head_dim
        norms = family.norms - self.answer(family.fewer_norms)
        vectors = norms * family.norm_vectors * hidden + (heads if family.sinks else 0)
        vectors += (q + 2 * kv if self.answer(family.qkv_bias) else 0) + (hidden if self.answer(family.o_bias) else 0)
        if family.qk_norm and self.answer(family.has_qk_norm):
            vectors += {"head": 2 * head_dim, "head_bias": 4 * head_dim, "whole": q + kv}[family.qk_norm]
        return vectors

    def _mlp_vectors(self, hidden: int, width: int, bias: Answer) -> int:
        """Count the parameters of one MLP outside its matrices."""
        biases = (self.family.mlp_matrices - 1) * width + hidden if self.answer(bias) else 0
        return biases + (_XIELU_PARAMS if self.get("hidden_act", None) == "xielu" else 0)

    def _routed(self, dense: Layer, hidden: int, vectors: int) -> Layer:
        """Return `dense` with experts. Their few biases count as read by every token."""
        held = [key for key in _EXPERT_KEYS if self.get(key, None) is not None]
        family, experts = self.family, self.count(held[0] if held else self.family.experts)
        chosen = self.count("num_experts_per_tok")
        if chosen > experts:
            raise self.error("num_experts_per_tok", f"{chosen} exceeds the number of experts, {experts}")
        width, shared = self.count(family.expert_width), 0
        if family.shared_width:
            shared = self.count(family.shared_width, least=0)
        elif family.shared_experts:
            shared = width * self.count(family.shared_experts, least=0)
        vectors += experts * (self._mlp_vectors(hidden, width, family.expert_bias) + self.answer(family.router_bias))
        vectors += self._mlp_vectors(hidden, shared, family.mlp_bias) if shared else 0
        return replace(
            dense,
            mlp_width=width,
            vectors=vectors,
            num_experts=experts,
            experts_per_token=chosen,
            shared_width=shared,
            shared_gate=family.shared_gate,
        )

    def _sparse(self, count: int) -> set[int]:
        """Return the indices of layers with experts."""
        kinds = self.get("mlp_layer_types", None)
        if kinds is not None:
            if not isinstance(kinds, list) or len(kinds) != count or any(k not in ("dense", "sparse") for k in kinds):
                raise self.error("mlp_layer_types", f"must be a list of {count} entries, 'dense' or 'sparse'")
            return {i for i in range(count) if kinds[i] == "sparse"}
        first = self.count(self.family.dense_first, least=0) if self.family.dense_first else 0
        last = self.count("moe_layer_end_index", -1, least=-1)  # -1: all
        last = count - 1 if last == -1 else last
        step, dense = self.count("decoder_sparse_step", 1), self.get("mlp_only_layers", [])
        if not isinstance(dense, list):
            raise self.error("mlp_only_layers", f"must be a list of layer indices, not {dense!r}")
        return {i for i in range(count) if first <= i <= last and i not in dense and (i + 1) % step == 0}

    def windows(self, count: int) -> list[int | None]:
        """Return the window of each layer; None for full attention."""
        rule = self.family.windows
        if rule in ("flagged", "last", "odd", "unrotated") and not self.flag("use_sliding_window", False):
            return [None] * count
        kinds = self.get("layer_types", None)
        if kinds is None:
            kinds = self._kinds(rule, count)
        elif not isinstance(kinds, list) or len(kinds) != count:
            raise self.error("layer_types", f"must be a list of {count} entries, one for each layer")
        for kind in kinds:
            if kind not in (_WINDOWED, _FULL):
                raise self.error("layer_types", f"{kind!r} layers cannot be priced; known: {_FULL}, {_WINDOWED}")
        if _WINDOWED not in kinds:
            return [None] * count
        window = self.count("sliding_window")
        return [window if kind == _WINDOWED else None for kind in kinds]

    def _kinds(self, rule: str | int, count: int) -> list[str]:
        if isinstance(rule, int):
            pattern = self.count("sliding_window_pattern", self.get("_sliding_window_pattern", rule))
            return [_WINDOWED if (i + 1) % pattern else _FULL for i in range(count)]
        if rule == "none" or self.get("sliding_window", None) is None:
            return [_FULL] * count
        if rule == "unrotated":
            return [_FULL if rotated else _WINDOWED for rotated in self._rotated(count)]
        if rule == "odd":
            end = self.count("max_window_layers", least=0)
            return [_FULL if i % 2 or i >= end else _WINDOWED for i in range(count)]
        start = self.count("max_window_layers", least=0) if rule in ("last", "late") else 0
        return [_WINDOWED if i >= start else _FULL for i in range(count)]

    def _rotated(self, count: int) -> list[Any]:
        """Return for each layer whether it has RoPE, which is what `no_rope_layers` means despite its name."""
        interval = self.count("no_rope_layer_interval", 4)
        rotated = self.get("no_rope_layers", [(i + 1) % interval for i in range(count)])
        if not isinstance(rotated, list) or len(rotated) != count:
            raise self.error("no_rope_layers", f"must be a list of {count} entries, one for each layer")
        return rotated


def _replace_parts(config: _Config, family: Mapping[str, Any], content: Mapping[str, Any]) -> _Config:
    return replace(config, family=replace(config.family, **family), content={**config.content, **content})


def _bigcode(config: _Config) -> _Config:
    """Adapt GPT-BigCode: multi-query attention has one KV head, otherwise every head has one."""
    return _replace_parts(config, {}, {KV_HEADS: 1 if config.flag("multi_query", True) else None})


def _dbrx(config: _Config) -> _Config:
    """Adapt DBRX, whose attention and experts have nested configs."""
    parts = [config.get("attn_config", {}), config.get("ffn_config", {})]
    for key, part in zip(("attn_config", "ffn_config"), parts, strict=True):
        if not isinstance(part, dict):
            raise config.error(key, f"must be an object, not {part!r}")
    attention, experts = parts
    return _replace_parts(
        config,
        {},
        {
            KV_HEADS: attention.get("kv_n_heads", 1),
            "intermediate_size": experts.get("ffn_hidden_size", 3584),
            "num_experts": experts.get("moe_num_experts", 4),
            "num_experts_per_tok": experts.get("moe_top_k", 1),
        },
    )


def _chatglm(config: _Config) -> _Config:
    """Adapt ChatGLM, which has grouped KV heads since its second generation."""
    grouped = config.flag("multi_query_attention", False)
    return _replace_parts(config, {}, {KV_HEADS: config.count("multi_query_group_num") if grouped else None})


def _qwen(config: _Config) -> _Config:
    """Adapt Qwen, whose intermediate_size is the width of gate and up together."""
    width = config.count("intermediate_size")
    if width % 2:
        raise config.error(
            "intermediate_size", f"must be even, since it is the width of gate and up together, not {width}"
        )
    return _replace_parts(config, {}, {"intermediate_size": width // 2})


def _falcon(config: _Config) -> _Config:
    """Adapt the three generations of Falcon: one or two norms, and one, some or all KV heads."""
    new, parallel = config.flag("new_decoder_architecture", False), config.flag("parallel_attn", True)
    norms = config.count("num_ln_in_parallel_attn", 2 if new else 1) if parallel else 2
    kv_heads = config.get("num_kv_heads", None) if new else 1 if config.flag("multi_query", True) else None
    return _replace_parts(config, {"norms": 2 if norms == 2 else 1}, {KV_HEADS: kv_heads})


def _opt(config: _Config) -> _Config:
    """Adapt OPT: the oldest models have no last norm, or norms without parameters."""
    hidden = config.count("hidden_size")
    if config.count("word_embed_proj_dim", hidden) != hidden:
        raise config.error(
            "word_embed_proj_dim", f"must equal hidden_size {hidden}; projected embeddings are not supported"
        )
    last = config.flag("do_layer_norm_before", True) and not config.flag("_remove_final_layer_norm", False)
    vectors = 2 if config.flag("layer_norm_elementwise_affine", True) else 0
    return _replace_parts(config, {"outer_norms": int(last), "norm_vectors": vectors}, {})


def _unchanged(config: _Config) -> _Config:
    return config


# Families in which several keys together determine one fact.
_ADAPTERS = {
    "chatglm": _chatglm,
    "dbrx": _dbrx,
    "gpt_bigcode": _bigcode,
    "falcon": _falcon,
    "opt": _opt,
    "qwen": _qwen,
}
