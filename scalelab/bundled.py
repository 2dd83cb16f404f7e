"""Files of the repository that are part of the installed package too: shipped specs and measured tables."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parent


def bundled(name: str) -> Path:
    """Return the path of a file or folder, named from the repository's root: ``sweeps/smoke.yaml``.

    A wheel holds copies below ``scalelab/_bundled``: see ``tool.hatch.build.targets.wheel.sources`` in pyproject.toml.
    In a checkout, which an editable install uses, the files are read where they are.
    """
    copies = _PACKAGE / "_bundled"
    return (copies if copies.is_dir() else _PACKAGE.parent) / name
