"""What streams add around a decoder: inputs repeated before it, hidden states mixed after it."""

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

# Arguments of a decoder that have one row a sequence.
_BY_ROW = ("input_ids", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids")


class StreamedDecoder(nn.Module):
    """Mixed into a decoder of transformers, in front of its own class.

    `P` and the active banks are set by `StreamedLM.set_streams`.
    """

    config: PreTrainedConfig
    argument_names: tuple[str, ...]  # of the base's forward
    accepts_mask_dict = False  # the base's forward takes a dictionary of prepared masks, by kind of layer
    P = 1
    active_streams: str | None = None  # the bank in use, see `banks.active_bank`
    prefixes_verified = False  # every layer was seen to use its prefix
    replayed: Any = None
    last_outputs: Any = None  # of the last run, as a shape for `replay`; only while `keep_outputs`
    keep_outputs = False

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: on loading, transformers treats parts of custom models as done that it would initialise."""
        return False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the base's: ids [B, T] in, mixed `last_hidden_state` [B, T, h] out.

        The cache, and hidden states and attentions where asked for, hold P·B rows, stream-major.
        """
        if self.replayed is not None:
            return self.replayed
        kwargs = dict(zip(self.argument_names, args, strict=False)) | kwargs
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
        """Whether a bank is in use: with P > 1, or with a trained prefix at P = 1."""
        return self.active_streams is not None

    @property
    def aggregator(self) -> nn.Module | None:
        """What mixes the streams in use; None for P = 1."""
        if self.P == 1:
            return None
        return self.aggregate_layer if self.active_streams == ONLY_BANK else self.aggregate_banks[self.active_streams]

    def _has_nothing_to_mask(self, kwargs: dict[str, Any]) -> bool:
        """Return true if causality is all that the layers need, so that no mask has to be made or looked for."""
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
            return value  # one row of positions, or one prepared mask, serves all
        return _repeat_rows(value, self.P)

    def _aggregated(self, outputs: Any) -> Any:
        hidden = outputs[0]
        streams = hidden.view(self.P, hidden.shape[0] // self.P, *hidden.shape[1:])
        mixed = self.aggregator(streams)
        if isinstance(outputs, tuple):
            return (mixed, *outputs[1:])
        outputs.last_hidden_state = mixed
        logits = getattr(outputs, "router_logits", None)
        if logits:
            # One entry a layer and stream, so that the balancing loss, a mean over entries, counts
            # each router once and its padding mask of B rows fits.
            outputs.router_logits = tuple(part for layer in logits for part in layer.chunk(self.P))
        return outputs

    def _refuse_other_attention(self) -> None:
        name = self.config._attn_implementation
        if name is None or not name.startswith("parscale_"):
            raise ValueError(
                f"attention {name!r} would leave the streams' prefixes out; "
                "change it with model.set_attn_implementation"
            )

    def _verify_prefixes(self, called: list[nn.Module]) -> None:
        """A model whose prefixes have no effect must be impossible."""
        missed = [m for m in attention_modules(self) if m not in set(called)]
        if missed:
            raise ValueError(
                f"{type(self).__name__}: {len(missed)} of {plural(len(attention_modules(self)), 'layer')} without the "
                f"attention interface of transformers ({type(missed[0]).__name__}): their prefixes would have no effect"
            )
        self.prefixes_verified = True

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # The library knows nothing of the prefixes and would leave them as memory was found.
        if isinstance(getattr(module, "prefix_k", None), nn.Parameter):
            std = getattr(self.config, "initializer_range", 0.02)
            init.normal_(module.prefix_k, std=std)
            init.normal_(module.prefix_v, std=std)

    @contextmanager
    def kept_outputs(self) -> Iterator[None]:
        """Within, `replay` can stand in for the last run."""
        self.keep_outputs = True
        try:
            yield
        finally:
            self.keep_outputs, self.last_outputs = False, None

    @contextmanager
    def replay(self, hidden: Tensor) -> Iterator[None]:
        """Within, the decoder does not run: the head gets `hidden` [B, T, h] in the last run's output."""
        self.replayed = copy.copy(self.last_outputs)
        self.replayed.last_hidden_state = hidden
        try:
            yield
        finally:
            self.replayed = None


def _repeat_rows(value: Any, P: int) -> Any:
    """Rows of `value` for P streams, stream-major; a dict of prepared masks mask by mask."""
    if isinstance(value, dict):
        return {name: _repeat_rows(mask, P) for name, mask in value.items()}
    if not isinstance(value, Tensor):
        return value
    return value.repeat(P, *[1] * (value.ndim - 1))
