"""Plans of (N, P) to train and serve within limits, from a fitted law and a cost model."""

from scalelab.plan.answer import Plan, make_plan
from scalelab.plan.problem import Limits, Problem
from scalelab.plan.shapes import SHAPES, Shapes

__all__ = ["SHAPES", "Limits", "Plan", "Problem", "Shapes", "make_plan"]
