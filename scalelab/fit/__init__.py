"""Fit laws to records."""

from scalelab.fit.core import fit_group
from scalelab.fit.groups import CONVENTIONS, Group, group_records
from scalelab.fit.result import FitResult, Note, load_fit

__all__ = ["CONVENTIONS", "FitResult", "Group", "Note", "fit_group", "group_records", "load_fit"]
