import json
from dataclasses import replace

import pytest

from scalelab.architecture import Architecture
from scalelab.errors import DataError, UsageError
from scalelab.sweep.spec import SweepSpec, assignments, load_spec, parse
from scalelab.train.recipe import Recipe, RunConfig, TextSource
from tests.support.paths import DATA

ROOT = DATA.parent.parent
SPECS = sorted((ROOT / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda p: p.name)
def test_every_shipped_spec_loads(path):
    assert load_spec(path).name == path.stem


@pytest.mark.parametrize("name", [path.stem for path in SPECS])
def test_a_shipped_spec_has_a_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_spec(name) == load_spec(ROOT / "sweeps" / f"{name}.yaml")


def test_a_file_takes_precedence_over_a_shipped_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert load_spec("demo") == SweepSpec()
    (tmp_path / "smoke").write_text("P: 3")
    assert load_spec("smoke").P == (3,)


def test_an_unknown_name_is_answered_with_the_names_there_are():
    names = ", ".join(path.stem for path in SPECS)
    with pytest.raises(UsageError, match=rf"^smok: no such file or shipped spec; give a YAML file or one of {names}$"):
        load_spec("smok")
    with pytest.raises(UsageError, match=r"^sweeps/smok: No such file or directory$"):
        load_spec("sweeps/smok")


def test_demo_is_the_default():
    demo = next(p for p in SPECS if p.name == "demo.yaml")
    assert load_spec(demo) == SweepSpec()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Q: 1", r"a\.yaml, line 1: unknown key 'Q'; use one of D, N, P"),
        ("P: [1, two]", r"a\.yaml, line 1: P: 'two' is not a whole number"),
        ("P: []", r"a\.yaml, line 1: P: needs at least one value"),
        ("N: huge", r"a\.yaml, line 1: N: 'huge' is not a positive count"),
        ("aggregation: sum", r"a\.yaml, line 1: aggregation 'sum': choose one of dynamic, mean, channel"),
        ("recipe: {lrr: 1}", r"a\.yaml, line 1: recipe: unknown key 'lrr'"),
        ("recipe: {lr: fast}", r"a\.yaml, line 1: recipe: lr: 'fast' is not of type float"),
        ("recipe: {batch_size: 8.9}", r"a\.yaml, line 1: recipe: batch_size: 8\.9 is not of type int"),
        ("recipe: {seq_len: true}", r"a\.yaml, line 1: recipe: seq_len: True is not of type int"),
        ("recipe: {init_gain: -1.0}", r"a\.yaml, line 1: init_gain must be positive"),
        ("prefix_tokens: ''", r"a\.yaml, line 1: prefix_tokens: needs at least one value"),
        ("recipe: {lr: -1.0}", r"a\.yaml, line 1: lr must be positive"),
        ("smooth: [0.1, 1.5]", r"a\.yaml, line 1: smooth must lie in \[0, 1\)"),
        ("decorrelation: strong", r"a\.yaml, line 1: decorrelation: 'strong' is not a number"),
        ("loops: 0", r"a\.yaml, line 1: loops: '?0'? "),
    ],
)
def test_bad_specs_name_file_and_key(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_spec(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("P: [1", r"a\.yaml, line \d: not YAML"),
        ("- 1", r"a\.yaml: not a sweep spec"),
        ("N: 10k\nP: 1\nN: 50k", r"a\.yaml, line 3: N is already in line 1"),
        ("N: 10k\ncorpus:", r"a\.yaml, line 2: corpus has no value"),
        ("recipe:\n  lr: 0.1\n  lr: 0.2", r"a\.yaml, line 3: recipe: lr is already in line 2"),
    ],
)
def test_what_is_no_spec_is_named(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        load_spec(tmp_path / "a.yaml")


@pytest.mark.parametrize("bad", [{"P": (0,)}, {"N": (-5.0,)}, {"D": (0.0,)}, {"seeds": (-1,)}, {"prefix_tokens": (0,)}])
def test_specs_made_in_python_are_checked_too(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        SweepSpec(**bad)


def test_the_line_of_a_mistake_is_told(tmp_path):
    (tmp_path / "a.yaml").write_text("# why\nN: 10k\n\nrecipe:\n  seq_len: 64\n  lr: fast\n")
    with pytest.raises(UsageError, match=r"a\.yaml, line 6: recipe: lr: 'fast' is not of type float"):
        load_spec(tmp_path / "a.yaml")


def test_a_learning_rate_given_later_goes_over_those_of_the_spec():
    spec = load_spec(ROOT / "sweeps" / "lr.yaml")
    assert len(spec.recipes) == 5
    one = replace(spec, **parse(assignments(["recipe.lr=0.003"], "--set"), spec.recipe))
    assert [recipe.lr for recipe in one.recipes] == [0.003]
    two = replace(spec, **parse(assignments(["lr=0.003,0.006"], "--set"), spec.recipe))
    assert [recipe.lr for recipe in two.recipes] == [0.003, 0.006]


def test_options_of_the_recipe_are_combined():
    spec = replace(SweepSpec(), **parse({"smooth": [0, 0.05], "decorrelation": 0.1, "lr": [0.01, 0.02]}))
    assert [(r.lr, r.smooth, r.decorrelation) for r in spec.recipes] == [
        (0.01, 0, 0.1),
        (0.01, 0.05, 0.1),
        (0.02, 0, 0.1),
        (0.02, 0.05, 0.1),
    ]
    later = replace(spec, **parse({"recipe": {"smooth": 0.2}}, spec.recipe))
    assert {r.smooth for r in later.recipes} == {0.2}


def test_loops_have_no_place_in_budgets_of_one_pass():
    with pytest.raises(UsageError, match="loops cannot be combined with isoflop"):
        SweepSpec(N=(), D=(), isoflop=(1e12,), loops=(2,))


def test_exponents_without_a_point_are_numbers(tmp_path):
    (tmp_path / "a.yaml").write_text("recipe: {lr: 4e-3}\n")
    assert load_spec(tmp_path / "a.yaml").recipe.lr == 0.004


def test_options_added_later_leave_old_keys_good():
    """Keys of runs recorded before there was a choice of mixture, schedule or rates, experts or a plain stage."""
    lines = (DATA / "first_configs.jsonl").read_text().splitlines()
    assert len(lines) == 12
    for record in map(json.loads, lines):
        config = record["config"]
        assert "prefix_lr_scale" not in config["recipe"]
        recipe = Recipe(**config["recipe"], prefix_lr_scale=1.0, lr_tokens_exponent=0.0)
        run = RunConfig(
            Architecture(**config["architecture"]),
            config["n_tokens"],
            config["seed"],
            TextSource(**config["text"]),
            recipe,
            ladder=1,  # the only one then
        )
        assert (run.key, run.setup) == (record["key"], record["setup"])
        others = [replace(run, recipe=replace(recipe, **{name: value})) for name, value in OTHER_RECIPES.items()]
        others += [replace(run, architecture=replace(run.architecture, aggregation="mean"))]
        others += [replace(run, architecture=replace(run.architecture, num_experts=4))]
        others += [replace(run, plain_tokens=512)]
        others += [replace(run, ladder=2)]
        assert len({run.key, *(other.key for other in others)}) == len(others) + 1
        assert run.setup not in {other.setup for other in others}


OTHER_RECIPES = {"prefix_lr_scale": 3.0, "schedule": "wsd", "lr": 0.02, "lr_exponent": 0.5, "warmup_tokens": 1024}
