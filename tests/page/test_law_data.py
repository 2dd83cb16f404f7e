"""Laws as data for the pages, checked without a browser."""

from pathlib import Path

import pytest

from scalelab import page
from scalelab.laws import LAWS
from scalelab.page.laws import law_data


@pytest.mark.parametrize("name", LAWS)
def test_the_pages_know_every_law(name):
    """Check the terms of each law and their names in law.js; test_explorer_numbers compares losses in a browser."""
    data = law_data(LAWS[name])
    assert data is not None
    assert sorted(i for term in data["terms"] for i in term["values"]) == [*range(len(LAWS[name].parameters))]
    script = (Path(page.__file__).parent / "assets" / "law.js").read_text(encoding="utf-8")
    assert all(f"    {term['kind']}: (" in script for term in data["terms"])
