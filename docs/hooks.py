"""Hooks of `mkdocs build`: equations as MathML, the law explorer, and no page that asks the network for anything."""

from __future__ import annotations

import html
import re
from functools import cache

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_FETCHED = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\bsrc="(?:https?:)?//|<link\b[^>]*rel="(?:stylesheet|preconnect)"[^>]*href="(?:https?:)?//'
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files with explorer.html, the explorer of the paper's fits."""
    files.append(File.generated(config, "explorer.html", content=_explorer()))
    return files


@cache
def _explorer() -> str:
    from scalelab.page.explorer import explorer_page
    from scalelab.serve.sources import fits_of

    return explorer_page(fits_of("paper")[0])


def on_page_content(content: str, **_: object) -> str:
    """Return the page with its equations as MathML, which browsers draw without any script."""
    return _EQUATION.sub(_mathml, content)


def on_post_page(output: str, page: object, **_: object) -> str:
    """Return the page. Raises `ValueError` if it would fetch something from another host."""
    if found := _FETCHED.search(output):
        raise ValueError(f"{page}: fetches from another host: {found[0]}")
    return output


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    return convert(html.unescape(match[3]).strip(), display=display)
