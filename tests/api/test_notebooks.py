from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.paths import DATA

FOLDER = DATA.parent.parent / "notebooks"
# What each must show: text of its outputs, and figures.
SHOWN = {
    "quickstart.ipynb": (["1.131e7", "stack-v2-python, D 42B, average of", "Best: N = "], 2),
    "cost_and_plan.ipynb": (["21.6×", "6.16×", "0.84× at batch 8", "no decoder is within 1 MB"], 3),
    "fitting.ipynb": (["additive is best supported", "row 49: an empty cell", "converged", "True"], 8),
}


def test_every_notebook_is_run():
    assert {path.name for path in FOLDER.glob("*.ipynb")} == SHOWN.keys()


@pytest.mark.filterwarnings("ignore")  # Jupyter's own deprecations; the notebook's run in its kernel
@pytest.mark.parametrize("name", SHOWN)
def test_notebook_runs_from_any_folder_and_shows(name: str, tmp_path: Path):
    notebook = nbformat.read(FOLDER / name, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell("import sys; print('torch' in sys.modules, 'is torch')"))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts, figures = SHOWN[name]
    assert sum("image/png" in o.get("data", {}) for o in outputs) >= figures
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]
    kinds = ("text/plain", "text/html")
    said = "".join(o.get("text", "") + "".join(str(o.get("data", {}).get(k, "")) for k in kinds) for o in outputs)
    for text in [*texts, "False is torch"]:
        assert text in said


def test_notebooks_need_no_helpers():
    """A helper built by hand in a notebook would be missing from the library."""
    for name in SHOWN:
        cells = nbformat.read(FOLDER / name, as_version=4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        assert not [line for line in code.splitlines() if line.startswith("def ")]
        assert len(code.splitlines()) <= 110, name
