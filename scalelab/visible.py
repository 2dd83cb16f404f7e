"""Text made safe to print: characters that control a terminal or a page become replacement characters."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_ACTED_ON = ("Cc", "Cs", "Zl", "Zp")  # control characters, lone surrogates, line and paragraph separators
_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def visible(text: str, keep: str = "\n\t") -> str:
    """Return `text` with control and direction characters replaced, except those in `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(REPLACEMENT if _is_acted_on(c) and c not in keep else c for c in text)


def _is_acted_on(character: str) -> bool:
    return unicodedata.category(character) in _ACTED_ON or character in _DIRECTIONS


def shortened(text: str, longest: int = 40) -> str:
    """Return `text`, its middle left out where it is longer than `longest` characters."""
    if len(text) <= longest:
        return text
    head = (longest - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"
