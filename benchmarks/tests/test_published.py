"""The cost models against published measurements: the promised errors, and that the benchmark can see them fail."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.published import mean_ratio, median_error, promised, scored
from benchmarks.published_data import ROWS, predict, read_rows, served
from benchmarks.published_fit import fit, prior, using
from scalelab.cost.families import served_from_config
from scalelab.cost.runtime import CLASSES, KERNEL_FLOPS, ROW_COSTS

TABLE = read_rows()
PUBLIC = Path(os.environ.get("SCALELAB_PUBLIC_DATA", Path(__file__).parents[3] / "shared" / "reference"))


def of(quantity, by=predict):
    return [s for s in scored(TABLE, by) if s.row.quantity == quantity]


def test_decode_speeds_are_those_that_others_measured():
    found = of("decode")
    assert len(found) == 68
    assert median_error(found) <= 0.12
    assert 0.95 <= mean_ratio(found) <= 1.08


def test_memory_and_prompts_are_those_that_others_measured():
    assert median_error(of("memory")) <= 0.08
    assert median_error(of("prefill")) <= 0.25


def test_rows_cost_what_others_measured():
    """P streams are rows: no multiple of a single row's pass is off by a quarter."""
    found = of("rows")
    assert len(found) == 17
    assert median_error(found) <= 0.08
    assert all(0.75 < s.ratio < 1.25 for s in found)


def test_what_peaks_and_nominal_bits_promise_is_half_as_much_again():
    """The table can tell a good model from a bad one."""
    found = of("decode", promised)
    assert median_error(found) > 0.25
    assert mean_ratio(found) > 1.3


def test_llm_analysis_stands_beside_and_is_further_off():
    theirs = of("decode", lambda row: predict(row, "llm-analysis"))
    ids = {s.row.id for s in theirs}
    ours = [s for s in of("decode") if s.row.id in ids]
    assert len(theirs) > 20
    assert median_error(ours) < median_error(theirs) / 2


def test_no_class_of_devices_is_off_as_a_whole():
    for kind in CLASSES:
        found = [s for s in of("decode") if s.row.kind == kind]
        if found:
            assert 0.8 < mean_ratio(found) < 1.25, kind


def test_constants_in_use_are_a_fit_to_the_table():
    """Fitted again from decode rows alone with few steps, the shares land where those in use are."""
    rows = [row for row in TABLE if row.kind in ("apple", "embedded")]
    found = fit(rows)
    for kind in ("apple", "embedded"):
        assert found["memory", kind] == pytest.approx(CLASSES[kind].memory, rel=0.06)
        assert found["flops", kind] == pytest.approx(CLASSES[kind].flops, rel=0.06)
    # Constants without rows do not change.
    assert found["memory", "phone"] == pytest.approx(prior()["memory", "phone"][0], rel=1e-3)


def test_a_fit_finds_constants_that_made_the_speeds():
    """Speeds made by other constants than those known before: the fit moves to them."""
    truth = {name: value for name, (value, _) in prior().items()}
    truth |= {("memory", "apple"): 0.66, ("gap", "apple", ""): 20.0, ("flops", "apple"): 0.6}
    rows = [row for row in TABLE if row.kind == "apple" and row.quantity in ("decode", "prefill")]
    with using(truth):
        made = [replace(row, measured=predict(row)) for row in rows]
    found = fit(made)
    before = prior()
    for name in (("memory", "apple"), ("flops", "apple")):
        left = abs(math.log(found[name] / truth[name])) / abs(math.log(before[name][0] / truth[name]))
        assert left < 0.5, name  # the prior still pulls


def test_other_constants_hold_only_inside():
    before = (dict(CLASSES), dict(ROW_COSTS), dict(KERNEL_FLOPS))
    row = TABLE[0]
    usual = predict(row)
    slow = {name: value for name, (value, _) in prior().items()} | {("memory", "datacentre"): 0.4}
    with using(slow):
        assert predict(row) < 0.7 * usual
    assert (dict(CLASSES), dict(ROW_COSTS), dict(KERNEL_FLOPS)) == before
    assert predict(row) == usual


def test_spreads_are_those_of_rows_whose_source_was_left_out():
    """As the last full run of the benchmark wrote them, four rows of the spread of all added to each class."""
    with (Path(__file__).parents[2] / "docs" / "published.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["what"] != ROWS and row["roofline, each source left out"]]
    errors = {}
    for row in rows:
        found = math.log(float(row["roofline, each source left out"]) / float(row["measured"]))
        errors.setdefault(row["class"], []).append(found)
    everything = [error for found in errors.values() for error in found]
    pooled = sum(e * e for e in everything) / len(everything)
    for kind, found in errors.items():
        spread = math.sqrt((sum(e * e for e in found) + 4 * pooled) / (len(found) + 4))
        assert CLASSES[kind].spread == pytest.approx(spread, abs=0.01), kind


@pytest.mark.skipif(not (PUBLIC / "serving").is_dir(), reason="no folder of public data (SCALELAB_PUBLIC_DATA)")
def test_the_table_is_the_published_one():
    """Figures and shapes as they were collected."""
    with (PUBLIC / "serving" / "published.csv").open(encoding="utf-8") as file:
        theirs = {row["id"]: row for row in csv.DictReader(file)}
    ours = {row.id: row for row in TABLE if row.what != ROWS}
    assert ours.keys() == theirs.keys()
    for name, row in ours.items():
        assert row.measured == float(theirs[name]["measured"])
        assert (row.model, row.what) == (theirs[name]["model"], theirs[name]["what"])
        for key in ("batch", "tokens_in", "tokens_out"):
            assert getattr(row, key) == int(theirs[name][key])
    for model in {row.model for row in TABLE}:
        content = json.loads((PUBLIC / "serving" / "configs" / f"{model}.json").read_text())
        assert served(model) == served_from_config(content, model)
