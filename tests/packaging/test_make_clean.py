"""`make clean` removes what make wrote, and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")

# In place of scalelab: writes files where `scalelab sweep` and `scalelab fit` do.
SCALELAB = """#!/bin/sh
case "$1" in
    sweep) mkdir -p results/demo/runs results/demo/.locks; echo run > results/demo/runs/a.parquet;
           touch results/demo/.locks/a ;;
    fit) mkdir -p fits; echo fit > "fits/pile.json"; echo figure > "fits/a b.png" ;;
esac
"""
# In place of the environment's Python: draws the figure of the demo's summary.
PYTHON = "#!/bin/sh\necho figure > fits/demo.png\n"


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with the Makefile, an environment that is up to date, and a person's results."""
    shutil.copyfile(ROOT / "Makefile", tmp_path / "Makefile")
    for name, text in (("scalelab", SCALELAB), ("python", PYTHON)):
        write(tmp_path / ".venv" / "bin" / name, text).chmod(0o755)
    for name in ("pyproject.toml", "constraints.txt", ".venv/.ready", "dist/a.whl", "scalelab/__pycache__/a.pyc"):
        write(tmp_path / name, "")
    for name in ("tests", "benchmarks", "docs"):
        (tmp_path / name).mkdir()
    write(tmp_path / "results" / "mine" / "runs" / "b.parquet", "mine")
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def make(target: str, folder: Path) -> None:
    subprocess.run(["make", "--silent", target], cwd=folder, check=True, timeout=60)


def left(folder: Path) -> set[str]:
    """The files below the folders for results and fits."""
    files = [*folder.glob("results/**/*"), *folder.glob("fits/**/*")]
    return {str(file.relative_to(folder)) for file in files if file.is_file()}


def test_what_the_demo_wrote_is_removed(project):
    make("demo", project)
    make("demo", project)
    assert {"results/demo/runs/a.parquet", "results/demo/.locks/a", "fits/pile.json", "fits/demo.png"} < left(project)
    make("clean", project)
    assert left(project) == {"results/mine/runs/b.parquet"}
    for name in ("fits", "results/demo", ".venv", "dist", "scalelab/__pycache__"):
        assert not (project / name).exists()


def test_what_a_person_added_or_changed_after_the_demo_stays(project):
    make("demo", project)
    mine = {"results/demo/runs/c.parquet", "fits/pile.json", "fits/mine.json"}
    for name in mine:
        write(project / name, "mine")
    make("clean", project)
    assert left(project) == {"results/mine/runs/b.parquet", *mine}


def test_what_was_there_before_the_demo_stays(project):
    mine = {"results/demo/runs/c.parquet", "fits/mine.json"}
    for name in mine:
        write(project / name, "mine")
    make("demo", project)
    make("clean", project)
    assert left(project) == {"results/mine/runs/b.parquet", *mine}


def test_fits_and_results_stay_without_a_demo(project):
    write(project / "fits" / "pile.json", "mine")
    write(project / "results" / "demo" / "runs" / "a.parquet", "mine")
    make("clean", project)
    assert left(project) == {"results/mine/runs/b.parquet", "fits/pile.json", "results/demo/runs/a.parquet"}
    assert not (project / ".venv").exists()
