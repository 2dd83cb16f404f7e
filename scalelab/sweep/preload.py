"""Imports that workers need, for the server that they are forked from; a sweep waits for them at its start."""

import gc
import os
from importlib import import_module

from scalelab.import_logs import quiet_imports

# In parts, so that the server stops soon if its command has ended meanwhile.
_MODULES = ("torch", "transformers", "scalelab.model", "scalelab.sweep.task_runner")


def _import_all() -> None:
    parent = os.getppid()
    quiet_imports()
    # Imports create hundreds of thousands of objects that stay; collecting garbage among them takes a fifth of the
    # time. Frozen objects are also skipped in workers, whose memory then stays shared with the server's.
    gc.disable()
    try:
        for name in _MODULES:
            if os.getppid() != parent:
                raise SystemExit(1)
            import_module(name)
    finally:
        gc.freeze()
        gc.enable()


_import_all()
