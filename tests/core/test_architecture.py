import csv
from dataclasses import replace

import pytest

from scalelab.aggregation import AGGREGATIONS
from scalelab.architecture import Architecture, architecture_for, mlp_width
from scalelab.errors import UsageError
from tests.support.paths import DATA

PAPER = DATA.parent.parent / "scalelab" / "records" / "data" / "paper_losses.csv"


def paper_rows():
    with PAPER.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_all_published_parameter_counts_are_exact():
    counts = {}
    for row in paper_rows():
        shape = Architecture(
            int(row["hidden_size"]), int(row["intermediate_size"]), 36, 16, 2, 151_936, P=int(row["P"])
        )
        assert shape.n_params == int(row["n_params_non_embedding"])
        counts[shape.hidden_size, shape.P] = shape.n_params
    assert len(counts) == 24


def test_intermediate_rule_gives_the_six_published_widths():
    published = {int(r["hidden_size"]): int(r["intermediate_size"]) for r in paper_rows()}
    assert {h: mlp_width(h) for h in published} == published


@pytest.mark.parametrize("hidden", [16, 24, 40, 64, 128, 256, 512])
def test_narrow_widths_stay_near_the_ratio(hidden):
    assert mlp_width(hidden) / hidden == pytest.approx(5.4, rel=0.06)
    assert mlp_width(hidden) % 8 == 0


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_counts_agree_with_the_real_model(aggregation):
    from scalelab.train.build import build_model
    from scalelab.train.recipe import RunConfig, TextSource

    for P in (1, 3):
        plain = architecture_for(50e3, 512, prefix_tokens=4)
        shape = replace(plain, P=P, aggregation=aggregation)
        model = build_model(RunConfig(shape, 512, 0, TextSource("", "", "", "")))
        assert sum(p.numel() for p in model.parameters()) == shape.total_params
        streams = [p.numel() for n, p in model.named_parameters() if "prefix" in n or "aggregate" in n]
        assert sum(streams) == shape.stream_params
        assert model.get_input_embeddings().weight.numel() == shape.embedding_params


@pytest.mark.parametrize("n", [12e3, 50e3, 100e3, 0.2e6, 5e6, 1e8, 1.5e9, 7e9])
def test_dial_finds_a_model_near_the_wish(n):
    shape = architecture_for(n, 512)
    assert 1 / 1.3 < shape.backbone_params / n < 1.3
    assert shape.head_dim % 2 == 0  # RoPE


def test_every_wish_inside_the_ladder_is_met_within_30_percent():
    for exponent in range(100):
        n = 1.1e4 * 10 ** (exponent * 0.07)
        assert 1 / 1.3 < architecture_for(n, 512).backbone_params / n < 1.3


def test_dial_is_monotone():
    sizes = [architecture_for(n, 512).backbone_params for n in (25e3, 50e3, 100e3, 200e3, 400e3, 1e6)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("n", [10, 1e15])
def test_impossible_n_is_refused_with_the_range(n):
    with pytest.raises(UsageError, match=r"no architecture near N = .*between .* and "):
        architecture_for(n, 512)


@pytest.mark.parametrize(
    "change",
    [{"num_heads": 3}, {"num_kv_heads": 3}, {"P": 0}, {"num_layers": 0}, {"prefix_tokens": -1}],
)
def test_shapes_that_make_no_model_are_refused(change):
    good = {
        "hidden_size": 64,
        "intermediate_size": 352,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "vocab_size": 512,
    }
    with pytest.raises(UsageError):
        Architecture(**(good | change))
