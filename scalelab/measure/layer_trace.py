"""Traces of a model's layers: weights read, FLOPs and cached numbers of one token, split by growth with length."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from scalelab.errors import ScalelabError


class Matrix(NamedTuple):
    """A weight matrix that a token is multiplied by."""

    inputs: float
    outputs: float
    times: float = 1.0
    source: int = 0  # id of the tensor that it is multiplied by


@dataclass
class LayerTrace:
    """Work of one layer for one token; also used for everything outside the layers."""

    matrices: list[Matrix] = field(default_factory=list)  # in order of use
    experts: dict[int, tuple[Tensor, int]] = field(default_factory=dict)  # stacked weights, number of chosen experts
    vectors: dict[int, int] = field(default_factory=dict)  # number of parameters read other than by matrix products
    scores: float = 0.0  # FLOPs of products without a weight
    kv_width: int | None = None  # keys and values of a token, if attention goes through transformers' interface
    caches: set[int] = field(default_factory=set)  # indices of the cache layers that it writes
    window: int | None = None  # sliding window of its attention
    query_width: float | None = None  # if several tokens share one key and recent tokens have a window


class UnevenError(ScalelabError):
    """A quantity does not grow by a constant amount per token."""


@dataclass
class ModelTrace:
    """Work and cache of one token at sequence length `length` (tokens before it plus itself)."""

    length: int
    outside: LayerTrace
    layers: list[LayerTrace]  # in order
    scores_growth: list[float]  # extra FLOPs per layer for each earlier token
    kept: list[float]  # numbers added to each cache layer per token
    states: list[float]  # numbers in each cache layer; after `separate_growth`, only those that do not grow
    windows: list[int | None]
    tables: dict[int, int]  # number of parameters of each embedding table

    def separate_growth(self, first: int) -> None:
        """Separate what grows with the sequence length from what does not, in place.

        If a layer only stores a window that is full, everything it stores is keys and values. If it stores more
        besides a window, the rest grows by less than one key per token, and the window is a state.

        Args:
            first: Sequence length at the first observed token.

        Raises:
            ScalelabError: A layer stores something else besides a full window.
        """
        self.states = [now - grown * self.length for now, grown in zip(self.states, self.kept, strict=True)]
        full = [window is not None and window < first for window in self.windows]
        for i, layer in enumerate(self.layers):
            for c in (c for c in layer.caches if full[c]):
                window = self.windows[c] or 1
                if self.scores_growth[i] or self.kept[c] or len(layer.caches) > 1:
                    within = layer.scores - self.scores_growth[i] * self.length
                    layer.query_width = within / 4 / window  # two products, each of a multiplication and a sum
                    self.windows[c] = None
                    continue
                if self.states[c] != (layer.kv_width or 0) * (window - 1):
                    raise ScalelabError(f"layer {i} stores something else besides its window of {window:,} keys")
                self.scores_growth[i] = layer.scores / window
                self.kept[c] = self.states[c] / max(1, window - 1)  # the oldest key makes room for the next
                self.states[c], layer.scores = 0.0, self.scores_growth[i] * self.length
