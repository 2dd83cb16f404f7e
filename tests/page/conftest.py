"""Reports that several tests read, made once."""

from __future__ import annotations

import warnings

import pandas as pd
import pytest

import scalelab as sl
from tests.support.browser import chromium, open_page  # noqa: F401  # fixtures
from tests.support.paths import ROOT

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "[bold red]rich[/bold red] <b>tag</b> & </title><img src=x onerror=window.hacked=1>",
    "x" * 300,
    "\u202egnp.exe \x1b[31mred\x07 </script>\u2028 ${1} {{2}} `code`",
]


@pytest.fixture(scope="session")
def paper(tmp_path_factory):
    """The report of the paper's 48 runs, and what `report` returned."""
    return sl.report("paper", out=tmp_path_factory.mktemp("paper") / "paper.html", starts=60, laws=False)


@pytest.fixture(scope="session")
def sweep(tmp_path_factory):
    """The report of a sweep with loss curves and diagnostics of streams."""
    out = tmp_path_factory.mktemp("sweep") / "sweep.html"
    return sl.report(ROOT / "results" / "parallel-law", out=out, starts=30, draws=100, laws=False, plan=False)


def hostile_table() -> pd.DataFrame:
    """Runs of corpora with names that try to be something else than text."""
    rows = [
        {"N": n, "P": p, "D": 1e9, "loss": 0.7 + (1.1e7 * (1 + i) / (n * (1 + 0.3 * (p > 1)))) ** 0.2, "corpus": name}
        for i, name in enumerate(HOSTILE)
        for n in (5e8, 1e9, 2e9, 4e9)
        for p in (1, 2)
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory):
    """The report of `hostile_table`, with a title of the same kind."""
    out = tmp_path_factory.mktemp("hostile") / "hostile.html"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sl.report(
            hostile_table(),
            out=out,
            title=HOSTILE[0],
            columns={"corpus": "corpus"},
            starts=10,
            draws=100,
            laws=False,
            plan=False,
        )
