import json
from dataclasses import replace

import pytest

from scalelab.architecture import Architecture
from scalelab.errors import DataError, UsageError
from scalelab.records import load
from scalelab.sweep.spec import SweepSpec, load_spec
from scalelab.train.recipe import Recipe, RunConfig, TextSource
from tests.conftest import DATA

ROOT = DATA.parent.parent
SPECS = sorted((ROOT / "sweeps").glob("*.yaml"))


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
        ("aggregation: sum", r"a\.yaml: aggregation 'sum': choose one of dynamic, mean, channel"),
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


def test_options_added_later_leave_old_keys_good():
    """Keys of the committed records, made before there was a choice of mixture or a rate for prefixes."""
    records = load(ROOT / "results" / "parallel-law")
    assert len(records) == 24
    for key, text in zip(records["key"], records["config"], strict=True):
        config = json.loads(text)
        assert "prefix_lr_scale" not in config["recipe"]
        recipe = Recipe(**config["recipe"], prefix_lr_scale=1.0)
        run = RunConfig(
            Architecture(**config["architecture"]),
            config["n_tokens"],
            config["seed"],
            TextSource(**config["text"]),
            recipe,
        )
        assert run.key == key
        assert replace(run, recipe=replace(recipe, prefix_lr_scale=3.0)).key != key
        assert replace(run, architecture=replace(run.architecture, aggregation="mean")).key != key
