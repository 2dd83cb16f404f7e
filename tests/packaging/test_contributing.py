"""CONTRIBUTING.md names files, functions and commands that exist."""

import re

from tests.support.paths import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FOLDERS = r"(?:scalelab|tests|sweeps|results|benchmarks|docs)/"


def test_files_and_folders_exist():
    named = set(re.findall(rf"`({FOLDERS}[\w./-]*)`", TEXT)) | set(
        re.findall(r"`([\w-]+\.(?:py|md|toml|txt|cff))`", TEXT)
    )
    named.remove("results/demo")  # which `make demo` makes
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_names_are_in_the_files_where_they_are_said_to_be():
    named = re.findall(rf"`(\w+)`[^`.;]{{0,60}}\s(?:in|of|from)\s`({FOLDERS}[\w/]+\.py)`", TEXT)
    assert len(named) > 15
    missing = [(name, file) for name, file in named if name not in (ROOT / file).read_text(encoding="utf-8")]
    assert missing == []


def test_targets_of_make_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"`make ([\w-]+)`", TEXT))
    assert targets
    assert [target for target in sorted(targets) if f"\n{target}:" not in makefile] == []


def test_every_room_of_the_package_is_in_the_table():
    rooms = {folder.parent.name for folder in (ROOT / "scalelab").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `scalelab/(\w+)/` \|", TEXT, re.MULTILINE)) == rooms
