"""Decoders that run their layers several times in a row with the same weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class LoopedLayers(nn.Module):
    """Layers of a decoder, as one layer that runs all of them `loops` times.

    Nothing is added between the passes: the second starts from the hidden states that the first ends with. The passes
    share prefixes too. There is no KV cache, since each pass would need its own.
    """

    def __init__(self, layers: nn.ModuleList, loops: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)  # not a list, so that compiling treats all passes as one layer
        self.loops = loops

    def forward(self, hidden: Tensor, **kwargs: Any) -> Tensor:
        """Return the hidden states [rows, T, h] after the last pass.

        Raises:
            ValueError: There is a KV cache.
        """
        if kwargs.get("past_key_values") is not None:
            raise ValueError("a model with loops has no KV cache; pass use_cache=False")
        for _ in range(self.loops):
            for layer in self.layers:
                hidden = layer(hidden, **kwargs)
        return hidden


def loop_layers(model: Any, loops: int) -> None:
    """Make the decoder of `model`, whose layers are all alike, run them `loops` times."""
    decoder = model.get_decoder()
    decoder.layers = nn.ModuleList([LoopedLayers(decoder.layers, loops)])
    model.config.use_cache = False
    model.generation_config.use_cache = False
