"""Names of files made from words that a table or a person chose."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container

_LONGEST = 120  # bytes; file systems allow 255, and endings and temporary names come on top


def slug(text: str, taken: Container[str] = ()) -> str:
    """Return `text` as part of a file name, different from all that are `taken`."""
    base = short_name(re.sub(r"[^\w.]+", "-", text.lower()).strip("-.") or "records")
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def short_name(name: str, longest: int = _LONGEST) -> str:
    """Return `name`, cut to `longest` bytes of UTF-8 and completed by a digest where it is longer."""
    content = name.encode()
    if len(content) <= longest:
        return name
    digest = hashlib.sha256(content).hexdigest()[:8]
    return f"{content[: longest - len(digest) - 1].decode(errors='ignore').rstrip('-.')}-{digest}"
