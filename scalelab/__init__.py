"""scalelab: how many parameters N and parallel streams P to train and serve, and how sure.

Everything here is imported when it is first used: ``import scalelab as sl``, then ``sl.fit_law("paper")``.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
