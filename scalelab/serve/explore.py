"""Serve an explorer until it is interrupted, or write it to a file."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from scalelab.cost.hardware import Hardware
from scalelab.errors import ScalelabError
from scalelab.fit import FitResult
from scalelab.laws import LAWS
from scalelab.page.explorer import explorer_page
from scalelab.serve.refit import MAX_BYTES, MAX_ROWS
from scalelab.serve.server import HOST, ExplorerServer


def live_page(fits: Iterable[FitResult], devices: Mapping[str, Hardware] | None = None) -> str:
    """Return the page of a server: the explorer, which also sends tables to be fitted."""
    laws = {name: list(law.variables) for name, law in LAWS.items()}
    refit = {"laws": laws, "most_bytes": MAX_BYTES, "most_rows": MAX_ROWS}
    return explorer_page(fits, devices, data={"refit": refit}, scripts=["refit.js"], live=True)


def open_server(page: str, port: int = 0) -> ExplorerServer:
    """Return a server of `page` that listens. Raises `ScalelabError` if the port cannot be used."""
    try:
        return ExplorerServer(page, port)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ScalelabError(f"{HOST} port {port}: {reason}; choose another `port`, or 0 for any free one") from None


def has_display() -> bool:
    """Return true if a browser can be opened: without a display, a text browser would take over the terminal."""
    names = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in names)


def serve(server: ExplorerServer, browser: bool, on_start: Callable[[], None]) -> None:
    """Call `on_start`, open the page in the browser if there is one, and serve until Ctrl-C."""
    try:
        on_start()
        if browser and has_display():
            webbrowser.open(server.url)
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def write_page(page: str, path: Path) -> None:
    """Write the page to a file, completely or not at all."""
    from scalelab.atomic import write_text

    write_text(path, page)
