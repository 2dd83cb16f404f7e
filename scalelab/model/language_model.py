"""Causal language model with banks of streams: selects the active bank and lists its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig

from scalelab.aggregation import get_aggregation
from scalelab.model.adapters import refuse_unsaved_streams
from scalelab.model.attention import attention_name
from scalelab.model.banks import (
    ONLY_BANK,
    OwnBank,
    PrefixBank,
    active_bank,
    add_prefix_parameters,
    attention_modules,
    bank_of,
    bank_sizes,
    kv_shapes,
    restore_own_bank,
)

# Patterns of the names of aggregators, as quantisers compare them with the beginning of a name.
AGGREGATORS = (r".*\.aggregate_layer", r".*\.aggregate_banks")


class StreamedLM(nn.Module):
    """Mix-in for a causal language model of transformers."""

    config: PreTrainedConfig

    @classmethod
    def is_custom_code(cls) -> bool:
        """Return False: transformers does not initialise some parts of custom models on loading."""
        return False

    @property
    def P(self) -> int:
        """Number of active streams."""
        return self.get_decoder().P

    @property
    def mix_hidden_states(self) -> bool:
        """True if `output_hidden_states` gives aggregated states [B, T, h]; by default they are [P·B, T, h].

        All layers are aggregated with the weights of the final states, so the last one is what the head sees.
        """
        return self.get_decoder().mix_hidden_states

    @mix_hidden_states.setter
    def mix_hidden_states(self, value: bool) -> None:
        self.get_decoder().mix_hidden_states = value

    @property
    def banks(self) -> dict[int, int]:
        """Banks of the model as {P: prefix tokens}."""
        return bank_sizes(self.config)

    def set_streams(self, P: int) -> None:
        """Activate the bank of P streams; P = 1 without a bank is the plain backbone.

        Existing KV caches become invalid.

        Raises:
            ValueError: The model has no such bank; the message lists its banks.
        """
        if type(P) is not int or P < 1:
            raise ValueError(f"P must be a whole number of at least 1, not {P!r}")
        if P not in self.banks and P != 1:
            have = ", ".join(map(str, self.banks)) or "none"
            raise ValueError(
                f"the model has no bank of {P} streams (banks: {have}); add it with add_streams(model, {P})"
            )
        name = None if P not in self.banks else str(P) if self.config.parscale_banks else ONLY_BANK
        self._activate(name, P)
        self.config.parscale_active = None if self.config.parscale_n == P else P

    def _activate(self, name: str | None, P: int) -> None:
        decoder = self.get_decoder()
        for module in (decoder, *attention_modules(decoder)):
            module.active_streams = name
        decoder.P = P

    @contextmanager
    def plain(self) -> Iterator[None]:
        """Run only the backbone in the body, even if there is a bank for P = 1."""
        decoder = self.get_decoder()
        before, P = decoder.active_streams, decoder.P
        self._activate(None, 1)
        try:
            yield
        finally:
            self._activate(before, P)

    def create_banks(self) -> None:
        """Create uninitialised parameters for all declared banks that the model lacks."""
        config, decoder = self.config, self.get_decoder()
        modules = attention_modules(decoder)
        for module, shape in zip(modules, kv_shapes(config, len(modules)), strict=True):
            like = _floating_parameter(module, decoder)
            for P, n_tokens in self.banks.items():
                if not config.parscale_banks:
                    add_prefix_parameters(module, P, n_tokens, shape, like)
                    module.prefix_bank = OwnBank(module)
                elif str(P) not in _module_dict(module, "prefix_banks"):
                    module.prefix_banks[str(P)] = PrefixBank(P, n_tokens, *shape, like=like)
        like = _floating_parameter(decoder)
        for P in self.banks:
            if P == 1 or str(P) in getattr(decoder, "aggregate_banks", ()):
                continue
            aggregator = get_aggregation(config.parscale_aggregation).create_module(
                config.hidden_size, P, config.parscale_attn_smooth
            )
            aggregator.to(like.device, like.dtype)
            if config.parscale_banks:
                _module_dict(decoder, "aggregate_banks")[str(P)] = aggregator
            else:
                decoder.aggregate_layer = aggregator

    def convert_to_bank_dict(self) -> None:
        """Convert from the released layout for one bank to the layout for several."""
        if self.config.parscale_banks is not None:
            return
        ((P, n_tokens),) = self.banks.items()
        decoder = self.get_decoder()
        for module in attention_modules(decoder):
            restore_own_bank(module)
            bank = bank_of(module.prefix_k, module.prefix_v)
            del module.prefix_k, module.prefix_v, module.prefix_bank
            _module_dict(module, "prefix_banks")[str(P)] = bank
        _module_dict(decoder, "aggregate_banks")[str(P)] = decoder.aggregate_layer
        del decoder.aggregate_layer
        self.config.parscale_banks = {str(P): n_tokens}
        self.set_streams(self.P)

    def stream_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield names and parameters of the active bank: prefixes and aggregator."""
        decoder = self.get_decoder()
        for module in attention_modules(decoder):
            restore_own_bank(module)
        held = {id(p) for p in (decoder.aggregator.parameters() if decoder.aggregator is not None else ())}
        for module in attention_modules(decoder):
            bank = active_bank(module)
            if bank is not None:
                held |= {id(bank.prefix_k), id(bank.prefix_v)}
        yield from ((name, p) for name, p in self.named_parameters() if id(p) in held)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return the state.

        Raises:
            ValueError: PEFT has been applied, and trained parameters of streams would be missing from its adapter.
        """
        for module in attention_modules(self.get_decoder()):
            restore_own_bank(module)
        if getattr(self, "peft_config", None):
            refuse_unsaved_streams(self)
        return super().state_dict(*args, **kwargs)

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Raise ValueError if the model has banks: the paged cache has one sequence for each request."""
        if self.banks:
            raise ValueError(
                "continuous batching is not supported with streams: its cache has one sequence for each request, and "
                "streams need P; use generate(), or serve without it"
            )
        return super().init_continuous_batching(*args, **kwargs)

    def _get_dtype_plan(self, dtype: torch.dtype) -> dict[str, torch.dtype]:
        """Return the plan of the base class; aggregators have the dtype of the model, though quantisers skip them."""
        return {name: kind for name, kind in super()._get_dtype_plan(dtype).items() if name not in AGGREGATORS}

    def set_attn_implementation(self, attn_implementation: str | dict, **kwargs: Any) -> None:
        """Set the attention implementation. Raises ValueError for one that would ignore the prefixes."""
        if self.banks and isinstance(attn_implementation, str):
            attn_implementation = attention_name(attn_implementation)
        super().set_attn_implementation(attn_implementation, **kwargs)

    def _reorder_cache(self, cache: Cache, beam_idx: Tensor) -> Cache:
        """Apply beam search's permutation of B rows to the rows of every stream."""
        offsets = torch.arange(self.P, device=beam_idx.device).repeat_interleave(len(beam_idx)) * len(beam_idx)
        cache.reorder_cache(beam_idx.repeat(self.P) + offsets)
        return cache


def _floating_parameter(*modules: nn.Module) -> nn.Parameter:
    """Return the first parameter that is not quantised, for the dtype and device of new ones."""
    return next(p for module in modules for p in module.parameters() if p.is_floating_point())


def _module_dict(module: nn.Module, name: str) -> nn.ModuleDict:
    if not hasattr(module, name):
        setattr(module, name, nn.ModuleDict())
    return getattr(module, name)
