import pytest

from scalelab.errors import DataError, UsageError
from scalelab.sweep.spec import SweepSpec, load_spec
from tests.conftest import DATA

SPECS = sorted((DATA.parent.parent / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.name)
def test_every_shipped_spec_loads(path):
    assert load_spec(path).name == path.stem


def test_demo_is_the_default():
    demo = next(p for p in SPECS if p.name == "demo.yaml")
    assert load_spec(demo) == SweepSpec()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Q: 1", r"a\.yaml: unknown key 'Q'; use one of D, N, P"),
        ("P: [1, two]", r"a\.yaml: P: 'two' is not a whole number"),
        ("P: []", r"a\.yaml: P needs at least one value"),
        ("N: huge", r"a\.yaml: N: 'huge' is not a positive count"),
        ("recipe: {lrr: 1}", r"a\.yaml: recipe: unknown key 'lrr'"),
        ("recipe: {lr: fast}", r"a\.yaml: recipe: lr: 'fast' is not of type float"),
        ("recipe: {batch_size: 8.9}", r"a\.yaml: recipe: batch_size: 8\.9 is not of type int"),
        ("recipe: {seq_len: true}", r"a\.yaml: recipe: seq_len: True is not of type int"),
        ("recipe: {init_gain: -1.0}", r"a\.yaml: init_gain must be positive"),
        ("prefix_tokens: ''", r"a\.yaml: prefix_tokens needs at least one value"),
        ("recipe: {lr: -1.0}", r"a\.yaml: lr must be positive"),
    ],
)
def test_bad_specs_name_file_and_key(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_spec(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"), [("P: [1", r"a\.yaml, line \d: not YAML"), ("- 1", r"a\.yaml: a spec is")]
)
def test_what_is_no_spec_is_named(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        load_spec(tmp_path / "a.yaml")


@pytest.mark.parametrize("bad", [{"P": (0,)}, {"N": (-5.0,)}, {"D": (0.0,)}, {"seeds": (-1,)}, {"prefix_tokens": 0}])
def test_specs_made_in_python_are_checked_too(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        SweepSpec(**bad)


def test_exponents_without_a_point_are_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text("recipe: {lr: 4e-3}\n")
    assert load_spec(tmp_path / "a.yaml").recipe.lr == 0.004
