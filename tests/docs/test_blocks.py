"""Every example of README.md and docs/ runs, and prints what the page says."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.docs.blocks import Block, agrees, blocks, pages, run_command, run_python
from tests.support.paths import ROOT

pytestmark = [pytest.mark.docs, pytest.mark.slow]

RUNNABLE = ("console", "python")
_RUN = [page for page in pages() if any(b.language in RUNNABLE and not b.left_out for b in blocks(page))]
_COMMAND = re.compile(r"^(?:\$ )?(scalelab [a-z][^\n]*)", re.MULTILINE)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.filterwarnings("ignore")  # of matplotlib's fonts and the like, which a reader sees too
@pytest.mark.parametrize("page", _RUN, ids=name_of)
def test_the_examples_of_a_page_run_and_print_what_it_says(page: Path, tmp_path, monkeypatch):
    """A page's blocks run in order, in a folder that holds the project's results/ and sweeps/."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    shutil.copytree(ROOT / "results", "results", ignore=shutil.ignore_patterns("demo*"))
    shutil.copytree(ROOT / "docs" / "data", "docs/data")
    shutil.copytree(ROOT / "sweeps", "sweeps")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.left_out:
            run(block, names)


def run(block: Block, names: dict[str, object]) -> None:
    if block.title:
        Path(block.title).parent.mkdir(parents=True, exist_ok=True)
        Path(block.title).write_text(block.text, encoding="utf-8")
    elif block.language == "console":
        for command, expected in block.commands():
            seen = run_command(command)
            assert agrees(expected, seen), f"{block.where}: $ {command}\n{seen}"
    elif block.language == "python":
        seen = run_python(block.text, block.where, names)
        if block.output is not None:
            assert agrees(block.output, seen), f"{block.where}:\n{seen}"


def test_commands_that_are_not_run_have_options_that_exist():
    """Also those in prose and in ```sh blocks."""
    import typer

    from scalelab.cli.main import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    wrong, seen = [], 0
    for page in pages():
        if page.name in ("LOG.md", "faults.md", "ray.md"):  # of their day
            continue
        inline = re.findall(r"`(scalelab [a-z][^`]*)`", page.read_text(encoding="utf-8"))
        fenced = [c for b in blocks(page) if b.language in ("console", "sh") for c in _COMMAND.findall(b.text)]
        for text in [*inline, *fenced]:
            words = shlex.split(re.split(r" (?:&&|\||;) ", text)[0].replace("'", "").replace('"', ""), comments=True)
            command = commands.get(words[1])
            seen += 1
            if getattr(command, "context_settings", {}).get("ignore_unknown_options"):  # passed on to other programs
                continue
            flags = {flag for p in getattr(command, "params", ()) for flag in (*p.opts, *p.secondary_opts)} | {"--help"}
            flags |= {"-v", "--version"}
            bad = [w for w in words[2:] if re.match(r"-{1,2}[A-Za-z]", w) and w.split("=")[0] not in flags]
            if bad or (command is None and words[1] not in ("COMMAND",)):
                wrong.append(f"{name_of(page)}: {text}")
    assert seen > 80
    assert not wrong, "\n".join(wrong)


def test_every_block_that_is_not_run_says_why():
    for page in pages():
        for block in blocks(page):
            if block.left_out:
                assert len(block.left_out) > 8, block.where


def test_outputs_agree_up_to_rounding():
    expected = "loss  1.7426 (1.73–1.76)   48 runs   96,500\n[…]\nE = 2.151565e8"
    assert agrees(expected, "loss  1.7427 (1.73–1.76)   48 runs   96,600\nmore\nE = 2.151564e8\n")
    for wrong in ("1.7426", "48 runs"), ("1.7526", "49 runs"):
        assert not agrees(expected, f"loss  {wrong[0]} (1.73–1.76)   {wrong[1]}   99,500\nE = 2.151565e8")
    assert not agrees(expected, expected.replace("48", "49"))
    assert not agrees(expected, expected.replace("loss", "gain"))
