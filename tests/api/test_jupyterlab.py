"""A notebook in real JupyterLab, in a real browser: results show their tables and figures."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

from tests.support.browser import chromium  # noqa: F401
from tests.support.paths import ROOT

CELLS = (
    "import scalelab as sl",
    "fit = sl.fit_law('paper', where=\"corpus == 'pile'\", draws=100, starts=20)\nfit",
    "fit.plot()",
    "fit.predict(N=1e9, P=[1, 8])",
)
INSTALL = "pip install 'scalelab[notebook,test]', and Chromium from the system (apt-get install chromium)"


@pytest.fixture
def lab(tmp_path: Path):
    """Start JupyterLab on a folder with two notebooks, and return its address for a notebook."""
    if find_spec("jupyterlab") is None:
        pytest.skip(f"no JupyterLab: {INSTALL}")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(notebook, folder / "results.ipynb")
    shutil.copy(ROOT / "notebooks" / "quickstart.ipynb", folder)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    token = secrets.token_hex(16)
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0", "--no-browser"]
    options += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--ServerApp.allow_root=True"]
    options += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    log = (tmp_path / "jupyter.log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdout=log, stderr=log, cwd=folder)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for(f"{address}/api/status?token={token}", server, tmp_path / "jupyter.log")
        yield f"{address}/lab/tree/{{}}?token={token}"
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(log.read_text())


@pytest.fixture
def page(chromium):  # noqa: F811  # the fixture
    """Open a page of the system's Chromium."""
    page = chromium.new_page(viewport={"width": 1280, "height": 1600})
    yield page
    page.close()


def run_all(page, address: str) -> None:
    """Open a notebook and start all of its cells."""
    page.set_default_timeout(180_000)
    page.goto(address)
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # without a kernel, Run asks for one
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")  # of Jupyter
def test_the_first_notebook_runs_in_jupyterlab(page, lab: str, tmp_path: Path):
    """JupyterLab draws only the cells in sight, so the others are checked in the file that it saves."""
    run_all(page, lab.format("quickstart.ipynb"))
    file = tmp_path / "notebooks" / "quickstart.ipynb"
    for _ in range(180):
        page.wait_for_timeout(1000)
        page.keyboard.press("Control+s")
        cells = [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
        if all(cell.execution_count for cell in cells):
            break
    assert all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    kinds = [kind for output in outputs for kind in output.get("data", {})]
    assert kinds.count("text/html") >= 3
    assert "image/png" in kinds


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.filterwarnings("ignore")  # of Jupyter
def test_a_notebook_in_jupyterlab_shows_tables_and_figures(page, lab: str, tmp_path: Path):
    run_all(page, lab.format("results.ipynb"))
    page.locator(".jp-CodeCell").nth(len(CELLS) - 1).locator(".jp-OutputArea-output table").first.wait_for()
    page.screenshot(path=str(tmp_path / "lab.png"))
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    assert (
        page.locator(
            "[data-mime-type='application/vnd.jupyter.error'], .jp-RenderedText[data-mime-type*=stderr]"
        ).count()
        == 0
    )
    of_fit = cells.nth(1).locator(".jp-OutputArea-output")
    assert "0.1963" in of_fit.inner_text()  # α of the published losses, in the report's table
    assert "95 %" in of_fit.inner_text()
    assert of_fit.locator("table").count() >= 1
    image = cells.nth(2).locator(".jp-OutputArea-output img")
    assert image.evaluate("image => image.complete && image.naturalWidth") > 500
    assert "8" in cells.nth(3).locator("table").first.inner_text()
