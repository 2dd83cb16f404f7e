"""Qwen2 with parallel streams, in the format of the released ParScale checkpoints."""

# torch types every attribute of a module as Tensor | Module, so these rules say nothing here.
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# pyright: reportOptionalMemberAccess=false, reportGeneralTypeIssues=false, reportReturnType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, Qwen2Config, Qwen2ForCausalLM, Qwen2Model
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPast

from scalelab.model.aggregate import Aggregator
from scalelab.model.attention import attention_name


class Qwen2ParScaleConfig(Qwen2Config):
    """A Qwen2 config with the three keys of the released checkpoints."""

    model_type = "qwen2_parscale"

    parscale_n: int = 1
    parscale_n_tokens: int = 48
    parscale_attn_smooth: float = 0.01


class _Streams:
    """What both classes below share: a guarded attention implementation, and initialisation."""

    config: Qwen2ParScaleConfig

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        # The library knows nothing of the prefixes and would leave them as memory was found.
        if hasattr(module, "prefix_k"):
            init.normal_(module.prefix_k, std=self.config.initializer_range)
            init.normal_(module.prefix_v, std=self.config.initializer_range)

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs: Any) -> None:
        if self.config.parscale_n > 1 and isinstance(attn_implementation, str):
            attn_implementation = attention_name(attn_implementation)
        super().set_attn_implementation(attn_implementation, **kwargs)  # type: ignore[misc]


class Qwen2ParScaleModel(_Streams, Qwen2Model):
    """The decoder: inputs repeated P times, hidden states aggregated. P = 1 is plain Qwen2."""

    config: Qwen2ParScaleConfig

    def __init__(self, config: Qwen2ParScaleConfig) -> None:
        super().__init__(config)
        self.P = P = config.parscale_n
        if P == 1:
            return
        config._attn_implementation = attention_name(config._attn_implementation)
        for layer in self.layers:
            attention = layer.self_attn
            shape = (P, config.num_key_value_heads, config.parscale_n_tokens, attention.head_dim)
            attention.prefix_k = nn.Parameter(torch.empty(shape))
            attention.prefix_v = nn.Parameter(torch.empty(shape))
            attention._is_hf_initialized = False
        self.aggregate_layer = Aggregator(config.hidden_size, P, config.parscale_attn_smooth)
        self.init_weights()

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | dict[str, Tensor | None] | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As `Qwen2Model.forward`: ids [B, T] in, aggregated `last_hidden_state` [B, T, h] out.

        The cache holds P·B rows, stream-major.
        """
        if self.P > 1 and not self.config._attn_implementation.startswith("parscale_"):
            raise ValueError(
                f"attention {self.config._attn_implementation!r} would leave the streams' prefixes out; "
                "change it with model.set_attn_implementation"
            )
        if position_ids is not None and position_ids.shape[0] > 1:  # one row broadcasts
            position_ids = self._repeat(position_ids)
        outputs = super().forward(
            input_ids=self._repeat(input_ids),
            attention_mask=self._repeat(attention_mask),
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=self._repeat(inputs_embeds),
            **kwargs,
        )
        if self.P > 1:
            hidden = outputs.last_hidden_state
            streams = hidden.view(self.P, hidden.shape[0] // self.P, *hidden.shape[1:])
            outputs.last_hidden_state = self.aggregate_layer(streams)
        return outputs

    def _repeat(self, value: Any) -> Any:
        """Rows of `value` for P streams, stream-major; a dict of prepared masks mask by mask."""
        if isinstance(value, dict):
            return {name: self._repeat(mask) for name, mask in value.items()}
        if value is None or self.P == 1:
            return value
        return value.repeat(self.P, *[1] * (value.ndim - 1))


class Qwen2ParScaleForCausalLM(_Streams, Qwen2ForCausalLM):
    """Loads, trains and saves checkpoints of model_type ``qwen2_parscale``."""

    config_class = Qwen2ParScaleConfig
    config: Qwen2ParScaleConfig

    def __init__(self, config: Qwen2ParScaleConfig) -> None:
        super(Qwen2ForCausalLM, self).__init__(config)
        self.model = Qwen2ParScaleModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _reorder_cache(self, cache: Cache, beam_idx: Tensor) -> Cache:
        """Beam search permutes B rows; every stream's rows move alike."""
        P = self.config.parscale_n
        offsets = torch.arange(P, device=beam_idx.device).repeat_interleave(len(beam_idx)) * len(beam_idx)
        cache.reorder_cache(beam_idx.repeat(P) + offsets)
        return cache
