"""One self-contained HTML file: sections, data, styles and scripts inline, and no request to anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from scalelab.visible import visible

PLOTLY = "vendor/plotly-cartesian.min.js"
GENERATOR = "scalelab"  # of the meta element by which a page of ours is known


@dataclass(frozen=True)
class Section:
    """One entry of the page and of its navigation. `html` is trusted: names in it are escaped."""

    id: str
    title: str
    html: str


def document(
    title: str,
    sections: Sequence[Section],
    data: Mapping[str, Any],
    scripts: Sequence[str],
    *,
    lede: str = "",
    live: bool = False,
) -> str:
    """Return an HTML file that opens from disk.

    The Content-Security-Policy forbids requests and every script except those given, so that text in the data can
    neither run nor load anything.

    Args:
        title: Title of the page.
        sections: Sections in reading order.
        data: Values for the scripts, as ``scalelab.data``; JSON without NaN or infinities.
        scripts: Names of files in ``scalelab/page/assets``, in their order.
        lede: HTML below the title.
        live: Allow requests to the server that the page came from.
    """
    sources = [asset(name) for name in scripts]
    reach = "'self'" if live else "'none'"
    hashes = " ".join(f"'sha256-{_digest(source)}'" for source in sources)
    policy = [
        "default-src 'none'",
        f"script-src {hashes}" if sources else "script-src 'none'",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        f"connect-src {reach}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    name = escape(visible(title))
    links = "".join(f'<li><a href="#{escape(s.id)}">{escape(s.title)}</a></li>' for s in sections)
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="{GENERATOR}">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="{"; ".join(policy)}">
<title>{name}</title>
<style>
{asset("page.css")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to content</a>
<header class="top">
<p class="brand">scalelab</p>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<button type="button" class="theme" id="theme" aria-label="Dark theme" aria-pressed="false">◐</button>
</header>
<main id="main" tabindex="-1">
<div class="title"><h1>{name}</h1>{lede}</div>
<noscript><p class="notice">Charts, filters and downloads need JavaScript; tables and sentences do not.</p></noscript>
{"".join(_section(section) for section in sections)}
</main>
<script type="application/json" id="scalelab-data">{as_json(data)}</script>
{"".join(f"<script>{source}</script>{chr(10)}" for source in sources)}</body>
</html>
"""


def _section(section: Section) -> str:
    name = escape(section.id)
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">\n<h2 id="{name}-title">{escape(section.title)}</h2>\n'
        f"{section.html}\n</section>\n"
    )


@cache
def asset(name: str) -> str:
    """Return the text of a file in ``scalelab/page/assets``.

    Raises:
        ValueError: A script contains ``</script``, which would end its element.
    """
    text = resources.files("scalelab.page").joinpath("assets", *name.split("/")).read_text(encoding="utf-8")
    text = text.replace("\r\n", "\n")  # as browsers read it: the hash in the policy is of this text
    if name.endswith(".js") and ("</script" in text.lower() or "<!--" in text):
        raise ValueError(f"{name}: contains </script or <!--, which an inline script must not")
    return text


def as_json(data: Mapping[str, Any]) -> str:
    """Return JSON that can stand inside a script element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _digest(source: str) -> str:
    return base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()


def is_ours(path: Path) -> bool:
    """Return true if a file is a page that `document` made."""
    with path.open("rb") as file:
        return f'<meta name="generator" content="{GENERATOR}">'.encode() in file.read(1000)
