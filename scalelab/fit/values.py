"""Fitted parameters as numbers with intervals, by name or as a tuple."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, KeysView, ValuesView
from typing import Any

from scalelab.units import format_interval, format_number

Interval = tuple[float, float] | None


class Value(float):
    """A fitted number. `low` and `high` are the ends of its interval, both None without one."""

    low: float | None
    high: float | None

    def __new__(cls, value: float, interval: Interval = None) -> Value:
        """Return `value` with the ends of `interval`."""
        made = super().__new__(cls, value)
        made.low, made.high = interval or (None, None)
        return made

    def __str__(self) -> str:
        value = format_number(self)
        if self.low is None:
            return value
        return f"{value} ({format_interval(self.low, self.high, lambda end: format_number(end, 3))})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Value, (float(self), None if self.low is None else (self.low, self.high))


class Parameters(tuple[float, ...]):
    """The parameters of a fit: a tuple in the law's order, a mapping by name, and attributes.

    ``params.alpha`` and ``params["alpha"]`` are a `Value`, a number with `low` and `high`.
    """

    _names: tuple[str, ...]
    _interval: Callable[[str], Interval]

    def __new__(
        cls,
        values: Iterable[float],
        names: tuple[str, ...] = (),
        interval: Callable[[str], Interval] = lambda name: None,
    ) -> Parameters:
        """Return the parameters `names` with `values`; `interval` gives the interval of one by name."""
        made = super().__new__(cls, (float(value) for value in values))
        made._names, made._interval = names, interval
        return made

    def __getitem__(self, key: Any) -> Any:
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self._names:
            raise KeyError(f"no parameter {key!r}; choose one of {', '.join(self._names)}")
        return Value(super().__getitem__(self._names.index(key)), self._interval(key))

    def __getattr__(self, name: str) -> Value:
        if name.startswith("_") or name not in self._names:
            raise AttributeError(f"no parameter {name!r}; choose one of {', '.join(self.__dict__.get('_names', ()))}")
        return self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._names]

    def keys(self) -> KeysView[str]:
        """Return the names of the parameters."""
        return self.as_dict().keys()

    def values(self) -> ValuesView[Value]:
        """Return the values, with their intervals."""
        return self.as_dict().values()

    def items(self) -> ItemsView[str, Value]:
        """Return pairs of name and value."""
        return self.as_dict().items()

    def as_dict(self) -> dict[str, Value]:
        """Return the values, with their intervals, by name."""
        return {name: self[name] for name in self._names}

    def __repr__(self) -> str:
        return (
            f"({', '.join(f'{name}={value}' for name, value in self.items())})" if self._names else super().__repr__()
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Parameters, (tuple(self), self._names)
