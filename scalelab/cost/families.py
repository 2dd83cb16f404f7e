"""A `ServedModel` from a Hugging Face config.json, read as JSON: no torch, no transformers, no code.

Each family of decoders has its biases, norms and windows written down here, as its modeling file has
them. What is not written down is refused by name, rather than priced as if it were another.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalelab.architecture import MIXTURE_PARAMS, PREFIX_TOKENS
from scalelab.cost.shape import Layer, ServedModel
from scalelab.errors import DataError, UsageError

_SUFFIX = "_parscale"
_WINDOWED, _FULL = "sliding_attention", "full_attention"
_KV_HEADS = "num_key_value_heads"
_MISSING = object()
_MOST, _MOST_LAYERS = 10**9, 100_000


@dataclass(frozen=True)
class _Family:
    """What a config does not say. A bias is a fixed answer, or a key and its default."""

    qkv_bias: bool | tuple[str, bool] = ("attention_bias", False)
    o_bias: bool | tuple[str, bool] = ("attention_bias", False)
    mlp_bias: bool | tuple[str, bool] = False
    norms: int = 2  # a layer
    norm_vectors: int = 1  # 2: a bias, too
    qk_norm: str = ""  # of every "head" alike, or of the "whole" width of queries and keys
    mlp_matrices: int = 3
    tied: bool = False  # where the config does not say
    head_dim: int | None = None  # where the config does not say; None: hidden / heads
    grouped: bool = True  # knows num_key_value_heads
    # Which layers have the window: "none", "all", "flagged" (all, if use_sliding_window), "last" (flagged,
    # from max_window_layers on), "unrotated" (flagged, where RoPE is left out), or all but each n-th, where the
    # config lists no layer_types.
    windows: str | int = "none"
    experts: bool = False
    expert_width: str = "intermediate_size"
    positions: str = ""  # key that counts learned position embeddings
    names: Mapping[str, str] = field(default_factory=dict)  # where keys are named differently
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of keys that are not there; null counts as there


_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
}
FAMILIES: dict[str, _Family] = {
    "llama": _Family(mlp_bias=("mlp_bias", False)),
    "qwen2": _Family(qkv_bias=True, o_bias=False, windows="last", defaults={_KV_HEADS: 32}),
    "qwen3": _Family(qk_norm="head", head_dim=128, windows="last", defaults={_KV_HEADS: 32}),
    "qwen3_moe": _Family(
        qk_norm="head",
        windows="flagged",
        experts=True,
        expert_width="moe_intermediate_size",
        defaults={_KV_HEADS: 4},
    ),
    "mistral": _Family(qkv_bias=False, o_bias=False, windows="all", defaults={_KV_HEADS: 8, "sliding_window": 4096}),
    "mixtral": _Family(qkv_bias=False, o_bias=False, windows="all", experts=True, defaults={_KV_HEADS: 8}),
    "gemma": _Family(tied=True, head_dim=256, defaults={_KV_HEADS: 16}),
    "gemma2": _Family(norms=4, tied=True, head_dim=256, windows=2, defaults={_KV_HEADS: 4}),
    "gemma3_text": _Family(norms=4, qk_norm="head", tied=True, head_dim=256, windows=6, defaults={_KV_HEADS: 4}),
    "phi3": _Family(qkv_bias=False, o_bias=False, windows="all"),
    "gpt2": _Family(
        qkv_bias=True,
        o_bias=True,
        mlp_bias=True,
        norm_vectors=2,
        mlp_matrices=2,
        tied=True,
        grouped=False,
        positions="n_positions",
        names=_GPT2_NAMES,
    ),
    "gpt_neox": _Family(
        qkv_bias=("attention_bias", True),
        o_bias=("attention_bias", True),
        mlp_bias=True,
        norm_vectors=2,
        mlp_matrices=2,
        grouped=False,
    ),
    "granite": _Family(mlp_bias=("mlp_bias", False)),
    "olmo": _Family(norm_vectors=0),
    "olmo2": _Family(qk_norm="whole"),
    "olmo3": _Family(qk_norm="whole", windows=4),
    "smollm3": _Family(mlp_bias=("mlp_bias", False), tied=True, windows="unrotated", defaults={_KV_HEADS: 4}),
}


def read_model(path: str | Path) -> ServedModel:
    """The decoder of a model's folder or config.json, with the streams it was saved with.

    Raises `UsageError` for a path that holds no config and `DataError` naming file and key for one whose
    shape is not understood.
    """
    path = Path(path)
    file = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise UsageError(f"{path}: no config.json there; give a model's folder or its config.json") from None
    except (ValueError, RecursionError):
        raise DataError(f"{file}: not a model's config: not JSON") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: not a model's config: not a JSON object")
    return served_from_config(content, str(file))


def served_from_config(content: Mapping[str, Any], where: str) -> ServedModel:
    """The decoder that a config describes. Raises `DataError` naming `where` and the key that is not understood."""
    kind = content.get("model_type")
    plain = str(kind).removesuffix(_SUFFIX)
    if plain not in FAMILIES:
        hint = "; its text part alone could be" if "text_config" in content else ""
        raise DataError(f"{where}: model_type {kind!r} cannot be priced{hint}; known: {', '.join(FAMILIES)}")
    config = _Config({**FAMILIES[plain].defaults, **content}, where, FAMILIES[plain])
    hidden = config.count("hidden_size")
    layers = config.layers(hidden)
    banks, P = config.banks() if kind != plain else ((), 1)
    return ServedModel(
        hidden_size=hidden,
        vocab_size=config.count("vocab_size"),
        layers=tuple(Counter(layers).items()),
        norm_params=config.family.norm_vectors * hidden,
        tied_embeddings=config.flag("tie_word_embeddings", config.family.tied),
        position_rows=config.count(config.family.positions) if config.family.positions else 0,
        P=P,
        prefix_tokens=config.count("parscale_n_tokens", PREFIX_TOKENS),
        aggregation=config.choice("parscale_aggregation", "dynamic", MIXTURE_PARAMS),
        banks=banks,
        name=str(kind),
    )


@dataclass(frozen=True)
class _Config:
    content: Mapping[str, Any]
    where: str
    family: _Family

    def refuse(self, key: str, reason: str) -> DataError:
        return DataError(f"{self.where}: {key}: {reason}")

    def get(self, key: str, default: Any = _MISSING) -> Any:
        """The value of a key, by its name in this family; null counts as missing."""
        key = self.family.names.get(key, key)
        value = self.content.get(key)
        if value is None and default is _MISSING:
            raise self.refuse(key, "is missing, and the model's shape hangs on it")
        return default if value is None else value

    def count(self, key: str, default: Any = _MISSING, least: int = 1) -> int:
        value = self.get(key, default)
        name = self.family.names.get(key, key)
        if type(value) is int and value > _MOST:
            raise self.refuse(name, f"must be at most {_MOST:,}")
        if type(value) is not int or value < least:
            raise self.refuse(name, f"must be a whole number of at least {least}, not {value!r}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.refuse(key, f"must be true or false, not {value!r}")
        return value

    def choice(self, key: str, default: str, known: Mapping[str, Any]) -> str:
        value = self.get(key, default)
        if value not in known:
            raise self.refuse(key, f"{value!r} is not one of {', '.join(known)}")
        return value

    def bias(self, answer: bool | tuple[str, bool]) -> bool:
        return answer if isinstance(answer, bool) else self.flag(*answer)

    def layers(self, hidden: int) -> list[Layer]:
        """Each decoder layer."""
        family, count = self.family, self.count("num_hidden_layers")
        if count > _MOST_LAYERS:
            raise self.refuse("num_hidden_layers", f"must be at most {_MOST_LAYERS:,}")
        heads = self.count("num_attention_heads")
        kv_heads = self.count(_KV_HEADS, heads) if family.grouped else heads
        if heads % kv_heads:
            raise self.refuse(_KV_HEADS, f"{kv_heads} KV heads do not divide {heads} heads")
        default = family.head_dim or hidden // heads
        if default * heads != hidden and not family.head_dim and self.get("head_dim", None) is None:
            raise self.refuse("num_attention_heads", f"{heads} heads do not divide the hidden size of {hidden}")
        head_dim = self.count("head_dim", default) if family.grouped else default
        width = self.count("intermediate_size", 4 * hidden if family.names else _MISSING)
        q, kv = heads * head_dim, kv_heads * head_dim
        vectors = family.norms * family.norm_vectors * hidden
        vectors += (q + 2 * kv if self.bias(family.qkv_bias) else 0) + (hidden if self.bias(family.o_bias) else 0)
        vectors += {"": 0, "head": 2 * head_dim, "whole": q + kv}[family.qk_norm]
        mlp_vectors = (family.mlp_matrices - 1) * width + hidden if self.bias(family.mlp_bias) else 0
        dense = Layer(heads, kv_heads, head_dim, width, family.mlp_matrices, vectors + mlp_vectors)
        routed = self._routed(dense) if family.experts else None
        sparse = self._sparse(count) if routed else set()
        return [
            Layer(**{**vars(routed if routed and i in sparse else dense), "window": window})
            for i, window in enumerate(self.windows(count))
        ]

    def _routed(self, dense: Layer) -> Layer:
        key = "num_experts" if self.get("num_experts", None) is not None else "num_local_experts"
        experts = self.count(key)
        chosen = self.count("num_experts_per_tok")
        if chosen > experts:
            raise self.refuse("num_experts_per_tok", f"{chosen} of {experts} experts cannot be chosen")
        width = self.count(self.family.expert_width)
        return Layer(**{**vars(dense), "mlp_width": width, "num_experts": experts, "experts_per_token": chosen})

    def _sparse(self, count: int) -> set[int]:
        """Layers with experts."""
        step, dense = self.count("decoder_sparse_step", 1), self.get("mlp_only_layers", [])
        if not isinstance(dense, list):
            raise self.refuse("mlp_only_layers", f"must be a list of layers, not {dense!r}")
        return {i for i in range(count) if i not in dense and (i + 1) % step == 0}

    def windows(self, count: int) -> list[int | None]:
        """The window of each layer; None where it sees everything."""
        rule = self.family.windows
        if rule in ("flagged", "last", "unrotated") and not self.flag("use_sliding_window", False):
            return [None] * count
        kinds = self.get("layer_types", None)
        if kinds is None:
            kinds = self._kinds(rule, count)
        elif not isinstance(kinds, list) or len(kinds) != count:
            raise self.refuse("layer_types", f"must be a list with one entry for each of {count} layers")
        for kind in kinds:
            if kind not in (_WINDOWED, _FULL):
                raise self.refuse("layer_types", f"layers of {kind!r} cannot be priced; known: {_FULL}, {_WINDOWED}")
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
        start = self.count("max_window_layers", least=0) if rule == "last" else 0
        return [_WINDOWED if i >= start else _FULL for i in range(count)]

    def _rotated(self, count: int) -> list[Any]:
        """Whether each layer has RoPE; the key says the opposite of its values."""
        interval = self.count("no_rope_layer_interval", 4)
        rotated = self.get("no_rope_layers", [(i + 1) % interval for i in range(count)])
        if not isinstance(rotated, list) or len(rotated) != count:
            raise self.refuse("no_rope_layers", f"must be a list with one entry for each of {count} layers")
        return rotated

    def banks(self) -> tuple[tuple[tuple[int, int], ...], int]:
        """((P, prefix tokens) of each bank, P in use) of a model saved with streams."""
        P = self.count("parscale_n", 1)
        held = self.get("parscale_banks", None)
        if held is None:
            banks = {P: self.count("parscale_n_tokens", PREFIX_TOKENS)} if P > 1 else {}
        elif isinstance(held, dict) and all(_is_bank(*item) for item in held.items()):
            banks = {int(p): n for p, n in held.items()}
        else:
            raise self.refuse("parscale_banks", f"must be a mapping of P to prefix tokens, not {held!r}")
        return tuple(sorted(banks.items())), self.count("parscale_active", P)


def _is_bank(P: Any, tokens: Any) -> bool:
    """Whether a key and value of parscale_banks are P and its prefix tokens."""
    fine = str(P).isdecimal() and len(str(P)) < 10 and int(P) > 0
    return fine and type(tokens) is int and 0 < tokens <= _MOST
