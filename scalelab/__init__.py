"""Scaling laws over parameters N and parallel streams P: sweeps, fits with uncertainty, inference costs, plans.

Names are imported on first use: ``import scalelab as sl``, then ``sl.fit_law("paper")``.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
