"""Run transformers' own common tests of models against models with streams, and against the plain ones.

The tests are not in the wheel. Get them with `pip download transformers==VERSION --no-deps --no-binary :all:` and
unpack the archive, which has the common tests, or clone the repository, which has those of generation and export as
well. They need the package parameterized.

    python -m benchmarks.transformers_tests transformers-5.23.0
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import transformers

# Modules that the common tests import, and the class that they need of each; an archive does not have them.
BESIDE = {"exporters/test_export.py": "ExportTesterMixin", "generation/test_utils.py": "GenerationTesterMixin"}
PACKAGE = "common_tests"
OURS = """
import unittest

import torch
import transformers

import scalelab.model
from transformers.testing_utils import require_torch

from .generation.test_utils import GenerationTesterMixin
from .test_modeling_common import ModelTesterMixin, ids_tensor

SIZES = dict(
    vocab_size=99, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, bos_token_id=1, eos_token_id=2,
)


class Tester:
    batch_size, seq_length, num_hidden_layers, num_attention_heads, hidden_size = 13, 7, 2, 4, 32
    is_training = True

    def __init__(self, parent, kind, streams):
        self.config_class = getattr(transformers, kind)
        self.streams = streams

    def get_config(self):
        return self.config_class(**SIZES, **self.streams)

    def prepare_config_and_inputs_for_common(self):
        ids = ids_tensor([self.batch_size, self.seq_length], 99)
        mask = torch.tril(torch.ones_like(ids))
        return self.get_config(), {"input_ids": ids, "attention_mask": mask}


def tests_of(name, streams):
    @require_torch
    class Tests(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
        all_model_classes = (getattr(transformers, name + "ForCausalLM"),)
        test_pruning = False

        def setUp(self):
            self.model_tester = Tester(self, name + "Config", streams)

    Tests.__name__ = Tests.__qualname__ = name
    return Tests
"""


def main() -> None:
    """Run the tests and print a table of Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="folder of transformers' sources, with tests/")
    parser.add_argument("--models", nargs="+", default=["Qwen2", "Llama"], help="models of transformers")
    parser.add_argument("--select", default="", help="expression for pytest -k")
    chosen = parser.parse_args()
    tests = chosen.sources / "tests"
    if not (tests / "test_modeling_common.py").is_file():
        parser.error(f"{tests}: no test_modeling_common.py; give the folder of transformers' sources")
    names = [name for model in chosen.models for name in (model, model + "ParScale")]
    with tempfile.TemporaryDirectory() as folder:
        missing = write_package(Path(folder) / PACKAGE, tests, names)
        results = run(Path(folder), chosen.select)
    print(f"transformers {transformers.__version__}; without {', '.join(missing) or 'nothing left out'}\n")
    print("| model | passed | failed | skipped |\n|---|---|---|---|")
    for name in names:
        own = [outcome for kind, _, outcome, _ in results if kind == name]
        print(f"| {name} | " + " | ".join(str(own.count(o)) for o in ("passed", "failed", "skipped")) + " |")
    print("\n| model | failed test | error |\n|---|---|---|")
    for kind, test, outcome, message in results:
        if outcome == "failed":
            print(f"| {kind} | {test} | {message} |")


def write_package(package: Path, tests: Path, names: list[str]) -> list[str]:
    """Write a package with links to the tests, and return the modules that had to be left empty."""
    package.mkdir()
    for part in tests.iterdir():
        if part.name != "__init__.py" and part.name not in {Path(name).parts[0] for name in BESIDE}:
            (package / part.name).symlink_to(part.resolve())
    missing = []
    for name, kind in BESIDE.items():
        target = package / name
        target.parent.mkdir()
        (target.parent / "__init__.py").touch()
        if (tests / name).is_file():
            target.symlink_to((tests / name).resolve())
        else:
            target.write_text(f"class {kind}:\n    pass\n", encoding="utf-8")
            missing.append(name)
    (package / "__init__.py").touch()
    lines = [f"Test{n} = tests_of({n!r}, dict({'parscale_n=4, parscale_n_tokens=5' if 'ParScale' in n else ''}))"
             for n in names]  # fmt: skip
    (package / "test_streams.py").write_text(OURS + "\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return missing


def run(folder: Path, select: str) -> list[tuple[str, str, str, str]]:
    """Run the tests and return (model, test, outcome, first line of the error)."""
    report = folder / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", f"--rootdir={folder}"]
    command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", f"{PACKAGE}/test_streams.py"]
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    words = [*command, "-k", select] if select else command
    subprocess.run(words, cwd=folder, env=environment, stdout=sys.stderr, check=False)
    return sorted(outcomes(report))


def outcomes(report: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield the outcome of each test from a report in JUnit's format."""
    for case in ElementTree.parse(report).iter("testcase"):
        kind = case.get("classname", "").rpartition(".")[2].removeprefix("Test")
        error = case.find("failure") if case.find("failure") is not None else case.find("error")
        outcome = "failed" if error is not None else "skipped" if case.find("skipped") is not None else "passed"
        message = "" if error is None else error.get("message", "").strip().splitlines()[0]
        yield kind, case.get("name", ""), outcome, message[:160].replace("|", "¦")


if __name__ == "__main__":
    main()
