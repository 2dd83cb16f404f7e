"""Tests of the torch side with other versions of Python, torch and transformers.

    make test-versions                     all environments, one after the other
    make test-versions ONLY=oldest         one of them

Creates a virtual environment for each in .venvs/ (about 6 GB each, since torch includes CUDA), runs the tests that need
torch in it, and prints a table. Interpreters are searched as python3.11, python3.12 and python3.13.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TESTS = [
    "architecture",
    "ensemble",
    "golden_curves",
    "gpu_paths",
    "measure",
    "meta_shape",
    "model",
    "moe",
    "parallel",
    "preload",
    "resume",
    "routes",
    "run_cost",
    "stage",
    "step",
    "streams",
    "train",
    "train_resume",
]


class Environment(NamedTuple):
    """An interpreter and the versions that matter; everything else is the newest that fits."""

    python: str
    torch: str
    transformers: str
    what: str


ENVIRONMENTS = {
    "oldest": Environment("3.11", "2.11.0", "5.17.0", "the floors of pyproject.toml"),
    "gpu-image": Environment("3.12", "2.11.0", "5.17.0", "a common image of GPU machines; CUDA build"),
    "newest": Environment("3.13", "2.13.0", "5.23.0", "the newest Python; CUDA build"),
}


def interpreter(version: str) -> str:
    """Return an interpreter of Python `version`; raises SystemExit naming what is missing."""
    candidates = [
        shutil.which(f"python{version}"),
        *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python")),
    ]
    found = next((path for path in candidates if path and _is(path, version)), None)
    if found is None:
        raise SystemExit(f"python{version}: not found; install it, or leave this environment out with ONLY=NAME")
    return found


def _is(path: str, version: str) -> bool:
    done = subprocess.run([path, "-V"], capture_output=True, text=True, check=False)
    return done.stdout.startswith(f"Python {version}.")


def prepare(name: str, wanted: Environment) -> Path:
    """Return the environment's interpreter, installed if it is not there."""
    folder = ROOT / ".venvs" / name
    python = folder / "bin" / "python"
    if not (folder / ".ready").exists():
        subprocess.run([interpreter(wanted.python), "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        pins = [f"torch=={wanted.torch}", f"transformers=={wanted.transformers}"]
        subprocess.run([*pip, *pins, "--editable", f"{ROOT}[test]"], check=True)
        subprocess.run([*pip, "--no-deps", "llm-analysis"], check=True)
        (folder / ".ready").touch()
    return python


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("only", nargs="*", choices=[*ENVIRONMENTS, []], help="environments; all by default")
    names = parser.parse_args().only or list(ENVIRONMENTS)
    rows, worst = [], 0
    files = [str(path) for name in TESTS for path in sorted(ROOT.glob(f"tests/**/test_{name}.py"))]
    for name in names:
        wanted = ENVIRONMENTS[name]
        python = prepare(name, wanted)
        began = time.time()
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [python, "-m", "pytest", "-q", "-n", "auto", "-p", "no:cacheprovider", *files]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
        summary = next(
            (line for line in reversed(done.stdout.splitlines()) if re.search(r"passed|failed|error", line)), ""
        )
        rows.append((name, *wanted, summary.strip("= "), f"{time.time() - began:.0f} s"))
        worst = max(worst, done.returncode)
    print("| environment | Python | torch | transformers | what it is | result | time |\n|---|---|---|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return worst


if __name__ == "__main__":
    raise SystemExit(main())
