"""Scaling laws as pure functions of N, P and D."""

from scalelab.laws.base import Law, Parameter, Points
from scalelab.laws.custom import get_law
from scalelab.laws.library import LAWS

__all__ = ["LAWS", "Law", "Parameter", "Points", "get_law"]
