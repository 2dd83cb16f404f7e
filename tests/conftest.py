"""Shared by all tests: one thread, a cache of their own, and small real text."""

from __future__ import annotations

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported anywhere
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.pop("COLUMNS", None)  # of the terminal, which pytest-xdist hands to its workers: output is as into a pipe

import json
import signal

import numpy as np
import pandas as pd
import pytest

DATA = Path(__file__).parent / "data"

# Some tests send Ctrl-C, which what a shell began with & is told to ignore, and its children with it.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Modules that take most of the suite's time: they train, start processes, or fit hundreds of times.
SLOW = {
    *("test_built", "test_cli", "test_cli_fit", "test_compare", "test_corpus", "test_faults", "test_hostile"),
    *("test_intervals", "test_measure", "test_model", "test_moe", "test_notebooks", "test_parallel", "test_plan"),
    *("test_plot", "test_preload", "test_progress", "test_public_api", "test_public_tables", "test_resume"),
    *("test_roofline", "test_routes", "test_run_cost", "test_select", "test_stage", "test_status", "test_stopping"),
    *("test_streams", "test_tensorboard"),
    *("test_train", "test_train_resume", "test_watch"),
}


def pytest_collection_modifyitems(items):
    """Mark what is slow, and what needs Ray, by module."""
    for item in items:
        name = item.path.stem
        if name in SLOW:
            item.add_marker("slow")
        if name == "test_ray":
            item.add_marker("ray")


def fit_table(table: pd.DataFrame, law="parallel", **options):
    """The fit of a table that is one group; 200 bootstrap draws unless told."""
    from scalelab.fit import FitOptions, fit_group, group_records
    from scalelab.laws import get_law

    law = get_law(law)
    (group,) = group_records(table, by_tokens="D" not in law.variables)
    return fit_group(group, law, FitOptions(**({"draws": 200} | options)))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Never touch the user's cache; shared by the tests of one process."""
    os.environ["SCALELAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def _own_handlers():
    """Of SIGTERM: those that Ray leaves behind end with the module that began it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory) -> Path:
    """60 modules of the standard library: real text, small enough to tokenise in a moment."""
    folder = tmp_path_factory.mktemp("text")
    source = Path(json.__file__).parent.parent
    files = [p for p in sorted(source.glob("*.py")) if 2_000 < p.stat().st_size < 40_000][:60]
    for path in files:
        (folder / path.name).write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    return folder


@pytest.fixture
def scalelab(tmp_path, monkeypatch, capsys):
    """Run a command in a folder of its own: (exit code, output with notes below it, the error line)."""
    from scalelab.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*args):
        code = main([str(a) for a in args])
        out, told = capsys.readouterr()
        *notes, last = [*told.splitlines(), ""] if not code else told.splitlines()
        assert last.startswith("scalelab: ") == bool(code), told
        assert not [line for line in notes if line.startswith(("scalelab: ", "Traceback"))], told
        return code, out + "".join(f"{line}\n" for line in notes), last

    return run


@pytest.fixture
def make_records():
    """Records whose losses follow the parallel law with known parameters, and maybe noise."""

    def make(
        E=0.7, A=1.1e7, k=0.4, alpha=0.2, N=(5e8, 7e8, 1.1e9, 1.6e9, 2.8e9, 4.4e9), P=(1, 2, 4, 8), noise=0.0, seed=0
    ) -> pd.DataFrame:
        rng = np.random.default_rng(seed)
        rows = [
            {
                "n_params": int(n),
                "n_streams": p,
                "loss": (E + (A / (n * (k * np.log(p) + 1))) ** alpha) * np.exp(noise * rng.standard_normal()),
                "n_tokens": 10**9,
                "corpus": "made",
                "setup": "made",
            }
            for n in N
            for p in P
        ]
        return pd.DataFrame(rows)

    return make


@pytest.fixture
def table_of():
    """Records on a grid whose losses follow any law, with noise in ln loss."""

    from scalelab.laws import LAWS, Points

    def make(law, params, N=(1e8, 3e8, 1e9, 3e9, 1e10), P=(1, 2, 4, 8), D=(1e10,), noise=1e-3, seed=0):
        rng = np.random.default_rng(seed)
        n, p, d = (a.ravel() for a in np.meshgrid(np.array(N), np.array(P, float), np.array(D)))
        loss = LAWS[law].loss(np.array(params), Points(n, p, d)) * np.exp(noise * rng.standard_normal(len(n)))
        return pd.DataFrame({"n_params": n, "n_streams": p, "n_tokens": d, "loss": loss})

    return make
