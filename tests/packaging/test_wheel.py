"""The wheel and the sdist: what they hold, and the commands of an installed wheel outside the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow

UNTRACKED = ("results/mine/runs/mine.parquet", "results/parallel-law/mine.csv", "results/a [1]!/b #.csv", "notes.txt")
MINE = "'mine' must not be packed"


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout: no PYTHONPATH and no network. Return its standard output."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"PIP_NO_INDEX": "1"}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted(name for name in listed.split("\0") if name and (ROOT / name).is_file())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of this checkout with untracked files in it."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    run("git", "init", "--quiet", cwd=folder)
    run("git", "add", "--all", "--force", cwd=folder)
    for name in UNTRACKED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(MINE)
    return folder


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", folder, cwd=checkout)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    """The wheel as installers build it: from the sdist, not from the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, sdist, cwd=folder)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The `bin` folder of an environment with the wheel, which borrows all other packages from this one."""
    folder = tmp_path_factory.mktemp("installed") / "env"
    venv.create(folder, with_pip=False, symlinks=True)
    bin_folder = folder / "bin"
    run(sys.executable, "-m", "pip", "--python", bin_folder / "python", "install", "--no-deps", wheel, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # A folder named in a .pth file is searched, but its own .pth files, one of which names the checkout, are not read.
    (site / "borrowed.pth").write_text("\n".join(p for p in sys.path if Path(p).name.endswith("-packages")))
    return bin_folder


def test_sdist_holds_exactly_the_tracked_files(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert names == {*tracked(), "PKG-INFO"}


def test_wheel_holds_the_package_its_data_and_its_license(wheel, checkout):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith("dist-info/METADATA"))).decode()
    package = {name for name in tracked() if name.startswith("scalelab/")}
    specs = {f"scalelab/_bundled/{name}" for name in tracked() if name.startswith("sweeps/")}
    own = {name for name in names if ".dist-info/" not in name}
    assert own == package | specs | {"scalelab/_bundled/docs/serving.csv"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata
    with zipfile.ZipFile(wheel) as archive:
        for name in specs:
            assert archive.read(name) == (checkout / name.removeprefix("scalelab/_bundled/")).read_bytes()


def test_paper_is_fitted(installed, tmp_path):
    printed = run(installed / "scalelab", "fit", "paper", "--draws", "100", cwd=tmp_path)
    assert "1.131e7" in printed
    assert "stack-v2-python-d-42b.json" in {file.name for file in (tmp_path / "fits").iterdir()}


def test_cost_is_priced(installed, tmp_path):
    printed = run(installed / "scalelab", "cost", "--hidden", "2560", "--P", "2", cwd=tmp_path)
    assert "4.37B" in printed
    assert "8.904" in printed  # GiB, by llm-analysis


def test_shipped_spec_is_planned_and_trained(installed, tmp_path, text_folder):
    sweep = (installed / "scalelab", "sweep", "smoke", "--corpus", text_folder)
    assert "4 of 4 runs to train" in run(*sweep, "--dry-run", cwd=tmp_path)
    run(*sweep, "--N", "12k", "--P", "2", "--D", "10k", "--workers", "1", cwd=tmp_path)
    assert len([*(tmp_path / "results" / "smoke" / "runs").iterdir()]) == 1


def test_nothing_is_imported_from_the_checkout(installed, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "import scalelab as sl\n"
        "from scalelab.cli import main\n"
        "from scalelab.plot.measured import serving_measurements\n"
        "from scalelab.sweep.spec import load_spec\n"
        "assert len(sl.read('paper')) == len(serving_measurements()) == 48\n"
        "assert load_spec('smoke').name == 'smoke'\n"
        "assert main(['cost', '--hidden', '2560', '--P', '2', '--quiet']) == 0\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    if name.partition('.')[0] == 'scalelab':\n"
        "        print('from', module.__file__)\n"
    )
    printed = run(installed / "python", script, cwd=tmp_path).splitlines()
    files = [line.removeprefix("from ") for line in printed if line.startswith("from ")]
    (site,) = installed.parent.glob("lib/python*/site-packages")
    assert len(files) > 20
    assert [file for file in files if not Path(file).is_relative_to(site)] == []
