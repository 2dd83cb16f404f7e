"""Fit a table in a process of its own, so that a fit that takes too long can be ended.

The process reads one line of JSON and the table from standard input, and writes one line of JSON: the fits for the
explorer, or an error.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalelab.errors import ScalelabError, UsageError, choice_error
from scalelab.laws import LAWS
from scalelab.visible import visible

MAX_BYTES = 8 * 2**20
MAX_ROWS = 20_000
LIMIT_S = 120.0
_ENDINGS = (".csv", ".tsv")
_LONGEST = 60  # characters of a file's name
_MAPPING = re.compile(r"(?:map|choose) one with `columns=\{[^`]*\}`")
_ARGUMENT = re.compile(r"`(\w+)(?:=[^`]*)?`")


def refit(table: bytes, name: str, law: str, columns: Mapping[str, str], limit_s: float = LIMIT_S) -> dict[str, Any]:
    """Return ``{"fits": …, "notes": …}`` for the explorer, or ``{"error": line}``.

    Args:
        table: Content of a CSV or TSV file.
        name: Its name, for titles and messages.
        law: Name of a law of the package.
        columns: Map from field to column, as for `fit_law`.
        limit_s: Seconds after which the fit is ended.
    """
    request = json.dumps({"name": name, "law": law, "columns": dict(columns)})
    command = [sys.executable, "-P", "-m", "scalelab.serve.refit"]
    try:
        _check(table, name, law)
        done = subprocess.run(
            command, input=request.encode() + b"\n" + table, capture_output=True, timeout=limit_s, check=True
        )
        return json.loads(done.stdout)
    except ScalelabError as error:
        return {"error": str(error)}
    except subprocess.TimeoutExpired:
        return {"error": f"the fit took longer than {limit_s:g} s; fit with scalelab fit, then scalelab explore FIT"}
    except (subprocess.CalledProcessError, ValueError, OSError):
        return {"error": f"{visible(name)}: the fit ended without a result; try scalelab fit for the reason"}


def _check(table: bytes, name: str, law: str) -> None:
    """Raise `UsageError` for what must not be fitted here: code of the user, or too much."""
    if law not in LAWS:  # a law of one's own would run the code in a file
        raise choice_error("law", law[:_LONGEST], LAWS)
    if not name.lower().endswith(_ENDINGS):
        raise UsageError(f"{visible(name)}: not a table; its name must end in {' or '.join(_ENDINGS)}")
    rows = table.count(b"\n")
    if rows > MAX_ROWS:
        raise UsageError(
            f"{visible(name)}: more than {MAX_ROWS:,} rows; fit with scalelab fit, then scalelab explore FIT"
        )


def _fits(request: Mapping[str, Any], table: bytes) -> dict[str, Any]:
    from scalelab.api.fitting import fit_law
    from scalelab.fit.many import FitResults
    from scalelab.page.explorer import fit_data

    name = Path(request["name"].replace("\\", "/")).name
    stem = re.sub(r"[^\w. -]", "-", Path(name).stem).strip(". ")[:_LONGEST] or "table"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, stem + Path(name).suffix.lower())
        path.write_bytes(table)
        try:
            found = fit_law(path, request["law"], columns=request["columns"] or None)
        except ScalelabError as error:
            return {"error": _in_page(folder, str(error))}
        fits = list(found.values()) if isinstance(found, FitResults) else [found]
        failures = found.failures if isinstance(found, FitResults) else {}
        notes = [_in_page(folder, f"{group}: {error}") for group, error in failures.items()]
        return {"fits": [fit_data(fit) for fit in fits], "notes": notes}


def _in_page(folder: str, text: str) -> str:
    """Return a message in one line without the temporary folder, and with what the page has in place of arguments."""
    text = _MAPPING.sub("choose its column above", text.replace(f"{folder}/", ""))
    return visible(" ".join(_ARGUMENT.sub(r"\1", text).split()))


def main() -> None:
    """Fit the table of standard input."""
    request = json.loads(sys.stdin.buffer.readline())
    print(json.dumps(_fits(request, sys.stdin.buffer.read()), allow_nan=False))


if __name__ == "__main__":
    main()
