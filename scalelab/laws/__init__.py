"""Scaling laws as pure functions of (N, P)."""

from scalelab.laws.base import Law, Parameter, Points
from scalelab.laws.parallel import ParallelLaw

__all__ = ["Law", "ParallelLaw", "Parameter", "Points"]
