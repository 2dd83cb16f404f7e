"""Gives every Trainer of transformers a `StreamsCallback`.

Importing the Trainer takes seconds, which commands without it should not pay. So the callback is added to its list of
default callbacks when it is imported, by a finder in `sys.meta_path`.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_TRAINER = "transformers.trainer"


def add_to_trainers() -> None:
    """Add the callback to all Trainers that are created from now on, also if their module is imported later."""
    if _TRAINER in sys.modules:
        _add_callback(sys.modules[_TRAINER])
    elif not any(isinstance(finder, _TrainerFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TrainerFinder())


class _TrainerFinder(MetaPathFinder):
    """Finds the module of the Trainer as usual; its loader adds the callback."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == _TRAINER else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_add(module: ModuleType) -> None:
            execute(module)
            _add_callback(module)

        spec.loader.exec_module = execute_and_add
        return spec


def _add_callback(module: Any) -> None:
    from scalelab.model.trainer import StreamsCallback

    callbacks = getattr(module, "DEFAULT_CALLBACKS", None)  # each Trainer copies it
    if isinstance(callbacks, list) and StreamsCallback not in callbacks:
        callbacks.append(StreamsCallback)
