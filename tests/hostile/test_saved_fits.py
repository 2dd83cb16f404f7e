"""A saved fit that was edited is refused, whatever was edited."""

import json

import pytest

from scalelab.errors import DataError
from scalelab.fit import load_fit, save_fit
from scalelab.records import paper_records
from tests.support.tables import fit_table


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("fits") / "fit.json"
    save_fit(fit_table(paper_records().query("corpus == 'pile'"), draws=100), path)
    return path


def places(value, at=()):
    """Every number, text and truth value of a JSON value, by its place."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*at, key))
    elif isinstance(value, list):
        for i in sorted({0, len(value) - 1} if value else ()):
            yield from places(value[i], (*at, i))
    elif value is not None:
        yield at


def test_it_loads_as_it_was_saved(saved):
    assert load_fit(saved).group == json.loads(saved.read_text())["group"]


def test_whatever_is_edited_is_noticed(saved, tmp_path):
    whole = json.loads(saved.read_text())
    file = tmp_path / "edited.json"
    found = list(places(whole))
    assert len(found) > 40
    for *above, last in found:
        content = json.loads(saved.read_text())
        holder = content
        for key in above:
            holder = holder[key]
        old = holder[last]
        holder[last] = (not old) if isinstance(old, bool) else old + "x" if isinstance(old, str) else old * 1.5 + 1
        file.write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"edited\.json: not a saved fit"):
            load_fit(file)


def test_a_fit_of_before_digests_is_read(saved, tmp_path):
    content = json.loads(saved.read_text())
    del content["digest"]
    file = tmp_path / "older.json"
    file.write_text(json.dumps(content | {"format": 2}))
    assert load_fit(file).params == load_fit(saved).params
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="it was edited; fit again"):
        load_fit(file)
