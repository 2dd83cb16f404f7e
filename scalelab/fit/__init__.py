"""Fit laws to records.

The names in `_LATE` need pandas, pyarrow and SciPy, whose import takes longer than loading and using a saved fit, so
they are imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from scalelab.fit.data import CONVENTIONS
from scalelab.fit.options import FitOptions
from scalelab.fit.result import FitResult, Note
from scalelab.fit.saved import load_fit, save_fit

if TYPE_CHECKING:
    from scalelab.fit.core import fit_group
    from scalelab.fit.groups import Group, group_records

_LATE = {"fit_group": "scalelab.fit.core", "Group": "scalelab.fit.groups", "group_records": "scalelab.fit.groups"}

__all__ = [
    "CONVENTIONS",
    "FitOptions",
    "FitResult",
    "Group",
    "Note",
    "fit_group",
    "group_records",
    "load_fit",
    "save_fit",
]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATE[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
