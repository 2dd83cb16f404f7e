"""Shared by all tests: one thread, no network, a cache of their own, and marks for what takes long."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported anywhere
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.pop("COLUMNS", None)  # of the terminal, which pytest-xdist hands to its workers: output is as into a pipe

import json
import signal
from pathlib import Path

import pytest

# A shell makes what it starts with & ignore Ctrl-C, and nohup SIGHUP, which some tests send to their children.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Modules that take most of the suite's time: they train, start processes, or fit hundreds of times.
SLOW = {
    *("test_built", "test_cli", "test_cli_fit", "test_compare", "test_corpus", "test_explorer_server", "test_faults"),
    "hostile/test_tables",
    *("test_chat", "test_chat_training", "test_lifetime", "test_forecasts", "test_downstream"),
    *("test_final_loss", "test_outlook"),
    *("test_intervals", "test_measure", "test_model", "test_moe", "test_notebooks", "test_parallel", "test_plan"),
    *("test_plot", "test_preload", "test_progress", "test_public_api", "test_public_tables", "test_resume"),
    *("test_roofline", "test_routes", "test_run_cost", "test_select", "test_stage", "test_status", "test_stopping"),
    *("test_streams", "test_tensorboard"),
    *("test_train", "test_train_resume", "test_watch"),
}


def pytest_collection_modifyitems(items):
    """Mark what is slow, and what needs Ray, by module."""
    for item in items:
        name, room = item.path.stem, item.path.parent.name
        if room == "hostile":
            item.add_marker("hostile")
        if name in SLOW or f"{room}/{name}" in SLOW:
            item.add_marker("slow")
        if name == "test_ray":
            item.add_marker("ray")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Never touch the user's cache; shared by the tests of one process."""
    os.environ["SCALELAB_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module", autouse=True)
def _own_handlers():
    """Restore the SIGTERM handler after each module: Ray replaces it and does not put it back."""
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
