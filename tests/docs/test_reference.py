"""The reference pages agree with the code."""

from __future__ import annotations

import ast
import re
import sys

import pytest

import scalelab as sl
from tests.support.paths import ROOT

pytestmark = pytest.mark.docs

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def generated():
    sys.path.insert(0, str(DOCS))
    try:
        import generate_reference

        yield generate_reference.pages()
    finally:
        sys.path.remove(str(DOCS))


def test_generated_pages_are_current(generated):
    """`python docs/generate_reference.py` writes them."""
    stale = [name for name, text in generated.items() if (DOCS / name).read_text(encoding="utf-8") != text]
    assert not stale, "run `python docs/generate_reference.py`"
    assert {"reference/cli.md", "reference/laws.md", "reference/records.md", "api.md"} <= set(generated)


def test_the_python_page_has_every_public_function():
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"^::: scalelab\.(\w+)$", page, re.MULTILINE)
    assert sorted(listed) == sorted(sl.__all__)


def test_the_notes_page_has_every_code_and_no_other():
    """Codes are the first arguments of `Note`; an f-string stands for all codes of its form."""
    fixed: set[str] = set()
    forms: set[str] = set()
    for file in (ROOT / "scalelab").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Note" and node.args):
                continue
            code = node.args[0]
            if isinstance(code, ast.Constant):
                fixed.add(str(code.value))
            else:
                assert isinstance(code, ast.JoinedStr), f"{file}:{node.lineno}: a code that cannot be read"
                parts = [re.escape(str(p.value)) if isinstance(p, ast.Constant) else r"\w+" for p in code.values]
                forms.add("".join(parts))
    assert len(fixed) > 30
    assert forms
    page = (DOCS / "reference" / "notes.md").read_text(encoding="utf-8").split("## Streams")[0]
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    listed = {code for row in rows for code in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    assert not fixed - listed
    assert not [form for form in forms if not any(re.fullmatch(form, code) for code in listed)]
    assert not [code for code in listed - fixed if not any(re.fullmatch(form, code) for form in forms)]


def test_the_stream_warnings_are_on_the_notes_page():
    source = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "scalelab" / "train").glob("*.py"))
    page = (DOCS / "reference" / "notes.md").read_text(encoding="utf-8").split("## Streams")[1]
    for code in re.findall(r'names\.append\("(\w+)"\)', source):
        assert f"`{code}`" in page
    assert "stream_collapse" in source


def test_every_law_has_an_equation_and_a_source():
    from scalelab.laws import LAWS

    for law in LAWS.values():
        assert law.latex.startswith("L(")
        assert law.source


def test_the_readme_counts_right():
    """And is short."""
    from scalelab.laws import LAWS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 110
    assert f"Choose among {len(LAWS)} laws" in text
    assert f"on {len(sl.list_hardware())} devices" in text
    works = re.search(r"knows: (\d+) work", (DOCS / "architectures.md").read_text(encoding="utf-8"))
    assert works is not None
    assert f"{works[1]} architectures of transformers" in text
    for command in ("sweep --P 1 2 4 8", "fit results/", "cost --hidden 2560 --P 2"):
        assert f"$ scalelab {command}\n" in text


def test_links_between_pages_lead_somewhere():
    """For readers of the repository; `mkdocs build --strict` checks the site."""
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in [ROOT / "README.md", *DOCS.rglob("*.md")]
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not broken
