"""The command `scalelab explore`: laws and costs in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scalelab.cli.console import print_line, saved_line, stdout
from scalelab.cli.flags import as_typed, describe
from scalelab.cli.options import LAW, OUTPUT, HardwareFile, Quiet, option
from scalelab.errors import UsageError


def explore(
    source: Annotated[
        str, typer.Argument(metavar="FIT", help="Saved fit, folder of fits, or data as for scalelab fit.")
    ] = "paper",
    law: Annotated[
        str | None, option(help="Law to fit to data, or file.py:NAME of a saved fit.", panel=LAW, metavar="NAME")
    ] = None,
    hardware: HardwareFile = None,
    port: Annotated[int, option(min=0, max=65535, help="Port on 127.0.0.1; 0 is any free one.", panel=OUTPUT)] = 0,
    no_browser: Annotated[bool, option("--no-browser", help="Only print the address.", panel=OUTPUT)] = False,
    out: Annotated[
        Path | None, option("-o", "--out", help="Write one HTML file instead.", metavar="FILE.html", panel=OUTPUT)
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Explore laws in the browser: losses, plain N of equal loss, costs, and the best N and P within limits.

    The page is served on this machine only, until Ctrl-C. It also fits a CSV that is dropped on it. With -o it becomes
    one HTML file that opens without a server.
    """
    from scalelab.api.loading import check_file
    from scalelab.cost.setting import own_devices
    from scalelab.serve import explore as served
    from scalelab.serve.sources import fits_of

    if out is not None and check_file(out, "out", source).suffix.lower() not in (".html", ".htm"):
        raise UsageError("must end in .html", argument="out", value=str(out))
    devices = own_devices(hardware)
    fits, failures = fits_of(source, law)
    for error in failures:
        print_line(f"left out: {as_typed(describe(error))}", quiet)
    if out is not None:
        done = saved_line(out)
        served.write_page(served.explorer_page(fits, devices), out)
        print_line(done, quiet)
        return
    server = served.open_server(served.live_page(fits, devices), port)
    line = f"explorer: {server.url} (Ctrl-C ends it)"
    served.serve(server, not no_browser, lambda: stdout().print(line, soft_wrap=True))
