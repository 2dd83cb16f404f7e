"""The `scalelab` command."""

from scalelab.cli.main import main

__all__ = ["main"]
