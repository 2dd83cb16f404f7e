"""Find the N and D that reach a loss at the lowest cost of training and serving, for many parameters of a law at once.

At a loss L and a number of streams P, every N above a smallest one has one D(N), which falls with N. So the search is
over N alone. Shapes: r rows of parameters, s numbers of served tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scalelab.laws.base import Array, Law, Points
from scalelab.laws.terms import Power, SumLaw

_MANY = 1e200  # tokens or parameters without end
_LARGEST = 140.0  # ln of the largest N and D that are searched
_STEPS = 90  # of a bisection over ln N or ln D, to rounding
_COARSE, _GOLDEN = 32, 40  # points of the first grid, steps of golden section after it
_RATIO = (np.sqrt(5.0) - 1) / 2
_NEAREST, _FARTHEST = 1e-5, 60.0  # range of ln(N / smallest N)

Cost = Callable[[Array], Array]  # of one served token at N [r, s]
TrainCost = Callable[[Array, Array], Array]  # of training N [r, s] on D [r, s]


@dataclass(frozen=True)
class LawDraws:
    """A law with its parameters [k] and draws of them [n, k], n = 0 without draws.

    A list of these is a mixture of laws, if each has draws in proportion to its weight.
    """

    law: Law
    params: Array
    draws: Array


@dataclass(frozen=True)
class Optimum:
    """N, D and the costs of training and serving, [r, s] each; infinite where the loss is out of reach."""

    N: Array
    D: Array
    training: Array
    serving: Array

    @property
    def total(self) -> Array:
        """Cost of training and serving."""
        return self.training + self.serving


class Search:
    """The models with P streams that reach a loss, for each row of a law's parameters.

    `smallest` [r] is the N that reaches the loss with endless tokens, infinite if no N does. `train_best` [r] is the N
    with the lowest N·D, Chinchilla's optimum of that loss.
    """

    def __init__(self, law: Law, params: Array, P: int, loss: float) -> None:
        self._law, self._params, self._P, self._loss = law, params, float(P), loss
        self._power = _power_of_tokens(law)
        self.smallest = self._smallest()
        self._reached = np.isfinite(self.smallest)
        self._base = np.where(self._reached, self.smallest, 1.0)[:, None]
        if self._power is not None and not self._power_is_exact():
            self._power = None
        ends = np.log([_NEAREST, _FARTHEST])
        low, high = (np.full((len(params), 1), end) for end in ends)
        ln_u = _lowest(lambda v: self._size(v) * self.tokens(self._size(v)), low, high)
        self.train_best = np.where(self._reached, self._size(ln_u)[:, 0], np.inf)

    def losses(self, N: Array, D: Array | float) -> Array:
        """Return the loss [r, s] at N [r, s] and D."""
        N, D, P = np.broadcast_arrays(N, D, self._P)
        with np.errstate(all="ignore"):  # a law may be undefined at P, and vanish at the ends of the search
            return self._law.loss(self._params, Points(N, P, D))

    def tokens(self, N: Array) -> Array:
        """Return the D [r, s] with which N [r, s] reaches the loss; infinite if none does."""
        if self._power is not None:
            with np.errstate(all="ignore"):
                excess = self._loss - self.losses(N, _MANY)
                scale, exponent = (self._params[:, i, None] for i in self._power)
                return np.where(excess > 0, scale * np.maximum(excess, 0.0) ** (-1 / exponent), np.inf)
        low, high = np.zeros(np.shape(N)), np.full(np.shape(N), _LARGEST)
        out = ~(self.losses(N, np.exp(high)) <= self._loss)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            above = self.losses(N, np.exp(middle)) > self._loss
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(out, np.inf, np.exp(high))

    def optimum(self, served: Array, train: TrainCost, serve: Cost, largest: float = np.inf) -> Optimum:
        """Return the cheapest N up to `largest`, and D, for numbers of `served` tokens [s].

        The cost of a served token must rise with N: then the best N lies between `smallest` and `train_best`.
        """
        shape = (len(self._params), len(served))
        with np.errstate(all="ignore"):
            most = np.log(np.minimum(np.where(self._reached, self.train_best, 1.0), largest)[:, None] / self._base)
        reached = self._reached[:, None] & (most > 0)
        most = np.where(reached, most, 1.0)
        ends = (np.log(most) + np.zeros(shape) + change for change in (np.log(_NEAREST), 0.0))

        def total(v: Array) -> Array:
            N = self._size(v)
            return train(N, self.tokens(N)) + served * serve(N)

        N = self._size(_lowest(total, *ends))
        return self.at(np.where(reached, N, np.inf), served, train, serve)

    def at(self, N: Array, served: Array, train: TrainCost, serve: Cost) -> Optimum:
        """Return D and the costs of the sizes N [r, s]; infinite where N is."""
        known = np.isfinite(N)
        size = np.where(known, N, self._base * 2)
        D = self.tokens(size)
        parts = (D, train(size, D), served * serve(size))
        return Optimum(N, *(np.where(known, part, np.inf) for part in parts))

    def _size(self, ln_u: Array) -> Array:
        return self._base * np.exp(np.exp(ln_u))

    def _smallest(self) -> Array:
        rows = (len(self._params), 1)
        low, high = np.zeros(rows), np.full(rows, _LARGEST)
        out = ~(self.losses(np.exp(high), _MANY) < self._loss)  # also where the law is undefined
        for _ in range(_STEPS):
            middle = (low + high) / 2
            above = self.losses(np.exp(middle), _MANY) >= self._loss
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.where(out, np.inf, np.exp(high))[:, 0]

    def _power_is_exact(self) -> bool:
        """Return whether the term in D is the only one that depends on D."""
        N = self._base * 2
        D = self.tokens(N)
        known = self._reached[:, None] & np.isfinite(D)
        return bool(np.all(np.abs(self.losses(N, D) - self._loss)[known] < 1e-9))


def floor_at(law: Law, params: Array, P: int) -> float:
    """Return the loss of endless N and D with P streams."""
    with np.errstate(all="ignore"):
        return float(law.loss(params, Points(np.array([_MANY]), np.array([float(P)]), np.array([_MANY])))[0])


def _power_of_tokens(law: Law) -> tuple[int, int] | None:
    """Return the places of B and β if the law has a term (B/D)^β, which can be solved for D."""
    if not isinstance(law, SumLaw):
        return None
    for term in law.terms:
        if isinstance(term, Power) and term.variable == "D":
            scale, exponent = (law.names.index(p.name) for p in term.parameters)
            return scale, exponent
    return None


def _lowest(f: Cost, low: Array, high: Array) -> Array:
    """Return where f is lowest between `low` and `high`: the best of a grid, then golden section around it."""
    best, where = np.full(low.shape, np.inf), low
    step = (high - low) / (_COARSE - 1)
    for i in range(_COARSE):
        x = low + i * step
        with np.errstate(all="ignore"):
            value = f(x)
        better = value < best
        best, where = np.where(better, value, best), np.where(better, x, where)
    low, high = np.maximum(low, where - step), np.minimum(high, where + step)
    for _ in range(_GOLDEN):
        left, right = high - _RATIO * (high - low), low + _RATIO * (high - low)
        with np.errstate(all="ignore"):
            falls = f(left) > f(right)
        low, high = np.where(falls, left, low), np.where(falls, high, right)
    return (low + high) / 2
