"""Metadata that is written down in more than one place."""

import hashlib
import tomllib

import yaml

import scalelab
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # of the text on apache.org


def pythons() -> list[str]:
    stem = "Programming Language :: Python :: 3."
    return [f"3.{line.removeprefix(stem)}" for line in PROJECT["classifiers"] if line.startswith(stem)]


def test_license_is_the_standard_text():
    assert PROJECT["license"] == "Apache-2.0"
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2


def test_citation_is_of_this_version_and_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (scalelab.__version__, PROJECT["license"])
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2505.10475"


def test_classifiers_exist():
    from trove_classifiers import classifiers

    assert set(PROJECT["classifiers"]) <= classifiers


def test_every_supported_python_is_tested():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["tests"]["strategy"]["matrix"]["python"] == pythons()
    assert PROJECT["requires-python"] == f">={pythons()[0]}"
