"""What was seen of a model's layers while it ran, and what of it hangs on the length."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from scalelab.errors import ScalelabError


class Matrix(NamedTuple):
    """A weight that a token goes through."""

    inputs: float
    outputs: float
    times: float = 1.0
    source: int = 0  # which tensor it reads


@dataclass
class LayerTrace:
    """One layer's part of a pass over one token, or what lies outside of all layers."""

    matrices: list[Matrix] = field(default_factory=list)  # in order
    experts: dict[int, tuple[Tensor, int]] = field(default_factory=dict)  # weights of all, and how many are chosen
    vectors: dict[int, int] = field(default_factory=dict)  # parameters read otherwise
    scores: float = 0.0  # FLOPs of products without a weight
    kv_width: int | None = None  # keys and values of a token, where attention is transformers' own
    caches: set[int] = field(default_factory=set)  # layers of the cache that it writes
    window: int | None = None  # of its attention, as that says
    query_width: float | None = None  # where several tokens are kept as one, behind a window


class UnevenError(ScalelabError):
    """Something does not grow by the same from each token that is watched to the next."""


@dataclass
class ModelTrace:
    """What a token runs through when `length` tokens stand before and with it, and what the cache holds."""

    length: int
    outside: LayerTrace
    layers: list[LayerTrace]  # of the layers, in order
    scores_growth: list[float]  # FLOPs that each more token before adds to a layer
    kept: list[float]  # numbers that each more token adds to a layer of the cache
    states: list[float]  # numbers there that do not grow; before `separate_growth`, all
    windows: list[int | None]
    tables: dict[int, int]  # parameters that rows were looked up in: their number

    def separate_growth(self, first: int) -> None:
        """Tells what grows from what does not, the first token that was watched being the `first`.

        Of a layer that keeps a window that was full by then and nothing else, all was keys and values. What
        another keeps beside such a window grows more slowly than tokens come, and the window is a state.
        """
        self.states = [now - grown * self.length for now, grown in zip(self.states, self.kept, strict=True)]
        full = [window is not None and window < first for window in self.windows]
        for i, layer in enumerate(self.layers):
            for c in (c for c in layer.caches if full[c]):
                window = self.windows[c] or 1
                if self.scores_growth[i] or self.kept[c] or len(layer.caches) > 1:
                    within = layer.scores - self.scores_growth[i] * self.length
                    layer.query_width = within / 4 / window  # two products, of a multiplication and a sum each
                    self.windows[c] = None
                    continue
                if self.states[c] != (layer.kv_width or 0) * (window - 1):
                    raise ScalelabError(f"layer {i} keeps other things beside a window of {window:,} keys")
                self.scores_growth[i] = layer.scores / window
                self.kept[c] = self.states[c] / max(1, window - 1)  # the oldest made room for the next
                self.states[c], layer.scores = 0.0, self.scores_growth[i] * self.length
