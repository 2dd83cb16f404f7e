"""Digest of the source code, for records."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import scalelab


@cache
def source_digest() -> str:
    """Return a hash of this package's source files, 16 hex digits."""
    folder = Path(scalelab.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
