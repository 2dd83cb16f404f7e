"""scalelab: how many parameters N and parallel streams P to train and serve, and how sure."""

__version__ = "0.1.0"
