"""What workers need, imported: for the server that they are forked from, whose first seconds everything waits for."""

import gc
import os
from importlib import import_module

# The slow ones by themselves, so that the server of a command that has ended meanwhile does not go on for long.
_STAGES = ("torch", "transformers", "scalelab.model", "scalelab.sweep.perform")


def _import_all() -> None:
    parent = os.getppid()
    # The hundreds of thousands of objects that importing makes stay: to look at them again and again takes a
    # fifth of the time. Frozen, they are passed over in workers too, whose memory stays shared with the server's.
    gc.disable()
    try:
        for name in _STAGES:
            if os.getppid() != parent:
                raise SystemExit(1)
            import_module(name)
    finally:
        gc.freeze()
        gc.enable()


_import_all()
