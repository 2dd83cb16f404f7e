"""Fit laws to records."""

from scalelab.fit.core import fit_group
from scalelab.fit.data import CONVENTIONS
from scalelab.fit.groups import Group, group_records
from scalelab.fit.options import FitOptions
from scalelab.fit.result import FitResult, Note
from scalelab.fit.saved import load_fit, save_fit

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
