"""Specs with single runs in place of a grid."""

from __future__ import annotations

import pytest

from scalelab.api.sweep_request import spec_of
from scalelab.errors import UsageError
from scalelab.sweep.resolve import resolve
from scalelab.sweep.spec import SweepSpec, load_spec, parse

TEXT = "points:\n- {N: 20k, P: 2, D: 50k}\n- {N: 40k, D: 0.1M}\nseeds: [0, 1]\ndesign: {target: k}\n"


def test_points_are_the_runs_of_a_sweep(tmp_path, text_folder):
    (tmp_path / "own.yaml").write_text(TEXT)
    spec = load_spec(tmp_path / "own.yaml")
    assert spec.points == ((20e3, 2, 50e3), (40e3, 1, 100e3))
    runs = resolve(spec_of(tmp_path / "own.yaml", {"corpus": str(text_folder), "tokenizer": 320}, {})).runs
    grid = {(run.architecture.P, run.n_tokens, run.seed) for run in runs}
    assert grid == {(P, D, seed) for P, D in ((2, 50_176), (1, 99_840)) for seed in (0, 1)}


def test_a_point_is_the_run_of_a_grid(text_folder):
    common = {"corpus": str(text_folder), "tokenizer": 320, "seeds": [0]}
    single = resolve(spec_of(parse_spec({**common, "points": [{"N": "20k", "P": 2, "D": "50k"}]}), {}, {})).runs
    grid = resolve(spec_of(parse_spec({**common, "N": "20k", "P": 2, "D": "50k"}), {}, {})).runs
    assert [run.key for run in single] == [run.key for run in grid]


def parse_spec(content):
    return SweepSpec(**parse(content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"points": [{"N": "20k"}]}, "give {N: 50k, P: 2, D: 1M}"),
        ({"points": [{"N": "20k", "D": "1M", "seed": 1}]}, "give {N: 50k, P: 2, D: 1M}"),
        ({"points": [{"N": "big", "D": "1M"}]}, "points: N"),
        ({"points": [{"N": "20k", "D": "1M", "P": 0}]}, "points: P"),
        ({"points": [{"N": "20k", "D": "1M"}] * 2}, "a run twice"),
        ({"points": [{"N": "20k", "D": "1M"}], "N": "20k"}, "leave N, P, D and isoflop out"),
        ({"points": [{"N": "20k", "D": "1M"}], "plain_tokens": "1M"}, "plain_tokens must be less"),
    ],
)
def test_impossible_points_are_refused_by_name(content, message):
    with pytest.raises(UsageError, match=message):
        parse_spec(content)
