"""Decoder with streams: inputs are repeated for P streams, and hidden states aggregated."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from scalelab.model.attention import assume_no_mask, record_attention_calls
from scalelab.model.banks import ONLY_BANK, attention_modules
from scalelab.model.cache import use_growing_layers
from scalelab.units import plural

# Arguments of a decoder that have one row per sequence.
_BY_ROW = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids")


class StreamedDecoder(nn.Module):
    """Mix-in for a decoder of transformers. `StreamedLM.set_streams` sets `P` and the active bank."""

    config: PreTrainedConfig
    argument_names: tuple[str, ...]  # arguments of the base class's forward
    accepts_mask_dict = False  # forward accepts prepared masks by kind of layer
    P = 1
    active_streams: str | None = None  # the active bank, see `banks.active_bank`
    prefixes_verified = False  # a run has shown that every layer uses its prefix
    replayed: Any = None
    last_outputs: Any = None  # of the last run, for `replay`; set only while `keep_outputs`
    keep_outputs = False
    mix_hidden_states = False  # requested hidden states are aggregated, with B rows

    @classmethod
    def is_custom_code(cls) -> bool:
        """Return False: transformers does not initialise some parts of custom models on loading."""
        return False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the decoder on ids [B, T] and return an aggregated `last_hidden_state` [B, T, h].

        The cache and requested attentions have P·B rows, stream-major. So have requested hidden states, unless
        `mix_hidden_states` is set.
        """
        if self.replayed is not None:
            return self.replayed
        kwargs = dict(zip(self.argument_names, args, strict=False)) | kwargs
        if not torch.compiler.is_compiling():
            self._refuse_other_cache(kwargs)
        if self.has_prefixes and torch.jit.is_tracing():
            raise ValueError("torch.jit.trace does not support streams; use torch.export or torch.compile")
        if self.has_prefixes:
            self._refuse_other_attention()
        unmasked = self._has_nothing_to_mask(kwargs)
        if unmasked and self.accepts_mask_dict:
            kwargs["attention_mask"] = dict.fromkeys(self._layer_types())
        kwargs = {name: self._for_streams(name, value) for name, value in kwargs.items()}
        if self.P > 1:
            use_growing_layers(kwargs.get("past_key_values"))
        if torch.compiler.is_compiling():
            with assume_no_mask() if unmasked else nullcontext():
                outputs = super().forward(**kwargs)
        elif self.prefixes_verified or not self.has_prefixes:
            outputs = super().forward(**kwargs)
        else:
            with record_attention_calls() as calls:
                outputs = super().forward(**kwargs)
            self._verify_prefixes(calls.modules)
        outputs = outputs if self.P == 1 else self._aggregated(outputs)
        if self.keep_outputs:
            self.last_outputs = outputs
        return outputs

    @property
    def has_prefixes(self) -> bool:
        """True if a bank is active: with P > 1, or with a trained prefix at P = 1."""
        return self.active_streams is not None

    @property
    def aggregator(self) -> nn.Module | None:
        """Aggregator of the active streams; None for P = 1."""
        if self.P == 1:
            return None
        return self.aggregate_layer if self.active_streams == ONLY_BANK else self.aggregate_banks[self.active_streams]

    def _has_nothing_to_mask(self, kwargs: dict[str, Any]) -> bool:
        """Return whether a causal mask is enough for all layers, so that no other mask is needed."""
        given = ("attention_mask", "position_ids", "past_key_values")
        if any(kwargs.get(name) is not None for name in given):
            return False
        if self.config._attn_implementation not in ("sdpa", "parscale_sdpa"):
            return False
        kinds = self._layer_types()
        if "sliding_attention" in kinds:
            tokens = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
            window = getattr(self.config, "sliding_window", None)
            if tokens is None or window is None or tokens.shape[1] > window:
                return False
        return kinds <= {"full_attention", "sliding_attention"} and getattr(self.config, "is_causal", True)

    def _layer_types(self) -> set[str]:
        return set(getattr(self.config, "layer_types", None) or ("full_attention",))

    def _for_streams(self, name: str, value: Any) -> Any:
        if self.P == 1 or value is None or name not in _BY_ROW:
            return value
        if isinstance(value, Tensor) and value.shape[0] == 1 and (name == "position_ids" or value.ndim == 4):
            return value  # one row of positions, or one prepared mask, for all
        return _repeat_rows(value, self.P)

    def _aggregated(self, outputs: Any) -> Any:
        hidden = outputs[0]
        streams = hidden.view(self.P, hidden.shape[0] // self.P, *hidden.shape[1:])
        mixed = self.aggregator(streams)
        if isinstance(outputs, tuple):
            return (mixed, *outputs[1:])
        outputs.last_hidden_state = mixed
        if self.mix_hidden_states and outputs.get("hidden_states"):
            outputs.hidden_states = tuple(
                self.aggregator.mix(layer.view_as(streams), streams) for layer in outputs.hidden_states
            )
        logits = getattr(outputs, "router_logits", None)
        if logits:
            # One entry per layer and stream: the balancing loss is a mean over entries, with a padding mask of B rows.
            outputs.router_logits = tuple(part for layer in logits for part in layer.chunk(self.P))
        return outputs

    def _refuse_other_cache(self, kwargs: dict[str, Any]) -> None:
        """Raise ValueError if the cache was filled with another number of streams."""
        layers = getattr(kwargs.get("past_key_values"), "layers", None)
        tokens = kwargs.get("input_ids") if kwargs.get("input_ids") is not None else kwargs.get("inputs_embeds")
        keys = getattr(layers[0], "keys", None) if layers else None
        if tokens is None or not isinstance(keys, Tensor) or keys.ndim != 4 or len(keys) == self.P * len(tokens):
            return
        raise ValueError(
            f"the KV cache has {plural(len(keys), 'row')}, but {plural(self.P, 'stream')} of "
            f"{plural(len(tokens), 'sequence')} need {self.P * len(tokens)}; start a new cache after set_streams"
        )

    def _refuse_other_attention(self) -> None:
        name = self.config._attn_implementation
        if name is None or not name.startswith("parscale_"):
            raise ValueError(
                f"attention {name!r} would ignore the prefixes of the streams; "
                "call model.set_attn_implementation('sdpa')"
            )

    def _verify_prefixes(self, called: list[nn.Module]) -> None:
        """Raise ValueError if a layer did not use its prefix."""
        missed = [m for m in attention_modules(self) if m not in set(called)]
        if missed:
            raise ValueError(
                f"{type(self).__name__}: {len(missed)} of {plural(len(attention_modules(self)), 'layer')} do not use "
                f"transformers' attention interface ({type(missed[0]).__name__}), so prefixes would have no effect"
            )
        self.prefixes_verified = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # transformers does not know the prefixes and would leave them uninitialised.
        if module._parameters.get("prefix_k") is not None:  # not an `OwnBank`, which has those of its owner
            std = getattr(self.config, "initializer_range", 0.02)
            init.normal_(module.prefix_k, std=std)
            init.normal_(module.prefix_v, std=std)

    @contextmanager
    def kept_outputs(self) -> Iterator[None]:
        """Keep the outputs of runs in the body, for `replay`."""
        self.keep_outputs = True
        try:
            yield
        finally:
            self.keep_outputs, self.last_outputs = False, None

    @contextmanager
    def replay(self, hidden: Tensor) -> Iterator[None]:
        """Skip the decoder in the body: it returns the last outputs with `hidden` [B, T, h] in them."""
        self.replayed = copy.copy(self.last_outputs)
        self.replayed.last_hidden_state = hidden
        try:
            yield
        finally:
            self.replayed = None


def _repeat_rows(value: Any, P: int) -> Any:
    """Repeat the rows of a tensor, or of a dict of masks, for P streams, stream-major."""
    if isinstance(value, dict):
        return {name: _repeat_rows(mask, P) for name, mask in value.items()}
    if not isinstance(value, Tensor):
        return value
    return value.repeat(P, *[1] * (value.ndim - 1))
